"""Guarantee: after a 101 that was asked for, both directions are bytes and each ends by itself; anything else stays
HTTP.
"""

from __future__ import annotations

import pytest

from tests.kit import client, peers
from tests.kit.origins import Conversation, Origin, always, by_connection, ok
from tests.kit.rawhttp import Wire
from tests.proxy.http_rig import BEFORE_HEADERS, HttpRig, stats_of, wait_until_idle
from tests.proxy.rig import SERVER, LoopThread, trusting

ASK = (
    b"GET /chat HTTP/1.1\r\nhost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def switching(greeting: bytes = b"") -> object:
    def script(one: Conversation) -> None:
        assert one.request() is not None
        one.send(SWITCH + greeting)
        while data := one.recv():
            one.send(data)
        one.send(b"bye")
        one.end()

    return script


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_a_tunnel_both_ways_and_half_close(loop: LoopThread, is_tls: bool) -> None:
    tls = peers.server_tls(SERVER) if is_tls else None
    with (
        Origin(switching(b"\x81\x02hi"), tls=tls) as origin,  # type: ignore[arg-type]
        HttpRig(loop, [origin], tls=trusting() if is_tls else None) as rig,
        Wire(rig.port) as wire,
    ):
        response = wire.ask(ASK)
        assert (response.status, response["upgrade"].lower(), response["connection"]) == (101, "websocket", "upgrade")
        assert response["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert (origin.last["upgrade"], origin.last["connection"]) == ("websocket", "upgrade")
        assert stats_of(rig).downstream_cx_upgrades_active == 1
        upload = client.Upload(wire.sock, [b"GET / HTTP/1.1\r\n\r\n\x00\xff" * 20_000])
        assert wire.read_to_end() == b"\x81\x02hi" + b"GET / HTTP/1.1\r\n\r\n\x00\xff" * 20_000 + b"bye"
        upload.finish()
        wait_until_idle(rig)
        assert stats_of(rig).downstream_cx_upgrades_active == 0
        assert dict(rig.cluster.stats.counted())["upstream_rq_101"] == 1
        loop.until(lambda: not rig.cluster.connections and not rig.listener.connections, "both connections to close")


def test_the_origin_ends_first(loop: LoopThread) -> None:
    received = bytearray()

    def script(one: Conversation) -> None:
        one.request()
        one.send(SWITCH + b"bye")
        one.end()
        while data := one.recv():
            received.extend(data)

    with Origin(script) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        assert wire.ask(ASK).status == 101
        assert wire.read_to_end() == b"bye"
        wire.send(b"still here")
        wire.half_close()
        assert origin.wait_for_ending() in ("eof", "done")
        assert received == b"still here"
        loop.until(lambda: not rig.cluster.connections and not rig.listener.connections, "both connections to close")


def test_bytes_that_come_before_the_101_follow_it(loop: LoopThread) -> None:
    with (
        Origin(switching()) as origin,  # type: ignore[arg-type]
        HttpRig(loop, [origin]) as rig,
        Wire(rig.port) as wire,
    ):
        wire.send(ASK + b"early")
        assert wire.response().status == 101
        wire.half_close()
        assert wire.read_to_end() == b"earlybye"


def test_an_upgrade_that_is_refused_is_an_ordinary_exchange(loop: LoopThread) -> None:
    with Origin(always(ok(b"no", status="426 Upgrade Required"))) as origin, HttpRig(loop, [origin]) as rig:
        with Wire(rig.port) as wire:
            assert [(wire.ask(ASK).status, wire.get().body) for _ in range(2)] == [(426, b"no")] * 2
        assert origin.connections == 1


@pytest.mark.parametrize("protocol", ["h2c", "websocket, H2C"])
def test_h2c_is_not_asked_for(one_loop: LoopThread, protocol: str) -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
    with Origin(always(answer)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        response = wire.get(
            "/", "connection: upgrade, http2-settings", f"upgrade: {protocol}", "http2-settings: AAMAAABk"
        )
        assert (response.status, response.body) == (502, BEFORE_HEADERS + b"protocol error")
        assert not {"upgrade", "connection", "http2-settings"} & dict(origin.last.fields).keys()


def test_a_101_before_the_request_has_ended(one_loop: LoopThread) -> None:
    def hasty(one: Conversation) -> None:
        while b"\r\n\r\n" not in one.reader.rest:
            one.reader.more()
        one.send(SWITCH)
        one.read_to_end()

    with Origin(by_connection(hasty)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        response = wire.ask(ASK.replace(b"GET", b"POST")[:-2] + b"content-length: 5\r\n\r\nabc")
        assert (response.status, response["connection"]) == (502, "close")


def test_a_client_that_resets_its_tunnel(loop: LoopThread) -> None:
    with (
        Origin(switching()) as origin,  # type: ignore[arg-type]
        HttpRig(loop, [origin]) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.ask(ASK).status == 101
        wire.reset()
        origin.wait_for_ending()
        wait_until_idle(rig)
        assert stats_of(rig).downstream_cx_upgrades_active == 0
