"""Mustache, as kuma-dp has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.template import MAX_SECTION_DEPTH, TemplateError, Variables, parse_variables, render


@pytest.mark.parametrize(
    ("items", "variables"),
    [
        ([], {}),
        (["a=1"], {"a": "1"}),
        (["a="], {"a": ""}),
        (["a=1", "b=2", "a=3"], {"a": "3", "b": "2"}),
        (["a=1,b=2"], {"a": "1", "b": "2"}),
        (["a=x,y"], {"a": "x,y"}),
        (["a=b=c,d=e"], {"a": "b=c", "d": "e"}),
        (['"a=1,2",b=3'], {"a": "1,2", "b": "3"}),
        (["a.b=1"], {"a": {"b": "1"}}),
        (["a.b.c=1"], {"a": {"b": {"c": "1"}}}),
        (["a.b=1", "a.c=2"], {"a": {"c": "2"}}),
        (["a=1", "a.c=2"], {"a": {"c": "2"}}),
    ],
)
def test_variables(items: list[str], variables: Variables) -> None:
    assert parse_variables(items) == variables


@pytest.mark.parametrize("item", ["", "a", "=1", "a=1,b=2,c"])
def test_what_is_not_a_variable_is_refused(item: str) -> None:
    with pytest.raises(ValueError, match="must be formatted as key=value"):
        parse_variables([item] if item else ["x"])


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("name: {{ name }}", "name: dp-1"),
        ("{{a.b}}", "1"),
        ("[{{ unknown }}{{ a.unknown }}]", "[]"),
        ("{{ markup }}", "&lt;&amp;&quot;&gt;"),
        ("{{{ markup }}} {{& markup }}", '<&"> <&">'),
        ("{{#name}}yes{{/name}}{{^name}}no{{/name}}", "yes"),
        ("{{#unknown}}yes{{/unknown}}{{^unknown}}no{{/unknown}}", "no"),
        ("a{{! a note }}b", "ab"),
        ("{{> other }}", ""),
        ("{{=<% %>=}}<% name %>{{ name }}", "dp-1{{ name }}"),
        ("no tags }}", "no tags }}"),
        ("{{ name.upper }}", ""),
    ],
)
def test_rendering(text: str, rendered: str) -> None:
    variables: Variables = {"name": "dp-1", "a": {"b": "1"}, "markup": '<&">'}
    assert render(text, variables) == rendered


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n{{ name", 2),
        ("a\n{{{ name }}", 2),
        ("a\n\n{{#name}} b", 3),
        ("a\n{{/name}}", 2),
        ("{{#a}}\n{{#b}}\n{{/a}}{{/b}}", 3),
        ("\n{{=<%}}", 2),
        ("{{#a}}" * (MAX_SECTION_DEPTH + 1), 1),
    ],
)
def test_a_wrong_template_has_a_line(text: str, line: int) -> None:
    with pytest.raises(TemplateError, match="template syntax: ") as caught:
        render(text, {})
    assert caught.value.line == line


def test_sections_nest_up_to_the_limit() -> None:
    nested = "{{#a}}" * MAX_SECTION_DEPTH + "x" + "{{/a}}" * MAX_SECTION_DEPTH
    assert render(nested, {"a": "1"}) == "x"
    with pytest.raises(TemplateError, match=f"sections nest deeper than {MAX_SECTION_DEPTH}"):
        render("{{#a}}" + nested + "{{/a}}", {"a": "1"})


TAGS = st.sampled_from(["{{", "}}", "{{{", "}}}", "#", "/", "^", "=", "a", "b", " ", "\n", "<%", "%>", "&", ">", "!"])


@given(st.lists(TAGS, max_size=40).map("".join))
def test_nothing_but_a_template_error_is_raised(text: str) -> None:
    line = 1
    try:
        render(text, {"a": {"b": "1"}, "b": ""})
    except TemplateError as error:
        line = error.line
    assert 1 <= line <= 1 + text.count("\n")
