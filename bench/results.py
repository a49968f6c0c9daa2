"""What was measured: values by row, metric and proxy, one for each run, and what is said of them.

The median stands for the runs, the least and the greatest for their spread: with five runs on a machine that others
use, a mean would be the machine's story and a standard deviation would pretend to know its distribution.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from enum import Enum

DIRECT = "direct"
"""The subject that is no proxy: the load straight at the origin."""


class Better(Enum):
    MORE = "more"
    LESS = "less"
    NEITHER = "neither"
    """It says how much to believe the others."""


@dataclass(frozen=True, slots=True)
class Metric:
    """``scale`` turns what was measured (units of one, bytes, seconds) into ``unit``."""

    name: str
    unit: str
    better: Better
    scale: float = 1.0

    def text(self, value: float) -> str:
        """Three significant digits, never fewer than the whole number."""
        scaled = value * self.scale
        digits = 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
        return f"{scaled:,.{digits}f}"


@dataclass(frozen=True, slots=True)
class Summary:
    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: list[float]) -> Summary:
        return cls(statistics.median(values), min(values), max(values))


Values = dict[str, float]
"""One run: the value of each metric, by its name."""


@dataclass(slots=True)
class Outcome:
    """All that was measured of one row."""

    name: str
    family: str
    metrics: tuple[Metric, ...]
    runs: dict[str, list[Values]] = field(default_factory=dict)
    """By subject, in the order in which they ran."""
    absent: dict[str, str] = field(default_factory=dict)
    """Subjects that have no value, and why: cannot do the job, or failed at it."""
    notes: list[str] = field(default_factory=list)

    @property
    def full_name(self) -> str:
        return f"{self.family}: {self.name}"

    def summary(self, subject: str, metric: str) -> Summary | None:
        values = [run[metric] for run in self.runs.get(subject, []) if metric in run]
        return Summary.of(values) if values else None

    def ratio(self, subject: str, other: str, metric: str) -> float | None:
        """Of the medians; ``None`` where one is missing, or is 0."""
        mine, theirs = self.summary(subject, metric), self.summary(other, metric)
        if mine is None or theirs is None or theirs.median == 0:
            return None
        return mine.median / theirs.median


def percentile(ordered: list[float], fraction: float) -> float:
    """The least of ``ordered`` that at least ``fraction`` of all do not exceed (nearest rank, nothing interpolated)."""
    if not ordered:
        raise ValueError("nothing was measured")
    rank = max(1, -int(-fraction * len(ordered) // 1))
    return ordered[min(rank, len(ordered)) - 1]
