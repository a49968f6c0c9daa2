"""Laws of the difference between two plans."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from config.plan import (
    Add,
    Change,
    ClusterPlan,
    Direction,
    DnsTarget,
    EndpointPlan,
    IpTarget,
    ListenerPlan,
    Plan,
    Protocol,
    ProxyIdentity,
    Remove,
    Step,
    UnixTarget,
    diff,
)

NAMES = ["a", "b", "c", "d"]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans in which every listener leads to a cluster of the same plan."""
    clusters = {
        name: ClusterPlan(name, "default", name, Protocol.TCP, (), max_connections=draw(st.integers(1, 3)))
        for name in draw(st.sets(st.sampled_from(NAMES)))
    }
    listeners = {}
    if clusters:
        for name in draw(st.sets(st.sampled_from(NAMES))):
            cluster = draw(st.sampled_from(sorted(clusters)))
            port = draw(st.integers(1, 5))
            listeners[name] = ListenerPlan(
                name, Direction.OUTBOUND, ip_address("127.0.0.1"), port, Protocol.TCP, cluster
            )
    return Plan(ProxyIdentity("default", "dp"), listeners, clusters)


def perform(plan: Plan, steps: list[Step]) -> Plan:
    """The steps on plain mappings. A step that does not fit what is there fails."""
    listeners, clusters = dict(plan.listeners), dict(plan.clusters)
    for step in steps:
        part = step.new if isinstance(step, Change) else step.part
        parts: dict[str, ListenerPlan | ClusterPlan] = (
            listeners if isinstance(part, ListenerPlan) else clusters  # type: ignore[assignment]
        )
        match step:
            case Add():
                assert part.name not in parts
                parts[part.name] = part
            case Change(old, new):
                assert parts[part.name] == old != new
                parts[part.name] = new
            case Remove():
                assert parts.pop(part.name) == part
        assert {listener.cluster for listener in listeners.values()} <= clusters.keys(), (
            "at each moment every listener has its cluster"
        )
    return replace(plan, listeners=listeners, clusters=clusters)


@given(plans(), plans())
def test_performing_the_difference_gives_the_new_plan(old: Plan, new: Plan) -> None:
    assert perform(old, diff(old, new)) == new


@given(plans())
def test_nothing_differs_from_itself(plan: Plan) -> None:
    assert diff(plan, plan) == []
    copy = replace(plan, listeners={name: replace(part) for name, part in plan.listeners.items()})
    assert diff(plan, copy) == [], "equal is the same, whichever object it is"


@given(plans(), plans())
def test_ports_are_given_up_before_others_are_taken(old: Plan, new: Plan) -> None:
    kinds = [
        type(step)
        for step in diff(old, new)
        if isinstance(step.new if isinstance(step, Change) else step.part, ListenerPlan)
    ]
    assert kinds == sorted(kinds, key=lambda kind: kind is not Remove)


@given(plans(), plans())
def test_there_is_one_step_for_each_part_that_differs(old: Plan, new: Plan) -> None:
    names = [
        (type(part), part.name)
        for step in diff(old, new)
        for part in [step.new if isinstance(step, Change) else step.part]
    ]
    assert len(names) == len(set(names))


def test_targets_and_binds_as_text() -> None:
    assert str(IpTarget(ip_address("127.0.0.1"), 80)) == "127.0.0.1:80"
    assert str(IpTarget(ip_address("::1"), 80)) == "[::1]:80"
    assert str(DnsTarget("a.test", 80)) == "a.test:80"
    assert str(UnixTarget("@name")) == "unix://@name"
    listener = ListenerPlan("l", Direction.INBOUND, ip_address("::1"), 80, Protocol.TCP, "c")
    assert listener.bind == "[::1]:80"
    assert replace(listener, address=ip_address("127.0.0.1")).bind == "127.0.0.1:80"


def test_the_names_to_resolve() -> None:
    targets = (DnsTarget("a.test", 1), IpTarget(ip_address("::1"), 1), DnsTarget("a.test", 2), UnixTarget("/s"))
    cluster = ClusterPlan("c", "m", "s", Protocol.TCP, tuple(EndpointPlan(target) for target in targets))
    assert list(cluster.dns_names) == ["a.test", "a.test"]
