"""Decimal numbers as Kuma's policies give them: an integer, or any number as text (its ``IntOrString``)."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from config.resources.shape import refuse, wrong_type


def _decimal(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise refuse(wrong_type("string", value), stand_in=1)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise refuse("invalid number", stand_in=1)
    return number


Decimal = Annotated[
    float, BeforeValidator(_decimal), WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]})
]
