"""Mustache, as ``kuma-dp run --dataplane-file`` has it: text with ``{{ name }}``, and variables from
``--dataplane-var``.

An undefined variable renders empty. ``{{ x }}`` escapes for HTML, as Mustache says and Kuma's library does;
``{{{ x }}}`` does not. Partials render empty: a Dataplane template reads no other file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import TypeAlias

MAX_SECTION_DEPTH = 32

Variables: TypeAlias = "dict[str, str | Variables]"


class TemplateError(ValueError):
    """The template's syntax is wrong. ``line`` is counted from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def parse_variables(items: Iterable[str]) -> Variables:
    """Read ``k=v`` items, each one pair or several with commas between them, as Kuma's command line does.

    A dotted key makes nested maps, and replaces whatever its root had before (Kuma: ``pkg/util/template``).

    :raises ValueError: an item is not ``k=v``.
    """
    variables: Variables = {}
    for item in items:
        pairs = [item] if item.count("=") == 1 else next(csv.reader([item]), [])
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise ValueError(f"{pair!r} must be formatted as key=value")
            root, *nested = key.split(".")
            inner: str | Variables = value
            for step in reversed(nested):
                inner = {step: inner}
            variables[root] = inner
    return variables


def render(text: str, variables: Variables) -> str:
    """Fill in a template.

    :raises TemplateError: a tag or a section has no end, or an end has no start.
    """
    if "{{" not in text:
        return text
    _check_tags(text)
    # Imported here, since few Dataplanes are templates: with what it brings, it takes 0.6 MiB.
    import pystache
    from pystache.parser import ParsingError

    try:
        rendered = pystache.Renderer(missing_tags="ignore", partials={}).render(text, variables)
    except ParsingError as error:
        raise TemplateError(1, f"template syntax: {error}") from error
    return str(rendered)


def _check_tags(text: str) -> None:
    """What pystache passes over in silence: a tag or a section that does not end."""
    opening, closing = "{{", "}}"
    sections: list[tuple[str, int]] = []
    position, line = 0, 1
    while (start := text.find(opening, position)) >= 0:
        line += text.count("\n", position, start)
        inside = start + len(opening)
        ending = "}" + closing if text.startswith("{", inside) else closing
        end = text.find(ending, inside)
        if end < 0:
            raise TemplateError(line, f"template syntax: {opening} without {ending}")
        sigil, name = text[inside : inside + 1], text[inside + 1 : end].strip()
        if sigil in ("#", "^"):
            sections.append((name, line))
            if len(sections) > MAX_SECTION_DEPTH:
                raise TemplateError(line, f"template syntax: sections nest deeper than {MAX_SECTION_DEPTH}")
        elif sigil == "/":
            if not sections or sections[-1][0] != name:
                raise TemplateError(line, f"template syntax: section {name} ends here and does not start")
            sections.pop()
        elif sigil == "=":
            delimiters = name.removesuffix("=").split()
            if len(delimiters) != 2:
                raise TemplateError(line, "template syntax: delimiters are changed with {{=<% %>=}}")
            opening, closing = delimiters
        position = end + len(ending)
        line += text.count("\n", start, position)
    if sections:
        name, line = sections[-1]
        raise TemplateError(line, f"template syntax: section {name} has no end")
