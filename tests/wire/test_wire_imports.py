"""The codecs import nothing that could do I/O, read a clock or log."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import proxy.wire

ALLOWED = {"__future__", "abc", "collections", "dataclasses", "enum", "itertools", "proxy", "re", "struct", "typing"}
ROOT = Path(proxy.wire.__file__).parent


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports(path: Path) -> None:
    allowed = ALLOWED | {"hpack"} if path.parent.name == "h2" else ALLOWED
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] in allowed
            assert not name.startswith("proxy") or name.startswith("proxy.wire")
