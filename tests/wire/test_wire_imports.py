"""The codecs import nothing that could do I/O, read a clock or log."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import proxy.wire

ALLOWED = {"__future__", "collections", "dataclasses", "enum", "proxy", "re", "struct", "typing"}


@pytest.mark.parametrize("path", sorted(Path(proxy.wire.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_imports(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] in ALLOWED
            assert not name.startswith("proxy") or name.startswith("proxy.wire")
