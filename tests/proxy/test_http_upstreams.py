"""Guarantee: each request is balanced by itself over pooled connections; an origin that misbehaves costs its own
request at most, with Envoy's answer; and what one request left behind never reaches another.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from config.plan import Access
from proxy.outcome import Outcome
from tests.kit import peers, poll
from tests.kit.ca import Authority
from tests.kit.origins import Conversation, Origin, always, by_connection, in_turn, ok
from tests.kit.peers import Peer
from tests.kit.rawhttp import Wire
from tests.proxy.http_rig import BEFORE_HEADERS, HttpRig, stats_of, wait_until_idle
from tests.proxy.rig import SERVER, LoopThread, at, target_of, trusting
from tests.proxy.test_cluster import closed_port

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"

# Answers of our own


def test_refused(loop: LoopThread) -> None:
    with HttpRig(loop, [at("127.0.0.1", closed_port())]) as rig, Wire(rig.port) as wire:
        for _ in range(2):
            response = wire.get("/", "x-request-id: mine")
            assert (response.status, response.body) == (503, BEFORE_HEADERS + b"remote connection failure")
            assert (response["content-type"], response["server"]) == ("text/plain", "koguma")
            assert response["x-request-id"] == "mine"
            assert "connection" not in response, "the client's connection goes on"
        wait_until_idle(rig)
        assert dict(rig.cluster.stats.counted())["upstream_rq_503"] == 2
        assert rig.cluster.stats.upstream_rq_pending_failure_eject == 2


def test_a_connection_that_takes_too_long(one_loop: LoopThread) -> None:
    with (
        Peer(peers.silent) as peer,
        HttpRig(one_loop, [peer], tls=trusting(), connect_timeout_s=0.1) as rig,
        Wire(rig.port) as wire,
    ):
        response = wire.get()
        assert (response.status, response.body) == (503, BEFORE_HEADERS + b"connection timeout")


def test_no_endpoints(loop: LoopThread) -> None:
    with HttpRig(loop, []) as rig, Wire(rig.port) as wire:
        response = wire.get()
        assert (response.status, response.body) == (503, b"no healthy upstream")
        assert wire.get(method="HEAD").status == 503
        assert wire.get().status == 503


def test_too_many_wait(one_loop: LoopThread) -> None:
    with (
        Peer(peers.silent) as peer,
        HttpRig(one_loop, [peer], tls=trusting(), max_pending_requests=1) as rig,
        Wire(rig.port) as first,
        Wire(rig.port) as second,
    ):
        first.send(GET)
        one_loop.until(lambda: rig.cluster.stats.upstream_rq_pending_active == 1, "the first to wait")
        response = second.get()
        assert (response.status, response.body) == (503, BEFORE_HEADERS + b"overflow")
        assert response["x-envoy-overloaded"] == "true"


@pytest.mark.parametrize("request_", [GET, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"])
def test_forbidden(loop: LoopThread, request_: bytes) -> None:
    with Origin(always(ok())) as origin, HttpRig(loop, [origin], access=Access.FORBID) as rig, Wire(rig.port) as wire:
        response = wire.ask(request_)
        assert (response.status, response.body) == (403, b"RBAC: access denied")
        assert ("connection" in response) == (request_ is not GET)
        assert origin.connections == 0
        assert (rig.listener.stats.access_denied, rig.cluster.stats.upstream_rq_total) == (1, 0)


def test_a_thousand_pipelined_requests_that_are_forbidden(one_loop: LoopThread) -> None:
    with HttpRig(one_loop, [], access=Access.FORBID) as rig, Wire(rig.port) as wire:
        wire.send(GET * 1000)
        assert {wire.response().status for _ in range(1000)} == {403}


# Origins that misbehave


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
        b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 90_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nset-cook",
    ],
    ids=["garbage", "two lengths", "length and chunked", "gzip", "blank", "NUL", "LF", "204", "101", "many fields",
         "long head", "100s", "chunk", "end within the head"],
)  # fmt: skip
def test_bad_responses(one_loop: LoopThread, answer: bytes) -> None:
    script = by_connection(in_turn(answer), always(ok(b"fine")))
    with Origin(script) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        response = wire.get()
        assert (response.status, response.body) == (502, BEFORE_HEADERS + b"protocol error")
        assert wire.get().body == b"fine"
        assert origin.connections == 2


@pytest.mark.parametrize("leave", [Conversation.end, Conversation.reset], ids=["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_origin_that_leaves_without_an_answer(loop: LoopThread, leave: object, method: str) -> None:
    def script(one: Conversation) -> None:
        if one.request() is not None:
            leave(one)  # type: ignore[operator]

    with Origin(script) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        response = wire.get(method=method)
        assert (response.status, response.body) == (503, BEFORE_HEADERS + b"connection termination")
        assert origin.connections == 1, "it was a new connection: nothing says that another would do better"


@pytest.mark.parametrize("answer", [CUT, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"])
def test_a_response_that_is_cut_short(loop: LoopThread, answer: bytes) -> None:
    with Origin(in_turn(answer)) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        response = wire.get()
        assert (response.status, response.body, response.is_whole) == (200, b"abc", False)
        assert origin.connections == 1
        wait_until_idle(rig)
        assert rig.cluster.stats.upstream_rq_rx_reset == 1


# The pool


def test_requests_go_round_on_one_client_connection(loop: LoopThread) -> None:
    with (
        Origin(always(ok(b"a"))) as a,
        Origin(always(ok(b"b"))) as b,
        Origin(always(ok(b"c"))) as c,
        HttpRig(loop, [a, b, c]) as rig,
        Wire(rig.port) as wire,
    ):
        assert b"".join(wire.get().body for _ in range(9)) == b"abcabcabc"
        assert [origin.connections for origin in (a, b, c)] == [1, 1, 1]
        assert [endpoint.rq_total for endpoint in rig.cluster.balancer] == [3, 3, 3]


def test_connections_are_shared_by_clients(loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(loop, [origin]) as rig:
        for _ in range(20):
            with Wire(rig.port) as wire:
                assert wire.get().status == 200
        assert origin.connections == 1
        assert rig.cluster.stats.upstream_rq_total == 20


def test_concurrent_requests_have_connections_of_their_own(one_loop: LoopThread) -> None:
    together = threading.Barrier(5, timeout=10)

    def script(one: Conversation) -> None:
        while one.request() is not None:
            together.wait()
            one.send(ok())

    with Origin(script) as origin, HttpRig(one_loop, [origin]) as rig:
        wires = [Wire(rig.port) for _ in range(5)]
        for wire in wires:
            wire.send(GET)
        assert [wire.response().status for wire in wires] == [200] * 5
        assert origin.connections == 5
        for wire in wires:
            wire.close()


def test_requests_wait_for_a_connection_when_there_may_be_no_more(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.get()
        rig.update(max_connections=1)
        wires = [Wire(rig.port) for _ in range(10)]
        for other in wires:
            other.send(GET)
        assert [other.response().status for other in wires] == [200] * 10
        assert origin.connections == 1
        for other in wires:
            other.close()


def test_a_request_does_not_wait_while_another_endpoint_has_an_idle_connection(one_loop: LoopThread) -> None:
    with (
        Origin(always(ok(b"a"))) as a,
        Origin(always(ok(b"b"))) as b,
        HttpRig(one_loop, [a, b]) as rig,
        Wire(rig.port) as wire,
    ):
        rig.update(max_connections=1)
        assert [wire.get().body for _ in range(4)] == [b"a"] * 4
        assert (a.connections, b.connections) == (1, 0)


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("PUT", 200), ("POST", 503)])
def test_a_pooled_connection_that_had_closed(loop: LoopThread, method: str, status: int) -> None:
    """The origin closes when the second request is on its way, without a word: an idempotent one goes elsewhere."""

    def closes(one: Conversation) -> None:
        assert one.request() is not None
        one.send(ok(b"first"))
        one.recv()
        one.reset()

    with (
        Origin(by_connection(closes, always(ok(b"again")))) as origin,
        HttpRig(loop, [origin]) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.get().body == b"first"
        body = b"" if method == "GET" else b"content-length: 3\r\n\r\nabc"
        response = wire.ask(f"{method} / HTTP/1.1\r\nhost: a\r\n".encode() + (body or b"\r\n"))
        assert response.status == status
        assert rig.cluster.stats.upstream_rq_retry == (status == 200)
        if method == "PUT":
            assert origin.last.body == b"abc"
        assert len(origin.requests) == (2 if status == 200 else 1)


@pytest.mark.parametrize("extra", [ok(b"evil"), b"x"], ids=["a response", "a byte"])
def test_bytes_behind_a_response_reach_nobody(loop: LoopThread, extra: bytes) -> None:
    with (
        Origin(by_connection(in_turn(ok(b"good") + extra, ok(b"evil")), always(ok(b"good")))) as origin,
        HttpRig(loop, [origin]) as rig,
        Wire(rig.port) as wire,
    ):
        assert [wire.get().body for _ in range(3)] == [b"good"] * 3
        assert origin.connections == 2


def test_bytes_that_come_unasked_end_an_idle_connection(loop: LoopThread) -> None:
    said = threading.Event()

    def talks(one: Conversation) -> None:
        one.request()
        one.send(ok(b"good"))
        assert said.wait(5)
        one.send(ok(b"evil"))
        one.read_to_end()

    with (
        Origin(by_connection(talks, always(ok(b"good")))) as origin,
        HttpRig(loop, [origin]) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.get().body == b"good"
        said.set()
        loop.until(lambda: not rig.cluster.connections, "the connection to go")
        assert wire.get().body == b"good"


def test_an_idle_connection_that_the_origin_closes_is_let_go(loop: LoopThread) -> None:
    with Origin(in_turn(ok())) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.get()
        loop.until(lambda: not rig.cluster.connections, "the connection to go")
        assert wire.get(method="POST").status == 200
        assert rig.cluster.stats.upstream_cx_destroy_remote >= 1


# Changes


def test_pooled_connections_of_an_endpoint_that_has_gone_are_closed(loop: LoopThread) -> None:
    with (
        Origin(always(ok(b"old"))) as old,
        Origin(always(ok(b"new"))) as new,
        HttpRig(loop, [old]) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.get().body == b"old"
        rig.update(endpoints=(target_of(new),))
        assert old.wait_for_ending() in ("eof", "reset")
        assert [wire.get().body for _ in range(3)] == [b"new"] * 3


def test_what_was_verified_under_old_terms_is_not_used_under_new_ones(one_loop: LoopThread) -> None:
    """Not even where the handshake was under way when the terms changed."""
    stranger = Authority.root("Stranger Root")
    with (
        Origin(always(ok()), tls=peers.server_tls(SERVER)) as origin,
        HttpRig(one_loop, [origin], tls=trusting()) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.get().status == 200
        rig.update(tls=trusting(root=stranger))
        assert origin.wait_for_ending() in ("eof", "reset", "truncated")
        response = wire.get()
        assert (response.status, response.body) == (503, BEFORE_HEADERS + b"remote connection failure")

        def change_while_dialling() -> None:
            rig.cluster.update(replace(rig.cluster.plan, tls=trusting()))
            rig.cluster.http.lease(waiting)  # type: ignore[arg-type]
            rig.cluster.update(replace(rig.cluster.plan, tls=trusting(root=stranger)))

        waiting = Waiting()
        one_loop.look(change_while_dialling)
        one_loop.until(lambda: waiting.over, "the request to be decided")
        assert waiting.failed is Outcome.UPSTREAM_CONNECT_FAILED


class Waiting:
    """As much of an exchange as the pool knows."""

    def __init__(self) -> None:
        self.began_s = 0.0
        self.tried = ()
        self.key = None
        self.over = False
        self.failed: Outcome | None = None

    def start(self, connection: object) -> None:
        self.over = True

    def fail(self, outcome: Outcome) -> None:
        self.over, self.failed = True, outcome


def test_a_service_that_goes_while_a_request_waits_for_it_still_answers(one_loop: LoopThread) -> None:
    with Origin(always(ok(b"hi"))) as origin, HttpRig(one_loop, [origin]) as rig:
        waiting = Waiting()

        def leave() -> None:
            rig.cluster.http.lease(waiting)  # type: ignore[arg-type]
            rig.cluster.close()

        one_loop.look(leave)
        one_loop.until(lambda: waiting.over, "the request to be decided")
        assert waiting.failed is None
        poll.holds(lambda: origin.connections <= 1, "one connection", for_s=0.2)


def test_a_certificate_of_ours_that_is_refused_afterwards(one_loop: LoopThread) -> None:
    """TLS 1.3: the server judges it when the handshake is over for us, and the request is on its way."""
    mine = Authority.root("Stranger Root").leaf("client.test")
    context = peers.server_tls(SERVER, client_ca_pem=Authority.root("Other Root").pem)
    with Origin(always(ok()), tls=context) as origin, HttpRig(one_loop, [origin], tls=trusting(client=mine)) as rig:
        with Wire(rig.port) as wire:
            response = wire.get()
            assert response.status == 503
            assert response.body.startswith(BEFORE_HEADERS)
            assert origin.requests == []
            assert rig.cluster.describe_endpoints()[0]["lastVerdict"] is not None
        wait_until_idle(rig)
        assert stats_of(rig).downstream_rq_5xx == 1
