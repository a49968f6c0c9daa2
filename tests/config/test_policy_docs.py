"""Guarantee: the table of policies says of every field whether it has an effect, and so does the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config.document import format_path
from config.policies.policy import Policy
from config.resources.registry import KINDS, model_of

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
POLICIES = [kind for kind in map(model_of, KINDS) if issubclass(kind, Policy)]


def rows(kind: str) -> dict[str, str]:
    """The fields of a kind, and what the page says of their effect."""
    section = PAGE.split(f"| **{kind}** | |\n")[1].split("| **")[0].split("\n\n")[0]
    return dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", section, re.MULTILINE))


@pytest.mark.parametrize("kind", POLICIES, ids=lambda kind: kind.kind)
def test_what_the_page_says_to_have_no_effect_is_a_warning(kind: type[Policy]) -> None:
    without = {field for field, effect in rows(kind.kind).items() if effect.startswith("none")}
    assert without == {format_path(path) for path in kind.no_effect}


@pytest.mark.parametrize("kind", POLICIES, ids=lambda kind: kind.kind)
def test_every_field_is_on_the_page(kind: type[Policy]) -> None:
    listed = rows(kind.kind)
    entries = kind.model_fields.get("to") or next(f for f in kind.model_fields.values() if f.alias == "rules")
    conf = entries.annotation.__args__[0].model_fields["default"].annotation  # type: ignore[union-attr]
    for name, field in conf.model_fields.items():
        text = field.alias or name
        assert any(row == text or row.startswith(f"{text}.") for row in listed), text
