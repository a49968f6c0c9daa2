"""The results as Markdown and as JSON. What is worse than a rival is said in the same column as what is better."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from bench.goals import KOGUMA, Judgement, judge
from bench.results import DIRECT, Better, Metric, Outcome

RIVAL = "envoy"
SAME = 0.02
"""Ratios within this of 1 are called the same."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a reader must know to believe the numbers, and to get them again."""

    machine: dict[str, str]
    versions: dict[str, str]
    commands: dict[str, str]
    missing: dict[str, str]
    arguments: str
    runs: int
    seconds: float


def markdown(run: Run, outcomes: Sequence[Outcome], charts: dict[str, str]) -> str:
    """``charts``: the file of each family's chart."""
    lines = ["# Results", "", *_preamble(run), "", *_goals(judge(outcomes))]
    for family, group in groupby(outcomes, key=lambda outcome: outcome.family):
        members = list(group)
        lines += ["", f"## {family}", ""]
        if family in charts:
            lines += [f"![{family}]({charts[family]})", ""]
        lines += [*table(members), *_remarks(members)]
    return "\n".join([*lines, ""])


def _preamble(run: Run) -> Iterator[str]:
    yield (
        f"`{run.arguments}`: medians of {run.runs} interleaved runs of {run.seconds:g} s each, least and greatest in"
        " brackets. What each row does, and how noise is met: [README](README.md)."
    )
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    for key, value in {**run.machine, **run.versions}.items():
        yield f"| {key} | {value} |"
    for name, command in run.commands.items():
        yield f"| {name} is started as | `{command}` |"
    for name, reason in run.missing.items():
        yield f"| {name} does not take part | {reason} |"


def _goals(judgements: Sequence[Judgement]) -> Iterator[str]:
    if not judgements:
        return
    missed = sum(judgement.verdict == "missed" for judgement in judgements)
    wanted = sum(judgement.verdict == "wanted" for judgement in judgements)
    yield "## Goals"
    yield ""
    met = len(judgements) - missed
    yield f"Of {len(judgements)} goals {met} are met, {wanted} of them as far as we want; {missed} are missed."
    yield ""
    yield "| row | what | measured | at least | want | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for judgement in judgements:
        goal = judgement.goal
        against = goal.rival or (goal.other_row and f"one worker's ({goal.other_row})")
        what = f"{goal.metric} x {against}" if against else goal.metric
        bounds = [_bound(goal.at_least, goal.better, goal.unit), _bound(goal.want, goal.better, goal.unit)]
        measured = f"{judgement.value:.2f} {goal.unit}"
        verdict = f"**{judgement.verdict}**" if judgement.verdict == "missed" else judgement.verdict
        yield f"| {judgement.row} | {what} | {measured} | {' | '.join(bounds)} | {verdict} |"


def _bound(value: float, better: Better, unit: str) -> str:
    if value in (0.0, float("inf")):
        return ""
    return f"{'≥' if better is Better.MORE else '≤'} {value:g} {unit}"


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A line for each metric of each row, a column for each proxy."""
    subjects = subjects_of(outcomes)
    yield f"| work | unit | {' | '.join(subjects)} | {KOGUMA} against {RIVAL} |"
    yield f"| --- | --- | {' | '.join('---:' for _ in subjects)} | --- |"
    for outcome in outcomes:
        for number, metric in enumerate(outcome.metrics):
            cells = [_cell(outcome, subject, metric, first=number == 0) for subject in subjects]
            if any(cells):
                name = outcome.name if number == 0 else ""
                yield f"| {name} | {metric.unit} | {' | '.join(cells)} | {_verdict(outcome, metric)} |"


def subjects_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Ours first, the direct run last, the others in the order in which they ran."""
    names = {name: None for outcome in outcomes for name in (*outcome.runs, *outcome.absent)}
    return sorted(names, key=lambda name: (name != KOGUMA, name == DIRECT))


def _cell(outcome: Outcome, subject: str, metric: Metric, *, first: bool) -> str:
    summary = outcome.summary(subject, metric.name)
    if summary is None:
        return "—" if first and subject in outcome.absent else ""
    median = metric.text(summary.median)
    if summary.least == summary.greatest:
        return median
    return f"{median} ({metric.text(summary.least)}–{metric.text(summary.greatest)})"


def _verdict(outcome: Outcome, metric: Metric) -> str:
    ratio = outcome.ratio(KOGUMA, RIVAL, metric.name)
    if ratio is None or metric.better is Better.NEITHER:
        return ""
    if abs(ratio - 1) <= SAME:
        return f"{ratio:.2f} x, the same"
    return f"{ratio:.2f} x, {'better' if (ratio > 1) == (metric.better is Better.MORE) else '**worse**'}"


def _remarks(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Whoever has no number, and why, each reason once."""
    remarks: dict[str, list[str]] = {}
    for outcome in outcomes:
        for subject, reason in outcome.absent.items():
            if subject != DIRECT:
                remarks.setdefault(f"{subject}: {reason}", []).append(outcome.name)
        for note in outcome.notes:
            remarks.setdefault(note, []).append(outcome.name)
    if remarks:
        yield ""
    for remark, names in remarks.items():
        yield f"- {'; '.join(names)}: {remark}"


def document(run: Run, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Every value of every run, in units of one (seconds, bytes, requests per second)."""
    rows = [
        {
            "name": outcome.name,
            "family": outcome.family,
            "metrics": [
                {"name": m.name, "unit": m.unit, "better": m.better.value, "scale": m.scale} for m in outcome.metrics
            ],
            "runs": outcome.runs,
            "absent": outcome.absent,
            "notes": outcome.notes,
        }
        for outcome in outcomes
    ]
    goals = [
        {"row": j.row, "metric": j.goal.metric, "rival": j.goal.rival, "value": j.value, "verdict": j.verdict}
        for j in judge(outcomes)
    ]
    return {"run": asdict(run), "rows": rows, "goals": goals}


def as_json(run: Run, outcomes: Sequence[Outcome]) -> str:
    return json.dumps(document(run, outcomes), indent=1) + "\n"
