"""Guarantee: what an endpoint sends for one client only is not read ahead of that client, and nobody else, nor the
client itself, waits for that in vain.
"""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from config.plan import Protocol
from proxy.http import h2_lockstep
from proxy.http.h2_upstream import Http2Upstream
from tests.kit.http2_peers import H2Client, H2Origin, H2Visit, Message
from tests.proxy.rig import LoopThread, Rig

BODY = random.Random(5).randbytes(1024 * 1024)
STREAMS = 16
"""As much as the client's window lets in, and more than sockets hold."""
AHEAD_BYTES = 12 * 1024 * 1024


@pytest.fixture
def endless_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h2_lockstep, "PATIENCE_S", 60.0)


class Client(H2Client):
    """Takes little at a time, and nothing unless asked."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)

    def begin_all(self) -> list[int]:
        return [self.begin() for _ in range(STREAMS)]


def send_body(visit: H2Visit, request: Message) -> None:
    if request.reset is None:
        visit.answer(request, body=BODY)


@contextmanager
def one_origin(loop: LoopThread) -> Iterator[tuple[H2Origin, Rig]]:
    with H2Origin(send_body) as origin, Rig(loop, [origin], protocol=Protocol.HTTP2) as rig:
        yield origin, rig


def upstream_of(rig: Rig) -> Http2Upstream:
    rig.loop.until(lambda: rig.cluster.connections, "a connection to the origin")
    (upstream,) = rig.loop.look(lambda: list(rig.cluster.connections))
    return cast("Http2Upstream", upstream)


def is_read(upstream: Http2Upstream) -> bool:
    return cast("bool", upstream.transport.is_reading())  # type: ignore[attr-defined]


def wait_for_stop(rig: Rig) -> Http2Upstream:
    upstream = upstream_of(rig)
    rig.loop.until(lambda: not is_read(upstream), "the origin to be read from no more")
    assert rig.loop.look(lambda: upstream.received) < AHEAD_BYTES
    return upstream


@pytest.mark.usefixtures("endless_patience")
def test_no_more_is_read_than_the_only_client_takes(one_loop: LoopThread) -> None:
    with one_origin(one_loop) as (_, rig), Client(rig.port) as client:
        streams = client.begin_all()
        upstream = wait_for_stop(rig)
        digests = {hashlib.sha256(client.wait(stream).body).digest() for stream in streams}
        assert digests == {hashlib.sha256(BODY).digest()}
        assert is_read(upstream)
        assert client.ask().body == BODY


def test_but_it_is_if_the_client_takes_nothing_for_long(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not read may wait for what the endpoint has to say."""
    monkeypatch.setattr(h2_lockstep, "PATIENCE_S", 0.01)
    with one_origin(one_loop) as (_, rig), Client(rig.port) as client:
        streams = client.begin_all()
        upstream = upstream_of(rig)
        everything = STREAMS * len(BODY)
        rig.loop.until(lambda: upstream.received > everything, "all that there is to be read")
        assert all(client.wait(stream).body == BODY for stream in streams)


@pytest.mark.usefixtures("endless_patience")
def test_nobody_else_waits(one_loop: LoopThread) -> None:
    with one_origin(one_loop) as (origin, rig), Client(rig.port) as client, H2Client(rig.port) as other:
        streams = client.begin_all()
        wait_for_stop(rig)
        assert other.ask().body == BODY
        assert origin.connections == 1
        assert all(client.wait(stream).body == BODY for stream in streams)


@pytest.mark.usefixtures("endless_patience")
def test_nobody_waits_for_a_client_that_has_left(one_loop: LoopThread) -> None:
    with one_origin(one_loop) as (origin, rig):
        with Client(rig.port) as client:
            client.begin_all()
            upstream = wait_for_stop(rig)
        rig.loop.until(lambda: is_read(upstream), "the origin to be read from")
        with H2Client(rig.port) as other:
            assert other.ask().body == BODY
        assert origin.connections == 1


@pytest.mark.usefixtures("endless_patience")
def test_a_connection_may_end_meanwhile(one_loop: LoopThread) -> None:
    with one_origin(one_loop) as (_, rig), Client(rig.port) as client:
        streams = client.begin_all()
        upstream = wait_for_stop(rig)
        output = upstream.lockstep.client
        assert output is not None
        assert upstream.lockstep._taken in output._waiting
        rig.loop.look(upstream.transport.abort)
        rig.loop.until(
            lambda: upstream.lockstep._taken not in output._waiting, "a connection that is no more to be forgotten"
        )
        endings = [client.wait(stream) for stream in streams]
        assert any(ending.reset is not None for ending in endings)
        assert client.ask().body == BODY
