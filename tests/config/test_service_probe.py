"""Guarantee: a service probe is planned as Kuma's control plane would have it, within bounds."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from config.plan import IpTarget, ProbePlan
from config.resources.dataplane import MAX_PROBE_S, MIN_PROBE_S, ServiceProbe

TARGET = IpTarget(ip_address("127.0.0.1"), 8081)


def planned(**fields: Any) -> ProbePlan | None:
    return ServiceProbe.model_validate(fields).plan(TARGET)


def test_the_defaults_are_kumas() -> None:
    assert planned(tcp={}) == ProbePlan(TARGET, 1.0, 2.0, 1, 1)


def test_every_field_counts() -> None:
    given = planned(interval="10s", timeout="0.5s", unhealthyThreshold=3, healthyThreshold=2, tcp={})
    assert given == ProbePlan(TARGET, 10.0, 0.5, 3, 2)


def test_without_a_way_nothing_is_probed() -> None:
    assert planned(interval="10s") is None


@pytest.mark.parametrize(("given", "kept"), [("0.000000001s", MIN_PROBE_S), ("999999999999s", MAX_PROBE_S)])
def test_times_are_bounded(given: str, kept: float) -> None:
    probe = planned(interval=given, timeout=given, tcp={})
    assert probe is not None
    assert (probe.interval_s, probe.timeout_s) == (kept, kept)
