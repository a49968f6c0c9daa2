"""Guarantee: a connection gets the first endpoint that works, each is tried at most once, every attempt is counted."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from proxy.cluster import resolved_endpoints
from proxy.outcome import Outcome
from tests.kit import client, peers
from tests.kit.ca import Authority
from tests.kit.peers import Peer
from tests.proxy.rig import SERVER, LoopThread, Rig, Zone, at, cluster_plan, named, target_of, trusting

STRANGER = Authority.root("Stranger Root")


def closed_port() -> int:
    """A port on which nobody listens: it belongs to a socket that never will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def fails(rig: Rig) -> Outcome | None:
    """One connection that yields nothing; its outcome."""
    before = len(rig.ended)
    with client.connect(rig.port) as app:
        assert client.read_to_end(app) == b""
    return rig.wait_for_end(before + 1)[-1]


# Attempts


def test_what_does_not_work_is_passed_over(loop: LoopThread) -> None:
    with (
        Peer(peers.discard, tls=peers.server_tls(STRANGER.leaf("127.0.0.1"))) as untrusted,
        Peer(peers.plaintext_where_tls_is_expected) as plain,
        Peer(peers.greeting(b"me"), tls=peers.server_tls(SERVER)) as good,
        Rig(loop, [at("127.0.0.1", closed_port()), untrusted, plain, good], tls=trusting()) as rig,
    ):
        with client.connect(rig.port) as app:
            assert client.read_to_end(app) == b"me"
        assert rig.wait_for_end() == [Outcome.COMPLETED]
        assert plain.seen[0].received_bytes > 0, "a ClientHello, and nothing of the application"
        stats = rig.cluster.stats
        assert (stats.upstream_cx_total, stats.upstream_cx_connect_fail) == (4, 3)
        assert (stats.ssl_fail_verify_error, stats.ssl_connection_error, stats.ssl_handshake) == (1, 1, 1)
        assert (stats.upstream_cx_destroy, stats.upstream_cx_connect_ms.count) == (1, 1)
        causes = [e.last_verdict.cause if e.last_verdict else None for e in rig.cluster.balancer]
        assert (causes[0], causes[2], causes[3]) == ("refused", "not_tls", None)
        assert rig.cluster.describe_endpoints()[0]["lastVerdict"] is not None


def test_each_endpoint_is_tried_once(loop: LoopThread) -> None:
    ports = [closed_port() for _ in range(3)]
    with Rig(loop, [at("127.0.0.1", port) for port in ports], max_connect_attempts=5) as rig:
        assert fails(rig) is Outcome.UPSTREAM_CONNECT_FAILED
        assert [endpoint.cx_total for endpoint in rig.cluster.balancer] == [1] * len(rig.cluster.balancer)
        assert rig.cluster.stats.upstream_cx_connect_attempts_exceeded == 0


def test_attempts_are_bounded(loop: LoopThread) -> None:
    endpoints = [at(f"127.0.0.{host}", 1) for host in range(1, 8)]
    with Rig(loop, endpoints, max_connect_attempts=3) as rig:
        assert fails(rig) is Outcome.UPSTREAM_CONNECT_FAILED
        stats = rig.cluster.stats
        assert (stats.upstream_cx_total, stats.upstream_cx_connect_attempts_exceeded) == (3, 1)


def test_a_lower_priority_waits_for_the_higher_to_fail(loop: LoopThread) -> None:
    with (
        Peer(peers.greeting(b"first")) as first,
        Peer(peers.greeting(b"second")) as second,
        Rig(loop, [at("127.0.0.1", second.port, priority=1), at("127.0.0.1", first.port)]) as rig,
    ):
        assert {client.ask(rig.port) for _ in range(3)} == {b"first"}
        first.stop_listening()
        assert client.ask(rig.port) == b"second"


def test_an_endpoint_that_keeps_failing_is_ejected_and_still_tried_in_panic(loop: LoopThread) -> None:
    with Rig(loop, [at("127.0.0.1", closed_port())]) as rig:
        for _ in range(3):
            fails(rig)
        assert rig.cluster.stats.lb_ejections_total == 1
        assert rig.cluster.describe_endpoints()[0]["health"] == "ejected"
        assert fails(rig) is Outcome.UPSTREAM_CONNECT_FAILED
        assert rig.cluster.stats.upstream_cx_total == 4


@pytest.mark.parametrize(
    ("server_tls", "policy", "counter"),
    [
        (SERVER, trusting(root=STRANGER), "ssl_fail_verify_error"),
        (SERVER, trusting(server_name="other.example.test"), "ssl_fail_verify_san"),
    ],
    ids=["issuer", "name"],
)
def test_verification_failures_are_counted(loop: LoopThread, server_tls: object, policy: object, counter: str) -> None:
    context = peers.server_tls(server_tls)  # type: ignore[arg-type]
    with Peer(peers.discard, tls=context) as peer, Rig(loop, [peer], tls=policy) as rig:
        assert fails(rig) is Outcome.UPSTREAM_CONNECT_FAILED
        assert getattr(rig.cluster.stats, counter) == 1


def test_a_timeout_is_counted(loop: LoopThread) -> None:
    with Peer(peers.silent) as peer, Rig(loop, [peer], tls=trusting(), connect_timeout_s=0.1) as rig:
        assert fails(rig) is Outcome.UPSTREAM_CONNECT_TIMEOUT
        assert rig.cluster.stats.upstream_cx_connect_timeout == 1
        assert peer.wait_for_ending(within_s=3) in ("eof", "reset")


# Limits


def test_more_than_max_connections_overflow(loop: LoopThread) -> None:
    with Peer(peers.echo) as peer, Rig(loop, [peer], max_connections=0) as full:
        with client.connect(full.port) as app:
            assert client.read_to_end(app) == b""
        assert full.wait_for_end() == [Outcome.OVERFLOW]
        assert full.cluster.stats.upstream_cx_overflow == 0, "that was the process's limit"
    with Peer(peers.echo) as peer, Rig(loop, [peer]) as rig:
        rig.update(max_connections=1)
        with client.connect(rig.port):
            rig.wait_for_relay()
            assert fails_now(rig) is Outcome.OVERFLOW
        assert rig.wait_for_end(2) == [Outcome.OVERFLOW, Outcome.COMPLETED]
        assert rig.cluster.stats.upstream_cx_overflow == 1
        assert client.ask(rig.port) == b"ping", "there is room again"


def fails_now(rig: Rig) -> Outcome | None:
    """As :func:`fails`, while other relays go on."""
    with client.connect(rig.port) as app:
        assert client.read_to_end(app) == b""
    rig.loop.until(lambda: rig.ended, "the relay to end")
    return rig.ended[-1]


def test_no_endpoints(loop: LoopThread) -> None:
    with Rig(loop, []) as rig:
        assert fails(rig) is Outcome.NO_ENDPOINTS
        assert rig.cluster.stats.upstream_cx_none_healthy == 1


# Names


def test_the_addresses_of_a_name_come_and_go(loop: LoopThread) -> None:
    zone = Zone()
    with Peer(peers.greeting(b"here")) as peer, Rig(loop, [named("svc.test", peer.port)], zone=zone) as rig:
        assert fails(rig) is Outcome.NO_ENDPOINTS
        assert rig.cluster.describe_endpoints()[0]["health"] == "unresolved"
        zone.addresses["svc.test"] = ["127.0.0.1", "127.0.0.2"]
        loop.until(lambda: len(rig.cluster.balancer) == 2, "two endpoints")
        first, _ = loop.look(lambda: list(rig.cluster.balancer))
        assert (first.host, first.is_dns) == ("svc.test", True)
        assert client.ask(rig.port) == b"here"
        zone.addresses["svc.test"] = ["127.0.0.1"]
        loop.until(lambda: len(rig.cluster.balancer) == 1, "one endpoint")
        assert loop.look(lambda: next(iter(rig.cluster.balancer))) is first, "what stays keeps its state"
        zone.addresses.clear()
        loop.until(lambda: len(rig.cluster.balancer) == 0, "no endpoint")


def test_the_first_connection_waits_for_the_first_answer(loop: LoopThread) -> None:
    zone = Zone()
    with Peer(peers.greeting(b"here")) as peer:
        zone.addresses["svc.test"] = ["127.0.0.1"]
        with Rig(loop, [named("svc.test", peer.port)], zone=zone) as rig:
            assert client.ask(rig.port) == b"here"


def test_a_name_server_that_hangs_is_waited_for_no_longer_than_a_connection(loop: LoopThread) -> None:
    zone = Zone()
    zone.hangs = True
    with Rig(loop, [named("svc.test", 1)], zone=zone, connect_timeout_s=0.1) as rig:
        assert fails(rig) is Outcome.NO_ENDPOINTS


def test_names_are_watched_while_they_are_wanted(one_loop: LoopThread) -> None:
    with Rig(one_loop, [named("a.test", 1), named("a.test", 2), named("b.test", 1)]) as rig:
        names: Callable[[], list[str]] = lambda: sorted(watch.name for watch in rig.services.names)  # noqa: E731
        assert one_loop.look(names) == ["a.test", "b.test"]
        rig.update(endpoints=(named("b.test", 2), named("c.test", 1)))
        assert one_loop.look(names) == ["b.test", "c.test"]
        one_loop.look(rig.cluster.close)
        assert one_loop.look(names) == []


# Updates


def test_an_update_keeps_endpoints_and_connections(loop: LoopThread) -> None:
    with Peer(peers.echo) as old, Peer(peers.greeting(b"new")) as new, Rig(loop, [old]) as rig:
        with client.connect(rig.port) as app:
            app.sendall(b"a")
            assert client.read_exactly(app, 1) == b"a"
            (kept,) = loop.look(lambda: list(rig.cluster.balancer))
            rig.update(endpoints=(target_of(old), target_of(new)))
            assert loop.look(lambda: list(rig.cluster.balancer))[0] is kept
            assert kept.cx_active == 1
            rig.update(endpoints=(target_of(new),))
            assert client.ask(rig.port) == b"new"
            app.sendall(b"b")
            assert client.read_exactly(app, 1) == b"b", "its endpoint has left the plan, the connection goes on"
        rig.wait_for_end(2)
        assert kept.cx_active == 0


def test_a_changed_policy_judges_the_next_connection(loop: LoopThread) -> None:
    with Peer(peers.greeting(b"me"), tls=peers.server_tls(SERVER)) as peer, Rig(loop, [peer], tls=trusting()) as rig:
        with client.connect(rig.port) as app:
            assert client.read_to_end(app) == b"me"
        rig.update(tls=trusting(root=STRANGER))
        assert fails(rig) is Outcome.UPSTREAM_CONNECT_FAILED
        assert rig.cluster.stats.ssl_session_reused == 0


def test_a_shorter_idle_timeout_applies_at_once(loop: LoopThread) -> None:
    with Peer(peers.echo) as peer, Rig(loop, [peer], idle_timeout_s=3600.0) as rig:
        with client.connect(rig.port) as app:
            rig.wait_for_relay()
            rig.update(idle_timeout_s=0.2)
            assert client.read_to_end(app) == b""
        assert rig.wait_for_end() == [Outcome.IDLE_TIMEOUT]


def test_every_kind_of_target_is_resolved() -> None:
    peer_plan = cluster_plan([at("::1", 443, 2), named("a.test", 80)])
    found = list(resolved_endpoints(peer_plan, {"a.test": [ip_address("127.0.0.1"), ip_address("::2")]}))
    assert [(e.address, e.host, e.is_dns, e.priority) for e in found] == [
        (("::1", 443), "::1", False, 2),
        (("127.0.0.1", 80), "a.test", True, 0),
        (("::2", 80), "a.test", True, 0),
    ]
    assert list(resolved_endpoints(peer_plan, {}))[1:] == []
