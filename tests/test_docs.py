"""Guarantee: what the documents say in tables is what the code does: every limit with its value, every cause of a
refusal, every way in which a connection ends, every link.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.outcome import Outcome
from tests.kit.koguma import SOURCE_ROOT
from tls.verdict import Cause

DOCS = SOURCE_ROOT / "docs"
LIMITS = re.findall(r"^\| `([\w.]+(?:\(\w+\))?)` \| ([^|]+) \|", (DOCS / "limits.md").read_text(), re.MULTILINE)
UNITS = {"": 1, "s": 1, "ms": 1, "KiB": 1024, "MiB": 1024 * 1024}
PAGES = [*sorted(DOCS.rglob("*.md")), *(SOURCE_ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]


def first_cells(page: str) -> list[str]:
    """The code in the first column of a page's tables."""
    return re.findall(r"^\| `(\w+)` \|", (DOCS / page).read_text(), re.MULTILINE)


def value_of(name: str) -> Any:
    """Of ``module.CONSTANT``, ``module.Dataclass.field`` or ``module.Class(parameter)``."""
    name, _, parameter = name.rstrip(")").partition("(")
    owner_name, _, last = name.rpartition(".")
    if parameter:
        owner = getattr(importlib.import_module(owner_name), last)
        return inspect.signature(owner).parameters[parameter].default
    module_name, _, class_name = owner_name.rpartition(".")
    if class_name[0].isupper():
        owner = getattr(importlib.import_module(module_name), class_name)
        return next(field.default for field in dataclasses.fields(owner) if field.name == last)
    return getattr(importlib.import_module(owner_name), last)


@pytest.mark.parametrize(("name", "stated"), LIMITS, ids=[name for name, _ in LIMITS])
def test_limit(name: str, stated: str) -> None:
    number, _, unit = stated.partition(" ")
    assert value_of(name) == float(number) * UNITS[unit]


def test_no_limit_is_missing() -> None:
    listed = {name for name, _ in LIMITS}
    for package in ("proxy", "config", "tls"):
        for path in sorted((SOURCE_ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(SOURCE_ROOT).with_suffix("").parts)
            if module.startswith("proxy.demo."):
                continue  # the demo's own servers, for its own requests
            for node in ast.parse(path.read_text()).body:
                targets = node.targets if isinstance(node, ast.Assign) else []
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                for name in names:
                    if name.startswith("MAX_"):
                        assert f"{module}.{name}" in listed


def test_every_cause_is_explained() -> None:
    assert first_cells("verdicts.md") == [cause.value for cause in Cause]


def test_every_ending_is_explained() -> None:
    endings = re.findall(r"^\| `(\w+)` \| `([\w-]+)` \|", (DOCS / "closing.md").read_text(), re.MULTILINE)
    assert endings == [(outcome.word, outcome.flag) for outcome in Outcome]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for name in re.findall(r"`((?:proxy|config|tls|tests|docs|examples)/[\w./-]+)`", text):
        assert (SOURCE_ROOT / name).exists(), name
