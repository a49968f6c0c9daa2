"""Law: the short way through YAML gives up, or gives what the full reader gives: values, their types, lines, faults."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from config import document, plain
from config.document import MAX_DEPTH, Parsed, parse
from tests.kit import yamlkit

MANY = 500_000
"""Characters of a hostile line."""
SERVICE = yamlkit.mes("app", 443, [{"address": "app.example.com", "port": 8443}], tls={"enabled": True})


def without_the_short_way(data: bytes) -> Parsed:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "read", lambda _text, _max_depth: None)
        return parse(data)


def described(parsed: Parsed) -> Any:
    """All of it, told apart by types too: 1 is neither True nor 1.0, and NaN is itself."""
    return [(repr(one.value), one.line, one.lines.tree, one.faults) for one in parsed.documents], parsed.faults


def holds(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    assert described(parse(data)) == described(without_the_short_way(data))


INDENTATIONS = st.sampled_from(["", "", "  ", "  ", "    ", " ", "   "])
DASHES = st.sampled_from(["", "", "", "- ", "-   ", "-", "- - "])
KEYS = st.sampled_from(
    ["a:", "b:", "c:", "a:", "kuma.io/zone:", "a-b:", "null:", "y:", "a :", '"q":', "1:", "a", "", "?", "<<:", "a:b:"]
)
VALUES = st.sampled_from(
    [
        "", "", "x", "1", "-1", "1.5", "true", "~", "x y", "x: y", "x:y", "x #c", "x#c", "# c", "[]", "{}", "[a]",
        "{a: 1}", "''", "'a'", "'it''s'", '"a"', '"a b"', '"a\\n"', "'a' b", '"a" # c', "&x 1", "*x", "!t 1", "|", ">",
        "-", "- a", "---", "...", "a,b", "a]", ",a", "a  b", "a ", "%a", "@a", "0o7", "010", "1" * 65, "1e400", ".nan",
        "ä", "a\tb", "a\rb", ":a", "a:", "::", "=", "?", "? a", "a?", "a ? b", '"', "'", "1:30", "2001-01-01", "-a",
        "--a", "- -",
    ]
)  # fmt: skip
LINES = st.one_of(
    st.builds(lambda key, value: f"{key} {value}", KEYS, VALUES),
    st.builds(
        lambda indentation, dash, key, gap, value: f"{indentation}{dash}{key}{gap}{value}",
        INDENTATIONS, DASHES, KEYS, st.sampled_from([" ", "  ", ""]), VALUES,
    ),
    st.sampled_from(["", "  ", "# c", "  # c", "---", "--- ", "--- # c", "--- a", "---a: b", "...", "%YAML 1.2"]),
)  # fmt: skip


@given(st.lists(LINES, max_size=12).map("\n".join))
@example("a:\n- x\nb:\n  - y: 1\n    z:\n  -\n")
@example("- a\n")
@example("a:\n  b: 1\n c: 2")
@example("a: x\n  b: 1")
@example("a: x\n  y")
@example("a:\n- b:\n- c:\n  - d")
@example("  a: 1\nb: 2")
@example("a: 1\n...\n%TAG ! x\n---\nb: 1\n---\nc: [\n---\nd: 1")
@example("a: 1\n---\xa0\nb: 1")
@example("a: 1\x85---\x85b: 1\n---\nc: 1")
def test_lines(text: str) -> None:
    holds(text)


TREES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(), st.text("ab:#-\"\\ é\n,[]{}'", max_size=6)
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<:. -", max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
STYLES = st.sampled_from(
    [
        lambda tree: json.dumps(tree),
        lambda tree: json.dumps(tree, indent=2),
        lambda tree: json.dumps(tree, separators=(",", ":"), ensure_ascii=False),
        lambda tree: json.dumps(tree, separators=(" , ", " : ")),
        lambda tree: json.dumps(tree, separators=(",\n", "\n:")),
        lambda tree: yaml.safe_dump(tree),
        lambda tree: yaml.safe_dump(tree, indent=4, sort_keys=False, width=20, allow_unicode=True),
        lambda tree: yaml.safe_dump(tree, default_flow_style=True),
    ]
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(st.text("abc", min_size=1), TREES, max_size=4), max_size=3), STYLES, st.randoms())
def test_what_programs_write_and_people_damage(trees: list[Any], style: Any, chance: Any) -> None:
    text = "\n---\n".join(map(style, trees))
    holds(text)
    at = chance.randrange(len(text) + 1)
    holds(text[:at] + chance.choice([*" \n\t:,-#\"'{}[]&*!01ax", ""]) + text[at + chance.randrange(2) :])


@pytest.mark.parametrize(
    "text",
    [
        "a:\n" + "".join(f"{' ' * depth}a:\n" for depth in range(1, 101)),
        "a:\n" + "".join(f"{' ' * depth}a:\n" for depth in range(1, 99)),
        json.dumps({"a": json.loads("[" * 98 + "]" * 98)}),
        json.dumps({"a": json.loads("[" * 100 + "]" * 100)}),
        json.dumps({"k" * 257: 1}),
        json.dumps({"k" * 1100: 1}),
        '{"a":1,"a":2}',
        '{"a": 01}',
        '{"a": NaN, "b": -Infinity}',
        '{"a": 1' + "0" * 70 + "}",
        '{"a": 0.' + "0" * 70 + "}",
        '{"a": 1e999, "b": -0, "c": -0.0, "d": 1E5}',
        '{"a": 1}}',
        '{"a": 1} # c',
        '{"a": 1}\n---\n{"a": [',
        "k" * 257 + ": 1",
    ],
)
def test_corners(text: str) -> None:
    holds(text)


def test_what_is_written_as_usual_takes_the_short_way() -> None:
    texts = [
        yaml.safe_dump(SERVICE),
        yaml.safe_dump(SERVICE, sort_keys=False, indent=4),
        json.dumps(SERVICE),
        json.dumps(SERVICE, indent=2),
        f"---\n# a comment\n{yaml.safe_dump(SERVICE)}\n",
    ]
    for text in texts:
        found = plain.read(text, MAX_DEPTH)
        assert found is not None
        assert found.value == SERVICE


def test_a_file_of_both_kinds_of_documents() -> None:
    text = "a: 1\n---\nb: {c: &x 1, d: *x}\n---\ne: 2\n---\nf: [\n---\ng: 3\n"
    holds(text)
    assert [one.value for one in parse(text.encode()).documents] == [
        {"a": 1},
        {"b": {"c": 1, "d": 1}},
        {"e": 2},
        {"g": 3},
    ]


def test_the_bound_of_a_file_is_for_all_of_its_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_NODES", 7)
    for text in ("a: 1\nb: 2\n---\nc: 3\nd: 4\n---\n", '{"a": [1, 2, 3]}\n---\n{"c": 3}\n'):
        assert parse(text.encode()).faults == ()
        holds(text)
        assert parse(f"{text}\n---\nd: 4\n".encode()).faults
        holds(f"{text}\n---\nd: 4\n")


@pytest.mark.parametrize(
    "text",
    [
        " " * MANY + "!",
        "a:" + " " * MANY + "!",
        "- " + " " * MANY + "!",
        "---" + " " * MANY + "!",
        "a: b" + " c" * MANY + "!",
        "a" * MANY + "!",
        '{"a"' + " " * MANY + "!",
    ],
    ids=["indentation", "value", "dash", "marker", "words", "key", "json"],
)
def test_no_text_is_searched_in_every_way(text: str) -> None:
    """An expression that gives back what it has taken, to try again, would take hours for these."""
    assert plain.read(text, MAX_DEPTH) is None
