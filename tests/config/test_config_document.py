"""The YAML reader: YAML 1.2 scalars, lines, and bounds on everything."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from config import document
from config.document import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_FAULTS,
    MAX_NODES,
    Fault,
    Parsed,
    Path,
    format_path,
    parse,
    parse_path,
)
from config.scalars import MAX_NUMBER_CHARS


@pytest.fixture(params=["c", "python"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with either of PyYAML's parsers."""
    if request.param == "c" and not yaml.__with_libyaml__:
        pytest.skip("no libyaml")
    chosen = yaml.CSafeLoader if request.param == "c" else yaml.SafeLoader
    monkeypatch.setattr(document, "_parser", lambda: chosen)


def value_of(text: str) -> object:
    parsed = parse(text.encode())
    assert parsed.faults == ()
    (found,) = parsed.documents
    assert found.faults == ()
    return found.value


def faults_of(text: str | bytes) -> list[tuple[int, str]]:
    parsed = parse(text.encode() if isinstance(text, str) else text)
    found = [fault for each in parsed.documents for fault in each.faults]
    return [(fault.line, fault.message) for fault in (*parsed.faults, *found)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None), ("~", None), ("", None), ("Null", None),
        ("true", True), ("True", True), ("TRUE", True), ("false", False),
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("y", "y"), ("tRue", "tRue"),
        ("0", 0), ("-7", -7), ("+7", 7), ("010", "010"), ("-010", "-010"), ("0o17", 15), ("0x1F", 31),
        ("0b1", "0b1"), ("1_000", "1_000"), ("1:30", "1:30"), ("2001-01-01", "2001-01-01"),
        ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), ("-.inf", float("-inf")), ("00.5", "00.5"),
        ("1.2.3", "1.2.3"), (".", "."), ("-", [None]), ("=", "="), ("10.0.0.1", "10.0.0.1"),
        ('"1"', "1"), ("'true'", "true"), ("!!str 1", "1"), ("! 1", "1"), ("!!int 1", 1), ("!!float 1", 1),
        ("|\n  a\n  b", "a\nb"), ("text", "text"),
    ],
)  # fmt: skip
def test_scalars_of_the_core_schema(text: str, value: object) -> None:
    read = value_of(f"a: {text}" if text != "-" else "a:\n-")
    assert read == {"a": value}
    assert type(read["a"]) is type(value)  # type: ignore[index]


def test_every_entry_and_item_has_its_line() -> None:
    (found,) = parse(
        b"spec:\n  endpoints:\n  - address: a\n    port: 1\n  -\n    address: b\n  text: |\n    x\n"
    ).documents
    lines: dict[Path, int] = {
        (): 1,
        ("spec",): 1,
        ("spec", "endpoints"): 2,
        ("spec", "endpoints", 0): 3,
        ("spec", "endpoints", 0, "port"): 4,
        ("spec", "endpoints", 1, "address"): 6,
        ("spec", "text"): 7,
        ("spec", "endpoints", 1, "port"): 6,  # absent: that of the object around it
        ("spec", "endpoints", 9): 2,
        ("spec", "text", "deeper"): 7,
    }
    assert {path: found.lines.at(path) for path in lines} == lines


def test_documents_are_separate_and_empty_ones_are_skipped() -> None:
    parsed = parse(b"# nothing\n---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n")
    assert [(each.line, each.value) for each in parsed.documents] == [(3, {"a": 1}), (8, {"b": 2})]


def test_an_alias_repeats_its_anchor_with_its_lines() -> None:
    (found,) = parse(b"a: &x\n  b: 1\nc: *x\n").documents
    assert found.value == {"a": {"b": 1}, "c": {"b": 1}}
    assert found.lines.at(("c",)) == 3
    assert found.lines.at(("c", "b")) == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3", (3, "key 'a' is given twice, first on line 1")),
        ("a: 1\n<<: {b: 1}", (2, "merge keys (<<) are not supported")),
        ("a:\n  1: b", (2, "a mapping key must be a string")),
        ("a: b\ntrue: b", (2, "a mapping key must be a string")),
        ("? [a, {b: c}]\n: d", (1, "a mapping key must be a string")),
        ("? &x [a]\n: *x", (1, "a mapping key must be a string")),
        ("a: !thing b", (1, "tags are not supported")),
        ("a: !!binary aGk=", (1, "tags are not supported")),
        ("a: !!set {b}", (1, "tags are not supported")),
        ("a: !!python/object/apply:os.system [ls]", (1, "tags are not supported")),
        ("a: !!int b", (1, "not a value of type !!int")),
        ("a: &x [b, *x]", (1, "alias *x contains itself")),
        ("a: *x", (1, "alias *x has no anchor")),
        ("a: &x 1\n---\nb: *x", (3, "alias *x has no anchor")),
        ("a: " + "1" * (MAX_NUMBER_CHARS + 1), (1, f"a number must not have more than {MAX_NUMBER_CHARS} characters")),
        ("a: b\nc: \0", (2, "control character U+0000 is not allowed")),
        ("a: b\nc: \x7f", (2, "control character U+007F is not allowed")),
        (b"a: b\nc: \xff", (2, "not valid UTF-8")),
        (b"\xff\xfea\0", (1, "not valid UTF-8")),
        (b"a" * (MAX_BYTES + 1), (1, f"the file is larger than {MAX_BYTES} bytes")),
        ("a:\n  " + "[" * (MAX_DEPTH + 1), (2, f"nested deeper than {MAX_DEPTH} levels")),
        ("- " * (MAX_DEPTH + 1), (1, f"nested deeper than {MAX_DEPTH} levels")),
    ],
)
def test_refusals(text: str | bytes, fault: tuple[int, str]) -> None:
    assert fault in faults_of(text)


@pytest.mark.parametrize("text", ["a: 1\n\tb: 2", "a: [1", "a: 'b", "a: b: c", "a: @", "%YAML 3.0", "a: }"])
def test_a_syntax_error_has_a_line_and_no_document(text: str) -> None:
    parsed = parse(text.encode())
    assert parsed.documents == ()
    (fault,) = parsed.faults
    assert 1 <= fault.line <= 2
    assert fault.message.startswith("YAML syntax: ")


@pytest.mark.parametrize("bad", ["a: [1", "a: 'x", "a: b: c", "a: 1\n  b: 2", "@", "a:\n- b\n-c"])
def test_a_syntax_error_costs_one_document(bad: str) -> None:
    parsed = parse(f"first: 1\n---\n{bad}\n---\nlast: 1\n".encode())
    assert [each.value for each in parsed.documents] == [{"first": 1}, {"last": 1}]
    assert parsed.documents[1].line == 5 + bad.count("\n")
    assert len(parsed.faults) == 1


def test_a_fault_leaves_what_can_be_read() -> None:
    parsed = parse(b"type: Mesh\nname: a\nname: b\nx: !t 1\n---\nc: 1")
    first, second = parsed.documents
    assert first.value == {"type": "Mesh", "name": "a", "x": "1"}
    assert [(fault.line, fault.field) for fault in first.faults] == [(3, "name"), (4, "x")]
    assert second.faults == ()


def test_aliases_cannot_grow_without_end() -> None:
    rows = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"{n}: &{n} [{', '.join([f'*{b}'] * 9)}]" for b, n in zip("abcdef", "bcdefg", strict=True)]
    assert faults_of("\n".join(rows)) == [(6, f"the file has more than {MAX_NODES} values")]


def test_aliases_cannot_nest_without_end() -> None:
    rows = ["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, MAX_DEPTH + 10))]
    assert faults_of("\n".join(rows)) == [(MAX_DEPTH, f"nested deeper than {MAX_DEPTH} levels")]


TOO_MANY = f"more than {MAX_FAULTS} errors: the rest is not read"


def test_many_syntax_errors_end_the_reading() -> None:
    parsed = parse(b"[\n---\n" * MAX_FAULTS + b"a: 1\n")
    assert len(parsed.faults) == MAX_FAULTS
    assert [one.value for one in parsed.documents] == [{"a": 1}]
    parsed = parse(b"[\n---\n" * (MAX_FAULTS + 50) + b"a: 1\n")
    assert len(parsed.faults) == MAX_FAULTS + 1
    assert parsed.faults[-1].message == TOO_MANY
    assert parsed.documents == ()


def test_of_the_faults_of_a_document_so_many_are_reported() -> None:
    text = b"list:\n" + b"- !t x\n" * (MAX_FAULTS + 50) + b"name: a\n---\na: 1\n"
    parsed = parse(text)
    (document,) = parsed.documents
    assert [fault.line for fault in document.faults] == list(range(2, MAX_FAULTS + 2))
    assert parsed.faults == (Fault(MAX_FAULTS + 2, "", TOO_MANY),)
    assert isinstance(document.value, dict)
    assert document.value["name"] == "a", "it is read to its end, to be named"


def test_the_faults_of_all_documents_of_a_file_count_together() -> None:
    """No document with a fault is taken for a good one because there are no more to give."""
    each = b"a: !t 1\nb: !t 2\n---\n"
    parsed = parse(each * (MAX_FAULTS // 2) + b"a: 1\n---\n" + each + b"a: 2\n")
    assert sum(len(one.faults) for one in parsed.documents) == MAX_FAULTS
    assert [one.value for one in parsed.documents if not one.faults] == [{"a": 1}]
    assert parsed.faults == (Fault(MAX_FAULTS // 2 * 3 + 3, "", TOO_MANY),)
    parsed = parse(each + b"[\n---\n" * (MAX_FAULTS - 2) + b"a: 1\n")
    assert len(parsed.faults) == MAX_FAULTS - 2, "no more than there may be"
    assert len(parsed.documents) == 2
    parsed = parse(each + b"[\n---\n" * (MAX_FAULTS - 1) + b"a: 1\n")
    assert parsed.faults[-1].message == TOO_MANY
    assert len(parsed.documents) == 1


def test_the_largest_and_the_deepest_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 1000  # the Python parser would take a minute for as many as there may be
    monkeypatch.setattr(document, "MAX_NODES", most)
    assert value_of("1" * MAX_NUMBER_CHARS) == int("1" * MAX_NUMBER_CHARS)
    assert faults_of("- " * (MAX_DEPTH - 1) + "x") == []
    assert faults_of("- 1\n" * (most - 1)) == []
    assert faults_of("- 1\n" * most) == [(most, f"the file has more than {most} values")]


def test_json_is_yaml() -> None:
    value = {"a": [1, 2.5, None, True, 'text "quoted" \\ / \n'], "b": {}}
    assert value_of(json.dumps(value)) == value
    assert value_of(json.dumps(value, indent=2)) == value


@pytest.mark.parametrize("text", ["a", "a.b", "a[0].b", 'a["b/c"]', 'labels["kuma.io/mesh"]', "a-b[10]"])
def test_paths_are_read_as_they_are_written(text: str) -> None:
    assert format_path(parse_path(text)) == text


PIECES = st.sampled_from(
    [*"abn:-?[]{},#&*!|>'\"%@`~<=. \n\t0159", "\n- ", "---\n", "&a ", "*a", "!!str ", "\n  ", ": "]
)


@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=80).map(lambda parts: "".join(parts).encode())))
@example(b'"\\U00110000"')
@example(b'"\\ud800"')
@example(b"- &a [*a]")
@example(b"? ? a")
def test_nothing_is_raised(data: bytes) -> None:
    parsed = parse(data)
    assert isinstance(parsed, Parsed)
    lines = data.count(b"\n") + data.count(b"\r") + 2
    for fault in (*parsed.faults, *(fault for each in parsed.documents for fault in each.faults)):
        assert 1 <= fault.line <= lines


# What YAML 1.1 and 1.2 agree on: to 1.2 alone, 1e100 is a number, and so is 0o17.
NUMBERS_OF_1_2 = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+|0o[0-7]+")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12).filter(lambda text: not NUMBERS_OF_1_2.fullmatch(text)),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz .:-", max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(TREES, st.booleans())
def test_what_safe_yaml_writes_is_read_as_safe_yaml_reads_it(tree: object, flow: bool) -> None:
    text = yaml.safe_dump({"root": tree}, default_flow_style=flow, allow_unicode=True)
    parsed = parse(text.encode())
    assert parsed.faults == ()
    assert [each.value for each in parsed.documents] == [yaml.safe_load(text)]
