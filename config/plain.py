"""The short way through the YAML that resources are made of.

Of ten thousand documents nearly all are plain: lines of ``key: value`` and ``- value``, or JSON. A parser of all of
YAML spends several calls on each word of them. Here a document is cut into lines by one regular expression, or read by
Python's JSON parser, and whatever might mean something else (an anchor, a tag, a quote within quotes, a value that goes
on in the next line, a key given twice, a letter beyond ASCII) makes :func:`read` give up: the full reader then decides.

So nothing is ever refused here, and nothing is read otherwise than there. The law, which a test holds to arbitrary
texts: ``read`` gives up, or gives what the full reader gives.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from string import ascii_letters
from typing import Any

from config.scalars import WORDS, resolve

MAX_KEY_CHARS = 256
"""Longer keys are the full reader's: YAML sets them a limit of its own (1024)."""

# No repetition gives back what it has taken (``++``): two of spaces beside each other would share them in every way.
# In block context, where brackets and commas mean nothing within a word. A colon is text where text follows.
_CHAR = r"[A-Za-z0-9_./+=@%~,(){}\[\]-]"
_PLAIN = rf"-?[A-Za-z0-9_./+~]{_CHAR}*+(?:(?::| ++){_CHAR}++)*"
_VALUE = rf""""[^"\\\n]*"|'[^'\n]*'|{_PLAIN}|\[\]|\{{\}}"""
_COMMENT = r"(?:(?<![^ \n])#.*)?"
_LINE = re.compile(
    rf"^( *+)(- ++)?(?:([A-Za-z_][A-Za-z0-9_./-]{{0,{MAX_KEY_CHARS}}}+):(?: ++|$))?({_VALUE})? *+{_COMMENT}$|^(.+)$",
    re.MULTILINE,
)
"""Indentation, dash, key, value; or all of a line that is not plain."""
_TEXT = frozenset(ascii_letters + "_/") - frozenset("nNtTfF")
"""What a word starts with that is text, whatever follows."""
_MARKER = re.compile(rf"---(?: ++{_COMMENT})?(?:\n|\Z)")
_KEY_APART = re.compile(r'"[ \n]+:')


@dataclass(frozen=True, slots=True)
class Plain:
    """``value`` is ``None`` where there is nothing but comments. ``line`` counts from 0; ``nodes`` as the full reader
    counts them, or more.
    """

    value: dict[str, Any] | None
    line: int
    nodes: int


class _NotPlainError(Exception):
    pass


def read(text: str, max_depth: int) -> Plain | None:
    """One document, its marker included; ``None``: it takes more than this."""
    if not text.isascii() or "\t" in text or "\r" in text:
        return None
    body, line = text, 0
    if text.startswith("---"):
        marker = _MARKER.match(text)
        if marker is None:
            return None
        body, line = text[marker.end() :], 1
    try:
        found = _read_json(body, max_depth) if body.lstrip(" \n")[:1] == "{" else _read_block(body, max_depth)
    except _NotPlainError:
        return None
    return Plain(found.value, line + found.line, found.nodes)


class _Level:
    """A collection that is being read. ``column``: where its keys, or its dashes, stand."""

    __slots__ = ("column", "items", "pending")

    def __init__(self, column: int, items: dict[str, Any] | list[Any]) -> None:
        self.column = column
        self.items = items
        self.pending = ""
        """The key that the last line has given without a value: the next may begin one."""


def _read_block(text: str, max_depth: int) -> Plain:
    root: dict[str, Any] = {}
    level = _Level(0, root)
    above: list[_Level] = []
    first, nodes = None, 1
    for number, (indentation, dash, key, value, other) in enumerate(_LINE.findall(text)):
        if other:
            raise _NotPlainError
        if not (dash or key or value):
            continue
        if first is None:
            first = number
        column = len(indentation)
        if column > level.column or (dash and level.pending and column == level.column):
            if not level.pending:
                raise _NotPlainError  # the value of the line before goes on
            inner: dict[str, Any] | list[Any] = [] if dash else {}
            level.items[level.pending] = inner  # type: ignore[call-overload]
            level.pending = ""
            above.append(level)
            level = _Level(column, inner)
        else:
            level.pending = ""
            while column < level.column or (column == level.column and not dash and type(level.items) is list):
                if not above:
                    raise _NotPlainError
                level = above.pop()
                level.pending = ""
            if column != level.column:
                raise _NotPlainError
        if len(above) >= max_depth - 1:
            raise _NotPlainError
        items = level.items
        if dash:
            nodes += 1
            if type(items) is not list:
                raise _NotPlainError
            if not key:
                items.append(_scalar(value))
                continue
            entry: dict[str, Any] = {}
            items.append(entry)
            above.append(level)
            level = _Level(column + len(dash), entry)
            items = entry
        if not key or type(items) is not dict or key in items or key in WORDS:
            raise _NotPlainError
        nodes += 1
        if value:
            items[key] = value if value[0] in _TEXT else _scalar(value)
        else:
            items[key] = None
            level.pending = key
    return Plain(root if first is not None else None, first or 0, nodes)


def _scalar(text: str) -> Any:
    match text[:1]:
        case '"' | "'":
            return text[1:-1]
        case "[":
            return []
        case "{":
            return {}
        case "":
            raise _NotPlainError
    try:
        return resolve(text)
    except ValueError:
        raise _NotPlainError from None


def _read_json(text: str, max_depth: int) -> Plain:
    """JSON is YAML, but for some corners: tabs, escapes, numbers without end, keys that are long or apart from their
    colons.
    """
    if "\\" in text or _KEY_APART.search(text):
        raise _NotPlainError
    opened = text.count("{") + text.count("[")
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise _NotPlainError from None
    if opened > max_depth and _depth(value) > max_depth:
        raise _NotPlainError
    start = len(text) - len(text.lstrip(" \n"))
    return Plain(value, text.count("\n", 0, start), 1 + opened + text.count(","))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs) or max(map(len, found), default=0) > MAX_KEY_CHARS:
        raise _NotPlainError
    return found


def _number(text: str) -> Any:
    """NaN and infinity, which YAML writes otherwise, are text to it."""
    value = _scalar(text)
    if isinstance(value, str):
        raise _NotPlainError
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_number, parse_float=_number, parse_constant=_number)


def _depth(value: Any) -> int:
    depth, current = 0, [value]
    while current := [one for one in current if isinstance(one, dict | list)]:
        depth += 1
        current = [inner for one in current for inner in (one.values() if isinstance(one, dict) else one)]
    return depth
