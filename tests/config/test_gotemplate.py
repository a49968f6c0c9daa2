"""Guarantee: a template renders what Go would, or is refused in Go's words; never something else."""

from __future__ import annotations

import contextlib
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.gotemplate import MAX_NESTING, MAX_TEMPLATE_CHARS, Template, TemplateError

FIELDS = {"Name": "web.ns", "DisplayName": "web", "Namespace": "", "Mesh": "default", "Zone": "east"}
LABELS = {"app": "shop", "k8s.kuma.io/service-name": "svc"}


def label(key: str) -> str:
    if key not in LABELS:
        raise ValueError(f"label {key} not found")
    return LABELS[key]


def render(text: str) -> str:
    return Template(text, ["label"]).render(FIELDS, {"label": label})


RENDERED = {
    "": "",
    "plain.mesh": "plain.mesh",
    "{{ .DisplayName }}.extsvc.mesh.local": "web.extsvc.mesh.local",
    "{{.DisplayName}}.svc.{{.Zone}}.mesh.local": "web.svc.east.mesh.local",
    "{{ .Name }}.{{ .Mesh }}": "web.ns.default",
    '{{ label "app" }}.mesh': "shop.mesh",
    "{{ label `k8s.kuma.io/service-name` }}.mesh": "svc.mesh",
    '{{ label "\\u0061pp" }}': "shop",
    '{{ "app" | label }}': "shop",
    '{{ ("app" | label) }}': "shop",
    '{{ label (printf "%s" "app") }}': "shop",
    '{{ "app" | label | printf "%s-%s" .DisplayName }}': "web-shop",
    '{{ printf "%v%%%d%q" .Mesh 3 "x" }}': 'default%3"x"',
    "{{ print .Zone 1 2 true }}": "east1 2 true",
    "{{ len .Zone }}": "4",
    "{{ slice .Zone 1 3 }}{{ slice .Zone 2 }}": "asst",
    "a {{- .Mesh -}} b": "adefaultb",
    "a{{/* a {{ comment }} */}}b": "ab",
    "a {{- /* trims */ -}} b": "ab",
    "{{ if .Namespace }}{{ .Namespace }}.{{ end }}mesh": "mesh",
    "{{ if .Zone }}{{ .Zone }}.{{ else }}none.{{ end }}mesh": "east.mesh",
    '{{ if eq .Mesh "a" "b" }}1{{ else if ne .Zone "west" }}2{{ else }}3{{ end }}': "2",
    '{{ if and .Zone (not .Namespace) }}{{ or .Namespace "none" }}{{ end }}': "none",
    "{{ with .Zone }}{{ . }}{{ end }}": "east",
    "{{ with .Namespace }}x{{ else }}y{{ end }}": "y",
    '{{ or "a" .Foo }}': "a",
    '{{ "" }}{{ `}}` }}': "}}",
}


@pytest.mark.parametrize(("text", "expected"), RENDERED.items())
def test_renders_as_go(text: str, expected: str) -> None:
    assert render(text) == expected


UNPARSABLE = {
    "{{ .Name[4 }}.mesh": "template: :1: bad character U+005B '['",
    "a\n{{ .Name": "template: :2: unclosed action",
    "{{ foo }}": 'template: :1: function "foo" not defined',
    "{{ }}": "template: :1: missing value for command",
    "{{ .Name | }}": "template: :1: missing value for command",
    '{{ label "a }}': "template: :1: unterminated quoted string",
    "{{ label `a }}": "template: :1: unterminated raw quoted string",
    "{{ ~ }}": "template: :1: unrecognized character in action: U+007E '~'",
    "{{ .Name }": 'template: :1: unexpected "}" in command',
    "{{ ) }}": "template: :1: unexpected right paren U+0029 ')'",
    "{{ (.Name }}": "template: :1: unclosed left paren",
    "{{ end }}": "template: :1: unexpected {{end}}",
    "{{ else }}": "template: :1: unexpected {{else}}",
    "{{ if .Name }}x": "template: :1: unexpected EOF",
    "{{ if .Name }}{{ else }}{{ else }}{{ end }}": "template: :1: expected end; found {{else}}",
    "{{ .Name .Zone }}": "template: :1: can't give argument to non-function .Name",
    "{{ .Name | .Zone }}": "template: :1: non executable command in pipeline stage 2 (.Zone)",
    "{{/* x }}": "template: :1: unclosed comment",
    "{{/* x */ y }}": "template: :1: comment ends before closing delimiter",
    "{{ range .Name }}{{ end }}": 'template: :1: "range" is not supported here',
    "{{ $x := .Name }}": "template: :1: variables are not supported here",
    "{{ .Name.First }}": "template: :1: .Name is text and has no field First",
}


@pytest.mark.parametrize(("text", "message"), UNPARSABLE.items())
def test_refuses_to_parse_in_gos_words(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(text, ["label"])
    assert str(caught.value) == message


UNRENDERABLE = {
    '{{ label "missing" }}': 'template: :1:3: executing "" at <label "missing">: '
    "error calling label: label missing not found",
    "x\n{{ .Foo }}": 'template: :2:3: executing "" at <.Foo>: can\'t evaluate field Foo in type hostname.meshedName',
    "{{ label }}": 'template: :1:3: executing "" at <label>: wrong number of args for label: want 1 got 0',
    "{{ with .Zone }}{{ .Zone }}{{ end }}": 'template: :1:19: executing "" at <.Zone>: '
    "can't evaluate field Zone in type string",
    "{{ slice .Zone 9 }}": 'template: :1:3: executing "" at <slice .Zone 9>: error calling slice: index out of range',
    "{{ eq .Zone 1 }}": 'template: :1:3: executing "" at <eq .Zone 1>: '
    "error calling eq: incompatible types for comparison",
    '{{ printf "%5s" .Zone }}': 'template: :1:3: executing "" at <printf "%5s" .Zone>: '
    "error calling printf: %5 is not supported here",
}


@pytest.mark.parametrize(("text", "message"), UNRENDERABLE.items())
def test_refuses_to_render_in_gos_words(text: str, message: str) -> None:
    template = Template(text, ["label"])
    with pytest.raises(TemplateError) as caught:
        template.render(FIELDS, {"label": label})
    assert str(caught.value) == message


def test_is_bounded() -> None:
    with pytest.raises(TemplateError, match="longer than"):
        Template("x" * (MAX_TEMPLATE_CHARS + 1))
    for deep in ("{{ " + "(" * 1000 + ".Name" + ")" * 1000 + " }}", "{{ if .Name }}" * 200):
        with pytest.raises(TemplateError, match="nested deeper"):
            Template(deep)


def test_nests_up_to_the_limit() -> None:
    """A condition or a text in parentheses has one more level than what is around it."""
    levels = MAX_NESTING - 1
    for nested in (
        "{{ " + "(" * levels + ".Name" + ")" * levels + " }}",
        "{{ if .Name }}" * levels + "x" + "{{ end }}" * levels,
    ):
        assert Template(nested).render(FIELDS, {})
    levels += 1
    for nested in ("{{ " + "(" * levels + ".Name" + ")" * levels + " }}", "{{ if .Name }}" * levels):
        with pytest.raises(TemplateError, match=f"nested deeper than {MAX_NESTING} levels"):
            Template(nested)


PIECES = st.sampled_from(
    ["{{", "}}", "{{-", "-}}", " ", ".Name", ".", '"a"', "`b`", "|", "(", ")", "label", "if", "else", "end", "with",
     "eq", "printf", "%s", "1", "/*", "*/", "\n", "x", "é"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=30).map("".join) | st.text(string.printable, max_size=60))
def test_whatever_is_written_is_rendered_or_refused(text: str) -> None:
    with contextlib.suppress(TemplateError):
        assert isinstance(render(text), str)
