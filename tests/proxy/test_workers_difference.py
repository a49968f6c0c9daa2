"""A plan that travels as a difference is the same plan at the other end, and what did not change does not travel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.plan import ClusterPlan, Direction, ListenerPlan, Plan, Protocol, ProxyIdentity
from proxy.workers.difference import NOTHING, SHARED_LIMITS, STAGE_PARTS, compare, compose, share


def cluster(name: str, idle_timeout_s: float = 1.0) -> ClusterPlan:
    return ClusterPlan(name, "default", name, Protocol.TCP, (), idle_timeout_s=idle_timeout_s)


def listener(name: str, port: int) -> ListenerPlan:
    return ListenerPlan(name, Direction.OUTBOUND, ip_address("127.0.0.1"), port, Protocol.TCP, name)


names = st.sampled_from("abcdef")
plans = st.builds(
    lambda clusters, listeners, owner: Plan(
        ProxyIdentity("default", owner),
        clusters={name: cluster(name, value) for name, value in clusters.items()},
        listeners={name: listener(name, port) for name, port in listeners.items()},
    ),
    st.dictionaries(names, st.sampled_from([1.0, 2.0])),
    st.dictionaries(names, st.integers(1, 2)),
    names,
)


@given(plans, plans)
def test_what_is_composed_is_what_was_compared(old: Plan, new: Plan) -> None:
    stages, difference = compare(old, new, 1)
    assert compose(old, stages, difference) == new


@given(plans)
def test_no_change_is_no_message(plan: Plan) -> None:
    stages, difference = compare(plan, plan, 2)
    assert (stages, dict(difference.removed), dict(difference.others)) == ([], {}, {})


def test_what_did_not_change_stays_the_same_object() -> None:
    old = Plan(ProxyIdentity("default", "dp"), clusters={name: cluster(name) for name in "ab"})
    stages, difference = compare(old, replace(old, clusters={**old.clusters, "b": cluster("b", 9.0)}), 1)
    assert [list(stage.parts) for stage in stages] == [["b"]]
    new = compose(old, stages, difference)
    assert new.clusters["a"] is old.clusters["a"]
    assert new.clusters["b"].idle_timeout_s == 9.0


def test_a_large_plan_goes_in_stages() -> None:
    count = 2 * STAGE_PARTS + 1
    plan = Plan(ProxyIdentity("default", "dp"), clusters={str(number): cluster(str(number)) for number in range(count)})
    stages, difference = compare(NOTHING, plan, 1)
    assert [len(stage.parts) for stage in stages] == [STAGE_PARTS, STAGE_PARTS, 1]
    assert compose(NOTHING, stages, difference) == plan


@pytest.mark.parametrize(("whole", "workers", "each"), [(1024, 1, 1024), (1024, 2, 512), (1024, 3, 342), (1, 4, 1)])
def test_limits_of_a_service_are_shared_and_rounded_up(whole: int, workers: int, each: int) -> None:
    part = share(replace(cluster("a"), **dict.fromkeys(SHARED_LIMITS, whole)), workers)
    assert [getattr(part, name) for name in SHARED_LIMITS] == [each] * len(SHARED_LIMITS)


def test_every_limit_of_a_service_is_shared() -> None:
    limits = {name for name in ClusterPlan.__dataclass_fields__ if name.startswith("max_")}
    by_connection = {"max_connect_attempts", "max_stream_duration_s", "max_connection_duration_s"}
    assert limits - by_connection == set(SHARED_LIMITS)
