"""Guarantee: what a load's program prints is read as it was meant, and a load that met an error is no measurement."""

from __future__ import annotations

import pytest

from bench.load import Load, parse_h2load, parse_own, parse_wrk, whole_seconds
from bench.process import MeasurementError
from tests.bench import samples


def test_wrk() -> None:
    assert parse_wrk(samples.WRK) == Load(62030, 1.10)
    assert parse_wrk(samples.WRK).rate == pytest.approx(56390, rel=0.001)


def test_wrk_of_a_minute() -> None:
    assert parse_wrk(samples.WRK.replace("in 1.10s", "in 1.00m")).seconds == 60


def test_h2load() -> None:
    assert parse_h2load(samples.H2LOAD) == Load(41565, 1.01)


@pytest.mark.parametrize("text", [samples.WRK_ERRORS, samples.WRK_503, samples.WRK_NOTHING, "unable to connect", ""])
def test_wrk_with_errors(text: str) -> None:
    with pytest.raises(MeasurementError):
        parse_wrk(text)


@pytest.mark.parametrize("text", [samples.H2LOAD_FAILED, samples.H2LOAD_404, "", "finished in 1s, 0 req/s"])
def test_h2load_with_errors(text: str) -> None:
    with pytest.raises(MeasurementError):
        parse_h2load(text)


@pytest.mark.parametrize("text", ["", "[1]", "Traceback"])
def test_no_answer_of_ours(text: str) -> None:
    with pytest.raises(MeasurementError):
        parse_own(text)


@pytest.mark.parametrize(("asked", "given"), [(0.2, 1), (1.0, 1), (1.6, 2), (4.0, 4)])
def test_whole_seconds(asked: float, given: int) -> None:
    assert whole_seconds(asked) == given
