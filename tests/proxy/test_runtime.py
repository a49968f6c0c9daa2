"""Law: after ``apply(plan)`` what runs is what the plan says, and what did not change is untouched."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.plan import ClusterPlan, Direction, EndpointPlan, Plan, ProxyIdentity
from proxy.listener import ConnectionLimit
from proxy.outcome import Outcome
from proxy.runtime import Applied, Runtime
from tests.kit import client, payload, peers, poll
from tests.kit.peers import Peer
from tests.kit.ports import free_port
from tests.proxy.rig import LoopThread, at, cluster_plan, listener_plan, services, target_of

PORTS = [free_port() for _ in range(4)]
NOBODY = Plan(ProxyIdentity("default", "dp"))


def plan_of(listeners: Mapping[str, tuple[int, str]], clusters: Mapping[str, EndpointPlan | None]) -> Plan:
    """Listeners are (port, cluster), clusters one endpoint or none."""
    return Plan(
        ProxyIdentity("default", "dp"),
        {name: listener_plan(port, cluster, name) for name, (port, cluster) in listeners.items()},
        {name: cluster_plan([] if end is None else [end], name) for name, end in clusters.items()},
    )


class Running:
    def __init__(self, loop: LoopThread, drain_time_s: float = 0.2) -> None:
        self.loop = loop
        self.runtime = loop.look(lambda: Runtime(NOBODY, services(), ConnectionLimit(100), drain_time_s))

    def apply(self, plan: Plan) -> Applied:
        return self.loop.run(self.runtime.apply(plan))

    def descriptors(self) -> dict[str, int]:
        return {
            name: listener._socket.fileno()
            for name, listener in self.runtime.listeners.items()
            if listener._socket is not None
        }

    def close(self) -> None:
        self.loop.run(self.runtime.close())

        def abort() -> None:
            for listener in [*self.runtime.listeners.values(), *self.runtime._leaving]:
                listener.abort_connections()

        self.loop.look(abort)


@pytest.fixture
def running(loop: LoopThread) -> Iterator[Running]:
    one = Running(loop)
    yield one
    one.close()


def listens(port: int) -> bool:
    try:
        client.connect(port).close()
    except ConnectionRefusedError:
        return False
    return True


@st.composite
def small_plans(draw: st.DrawFn) -> Plan:
    clusters = {
        name: replace(cluster_plan([], name), max_connections=draw(st.integers(1, 2)))
        for name in draw(st.sets(st.sampled_from("abc"), min_size=1))
    }
    names = draw(st.lists(st.sampled_from("xyz"), unique=True))
    ports = draw(st.permutations(PORTS))
    listeners = {
        name: listener_plan(port, draw(st.sampled_from(sorted(clusters))), name)
        for name, port in zip(names, ports, strict=False)
    }
    return Plan(NOBODY.proxy, listeners, clusters)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(small_plans(), min_size=1, max_size=4))
def test_what_runs_is_what_the_plan_says(loop: LoopThread, plans: list[Plan]) -> None:
    running = Running(loop)
    try:
        for plan in plans:
            before = running.runtime.plan.listeners
            untouched = {
                name: fd
                for name, fd in running.descriptors().items()
                if name in plan.listeners and before[name].bind == plan.listeners[name].bind
            }
            assert running.apply(plan).failed == {}
            runtime = running.runtime
            assert {name: listener.plan for name, listener in runtime.listeners.items()} == plan.listeners
            assert {name: cluster.plan for name, cluster in runtime.clusters.items()} == plan.clusters
            for listener in runtime.listeners.values():
                assert listener.cluster is runtime.clusters[listener.plan.cluster]
            wanted = {listener.port for listener in plan.listeners.values()}
            assert {port for port in PORTS if listens(port)} == wanted
            assert untouched.items() <= running.descriptors().items(), "the same sockets"
            again = running.apply(plan)
            assert (again.added, again.changed, again.removed) == (0, 0, 0)
    finally:
        running.close()


def test_all_listeners_share_the_turns_of_the_loop(running: Running) -> None:
    """A burst at each is no longer for everybody else than one at a single listener."""
    running.apply(plan_of({"a": (free_port(), "app"), "b": (free_port(), "app")}, {"app": None}))
    running.apply(plan_of({"b": (free_port(), "app"), "c": (free_port(), "app")}, {"app": None}))
    listeners = running.runtime.listeners.values()
    assert {listener.plan.name: listener.turns for listener in listeners}.keys() == {"b", "c"}
    assert len({id(listener.turns) for listener in listeners}) == 1


def test_a_connection_outlives_changes_that_do_not_concern_it(running: Running) -> None:
    port, other = free_port(), free_port()
    with Peer(peers.echo) as old, Peer(peers.greeting(b"new")) as new:
        running.apply(plan_of({"a": (port, "app")}, {"app": target_of(old)}))
        with client.connect(port) as app:
            app.sendall(b"1")
            assert client.read_exactly(app, 1) == b"1"
            descriptors = running.descriptors()
            running.apply(plan_of({"a": (port, "app"), "b": (other, "app")}, {"app": target_of(new)}))
            assert running.descriptors()["a"] == descriptors["a"]
            assert client.ask(port) == client.ask(other) == b"new"
            app.sendall(b"2")
            assert client.read_exactly(app, 1) == b"2"


def test_two_listeners_swap_their_ports_in_one_plan(running: Running) -> None:
    one, two = free_port(), free_port()
    with Peer(peers.greeting(b"A")) as a, Peer(peers.greeting(b"B")) as b:
        clusters = {"a": target_of(a), "b": target_of(b)}
        running.apply(plan_of({"x": (one, "a"), "y": (two, "b")}, clusters))
        assert (client.ask(one), client.ask(two)) == (b"A", b"B")
        assert running.apply(plan_of({"x": (two, "a"), "y": (one, "b")}, clusters)).failed == {}
        assert (client.ask(one), client.ask(two)) == (b"B", b"A")


def test_a_port_that_is_taken_is_told_and_tried_again(running: Running) -> None:
    taken, free = free_port(), free_port()
    with Peer(peers.greeting(b"hi")) as peer:
        plan = plan_of({"x": (taken, "app"), "y": (free, "app")}, {"app": target_of(peer)})
        with socket.create_server(("127.0.0.1", taken)):
            for _ in range(2):
                applied = running.apply(plan)
                assert list(applied.failed) == ["x"]
                assert f"127.0.0.1:{taken}" in applied.failed["x"]
                assert "taken" in applied.failed["x"]
                assert client.ask(free) == b"hi", "the other listener is none the worse"
        assert running.apply(plan).failed == {}
        assert client.ask(taken) == b"hi"


def test_a_listener_that_failed_may_leave_the_plan(running: Running) -> None:
    taken = free_port()
    with socket.create_server(("127.0.0.1", taken)):
        assert running.apply(plan_of({"x": (taken, "app")}, {"app": None})).failed
        assert running.apply(plan_of({}, {})).failed == {}
        assert running.runtime.failed == {}


def test_a_removed_listener_lets_connections_finish_and_then_ends_them(running: Running) -> None:
    port = free_port()
    with Peer(peers.echo) as peer:
        running.apply(plan_of({"x": (port, "app")}, {"app": target_of(peer)}))
        with client.connect(port) as app:
            app.sendall(b"1")
            assert client.read_exactly(app, 1) == b"1"
            (relay,) = running.runtime.listeners["x"].connections
            running.apply(plan_of({}, {}))
            assert not listens(port)
            app.sendall(b"2")
            assert client.read_exactly(app, 1) == b"2", "within the drain time"
            assert client.read_to_end(app) == b""
        assert relay.outcome is Outcome.REMOVED
        poll.until(lambda: not running.runtime._leaving, "the listener to be forgotten")


def test_a_removed_listener_does_not_wait_for_a_stalled_application(running: Running) -> None:
    port = free_port()
    with Peer(peers.source(24 * payload.MIB)) as peer:
        running.apply(plan_of({"x": (port, "app")}, {"app": target_of(peer)}))
        with client.connect(port):
            listener = running.runtime.listeners["x"]
            running.loop.until(lambda: [c for c in listener.connections if c.upstream], "the relay")
            running.apply(plan_of({}, {}))
            running.loop.until(lambda: not listener.connections, "the relay to end", within_s=5)


def test_drain_waits_for_connections_that_finish(loop: LoopThread) -> None:
    port = free_port()
    running = Running(loop, drain_time_s=10.0)
    with Peer(peers.echo) as peer:
        running.apply(plan_of({"x": (port, "app")}, {"app": target_of(peer)}))
        listener = running.runtime.listeners["x"]
        app = client.connect(port)
        loop.until(lambda: [c for c in listener.connections if c.upstream], "the relay")
        (relay,) = listener.connections
        drained = loop.look(lambda: loop.loop.create_task(running.runtime.drain()))
        poll.until(lambda: not listens_now(port), "the port to close")
        assert running.runtime.draining
        app.sendall(b"last")
        assert client.read_exactly(app, 4) == b"last"
        app.close()
        poll.until(drained.done, "the drain", within_s=5)
        assert relay.outcome is Outcome.COMPLETED
    running.close()


def listens_now(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_drain_ends_what_is_left_even_if_it_is_stalled(loop: LoopThread) -> None:
    port = free_port()
    running = Running(loop, drain_time_s=0.05)
    with Peer(peers.source(24 * payload.MIB)) as peer:
        running.apply(plan_of({"x": (port, "app")}, {"app": target_of(peer)}))
        listener = running.runtime.listeners["x"]
        with client.connect(port):
            loop.until(lambda: [c for c in listener.connections if c.upstream], "the relay")
            loop.run(running.runtime.drain())
            loop.until(lambda: not listener.connections, "the relay to end", within_s=3)
    running.close()


def test_only_inbound_listeners_stop_where_asked(loop: LoopThread) -> None:
    inbound, outbound = free_port(), free_port()
    running = Running(loop)
    plan = plan_of({"in": (inbound, "app"), "out": (outbound, "app")}, {"app": at("127.0.0.1", 1)})
    listeners = dict(plan.listeners)
    listeners["in"] = replace(listeners["in"], direction=Direction.INBOUND)
    running.apply(replace(plan, listeners=listeners))
    loop.run(running.runtime.stop_listening(inbound_only=True))
    assert (listens(inbound), listens(outbound)) == (False, True)
    loop.run(running.runtime.stop_listening(inbound_only=False))
    assert not listens(outbound)
    running.close()


def test_a_cluster_that_is_in_use_by_name_is_updated_in_place(running: Running) -> None:
    running.apply(plan_of({}, {"app": None}))
    cluster = running.runtime.clusters["app"]
    changed: ClusterPlan = replace(cluster.plan, max_connections=7)
    running.apply(Plan(NOBODY.proxy, {}, {"app": changed}))
    assert running.runtime.clusters["app"] is cluster
    assert cluster.plan is changed
