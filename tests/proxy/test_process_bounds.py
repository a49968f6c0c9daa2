"""Guarantee: however many resources are wrong and listeners there are, a reload writes a bounded number of lines; and a
certificate is renewed in time although the clock of the event loop stands while the machine sleeps.
"""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from config.problems import Problem
from proxy import process
from proxy.process import (
    MAX_LISTENERS_LOGGED,
    MAX_PROBLEMS_LOGGED,
    MAX_RENEWAL_WAIT_S,
    MIN_RENEWAL_WAIT_S,
    Process,
)
from proxy.reading import wall_clock
from proxy.runtime import Applied

PROBLEMS = [Problem("a.yaml", line, "Mesh", "", "m", "", "wrong") for line in range(1, MAX_PROBLEMS_LOGGED + 50)]


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "event", "") == name]


def test_of_many_problems_the_first_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    here: Any = SimpleNamespace(_reported=frozenset())
    here._report = lambda problems: Process._report(here, problems)
    Process._say_rejected(here, cast("Any", SimpleNamespace(problems=PROBLEMS)), "nothing changes")
    assert [record.problem["line"] for record in events(caplog, "problem")] == list(  # type: ignore[attr-defined]
        range(1, MAX_PROBLEMS_LOGGED + 1)
    )
    (rejected,) = events(caplog, "rejected")
    assert len(rejected.problems) == MAX_PROBLEMS_LOGGED  # type: ignore[attr-defined]
    assert rejected.getMessage().startswith(f"{len(PROBLEMS)} errors")


@pytest.mark.parametrize("count", [MAX_LISTENERS_LOGGED, MAX_LISTENERS_LOGGED + 7])
def test_of_many_listeners_the_first_are_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    listener = SimpleNamespace(plan=SimpleNamespace(bind="127.0.0.1:1", cluster="c"))
    here: Any = SimpleNamespace(
        _runtime=SimpleNamespace(listeners={f"l{number}": listener for number in range(count)}),
        _admin=SimpleNamespace(port=1),
        _dns=None,
        _options=SimpleNamespace(log_format="json"),
    )
    plan = SimpleNamespace(clusters={}, admin=SimpleNamespace(address="127.0.0.1"))
    with caplog.at_level(logging.INFO, logger=process.log.name):
        Process._say_ready(here, cast("Any", SimpleNamespace(plan=plan, resources=())))
    said = [record.getMessage() for record in caplog.records]
    assert sum("listens on" in line for line in said) == MAX_LISTENERS_LOGGED
    assert [line for line in said if "more" in line] == (
        ["and 7 more: see /listeners"] if count > MAX_LISTENERS_LOGGED else []
    )
    assert json.loads(capsys.readouterr().err)["listeners"] == count


@pytest.mark.parametrize("count", [MAX_LISTENERS_LOGGED, MAX_LISTENERS_LOGGED + 7])
def test_of_many_listeners_that_failed_the_first_are_logged(caplog: pytest.LogCaptureFixture, count: int) -> None:
    here: Any = SimpleNamespace(_reload_stats=SimpleNamespace(generation=2), _report=lambda problems: None)
    planned: Any = SimpleNamespace(has_errors=False, problems=())
    failed = {f"l{number}": f"cannot listen on port {number}" for number in range(count)}
    with caplog.at_level(logging.INFO, logger=process.log.name):
        Process._say_reloaded(here, planned, Applied(0, count, 0, failed))
    said = [record.getMessage() for record in events(caplog, "listener_failed")]
    assert said == [f"{name}: {reason}" for name, reason in failed.items()][:MAX_LISTENERS_LOGGED]
    more = [record.getMessage() for record in events(caplog, "listeners_failed")]
    assert more == (["and 7 more listeners that do not run"] if count > MAX_LISTENERS_LOGGED else [])
    assert len(events(caplog, "reloaded")) == 1


@pytest.mark.parametrize(
    ("left_s", "wait_s", "is_due"),
    [(1e6, MAX_RENEWAL_WAIT_S, False), (20.0, 20.0, False), (0.001, MIN_RENEWAL_WAIT_S, False),
     (-5.0, MIN_RENEWAL_WAIT_S, True)],
)  # fmt: skip
def test_the_time_of_a_renewal_is_looked_at_often(
    monkeypatch: pytest.MonkeyPatch, left_s: float, wait_s: float, is_due: bool
) -> None:
    now = wall_clock()
    monkeypatch.setattr(process, "wall_clock", lambda: now)
    waits: list[float] = []
    wanted: list[bool] = []
    identity = SimpleNamespace(renew_at=now + timedelta(seconds=left_s))
    here: Any = SimpleNamespace(
        _planned=SimpleNamespace(plan=SimpleNamespace(identity=identity)),
        _renewal=None,
        _renewal_due=False,
        _reload_wanted=SimpleNamespace(set=lambda: wanted.append(True)),
        _loop=SimpleNamespace(call_later=lambda delay_s, _: waits.append(delay_s)),
        _expect_renewal=None,
    )
    Process._expect_renewal(here)
    assert waits == [pytest.approx(wait_s)]
    assert (here._renewal_due, wanted) == (is_due, [True] if is_due else [])
