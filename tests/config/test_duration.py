"""Guarantee: a duration is what Go takes it for, or is refused in Go's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.resources.duration import format_duration, parse_duration

READ = {
    "0": 0.0, "0s": 0.0, "5s": 5.0, "+5s": 5.0, "-5s": -5.0, "1h30m": 5400.0, "250ms": 0.25, "1.5h": 5400.0,
    ".5s": 0.5, "1.s": 1.0, "3us": 3e-6, "3µs": 3e-6, "1ns": 1e-9, "1h1h": 7200.0, "2540400h": 2540400.0 * 3600,
}  # fmt: skip

REFUSED = {
    "": "invalid duration", "s": "invalid duration", "-": "invalid duration", ".s": "invalid duration",
    "5": "missing unit in duration", "1h5": "missing unit in duration", "5 s": 'unknown unit " s" in duration',
    "5x": 'unknown unit "x" in duration', "5S": 'unknown unit "S" in duration', "1d": 'unknown unit "d" in duration',
    "9999999999h": "invalid duration", "１s": "invalid duration", "--5s": "invalid duration",
    "1e3s": 'unknown unit "e" in duration',
}  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), READ.items())
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_a_duration_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="time: ") as refusal:
        parse_duration(text)
    assert str(refusal.value) == (f'time: {message} "{text}"')


@given(st.integers(0, 10**13).map(lambda us: us / 1e6))
def test_what_is_shown_is_read_as_the_same(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)
    assert parse_duration(format_duration(-seconds)) == pytest.approx(-seconds, abs=1e-6)
