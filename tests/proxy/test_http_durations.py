"""Guarantee: a stream and a connection become no older than their policy lets them, and an endpoint whose responses are
errors is left out, and tried again.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from config.plan import EjectionPlan, Protocol, RetryPlan
from proxy.http.access_log import AccessLog
from tests.kit import poll
from tests.kit.http2_peers import H2Client, H2Origin, respond
from tests.kit.origins import Conversation, Origin, always, by_connection, ok
from tests.kit.rawhttp import Wire
from tests.proxy.http_rig import HttpRig, stats_of, wait_until_idle
from tests.proxy.rig import LoopThread, Rig, at, target_of
from tests.proxy.test_cluster import closed_port

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def stuck(one: Conversation) -> None:
    one.request()
    one.read_to_end()


# Streams


def test_a_stream_that_lasts_too_long(loop: LoopThread, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with Origin(stuck) as origin, HttpRig(loop, [origin], max_stream_duration_s=0.05) as rig, Wire(rig.port) as wire:
        log = loop.look(lambda: AccessLog(str(path), as_json=True))
        rig.listener.access_log = log
        response = wire.get()
        assert (response.status, response.body) == (504, b"upstream max stream duration reached")
        assert "connection" not in response, "the client's connection goes on"
        assert rig.cluster.stats.upstream_rq_max_duration_reached == 1
        loop.look(log.close)
    values = json.loads(path.read_text())
    assert (values["response_flags"], values["outcome"]) == ("UMSDR", "max_stream_duration")


def test_a_request_that_never_ends(one_loop: LoopThread) -> None:
    with (
        Origin(stuck) as origin,
        HttpRig(one_loop, [origin], max_stream_duration_s=0.05) as rig,
        Wire(rig.port) as wire,
    ):
        wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc")
        assert wire.response().status == 408


def test_a_response_that_never_ends_is_cut(one_loop: LoopThread) -> None:
    def slow(one: Conversation) -> None:
        one.request()
        one.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
        one.read_to_end()

    with (
        Origin(slow) as origin,
        HttpRig(one_loop, [origin], max_stream_duration_s=0.1) as rig,
        Wire(rig.port) as wire,
    ):
        response = wire.get()
        assert (response.status, response.is_whole) == (200, False)
        wait_until_idle(rig)
        assert rig.cluster.stream_deadlines is not None
        assert not rig.cluster.stream_deadlines._expiries


def test_a_tunnel_ends_too(one_loop: LoopThread) -> None:
    def switching(one: Conversation) -> None:
        one.request()
        one.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        one.read_to_end()

    with (
        Origin(switching) as origin,
        HttpRig(one_loop, [origin], max_stream_duration_s=0.2) as rig,
        Wire(rig.port) as wire,
    ):
        wire.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        assert wire.read_to_end().startswith(b"HTTP/1.1 101 ")
        one_loop.until(lambda: stats_of(rig).downstream_cx_upgrades_active == 0, "the tunnel to end")
        assert origin.wait_for_ending() in ("eof", "reset")


def test_each_try_has_its_time(one_loop: LoopThread) -> None:
    retry = RetryPlan(retry_on=frozenset({"reset"}), back_off_base_s=0.001, back_off_max_s=0.001)
    with (
        Origin(by_connection(stuck, always(ok(b"good")))) as origin,
        HttpRig(one_loop, [origin], max_stream_duration_s=0.1, retry=retry) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.get().body == b"good"
        assert rig.cluster.stats.upstream_rq_max_duration_reached == 1


def test_a_stream_of_http2_that_lasts_too_long(one_loop: LoopThread) -> None:
    with (
        H2Origin(lambda visit, request: None) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2, max_stream_duration_s=0.05) as rig,
        H2Client(rig.port) as client,
    ):
        answer = client.ask("GET", "/")
        assert (answer.status, bytes(answer.body)) == (504, b"upstream max stream duration reached")


# Connections


def test_a_connection_that_is_too_old_goes_when_it_is_idle(loop: LoopThread) -> None:
    with (
        Origin(always(ok(b"x"))) as origin,
        HttpRig(loop, [origin], max_connection_duration_s=0.1) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.get().body == b"x"
        assert origin.wait_for_ending() in ("eof", "reset")
        assert wire.get().body == b"x"
        assert origin.connections == 2
        assert rig.cluster.stats.upstream_cx_max_duration_reached >= 1


def test_what_runs_on_a_connection_that_is_too_old_goes_on(one_loop: LoopThread) -> None:
    release = threading.Event()

    def slow(one: Conversation) -> None:
        while one.request() is not None:
            assert release.wait(10)
            one.send(ok(b"slow"))

    with (
        Origin(slow) as origin,
        HttpRig(one_loop, [origin], max_connection_duration_s=0.05) as rig,
        Wire(rig.port) as wire,
    ):
        wire.send(GET)
        one_loop.until(lambda: rig.cluster.stats.upstream_cx_max_duration_reached == 1, "the connection to be old")
        release.set()
        assert wire.response().body == b"slow"
        assert origin.wait_for_ending() in ("eof", "reset")


def test_a_connection_of_http2_that_is_too_old(one_loop: LoopThread) -> None:
    with (
        H2Origin(respond(body=b"x")) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2, max_connection_duration_s=0.1) as rig,
        H2Client(rig.port) as client,
    ):
        assert client.ask("GET", "/").status == 200
        one_loop.until(lambda: not rig.cluster.connections, "the connection to go")
        assert client.ask("GET", "/").status == 200
        assert origin.connections == 2


# Endpoints


@pytest.mark.parametrize(
    "rules", [EjectionPlan(server_errors=3, first_s=60.0), EjectionPlan(gateway_errors=3, first_s=60.0)]
)
def test_an_endpoint_whose_responses_are_errors_is_left_out(one_loop: LoopThread, rules: EjectionPlan) -> None:
    with (
        Origin(always(ok(b"bad", status="503 x"))) as bad,
        Origin(always(ok(b"good"))) as good,
        HttpRig(one_loop, [bad, good], ejection=rules) as rig,
        Wire(rig.port) as wire,
    ):
        bodies = [wire.get().body for _ in range(20)]
        assert bodies.count(b"bad") == 3
        assert rig.cluster.stats.lb_ejections_total == 1
        assert [row["health"] for row in rig.cluster.describe_endpoints()] == ["ejected", "healthy"]


@pytest.mark.parametrize("failure", [lambda one: one.request(), stuck], ids=["closes", "says nothing"])
def test_an_endpoint_that_does_not_answer_is_left_out(one_loop: LoopThread, failure: object) -> None:
    rules = EjectionPlan(failures=0, server_errors=2, first_s=60.0)
    with (
        Origin(failure) as bad,  # type: ignore[arg-type]
        Origin(always(ok(b"good"))) as good,
        HttpRig(one_loop, [bad, good], ejection=rules, request_timeout_s=0.2) as rig,
        Wire(rig.port) as wire,
    ):
        statuses = [wire.get(method="POST").status for _ in range(8)]
        assert statuses.count(200) == 6
        assert rig.cluster.stats.lb_ejections_total == 1


def test_an_endpoint_that_recovers_is_used_again_on_the_connection_that_it_has(one_loop: LoopThread) -> None:
    is_well = threading.Event()

    def answer(_request: object) -> bytes:
        return ok(b"well") if is_well.is_set() else ok(b"ill", status="500 x")

    rules = EjectionPlan(server_errors=1, first_s=0.05)
    with (
        Origin(always(answer)) as moody,
        Origin(always(ok(b"good"))) as good,
        HttpRig(one_loop, [moody, good], ejection=rules) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.get().body == b"ill"
        is_well.set()
        poll.until(lambda: wire.get().body == b"well", "the trial")
        assert {wire.get().body for _ in range(2)} == {b"well", b"good"}
        assert moody.connections == 1


def test_rules_are_in_force_from_the_start_and_after_a_change(one_loop: LoopThread) -> None:
    with (
        Origin(always(ok(b"good"))) as good,
        HttpRig(one_loop, [at("127.0.0.1", closed_port()), target_of(good)], ejection=EjectionPlan(failures=0)) as rig,
        Wire(rig.port) as wire,
    ):
        dead, _ = rig.cluster.balancer
        assert [wire.get().body for _ in range(8)] == [b"good"] * 8
        failures = dead.cx_connect_fail
        assert failures > 3
        assert dead.ejections == 0
        assert good.connections == 1, "what was dialled in vain leaves no connection behind"
        rig.update(ejection=EjectionPlan(failures=1, first_s=60.0))
        for _ in range(4):
            wire.get()
        assert (dead.cx_connect_fail, dead.ejections) == (failures + 1, 1)
