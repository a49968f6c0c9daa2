"""Guarantee: a request is sent again where its policy says so, as often, as late and as many at a time as it says, to
another endpoint if there is one, whole, and never once a byte of a response has gone to the client.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from config.plan import Protocol, RetryPlan
from proxy.http.access_log import AccessLog
from proxy.http.exchange import MAX_HELD_BYTES
from tests.kit import poll
from tests.kit.http2_peers import H2Client, H2Origin, H2Visit
from tests.kit.http2_peers import Message as H2Message
from tests.kit.origins import Conversation, Origin, always, by_connection, in_turn, ok
from tests.kit.rawhttp import Message, Wire
from tests.proxy.http_rig import HttpRig, wait_until_idle
from tests.proxy.rig import LoopThread, Rig, at
from tests.proxy.test_cluster import closed_port

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
RETRIED = b"upstream connect error or disconnect/reset before headers. retried and the latest reset reason: "
BAD = ok(b"bad", status="503 Service Unavailable")
REFUSED_STREAM = 7


def plan(*conditions: str, **more: Any) -> RetryPlan:
    """Retries that wait for a millisecond at most."""
    return RetryPlan(retry_on=frozenset(conditions), back_off_base_s=0.001, back_off_max_s=0.001, **more)


def stats(rig: Rig) -> dict[str, int]:
    """What is not zero of the statistics of retries."""
    found = dict(rig.cluster.stats.counted())
    prefix = "upstream_rq_retry"
    return {name.removeprefix(prefix).lstrip("_"): n for name, n in found.items() if name.startswith(prefix) and n}


def leaves(one: Conversation) -> None:
    """Closes once it has a request."""
    one.request()


class Flags:
    """The flags in the access log of a rig."""

    def __init__(self, rig: Rig, path: Path) -> None:
        self._path = path
        self._loop = rig.loop
        self._log = rig.loop.look(lambda: AccessLog(str(path), as_json=True))
        rig.listener.access_log = self._log

    def all(self) -> list[str]:
        self._loop.look(self._log.close)
        return [json.loads(line)["response_flags"] for line in self._path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("condition", "answer", "more"),
    [
        ("5xx", ok(status="500 x"), {}),
        ("5xx", ok(status="599 x"), {}),
        ("gateway-error", ok(status="502 x"), {}),
        ("gateway-error", ok(status="503 x"), {}),
        ("gateway-error", ok(b"with a body", status="504 x"), {}),
        ("retriable-4xx", ok(status="409 x"), {}),
        ("retriable-status-codes", ok(status="404 x"), {"statuses": frozenset({404, 410})}),
        ("retriable-status-codes", ok(status="200 x"), {"statuses": frozenset({200})}),
        ("envoy-ratelimited", ok(b"", "x-envoy-ratelimited: true", status="429 x"), {}),
        ("cancelled", ok(b"", "grpc-status: 1"), {}),
        ("deadline-exceeded", ok(b"", "grpc-status: 4"), {}),
        ("resource-exhausted", ok(b"", "grpc-status: 8"), {}),
        ("internal", ok(b"", "grpc-status: 13"), {}),
        ("unavailable", ok(b"", "grpc-status: 14"), {}),
    ],
)
def test_a_response_that_is_covered(one_loop: LoopThread, condition: str, answer: bytes, more: dict[str, Any]) -> None:
    with (
        Origin(by_connection(always(answer), always(ok(b"good", status="201 x")))) as origin,
        HttpRig(one_loop, [origin], retry=plan(condition, **more)) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.get().body == b"good"
        assert stats(rig) == {"": 1, "success": 1, "backoff_exponential": 1}
        assert rig.cluster.retries_active == 0
        assert [one["x-request-id"] for one in origin.requests] == [origin.last["x-request-id"]] * 2


@pytest.mark.parametrize(
    ("conditions", "answer"),
    [
        (["gateway-error"], ok(status="500 x")),
        (["gateway-error"], ok(status="505 x")),
        (["retriable-4xx"], ok(status="404 x")),
        (["connect-failure", "refused-stream", "reset"], ok(status="503 x")),
        (["5xx"], ok(b"", "x-envoy-overloaded: true", status="503 x")),
        (["5xx"], ok(b"", "x-envoy-ratelimited: true", status="503 x")),
        (["cancelled", "unavailable"], ok(b"", "grpc-status: 13")),
        (["unavailable"], ok(b"", "grpc-status: x")),
    ],
)
def test_a_response_that_is_not_covered(one_loop: LoopThread, conditions: list[str], answer: bytes) -> None:
    with (
        Origin(always(answer)) as origin,
        HttpRig(one_loop, [origin], retry=plan(*conditions)) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.get().status == int(answer[9:12])
        assert stats(rig) == {}
        assert len(origin.requests) == 1


@pytest.mark.parametrize(("condition", "is_covered"), [
    ("reset", True), ("5xx", True), ("gateway-error", True), ("connect-failure", False), ("refused-stream", False),
])  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("failure", [leaves, in_turn(b"HTTP/1.1 200 OK\r\na"), in_turn(b"garbage\r\n\r\n")])
def test_a_connection_that_fails(
    one_loop: LoopThread, condition: str, is_covered: bool, method: str, failure: Callable[[Conversation], None]
) -> None:
    with (
        Origin(by_connection(failure, always(ok(b"good")))) as origin,
        HttpRig(one_loop, [origin], retry=plan(condition)) as rig,
        Wire(rig.port) as wire,
    ):
        response = wire.ask(f"{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc".encode())
        assert (response.body == b"good") == is_covered
        assert {one.body for one in origin.requests} == {b"abc"}
        assert len(origin.requests) == 1 + is_covered


@pytest.mark.parametrize("condition", ["connect-failure", "reset", "gateway-error"])
def test_connections_that_cannot_be_made(one_loop: LoopThread, tmp_path: Path, condition: str) -> None:
    with (
        HttpRig(one_loop, [at("127.0.0.1", closed_port())], retry=plan(condition, retries=2)) as rig,
        Wire(rig.port) as wire,
    ):
        flags = Flags(rig, tmp_path / "access.log")
        response = wire.get()
        assert (response.status, response.body) == (503, RETRIED + b"remote connection failure")
        assert stats(rig) == {"": 2, "limit_exceeded": 1, "backoff_exponential": 2}
        assert rig.cluster.stats.upstream_cx_connect_fail == 3
        assert flags.all() == ["URX,UF"]


def test_an_endpoint_that_comes_back_is_found_by_a_retry(one_loop: LoopThread) -> None:
    """The wait is long enough for the test to open the port that was closed."""
    port = closed_port()
    patient = replace(plan("connect-failure", retries=200), back_off_base_s=0.02, back_off_max_s=0.02)
    with HttpRig(one_loop, [at("127.0.0.1", port)], retry=patient) as rig, Wire(rig.port) as wire:
        wire.send(GET)
        one_loop.until(lambda: rig.cluster.stats.upstream_rq_retry > 0, "a retry")
        with Origin(always(ok(b"here")), port=port):
            assert wire.response().body == b"here"
        assert rig.cluster.stats.upstream_rq_retry_success == 1


def test_retries_run_out(one_loop: LoopThread, tmp_path: Path) -> None:
    with (
        Origin(always(BAD)) as origin,
        HttpRig(one_loop, [origin], retry=plan("5xx", retries=2)) as rig,
        Wire(rig.port) as wire,
    ):
        flags = Flags(rig, tmp_path / "access.log")
        response = wire.get()
        assert (response.status, response.body) == (503, b"bad"), "the last response, as it came"
        assert len(origin.requests) == 3
        assert stats(rig) == {"": 2, "limit_exceeded": 1, "backoff_exponential": 2}
        wait_until_idle(rig)
        assert rig.cluster.retries_active == 0
        assert flags.all() == ["URX"]


def test_another_endpoint_is_preferred(one_loop: LoopThread) -> None:
    with ExitStack() as stack:
        good = stack.enter_context(Origin(always(ok(b"good"))))
        bad = [stack.enter_context(Origin(always(BAD))) for _ in range(3)]
        rig = stack.enter_context(HttpRig(one_loop, [*bad, good], retry=plan("5xx", retries=3)))
        wire = stack.enter_context(Wire(rig.port))
        for _ in range(8):
            assert wire.get().body == b"good"
        assert max(len(one.requests) for one in bad) <= 8, "none saw a request twice"
        assert [endpoint.rq_active for endpoint in rig.cluster.balancer] == [0] * 4


def test_methods_restrict(one_loop: LoopThread) -> None:
    retry = plan("5xx", methods=frozenset({"GET"}))
    with (
        Origin(always(BAD)) as origin,
        HttpRig(one_loop, [origin], retry=retry) as rig,
        Wire(rig.port) as wire,
    ):
        wire.get()
        wire.get(method="DELETE")
        assert [one.head.split()[0] for one in origin.requests] == [b"GET", b"GET", b"DELETE"]


def test_only_so_many_at_a_time(one_loop: LoopThread, tmp_path: Path) -> None:
    """One retry waits for its response: meanwhile there may be no other."""
    release = threading.Event()

    def holds(one: Conversation) -> None:
        one.request()
        assert release.wait(10)
        one.send(ok(b"late"))

    origin = Origin(by_connection(always(BAD), holds, always(BAD)))
    with origin, HttpRig(one_loop, [origin], retry=plan("5xx"), max_retries=1) as rig:
        flags = Flags(rig, tmp_path / "access.log")
        with Wire(rig.port) as first, Wire(rig.port) as second:
            first.send(GET)
            origin.wait_for_requests(2)
            assert second.get().status == 503
            assert rig.cluster.stats.upstream_rq_retry_overflow == 1
            release.set()
            assert first.response().body == b"late"
        wait_until_idle(rig)
        assert rig.cluster.retries_active == 0
        assert flags.all() == ["UO", "-"]


def test_a_body_is_sent_again_whole_with_its_trailers(one_loop: LoopThread) -> None:
    body = b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n"
    with (
        Origin(by_connection(in_turn(BAD), always(ok(b"good")))) as origin,
        HttpRig(one_loop, [origin], retry=plan("5xx")) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.ask(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + body).body == b"good"
        assert [(one.body, one.trailers) for one in origin.requests] == [(b"hello world", b"x-sum: 1\r\n")] * 2


def test_a_body_of_which_too_much_has_gone_is_not_sent_again(one_loop: LoopThread) -> None:
    size = MAX_HELD_BYTES + 1
    with (
        Origin(always(BAD)) as origin,
        HttpRig(one_loop, [origin], retry=plan("5xx")) as rig,
        Wire(rig.port) as wire,
    ):
        wire.get()
        for number, length in enumerate((MAX_HELD_BYTES, size)):
            head = f"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n".encode()
            assert wire.ask(head + b"x" * length).status == 503
            assert rig.cluster.stats.retry_or_shadow_abandoned == number
        assert [one.length for one in origin.requests] == [0, 0, MAX_HELD_BYTES, MAX_HELD_BYTES, size]


def test_a_response_that_was_begun_is_not_asked_for_again(one_loop: LoopThread) -> None:
    cut = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"
    with (
        Origin(in_turn(cut)) as origin,
        HttpRig(one_loop, [origin], retry=plan("5xx", "reset")) as rig,
        Wire(rig.port) as wire,
    ):
        assert not wire.get().is_whole
        assert len(origin.requests) == 1


def test_a_rest_of_the_request_that_comes_during_the_wait(one_loop: LoopThread) -> None:
    """The first origin answers before it has the whole request."""
    slow = replace(plan("5xx"), back_off_base_s=0.2, back_off_max_s=0.2)

    def early(one: Conversation) -> None:
        one.recv()
        one.send(BAD)
        one.read_to_end()

    with (
        Origin(by_connection(early, always(ok(b"good")))) as origin,
        HttpRig(one_loop, [origin], retry=slow) as rig,
        Wire(rig.port) as wire,
    ):
        wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc")
        one_loop.until(lambda: rig.cluster.stats.upstream_rq_retry == 1, "the retry")
        assert wire.ask(b"def").body == b"good"
        assert origin.last.body == b"abcdef"


def test_a_client_that_leaves_during_the_wait(one_loop: LoopThread) -> None:
    slow = replace(plan("5xx"), back_off_base_s=600.0, back_off_max_s=600.0)
    with Origin(always(BAD)) as origin, HttpRig(one_loop, [origin], retry=slow) as rig:
        with Wire(rig.port) as wire:
            wire.send(GET)
            one_loop.until(lambda: rig.cluster.retries_active == 1, "the retry")
            wire.reset()
        wait_until_idle(rig)
        assert (rig.cluster.retries_active, len(origin.requests)) == (0, 1)


def test_the_requests_time_is_for_all_tries(one_loop: LoopThread) -> None:
    slow = replace(plan("5xx"), back_off_base_s=600.0, back_off_max_s=600.0)
    with (
        Origin(always(BAD)) as origin,
        HttpRig(one_loop, [origin], retry=slow, request_timeout_s=0.1) as rig,
        Wire(rig.port) as wire,
    ):
        response = wire.get()
        assert (response.status, response.body) == (504, b"upstream request timeout")
        assert rig.cluster.retries_active == 0


def stuck(one: Conversation) -> None:
    one.request()
    one.read_to_end()


def test_a_try_that_takes_too_long(one_loop: LoopThread, tmp_path: Path) -> None:
    retry = plan("reset", per_try_timeout_s=0.05)
    with (
        Origin(by_connection(stuck, always(ok(b"good")))) as origin,
        HttpRig(one_loop, [origin], retry=retry) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.get().body == b"good"
        assert rig.cluster.stats.upstream_rq_per_try_timeout == 1
    with (
        Origin(stuck) as origin,
        HttpRig(one_loop, [origin], retry=retry) as rig,
        Wire(rig.port) as wire,
    ):
        flags = Flags(rig, tmp_path / "access.log")
        response = wire.get()
        assert (response.status, response.body) == (504, b"upstream request timeout")
        assert rig.cluster.stats.upstream_rq_per_try_timeout == 2
        assert flags.all() == ["URX,UT"]
        assert rig.cluster.try_deadlines is not None
        assert not rig.cluster.try_deadlines._expiries


def test_a_try_has_no_time_of_its_own_that_the_request_has_not(one_loop: LoopThread) -> None:
    with HttpRig(one_loop, [], retry=plan("5xx", per_try_timeout_s=16.0), request_timeout_s=15.0) as rig:
        assert rig.cluster.try_deadlines is None
        rig.update(request_timeout_s=0.0)
        assert rig.cluster.try_deadlines is not None


def test_a_response_that_has_begun_has_no_time_for_a_try(one_loop: LoopThread) -> None:
    passed = threading.Event()

    def slow(one: Conversation) -> None:
        one.request()
        one.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc")
        assert passed.wait(10)
        one.send(b"def")

    with (
        Origin(slow) as origin,
        HttpRig(one_loop, [origin], retry=plan("reset", per_try_timeout_s=0.1)) as rig,
        Wire(rig.port) as wire,
    ):
        wire.send(GET)
        one_loop.until(lambda: rig.cluster.stats.upstream_cx_rx_bytes_total or rig.cluster.byte_totals()[0], "the head")
        one_loop.look(lambda: one_loop.loop.call_later(0.2, passed.set))
        assert wire.response().body == b"abcdef"


def test_waits_are_random_and_grow(one_loop: LoopThread) -> None:
    class Chance:
        """Always the longest wait."""

        def random(self) -> float:
            return 1.0

    retry = RetryPlan(retries=4, retry_on=frozenset({"5xx"}), back_off_base_s=0.01, back_off_max_s=0.05)
    times: list[float] = []

    def answer(_request: Message) -> bytes:
        times.append(one_loop.loop.time())
        return BAD

    with Origin(always(answer)) as origin, HttpRig(one_loop, [origin], retry=retry) as rig, Wire(rig.port) as wire:
        rig.cluster.chance = Chance()  # type: ignore[assignment]
        wire.get()
        gaps = [after - before for before, after in pairwise(times)]
        assert all(gap >= least for gap, least in zip(gaps, (0.01, 0.03, 0.05, 0.05), strict=True))


# HTTP/2


def h2_rig(loop: LoopThread, origin: H2Origin, *conditions: str, protocol: Protocol = Protocol.HTTP2) -> Rig:
    return Rig(loop, [origin], protocol=protocol, retry=plan(*conditions))


def first(refuse: Callable[[H2Visit, H2Message], None]) -> Callable[[H2Visit, H2Message], None]:
    """``refuse`` for the first request, and a good answer for the others."""

    def script(visit: H2Visit, request: H2Message) -> None:
        if len(visit.origin.requests) == 1:
            refuse(visit, request)
        else:
            visit.answer(request, 200, ("grpc-status", "0"), body=b"good")

    return script


@pytest.mark.parametrize(
    ("condition", "refuse"),
    [
        ("5xx", lambda visit, request: visit.answer(request, 503, body=b"bad")),
        ("gateway-error", lambda visit, request: visit.answer(request, 503)),
        ("reset", lambda visit, request: visit.reset(request.stream_id, 8)),
        ("unavailable", lambda visit, request: visit.answer(request, 200, ("grpc-status", "14"))),
    ],
    ids=["503 with a body", "503", "reset", "grpc"],
)
def test_over_http2(one_loop: LoopThread, condition: str, refuse: Callable[[H2Visit, H2Message], None]) -> None:
    with (
        H2Origin(first(refuse)) as origin,
        h2_rig(one_loop, origin, condition, protocol=Protocol.GRPC) as rig,
        H2Client(rig.port) as client,
        Wire(rig.port) as wire,
    ):
        answer = client.ask("POST", "/", body=b"hello", trailers=[("x-sum", "1")])
        assert (answer.status, bytes(answer.body)) == (200, b"good")
        assert [(bytes(one.body), one.trailers) for one in origin.requests] == [(b"hello", [("x-sum", "1")])] * 2
        assert origin.connections == 1, "a stream of the same connection"
        assert stats(rig) == {"": 1, "success": 1, "backoff_exponential": 1}
        assert wire.get().body == b"good"


def test_a_status_in_trailers_is_too_late(one_loop: LoopThread) -> None:
    def script(visit: H2Visit, request: H2Message) -> None:
        visit.answer(request, 200, body=b"x", trailers=[("grpc-status", "14")])

    with (
        H2Origin(script) as origin,
        h2_rig(one_loop, origin, "unavailable", protocol=Protocol.GRPC) as rig,
        H2Client(rig.port) as client,
    ):
        assert client.ask("POST", "/", body=b"x").trailers == [("grpc-status", "14")]
        assert len(origin.requests) == 1


def test_streams_that_are_refused_again_and_again(one_loop: LoopThread) -> None:
    """Three tries are nobody's business but ours; what follows is the policy's."""
    with (
        H2Origin(lambda visit, request: visit.reset(request.stream_id, REFUSED_STREAM)) as origin,
        h2_rig(one_loop, origin, "refused-stream") as rig,
        H2Client(rig.port) as client,
    ):
        answer = client.ask("POST", "/", body=b"x")
        assert (answer.status, bytes(answer.body)) == (503, RETRIED + b"remote refused stream reset")
        assert len(origin.requests) == 4
        poll.until(lambda: not rig.cluster.retries_active, "the place to be free")
