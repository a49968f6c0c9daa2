"""Guarantee: medians, ratios and verdicts are right, losses are shown as plainly as gains, and who has no number is
named with the reason.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench.__main__ import write
from bench.chart import chart
from bench.goals import GOALS, judge
from bench.report import Run, as_json, markdown, table
from bench.results import Better, Metric, Outcome, Summary, percentile
from bench.rows import ROWS

RATE = Metric("rate", "req/s", Better.MORE)
CPU = Metric("cpu", "CPU µs/req", Better.LESS, 1e6)
LATE = Metric("behind", "generator late, µs", Better.NEITHER, 1e6)
RUN = Run({"CPU": "some"}, {"envoy": "1.40.0"}, {"envoy": "envoy -c ./envoy.json"}, {"nginx": "not installed"},
          "python -m bench", 3, 4.0)  # fmt: skip


def outcome(koguma: list[float], envoy: list[float], name: str = "HTTP/1.1 small", family: str = "HTTP/1.1") -> Outcome:
    runs = {
        "koguma": [{"rate": rate, "cpu": 1 / rate, "behind": 1e-6} for rate in koguma],
        "envoy": [{"rate": rate, "cpu": 1 / rate, "behind": 2e-6} for rate in envoy],
    }
    return Outcome(name, family, (RATE, CPU, LATE), {subject: values for subject, values in runs.items() if values})


def test_the_median_stands_for_the_runs() -> None:
    assert Summary.of([5.0, 1.0, 100.0]) == Summary(5.0, 1.0, 100.0)
    assert outcome([10, 30, 20], [10]).ratio("koguma", "envoy", "rate") == 2.0


def test_no_ratio_without_both() -> None:
    assert outcome([10], []).ratio("koguma", "envoy", "rate") is None
    assert outcome([], [10]).summary("koguma", "rate") is None


@pytest.mark.parametrize(("fraction", "value"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100)])
def test_percentile(fraction: float, value: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], fraction) == value


def test_percentile_of_one_and_of_none() -> None:
    assert percentile([7.0], 0.999) == 7.0
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 0.5)


@pytest.mark.parametrize(
    ("value", "text"), [(123456.7, "123,457"), (99.94, "99.9"), (12.34, "12.3"), (1.234, "1.23"), (0.0, "0.00")]
)
def test_numbers(value: float, text: str) -> None:
    assert RATE.text(value) == text


def test_table_says_better_and_worse() -> None:
    lines = list(table([outcome([150, 140, 160], [100])]))
    assert lines[0] == "| work | unit | koguma | envoy | koguma against envoy |"
    assert lines[2] == "| HTTP/1.1 small | req/s | 150 (140–160) | 100 | 1.50 x, better |"
    assert lines[3].endswith("| 0.67 x, better |")
    assert lines[4].endswith("| 1.00 | 2.00 |  |")  # neither
    assert "0.50 x, **worse**" in list(table([outcome([50], [100])]))[2]
    assert "1.01 x, the same" in list(table([outcome([101], [100])]))[2]


def test_who_has_no_number_is_named() -> None:
    one = outcome([50], [])
    one.absent["envoy"] = "FAILED: it ended with 1"
    text = markdown(RUN, [one], {"HTTP/1.1": "http-1.1.svg"})
    assert "| HTTP/1.1 small | req/s | 50.0 | — |" in text
    assert "- HTTP/1.1 small: envoy: FAILED: it ended with 1" in text
    assert "| nginx does not take part | not installed |" in text
    assert "![HTTP/1.1](http-1.1.svg)" in text
    assert "`envoy -c ./envoy.json`" in text


@pytest.mark.parametrize(("rate", "verdict"), [(149.0, "met"), (150.0, "wanted"), (100.0, "met"), (99.0, "missed")])
def test_goals(rate: float, verdict: str) -> None:
    (judgement,) = judge([outcome([rate], [100.0])])
    assert judgement.verdict == verdict
    assert (f"**{verdict}**" if verdict == "missed" else f"| {verdict} |") in markdown(
        RUN, [outcome([rate], [100])], {}
    )


def test_goal_of_two_workers() -> None:
    one, two = outcome([100], []), outcome([180], [], "HTTP/1.1 small, two workers", "Workers")
    (judgement,) = judge([one, two])
    assert (judgement.value, judgement.verdict) == (1.8, "met")
    assert not judge([two])


def test_every_goal_is_of_a_row() -> None:
    names = {row.full_name: {metric.name for metric in row.metrics} for row in ROWS}
    assert len(names) == len(ROWS)
    for goal in GOALS:
        matched = [metrics for name, metrics in names.items() if re.fullmatch(goal.rows, name)]
        assert matched, goal
        assert all(goal.metric in metrics for metrics in matched), goal
        assert not goal.other_row or goal.other_row in names


def test_json_has_every_run() -> None:
    document = json.loads(as_json(RUN, [outcome([1, 2, 3], [4])]))
    (row,) = document["rows"]
    assert [run["rate"] for run in row["runs"]["koguma"]] == [1, 2, 3]
    assert row["metrics"][0] == {"name": "rate", "unit": "req/s", "better": "more", "scale": 1.0}
    assert document["goals"][0]["verdict"] == "missed"
    assert document["run"]["versions"] == {"envoy": "1.40.0"}


def test_chart() -> None:
    one = outcome([150, 100, 200], [100])
    one.name = "a < b"
    root = ElementTree.fromstring(chart([one]))
    bars = [bar for bar in root.iter("{http://www.w3.org/2000/svg}rect") if bar.get("x")]
    widths = [float(bar.get("width", "")) for bar in bars]
    assert len(bars) == 4  # two metrics of two proxies; nobody is better at the third
    assert widths[0] == pytest.approx(1.5 * widths[1], rel=0.01)
    text = "".join(root.itertext())
    assert "a < b" in text
    assert "more is better" in text
    assert "less is better" in text
    assert "generator" not in text
    (whisker, *_) = root.iter("{http://www.w3.org/2000/svg}path")
    assert whisker.get("d", "").startswith("M")


def test_chart_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        chart([outcome([], [])])


def test_what_is_written(tmp_path: Path) -> None:
    failed = outcome([], [], "HTTP/2 small", "HTTP/2")
    failed.absent["koguma"] = "FAILED: it ended"
    write(tmp_path / "performance", RUN, [outcome([1], [2]), failed])
    written = {path.name for path in (tmp_path / "performance").iterdir()}
    assert written == {"results.md", "results.json", "http-1.1.svg"}
    links = re.findall(r"\]\(([^)]+)\)", (tmp_path / "performance" / "results.md").read_text())
    assert set(links) <= written | {"README.md"}
