"""Guarantee: a client's HTTP/2 connection lives as long as it is of use, and ends without a request lost."""

from __future__ import annotations

import pytest

from proxy.http import h2_downstream
from proxy.http.h2_downstream import Http2Downstream
from proxy.http.timeouts import IDLE_TIMEOUT_S, SETTINGS_DEADLINE_S
from tests.kit.client import connect, read_to_end
from tests.kit.http2_peers import PREFACE, H2Client
from tests.kit.origins import Origin, always, ok
from tests.proxy.http_rig import HttpRig, stats_of, wait_for_endings
from tests.proxy.rig import LoopThread, Rig


def connection_of(rig: Rig) -> Http2Downstream:
    """The only client connection, once it is known to speak HTTP/2."""

    def find() -> list[Http2Downstream]:
        return [one for one in rig.listener.connections if isinstance(one, Http2Downstream)]

    rig.loop.until(lambda: bool(find()), "HTTP/2 to be spoken")
    (connection,) = rig.loop.look(find)
    return connection


def check_times(rig: Rig, later_s: float) -> None:
    """As the listener does, so much later."""
    connection = connection_of(rig)
    rig.loop.look(lambda: connection.check_times(rig.listener.now() + later_s))


def test_an_idle_connection_may_stay(one_loop: LoopThread) -> None:
    with (
        Origin(always(ok(b"hi"))) as origin,
        HttpRig(one_loop, [origin]) as rig,
        H2Client(rig.port) as client,
    ):
        assert client.ask().body == b"hi"
        for later_s in (0.0, SETTINGS_DEADLINE_S + 1, IDLE_TIMEOUT_S - 1):
            check_times(rig, later_s)
            assert client.ask().body == b"hi"
        check_times(rig, 0.0)
        check_times(rig, IDLE_TIMEOUT_S + 1)
        client.read_to_end()
        assert client.goaways
        assert stats_of(rig).downstream_cx_idle_timeout == 1


def test_a_client_without_settings_may_not(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, connect(rig.port) as sock:
        sock.sendall(PREFACE)
        check_times(rig, SETTINGS_DEADLINE_S - 1)
        assert connection_of(rig) in rig.listener.connections
        check_times(rig, SETTINGS_DEADLINE_S + 1)
        assert b"\x07" in read_to_end(sock), "GOAWAY"
        assert stats_of(rig).downstream_rq_header_timeout == 1


def test_a_request_that_crosses_our_goaway_is_served(one_loop: LoopThread) -> None:
    with (
        Origin(always(ok(b"hi"))) as origin,
        HttpRig(one_loop, [origin]) as rig,
        H2Client(rig.port) as client,
    ):
        assert client.ask().body == b"hi"
        connection = connection_of(rig)
        one_loop.look(connection.drain)
        stream_id = client.begin()  # it has not read on since
        assert client.wait(stream_id).body == b"hi"
        client.read_to_end()
        assert client.goaways == [(2**31 - 1, 0), (stream_id, 0)]
        wait_for_endings(rig)


def test_a_client_that_never_hears_our_goaway_is_not_waited_for(
    one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2_downstream, "LINGER_S", 0.01)
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, H2Client(rig.port) as client:
        client.ask()
        connection = connection_of(rig)
        one_loop.look(connection.drain)
        wait_for_endings(rig)
