"""Guarantee: behind an inbound with mTLS an HTTP application learns who calls, from us and from nobody else, over
HTTP/1.1 and HTTP/2 alike; and a caller that may not pass is told so, and reaches nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from config.plan import Protocol
from proxy.http import access_log
from tests.kit.ca import Identity
from tests.kit.http2_peers import H2Client, H2Origin, echo
from tests.kit.origins import Origin, always, ok
from tests.kit.rawhttp import Wire
from tests.proxy.inbound_rig import GOOD, PERMISSIVE, A, Inbound, allowing
from tests.proxy.rig import LoopThread
from tests.tls.duet import V13
from tests.tls.inbound import client_context
from tls.permissions import IdMatch, Permissions
from tls.policy import MatchType

OTHER = A.leaf("spiffe://a/y")
FORGED = "x-forwarded-client-cert: By=spiffe://a/x;URI=spiffe://a/forged"


def told_of(identity: Identity) -> str:
    """What the application hears of a caller."""
    der = identity.certificate.public_bytes(Encoding.DER)
    uri = "spiffe://a/x" if identity is GOOD else "spiffe://a/y"
    return f"By=spiffe://mesh.test/workload/inbound;Hash={hashlib.sha256(der).hexdigest()};URI={uri}"


def context(identity: Identity, alpn: str = "kuma") -> ssl.SSLContext:
    return client_context(identity, version=V13, alpn=(alpn,))


@contextlib.contextmanager
def http1(loop: LoopThread) -> Iterator[tuple[Origin, Inbound]]:
    with Origin(always(ok(b"hello"))) as origin, Inbound(loop, [origin], protocol=Protocol.HTTP) as inbound:
        inbound.demand()
        yield origin, inbound


@contextlib.contextmanager
def http2(loop: LoopThread, protocol: Protocol = Protocol.HTTP2) -> Iterator[tuple[H2Origin, Inbound]]:
    with H2Origin(echo) as origin, Inbound(loop, [origin], protocol=protocol) as inbound:
        inbound.demand()
        yield origin, inbound


def test_the_application_learns_who_calls(one_loop: LoopThread) -> None:
    with http1(one_loop) as (origin, inbound), Wire(inbound.port, tls=context(GOOD)) as wire:
        for _ in range(2):
            wire.get("/", FORGED, FORGED.upper(), "x-kuma-tags: &kuma.io/service&")
        for request in origin.requests:
            assert request.values("x-forwarded-client-cert") == [told_of(GOOD)]
            assert request["x-forwarded-proto"] == "https"
            assert "x-kuma-tags" not in request
        assert len({request["x-request-id"] for request in origin.requests}) == 2


def test_each_of_several_callers_with_the_same_request(one_loop: LoopThread) -> None:
    """Heads are shared between connections: what is said of one caller must not be said of another."""
    with (
        http1(one_loop) as (origin, inbound),
        Wire(inbound.port, tls=context(GOOD)) as one,
        Wire(inbound.port, tls=context(OTHER)) as two,
    ):
        for wire in (one, two, one, two):
            wire.get()
        assert [r["x-forwarded-client-cert"] for r in origin.requests] == [told_of(GOOD), told_of(OTHER)] * 2
        assert origin.connections < 4, "connections to the application are shared by callers"


def test_who_a_caller_says_it_spoke_for_is_kept(one_loop: LoopThread) -> None:
    """``x-forwarded-proto`` tells how the first client came, as in Envoy."""
    with http1(one_loop) as (origin, inbound), Wire(inbound.port, tls=context(GOOD)) as wire:
        wire.get("/", "x-forwarded-proto: http")
        assert origin.last["x-forwarded-proto"] == "http"


@pytest.mark.parametrize("alpn", ["h2", "kuma"])
def test_http2(one_loop: LoopThread, alpn: str) -> None:
    with http2(one_loop) as (origin, inbound), H2Client(inbound.port, tls=context(GOOD, alpn)) as client:
        for _ in range(2):
            assert client.ask("POST", "/", ("x-forwarded-client-cert", "URI=forged"), body=b"x").body == b"x"
        for request in origin.requests:
            assert request.values("x-forwarded-client-cert") == [told_of(GOOD)]
            assert request["x-forwarded-proto"] == "https"


def test_http2_to_an_application_that_speaks_http1(one_loop: LoopThread) -> None:
    with http1(one_loop) as (origin, inbound), H2Client(inbound.port, tls=context(GOOD)) as client:
        assert client.ask().status == 200
        assert origin.last["x-forwarded-client-cert"] == told_of(GOOD)


def test_http1_to_an_application_that_speaks_http2(one_loop: LoopThread) -> None:
    with http2(one_loop) as (origin, inbound), Wire(inbound.port, tls=context(GOOD)) as wire:
        assert wire.get().status == 200
        assert origin.last["x-forwarded-client-cert"] == told_of(GOOD)


def test_plaintext_has_no_caller(one_loop: LoopThread) -> None:
    with http1(one_loop) as (origin, inbound):
        inbound.demand(PERMISSIVE, permissions=allowing("spiffe://a/y"))
        with Wire(inbound.port) as wire:
            assert wire.get("/", FORGED).status == 200
        assert "x-forwarded-client-cert" not in origin.last
        assert origin.last["x-forwarded-proto"] == "http"


def test_a_caller_that_may_not_pass_is_told_so(one_loop: LoopThread) -> None:
    with http1(one_loop) as (origin, inbound):
        inbound.demand(permissions=allowing("spiffe://a/y"))
        with Wire(inbound.port, tls=context(GOOD)) as wire:
            for _ in range(2):
                answer = wire.get()
                assert (answer.status, answer.body) == (403, b"RBAC: access denied")
        with Wire(inbound.port, tls=context(OTHER)) as wire:
            assert wire.get().status == 200
        assert len(origin.requests) == 1
        stats = inbound.listener.stats
        assert one_loop.look(lambda: (stats.rbac_denied, stats.rbac_allowed)) == (2, 1)
        upstream = inbound.cluster.stats
        assert one_loop.look(lambda: upstream.upstream_rq_active) == 0


def test_http2_and_grpc_callers_are_told_in_their_words(one_loop: LoopThread) -> None:
    with http2(one_loop, Protocol.GRPC) as (origin, inbound):
        inbound.demand(permissions=allowing("spiffe://a/y"))
        with H2Client(inbound.port, tls=context(GOOD)) as client:
            assert client.ask().status == 403
            call = client.ask("POST", "/s/m", ("content-type", "application/grpc"), body=bytes(5))
            assert (call.status, call["grpc-status"], call["grpc-message"]) == (200, "7", "RBAC: access denied")
        assert not origin.requests


def test_permissions_change_under_a_connection(one_loop: LoopThread) -> None:
    with http1(one_loop) as (_, inbound), Wire(inbound.port, tls=context(GOOD)) as wire:
        assert wire.get().status == 200
        inbound.demand(permissions=allowing("spiffe://a/y"))
        assert wire.get().status == 403
        inbound.demand(permissions=Permissions(shadow_deny=(IdMatch(MatchType.EXACT, "spiffe://a/x"),)))
        assert wire.get().status == 200
        assert one_loop.look(lambda: inbound.listener.stats.rbac_shadow_denied) == 1


def test_the_access_log_says_who_it_was(one_loop: LoopThread) -> None:
    seen: list[dict[str, object]] = []
    log = SimpleNamespace(exchange=lambda listener, exchange: seen.append(access_log._values(listener, exchange)))
    with http2(one_loop) as (_, inbound):
        inbound.listener.access_log = log  # type: ignore[assignment]
        with H2Client(inbound.port, tls=context(GOOD)) as client:
            client.ask()
        inbound.demand(PERMISSIVE)
        with H2Client(inbound.port) as client:
            client.ask()
        one_loop.until(lambda: len(seen) == 2, "two lines")
        assert [line["downstream_peer_uri_san"] for line in seen] == ["spiffe://a/x", None]
