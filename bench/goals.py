"""The goals that Koguma is held to, and which of them a run meets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.results import Better, Outcome

KOGUMA = "koguma"


@dataclass(frozen=True, slots=True)
class Goal:
    """For the rows that ``rows`` matches as a whole, families included: ``metric`` against ``rival``'s, or against that
    of ``other_row``, or with neither as it is, in ``unit``.
    """

    rows: str
    metric: str
    better: Better
    at_least: float | None
    """``None`` for what is wanted only."""
    want: float
    rival: str = ""
    other_row: str = ""
    scale: float = 1.0
    unit: str = "x"


MORE, LESS = Better.MORE, Better.LESS

GOALS: tuple[Goal, ...] = (
    Goal(r"(HTTP/1\.1|HTTP/2|gRPC): .*", "rate", MORE, 1.0, 1.5, "envoy"),
    Goal(r"(HTTP/1\.1|HTTP/2|gRPC): .*", "rate", MORE, None, 0.8, "haproxy"),
    Goal(r"TCP: TCP small|TCP: TCP bulk.*", "rate", MORE, 1.0, 1.2, "envoy"),
    Goal(r"TCP: TCP small, TLS", "rate", MORE, 0.7, 1.2, "envoy"),
    Goal(r"Inbound mTLS: .*", "rate", MORE, 1.0, 1.2, "envoy"),
    Goal(r"Two hops: .*", "rate", MORE, 1.0, 1.0, "envoy"),
    Goal(r"New connections: TCP", "rate", MORE, 0.7, 1.0, "envoy"),
    Goal(r"New connections: .*TLS.*", "rate", MORE, 0.7, 1.0, "haproxy"),
    Goal(r"Latency: .* at 0\.5 .*", "p99", LESS, 1.5, 1.0, "envoy"),
    Goal(r"Number of services: 100 .*", "rss", LESS, 60.0, 60.0, scale=1 / 1024**2, unit="MiB"),
    Goal(r"Number of services: 100 .*", "rss", LESS, None, 1.0, "envoy"),
    Goal(r"Memory: An idle .*", "rss", LESS, 1.0, 0.5, "envoy"),
    Goal(r"Number of services: 10,000 .*", "ready", LESS, 10.0, 3.0, unit="s"),
    Goal(r"Number of services: 10,000 .*", "change", LESS, 1.0, 0.2, unit="s"),
    Goal(r"Workers: TCP .*", "rate", MORE, 1.7, 1.9, other_row="TCP: TCP small"),
    Goal(r"Workers: HTTP/1\.1 .*", "rate", MORE, 1.7, 1.9, other_row="HTTP/1.1: HTTP/1.1 small"),
)


@dataclass(frozen=True, slots=True)
class Judgement:
    row: str
    goal: Goal
    value: float

    @property
    def verdict(self) -> str:
        """``wanted`` (as far as we want), ``met`` or ``missed``; ``not yet`` for what is only wanted."""
        if self._reaches(self.goal.want):
            return "wanted"
        if self.goal.at_least is None:
            return "not yet"
        return "met" if self._reaches(self.goal.at_least) else "missed"

    def _reaches(self, bound: float) -> bool:
        return self.value >= bound if self.goal.better is Better.MORE else self.value <= bound


def judge(outcomes: Sequence[Outcome]) -> list[Judgement]:
    """One for each goal and each of its rows that was measured; what was not is left out."""
    by_name = {outcome.full_name: outcome for outcome in outcomes}
    judgements = []
    for outcome in outcomes:
        for goal in GOALS:
            if re.fullmatch(goal.rows, outcome.full_name):
                value = _value(outcome, goal, by_name)
                if value is not None:
                    judgements.append(Judgement(outcome.full_name, goal, value))
    return judgements


def _value(outcome: Outcome, goal: Goal, by_name: dict[str, Outcome]) -> float | None:
    if goal.rival:
        return outcome.ratio(KOGUMA, goal.rival, goal.metric)
    mine = outcome.summary(KOGUMA, goal.metric)
    if mine is None:
        return None
    if goal.other_row:
        other = by_name.get(goal.other_row)
        theirs = other.summary(KOGUMA, goal.metric) if other is not None else None
        return mine.median / theirs.median if theirs is not None else None
    return mine.median * goal.scale
