"""Guarantee: a policy holds for traffic moments after its file changed, and only for the services that it means."""

from __future__ import annotations

from typing import Any

from tests.kit import client, peers
from tests.kit.koguma import Koguma
from tests.kit.origins import Origin, always, by_connection, ok
from tests.kit.peers import Peer
from tests.kit.rawhttp import Wire


def timeout(value: str) -> dict[str, Any]:
    entry = {"targetRef": {"kind": "Mesh"}, "default": {"http": {"requestTimeout": value}}}
    return {"type": "MeshTimeout", "mesh": "default", "name": "timeout", "spec": {"to": [entry]}}


def limit(connections: int) -> dict[str, Any]:
    """At most so many connections to ``app``."""
    entry = {
        "targetRef": {"kind": "MeshExternalService", "labels": {"kuma.io/display-name": "app"}},
        "default": {"connectionLimits": {"maxConnections": connections}},
    }
    return {"type": "MeshCircuitBreaker", "mesh": "default", "name": "limit", "spec": {"to": [entry]}}


def test_a_limit_comes_and_goes_by_reload(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint])
        koguma.service("other", [peer.endpoint])
        koguma.write("limit.yaml", limit(1))
        with koguma, client.connect(koguma.port("app")) as kept:
            kept.sendall(b"x")
            assert client.read_exactly(kept, 1) == b"x"
            assert client.gets_nowhere(koguma.port("app"))
            assert koguma.stat("app", "upstream_cx_overflow") == 1
            with client.connect(koguma.port("other")) as first:
                first.sendall(b"y")
                assert client.read_exactly(first, 1) == b"y"
                assert client.ask(koguma.port("other")) == b"ping"
            assert koguma.rewrite("limit.yaml", limit(2))["changed"] == 1
            assert client.ask(koguma.port("app")) == b"ping"
            koguma.break_file("limit.yaml", "type: MeshCircuitBreaker\nmesh: default\nname: limit\nspec: {}\n")
            assert client.ask(koguma.port("app")) == b"ping"
            kept.sendall(b"z")
            assert client.read_exactly(kept, 1) == b"z", "connections that exist are left alone"


def test_a_request_has_the_time_that_the_policy_gives_it(koguma: Koguma) -> None:
    with Origin(lambda one: one.read_to_end()) as silent, Origin(always(ok(b"hi"))) as prompt:
        koguma.service("silent", [silent.endpoint], protocol="http")
        koguma.service("prompt", [prompt.endpoint], protocol="http")
        koguma.write("timeout.yaml", timeout("100ms"))
        with koguma:
            with Wire(koguma.port("silent")) as wire:
                assert wire.get().status == 504
            with Wire(koguma.port("prompt")) as wire:
                assert wire.get().body == b"hi"


def retries(service: str) -> dict[str, Any]:
    entry = {
        "targetRef": {"kind": "MeshExternalService", "labels": {"kuma.io/display-name": service}},
        "default": {"http": {"numRetries": 1, "backOff": {"baseInterval": "1ms"}, "retryOn": ["5xx"]}},
    }
    return {"type": "MeshRetry", "mesh": "default", "name": "retries", "spec": {"to": [entry]}}


def test_a_request_is_sent_again_where_the_policy_says_so(koguma: Koguma) -> None:
    bad = ok(b"bad", status="503 x")
    with Origin(by_connection(always(bad), always(ok(b"good")))) as origin, Origin(always(bad)) as other:
        koguma.service("app", [origin.endpoint], protocol="http")
        koguma.service("other", [other.endpoint], protocol="http")
        koguma.write("retries.yaml", retries("app"))
        with koguma:
            with Wire(koguma.port("app")) as wire:
                assert wire.get().body == b"good"
            assert koguma.stat("app", "upstream_rq_retry_success") == 1
            with Wire(koguma.port("other")) as wire:
                assert wire.get().body == b"bad"
            assert len(other.requests) == 1


def test_requests_stay_with_an_endpoint_where_the_policy_says_so(koguma: Koguma) -> None:
    entry = {
        "targetRef": {"kind": "Mesh"},
        "default": {
            "loadBalancer": {"type": "RingHash"},
            "hashPolicies": [{"type": "Header", "header": {"name": "x-user"}}],
        },
    }
    policy = {"type": "MeshLoadBalancingStrategy", "mesh": "default", "name": "sticky", "spec": {"to": [entry]}}
    with Origin(always(ok(b"a"))) as a, Origin(always(ok(b"b"))) as b:
        koguma.service("app", [a.endpoint, b.endpoint], protocol="http")
        koguma.write("sticky.yaml", policy)
        with koguma, Wire(koguma.port("app")) as wire:
            bodies = {user: {wire.get("/", f"x-user: {user}").body for _ in range(3)} for user in range(20)}
        assert {len(seen) for seen in bodies.values()} == {1}
        assert set.union(*bodies.values()) == {b"a", b"b"}
