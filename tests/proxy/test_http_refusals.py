"""Guarantee: what a client may not send is refused with the status that says so, the connection ends, and not a byte of
it reaches an endpoint; and every wait for a client has an end.
"""

from __future__ import annotations

import pytest

from proxy.http import h1_downstream as downstream
from proxy.outcome import Outcome
from tests.kit import poll
from tests.kit.origins import Conversation, Origin, always, ok
from tests.kit.rawhttp import Wire
from tests.proxy.http_rig import HttpRig, stats_of, wait_for_endings, wait_until_idle
from tests.proxy.rig import LoopThread

GET = b"GET / HTTP/1.1\r\nhost: a\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\n"

REFUSED = {
    "length and chunked": (400, POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked and length": (400, POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc"),
    "list of lengths": (400, POST + b"content-length: 3, 3\r\n\r\nabc"),
    "signed length": (400, POST + b"content-length: +3\r\n\r\nabc"),
    "chunked twice": (400, POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "chunked is not last": (400, POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    "xchunked": (400, POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "gzip under chunked": (501, POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked in 1.0": (400, b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    "bare LF": (400, b"GET / HTTP/1.1\nhost: a\n\n"),
    "LF in a value": (400, GET + b"a: b\nc: d\r\n\r\n"),
    "bare CR": (400, GET + b"a: b\rc\r\n\r\n"),
    "folding": (400, GET + b"a: b\r\n c\r\n\r\n"),
    "blank before the colon": (400, GET + b"a : b\r\n\r\n"),
    "NUL": (400, GET + b"a: \x00\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, GET + b"host: b\r\n\r\n"),
    "host with a path": (400, b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n"),
    "protected by connection": (400, GET + b"connection: authorization\r\n\r\n"),
    "fragment": (400, b"GET /#a HTTP/1.1\r\nhost: a\r\n\r\n"),
    "version": (505, b"GET / HTTP/2.0\r\nhost: a\r\n\r\n"),
    "garbage": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n"),
    "long line": (414, b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n"),
    "long head": (431, GET + b"a: " + b"b" * 61_440 + b"\r\n\r\n"),
    "many fields": (431, GET + b"a: b\r\n" * 100 + b"\r\n"),
}


@pytest.mark.parametrize(("status", "request_"), REFUSED.values(), ids=REFUSED)
def test_nothing_of_a_refused_request_is_forwarded(one_loop: LoopThread, status: int, request_: bytes) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(request_ + b"GET /behind HTTP/1.1\r\nhost: a\r\n\r\n")
        response = wire.response()
        assert (response.status, response["connection"], response.body) == (status, "close", b"")
        assert wire.read_to_end() == b""
        assert origin.connections == 0
        assert stats_of(rig).downstream_cx_protocol_error == 1
    assert wait_for_endings(rig) == [Outcome.REQUEST_REFUSED]


@pytest.mark.parametrize(
    "chunk",
    [b"g\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b"1\r\nabc\r\n", b"1\n", b"1" * 17 + b"\r\n", b"1;" + b"a" * 5000],
    ids=["not a number", "sign", "0x", "longer than it says", "LF", "17 digits", "long extension"],
)
def test_a_body_that_goes_wrong_is_not_finished(one_loop: LoopThread, chunk: bytes) -> None:
    """Its head has gone out, and the connection that has it is closed before the origin can take it for whole."""
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(POST + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n" + chunk)
        assert wire.response().status == 400
        assert wire.read_to_end() == b""
        wait_until_idle(rig)
        assert origin.requests == []


def test_what_came_before_is_answered_first(one_loop: LoopThread) -> None:
    with Origin(always(ok(b"hi"))) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET + b"\r\n" + GET + b"a : b\r\n\r\n")
        assert [wire.response().status for _ in range(2)] == [200, 400]
        assert wire.read_to_end() == b""
        assert len(origin.requests) == 1


def test_a_head_at_the_limit_passes(one_loop: LoopThread) -> None:
    start = GET + b"a: "
    request = start + b"b" * (60 * 1024 - len(start) - 4) + b"\r\n\r\n"
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        assert wire.ask(request).status == 200
        assert wire.ask(GET + b"a: b\r\n" * 99 + b"\r\n").status == 200
        assert len(origin.last.values("a")) == 99


# Time


def test_a_head_that_takes_too_long(loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        now = loop.loop.time()
        for sent, byte in enumerate(b"GET / HT", start=1):  # a byte now and then is no progress
            wire.send(bytes([byte]))
            loop.until(lambda: rig.listener.byte_totals()[0] == sent, "the byte to arrive")  # noqa: B023
            loop.look(lambda: connection_of_now(rig).check_times(now + downstream.HEAD_DEADLINE_S - 1))
        assert stats_of(rig).downstream_rq_header_timeout == 0
        loop.look(lambda: connection_of_now(rig).check_times(loop.loop.time() + downstream.HEAD_DEADLINE_S + 1))
        response = wire.response()
        assert (response.status, response.body, response["connection"]) == (408, b"request header timeout", "close")
        assert wire.read_to_end() == b""
        assert stats_of(rig).downstream_rq_header_timeout == 1
    assert wait_for_endings(rig) == [Outcome.HEAD_TIMEOUT]


def test_the_deadline_begins_anew_with_each_head(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET[:9])
        one_loop.until(lambda: rig.listener.byte_totals()[0] == 9, "the start to arrive")
        assert wire.ask(GET[9:] + b"\r\n" + GET[:9]).status == 200
        one_loop.look(lambda: connection_of_now(rig).check_times(one_loop.loop.time() + downstream.HEAD_DEADLINE_S - 1))
        assert wire.ask(GET[9:] + b"\r\n").status == 200


def test_a_pipelined_head_has_a_deadline_too(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        assert wire.ask(GET + b"\r\n" + GET).status == 200
        one_loop.look(lambda: connection_of_now(rig).check_times(one_loop.loop.time() + downstream.HEAD_DEADLINE_S + 1))
        assert wire.response().status == 408


def test_an_idle_client_is_sent_away(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.get()
        now = one_loop.loop.time()
        one_loop.look(lambda: connection_of_now(rig).check_times(now))
        one_loop.look(lambda: connection_of_now(rig).check_times(now + downstream.IDLE_TIMEOUT_S + 1))
        assert wire.read_to_end() == b""
        assert stats_of(rig).downstream_cx_idle_timeout == 1
    assert wait_for_endings(rig) == [Outcome.IDLE_TIMEOUT]


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [(GET + b"\r\n", 504, b"stream timeout"), (POST + b"content-length: 9\r\n\r\nabc", 408, b"stream timeout")],
    ids=["the origin is slow", "the client is slow"],
)
def test_an_exchange_without_a_byte(one_loop: LoopThread, request_: bytes, status: int, body: bytes) -> None:
    with Origin(Conversation.read_to_end) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(request_)
        one_loop.until(lambda: rig.cluster.stats.upstream_rq_total == 1, "the request to go out")
        now = one_loop.loop.time()
        one_loop.look(lambda: connection_of_now(rig).check_times(now))
        one_loop.look(lambda: connection_of_now(rig).check_times(now + downstream.STREAM_IDLE_TIMEOUT_S + 1))
        response = wire.response()
        assert (response.status, response.body) == (status, body)
        assert stats_of(rig).downstream_rq_idle_timeout == 1
        assert origin.wait_for_ending() in ("eof", "reset")


def test_a_client_that_never_takes_the_last_bytes_is_cut_off(one_loop: LoopThread) -> None:
    big = b"x" * 50_000_000
    with Origin(always(ok(big))) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET + b"\r\n")
        one_loop.until(lambda: connection_of_now(rig).congested, "the client to be slow")
        one_loop.look(lambda: connection_of_now(rig).end(Outcome.DRAINED))
        now = one_loop.loop.time()
        one_loop.look(lambda: connection_of_now(rig).check_times(now))
        assert len(rig.listener.connections) == 1
        one_loop.look(lambda: connection_of_now(rig).check_times(now + downstream.STREAM_IDLE_TIMEOUT_S + 1))
        poll.until(lambda: not rig.listener.connections, "the connection to go")


def connection_of_now(rig: object) -> downstream.Http1Downstream:
    """The only client connection, for use on the loop."""
    (connection,) = rig.listener.connections  # type: ignore[attr-defined]
    assert isinstance(connection, downstream.Http1Downstream)
    return connection
