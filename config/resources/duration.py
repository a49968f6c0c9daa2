"""Durations as Go writes them, which is how Kuma's policies give time: ``5s``, ``1h30m``, ``250ms``.

Messages are those of Go's ``time.ParseDuration``.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from config.resources.shape import refuse, wrong_type

UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_GO_LIMIT_NS = 2**63 - 1
_PART = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})([^0-9.]*)")


def parse_duration(text: str) -> float:
    """Seconds. Raises ``ValueError`` with Go's message."""
    unsigned = text[1:] if text[:1] in ("-", "+") else text
    if unsigned == "0":
        return 0.0
    invalid = f'time: invalid duration "{text}"'
    total_ns, at = 0.0, 0
    while at < len(unsigned):
        part = _PART.match(unsigned, at)
        if part is None:
            raise ValueError(invalid)
        number, unit = part.groups()
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in UNITS_NS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total_ns += float(number) * UNITS_NS[unit]
        at = part.end()
    if not unsigned or total_ns > _GO_LIMIT_NS:
        raise ValueError(invalid)
    return (-total_ns if text[0] == "-" else total_ns) / 1e9


def format_duration(seconds: float) -> str:
    """The shortest text that :func:`parse_duration` reads as ``seconds``, to the microsecond."""
    sign, left_us = ("-", -round(seconds * 1e6)) if seconds < 0 else ("", round(seconds * 1e6))
    text = ""
    for unit in ("h", "m", "s", "ms", "us"):
        count, left_us = divmod(left_us, UNITS_NS[unit] // 1_000)
        if count:
            text += f"{count}{unit}"
    return f"{sign}{text}" if text else "0s"


def _read(value: object) -> float:
    if not isinstance(value, str):
        raise refuse(wrong_type("string", value), stand_in="1s")
    try:
        return parse_duration(value)
    except ValueError as error:
        raise refuse(str(error) if len(value) <= 64 else "time: invalid duration", stand_in="1s") from None


Duration = Annotated[
    float, BeforeValidator(_read), WithJsonSchema({"type": "string", "examples": ["5s", "1h30m", "250ms"]})
]
"""Seconds; in a document the text of a duration."""
