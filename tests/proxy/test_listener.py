"""Guarantee: a listener takes all connections that reached it, up to the limit, and says why it cannot open."""

from __future__ import annotations

import logging
import socket

import pytest

from config.plan import Access
from proxy.http.h2_turns import Turns
from proxy.listener import RESERVED_DESCRIPTORS, ConnectionLimit, Listener
from proxy.outcome import Outcome
from proxy.sockets import StartError
from proxy.splicing import DESCRIPTORS
from proxy.throttle import Throttle
from tests.kit import client, peers
from tests.kit.peers import Peer
from tests.kit.ports import free_port
from tests.proxy.rig import LoopThread, Rig, listener_plan


def closed_listener(loop: LoopThread, port: int) -> Listener:
    return loop.look(
        lambda: Listener(listener_plan(port), None, ConnectionLimit(10), Throttle(loop.loop.time), Turns())
    )


def test_a_port_that_is_taken(one_loop: LoopThread) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        listener = closed_listener(one_loop, port)

        async def open_and_start() -> None:
            listener.open()
            await listener.start()

        with pytest.raises(StartError, match=rf"cannot listen on 127\.0\.0\.1:{port}: the port is taken"):
            one_loop.run(open_and_start())
        assert not listener.listening
        one_loop.run(listener.stop())


def test_what_waits_in_the_queue_is_served_before_the_port_closes(loop: LoopThread) -> None:
    with Peer(peers.echo) as peer, Rig(loop, [peer]) as rig:

        async def connect_and_stop() -> list[socket.socket]:
            """The loop does not run between the connects and the stop: they are all in the kernel's queue."""
            waiting = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(20)]
            await rig.listener.stop()
            return waiting

        waiting = loop.run(connect_and_stop())
        for app in waiting:
            app.settimeout(5)
            app.sendall(b"x")
            assert client.read_exactly(app, 1) == b"x"
            app.close()
        with pytest.raises(ConnectionRefusedError):
            client.connect(rig.port)
        rig.wait_for_end(20)
        assert rig.listener.idle.is_set()


def test_stopping_twice_is_once(loop: LoopThread) -> None:
    with Rig(loop, []) as rig:
        loop.run(rig.listener.stop())
        loop.run(rig.listener.stop())
        assert not rig.listener.listening


def test_a_stopped_port_is_free_at_once(loop: LoopThread) -> None:
    port = free_port()
    for _ in range(3):
        listener = closed_listener(loop, port)

        async def cycle(one: Listener = listener) -> None:
            one.open()
            await one.start()
            await one.stop()

        loop.run(cycle())


def test_the_limit_holds_and_room_comes_back(loop: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    with Peer(peers.echo) as peer, Rig(loop, [peer], max_connections=2) as rig:
        first, second = client.connect(rig.port), client.connect(rig.port)
        loop.until(lambda: rig.limit.active == 2, "both")
        for _ in range(3):
            with client.connect(rig.port) as refused:
                assert client.read_to_end(refused) == b""
        loop.until(lambda: len(rig.ended) == 3, "the refusals")
        assert rig.ended == [Outcome.OVERFLOW] * 3
        assert rig.listener.stats.downstream_cx_overflow == 3
        assert len([r for r in caplog.records if "connection limit" in r.getMessage()]) == 1, "said once"
        first.close()
        loop.until(lambda: rig.limit.active == 1, "room")
        assert client.ask(rig.port) == b"ping"
        second.close()
        rig.wait_for_end(6)


def test_a_refusal_by_the_mesh_is_logged_with_its_names(loop: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Rig(loop, [], access=Access.FORBID) as rig:
        with client.connect(rig.port) as app:
            assert client.read_to_end(app) == b""
        rig.wait_for_end()
        (record,) = [r for r in caplog.records if getattr(r, "event", "") == "access_denied"]
        assert (record.listener, record.cluster) == ("out", "app")  # type: ignore[attr-defined]
        assert rig.listener.stats.access_denied == 1


def test_the_limit_follows_from_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.listener.resource.getrlimit", lambda _: (1024, 4096))
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr("proxy.listener.resource.setrlimit", lambda _, both: raised.append(both))
    assert ConnectionLimit.from_descriptors().maximum == (4096 - RESERVED_DESCRIPTORS - DESCRIPTORS) // 2
    assert raised == [(4096, 4096)]
    monkeypatch.setattr("proxy.listener.resource.getrlimit", lambda _: (400, 400))
    assert ConnectionLimit.from_descriptors().maximum == (400 - RESERVED_DESCRIPTORS - 100) // 2
    monkeypatch.setattr("proxy.listener.resource.getrlimit", lambda _: (10, 10))
    assert ConnectionLimit.from_descriptors().maximum == 1


def test_living_connections_are_in_the_byte_totals(loop: LoopThread) -> None:
    with Peer(peers.echo) as peer, Rig(loop, [peer]) as rig:
        with client.connect(rig.port) as app:
            app.sendall(b"12345")
            assert client.read_exactly(app, 5) == b"12345"
            assert loop.look(rig.listener.byte_totals) == loop.look(rig.cluster.byte_totals) == (5, 5)
        rig.wait_for_end()
        assert rig.listener.byte_totals() == rig.cluster.byte_totals() == (5, 5)


def test_keep_alive_is_inherited(loop: LoopThread) -> None:
    with Peer(peers.echo) as peer, Rig(loop, [peer]) as rig, client.connect(rig.port):
        relay = rig.wait_for_relay()
        sock = relay.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1  # type: ignore[attr-defined]
