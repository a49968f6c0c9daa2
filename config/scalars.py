"""The scalars of the YAML 1.2 core schema (§10.3.2), except that a number with a leading zero stays text: some readers
take 010 for eight.
"""

from __future__ import annotations

import re

MAX_NUMBER_CHARS = 64

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
WORDS: dict[str, bool | float | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), ".Inf": float("inf"), ".INF": float("inf"),
    "+.inf": float("inf"), "+.Inf": float("inf"), "+.INF": float("inf"),
    "-.inf": float("-inf"), "-.Inf": float("-inf"), "-.INF": float("-inf"),
    ".nan": float("nan"), ".NaN": float("nan"), ".NAN": float("nan"),
}  # fmt: skip
"""Those that are neither text nor a number in digits."""

_STARTS = frozenset(["", *"~nNtTfF-+.0123456789"])


def resolve(text: str) -> bool | int | float | str | None:
    """What a plain scalar means. Raises ``ValueError`` for a number of too many characters."""
    if text[:1] not in _STARTS:
        return text
    if text in WORDS:
        return WORDS[text]
    is_integer = _INTEGER.match(text)
    if is_integer or _OCTAL_OR_HEX.match(text) or _FLOAT.match(text):
        if len(text) > MAX_NUMBER_CHARS:
            raise ValueError(f"a number must not have more than {MAX_NUMBER_CHARS} characters")
        if is_integer:
            return int(text)
        return int(text, 0) if text.startswith(("0o", "0x")) else float(text)
    return text
