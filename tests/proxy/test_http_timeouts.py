"""Guarantee: a service that has a request timeout answers within it, or we answer for it; and what we refuse before it
is a request is seen in the access log.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from proxy.http.access_log import AccessLog
from proxy.http.deadlines import Deadlines
from proxy.outcome import Outcome
from tests.kit.origins import Conversation, Origin, always, ok
from tests.kit.rawhttp import Wire
from tests.proxy.http_rig import HttpRig, stats_of, wait_until_idle
from tests.proxy.rig import LoopThread

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc"


def stuck(one: Conversation) -> None:
    """Takes a request and says nothing."""
    one.request()
    one.read_to_end()


def test_a_request_that_is_not_answered_in_time(loop: LoopThread) -> None:
    with Origin(stuck) as origin, HttpRig(loop, [origin], request_timeout_s=0.05) as rig, Wire(rig.port) as wire:
        response = wire.ask(GET)
        assert (response.status, response.body) == (504, b"upstream request timeout")
        assert "connection" not in response, "the client's connection goes on"
        assert origin.wait_for_ending() in ("eof", "reset")
        assert wire.ask(GET).status == 504
        wait_until_idle(rig)
        counters = dict(rig.cluster.stats.counted())
        assert (counters["upstream_rq_timeout"], counters["upstream_rq_504"]) == (2, 2)


def test_the_time_begins_when_the_request_has_come_whole(one_loop: LoopThread) -> None:
    with (
        Origin(always(ok(b"done"))) as origin,
        HttpRig(one_loop, [origin], request_timeout_s=0.05) as rig,
        Wire(rig.port) as wire,
    ):
        wire.send(POST)
        one_loop.until(lambda: rig.cluster.stats.upstream_rq_total == 1, "the request to go out")
        passed = threading.Event()
        one_loop.look(lambda: one_loop.loop.call_later(0.15, passed.set))
        assert passed.wait(5)
        assert wire.ask(b"def").body == b"done"


def test_a_response_that_takes_too_long_is_cut(one_loop: LoopThread) -> None:
    def slow(one: Conversation) -> None:
        one.request()
        one.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
        one.read_to_end()

    with Origin(slow) as origin, HttpRig(one_loop, [origin], request_timeout_s=0.5) as rig, Wire(rig.port) as wire:
        response = wire.ask(GET)
        assert (response.status, response.is_whole) == (200, False)
        wait_until_idle(rig)
        assert rig.cluster.stats.upstream_rq_timeout == 1


def test_an_answer_in_time_is_left_alone(one_loop: LoopThread) -> None:
    with (
        Origin(always(ok(b"x"))) as origin,
        HttpRig(one_loop, [origin], request_timeout_s=30.0) as rig,
        Wire(rig.port) as wire,
    ):
        for _ in range(3):
            assert wire.ask(GET).body == b"x"
        deadlines = rig.cluster.deadlines
        assert isinstance(deadlines, Deadlines)
        assert not deadlines._expiries, "nothing is kept of requests that were answered"
        assert rig.cluster.stats.upstream_rq_timeout == 0


def test_a_tunnel_has_no_request_timeout(one_loop: LoopThread) -> None:
    passed = threading.Event()

    def switching(one: Conversation) -> None:
        one.request()
        one.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        assert passed.wait(5)
        one.send(one.recv())

    upgrade = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
    with (
        Origin(switching) as origin,
        HttpRig(one_loop, [origin], request_timeout_s=0.05) as rig,
        Wire(rig.port) as wire,
    ):
        wire.send(upgrade)
        one_loop.until(lambda: stats_of(rig).downstream_cx_upgrades_active == 1, "the tunnel")
        one_loop.look(lambda: one_loop.loop.call_later(0.15, passed.set))
        wire.send(b"hello")
        assert wire.read_to_end().endswith(b"hello")


def test_interim_responses_are_counted(one_loop: LoopThread) -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2 + ok(b"x")
    with Origin(always(answer)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        assert wire.ask(GET).status == 200
        counters = dict(rig.cluster.stats.counted())
        assert (counters["upstream_rq_103"], counters["upstream_rq_1xx"]) == (2, 2)


@pytest.mark.parametrize(
    ("sent", "status"), [(b"GET  / HTTP/1.1\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nhost: a\r\nte\x00: x\r\n\r\n", 400)]
)
def test_a_refused_request_is_in_the_access_log(one_loop: LoopThread, tmp_path: Path, sent: bytes, status: int) -> None:
    path = tmp_path / "access.log"
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        log = one_loop.look(lambda: AccessLog(str(path), as_json=True))
        rig.listener.access_log = log
        assert wire.ask(sent).status == status
        assert stats_of(rig).downstream_rq_4xx == 1
        one_loop.look(log.close)
    (line,) = path.read_text().splitlines()
    values = json.loads(line)
    assert (values["response_code"], values["response_flags"]) == (status, "DPE")
    assert values["method"] is None
    assert values["outcome"] == Outcome.REQUEST_REFUSED.word
