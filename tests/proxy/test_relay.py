"""Guarantee: bytes and endings pass through a relay unchanged, plain and TLS alike; memory is bounded; each relay is
accounted for exactly once and freed at its end.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from asyncio import selector_events
from collections.abc import Callable, Iterator

import pytest

from config.plan import Access
from proxy.outcome import Outcome
from proxy.relay import Downstream, Upstream
from proxy.tls_stream import TlsStream
from tests.kit import client, payload, peers, poll
from tests.kit.peers import Behaviour, Peer
from tests.proxy.rig import SERVER, LoopThread, Rig, at, grows_no_more, trusting

Serve = Callable[[Behaviour], Rig]


@pytest.fixture(params=["plain", "tls"])
def serve(request: pytest.FixtureRequest, loop: LoopThread) -> Iterator[Callable[..., tuple[Peer, Rig]]]:
    """Start a peer with a behaviour, and a relay to it, over plain TCP or TLS."""
    opened: list[Peer | Rig] = []
    is_tls = request.param == "tls"

    def start(behaviour: Behaviour, **more: object) -> tuple[Peer, Rig]:
        peer = Peer(behaviour, tls=peers.server_tls(SERVER) if is_tls else None)
        opened.append(peer)
        rig = Rig(loop, [peer], tls=trusting() if is_tls else None, **more)  # type: ignore[arg-type]
        opened.append(rig)
        return peer, rig

    yield start
    for one in reversed(opened):
        one.close()


@pytest.fixture
def silent_backlog() -> Iterator[int]:
    """A port on which connections are never accepted: the kernel leaves the SYN unanswered once the queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        yield port
        for filler in fillers:
            filler.close()


# Bytes and orderly endings


def test_an_echo_comes_back_whole_and_is_counted(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    size = 3 * payload.MIB
    peer, rig = serve(peers.echo)
    with client.connect(rig.port) as app:
        upload = client.Upload(app, payload.blocks(size))
        assert client.digest_to_end(app) == (size, payload.sha256(size))
        upload.finish()
    assert rig.wait_for_end() == [Outcome.COMPLETED]
    assert peer.wait_for_ending() == "eof"
    stats = rig.cluster.stats
    assert (stats.upstream_cx_tx_bytes_total, stats.upstream_cx_rx_bytes_total) == (size, size)
    assert rig.listener.stats.downstream_cx_rx_bytes_total == size
    assert (stats.upstream_cx_total, stats.upstream_cx_destroy) == (1, 1)
    assert rig.listener.byte_totals() == (size, size)
    assert rig.cluster.byte_totals() == (size, size)


def test_the_application_may_end_first_and_still_read(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    _, rig = serve(peers.answer_after_end)
    with client.connect(rig.port) as app:
        app.sendall(b"question")
        app.shutdown(socket.SHUT_WR)
        assert client.read_to_end(app).startswith(b"8 ")
    assert rig.wait_for_end() == [Outcome.COMPLETED]
    assert rig.cluster.stats.upstream_cx_destroy_remote == 1


def test_the_upstream_may_end_first_and_still_read(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    peer, rig = serve(peers.end_then_read(b"bye"))
    with client.connect(rig.port) as app:
        assert client.read_to_end(app) == b"bye"
        for block in payload.blocks(payload.MIB):
            app.sendall(block)
        app.shutdown(socket.SHUT_WR)
        assert peer.wait_for_ending() == "eof"
    assert peer.seen[0].received_bytes == payload.MIB
    assert rig.wait_for_end() == [Outcome.COMPLETED]


def test_a_banner_reaches_an_application_that_ended_at_once(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    _, rig = serve(peers.banner(b"220 ready\r\n"))
    with client.connect(rig.port) as app:
        app.shutdown(socket.SHUT_WR)
        assert client.read_to_end(app) == b"220 ready\r\n"
    assert rig.wait_for_end() == [Outcome.COMPLETED]


def test_early_data_and_an_early_end_wait_for_the_upstream(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    _, rig = serve(peers.answer_after_end)
    question = b"q" * 200_000
    with client.connect(rig.port) as app:
        upload = client.Upload(app, [question])
        assert client.read_to_end(app).startswith(b"200000 ")
        upload.finish()
    assert rig.wait_for_end() == [Outcome.COMPLETED]


# Resets


def test_a_reset_of_the_upstream_reaches_the_application(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    _, rig = serve(peers.reset_after(4))
    with client.connect(rig.port) as app:
        app.sendall(b"ping")
        assert client.was_reset(app)
    assert rig.wait_for_end() == [Outcome.UPSTREAM_RESET]
    assert rig.cluster.stats.upstream_cx_destroy_remote == 1


def test_a_reset_of_the_application_reaches_the_upstream(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    peer, rig = serve(peers.echo)
    app = client.connect(rig.port)
    app.sendall(b"ping")
    assert client.read_exactly(app, 4) == b"ping"
    client.reset(app)
    assert peer.wait_for_ending() == "reset"
    assert rig.wait_for_end() == [Outcome.DOWNSTREAM_RESET]
    assert rig.cluster.stats.upstream_cx_destroy_local == 1


# Bounded memory


def buffered(rig: Rig) -> int:
    """The bytes that wait inside the proxy, both ways."""
    relay = rig.relay()
    assert relay.upstream is not None
    sides = relay, relay.upstream
    in_pipes = sum(side.splice.held for side in sides if side.splice is not None)
    return in_pipes + sum(side.transport.get_write_buffer_size() for side in sides)


LIMIT_BYTES = 2 * 256 * 1024 + 64 * 1024
"""Per direction: what is over the high-water mark, one read, and the framing of TLS."""


def test_a_peer_that_does_not_read_stops_the_application(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    release = threading.Event()
    size = 24 * payload.MIB
    peer, rig = serve(peers.holding(release))
    with client.connect(rig.port) as app:
        upload = client.Upload(app, payload.blocks(size))
        relay = rig.wait_for_relay()
        accepted = grows_no_more(rig, lambda: relay.received)
        assert accepted < size
        assert 0 < rig.loop.look(lambda: buffered(rig)) <= LIMIT_BYTES
        release.set()
        upload.finish()
        assert client.read_to_end(app) == b""
    assert peer.wait_for_ending() == "eof"
    assert peer.seen[0].sha256 == payload.sha256(size)
    assert rig.wait_for_end() == [Outcome.COMPLETED]


def never_says_stop() -> bool:
    """Some versions of asyncio, from Python 3.12 on: what writelines() is given fills their buffer for ever."""
    writelines = vars(selector_events._SelectorSocketTransport).get("writelines")
    return writelines is not None and "_maybe_pause_protocol" not in writelines.__code__.co_names


def test_an_application_that_does_not_read_stops_the_peer(
    serve: Callable[..., tuple[Peer, Rig]], loop: LoopThread
) -> None:
    if isinstance(loop.loop, asyncio.SelectorEventLoop) and never_says_stop():
        pytest.skip("writelines() of this Python's own event loop, on which nothing runs but tests, never says stop")
    size = 24 * payload.MIB
    _, rig = serve(peers.source(size))
    with client.connect(rig.port) as app:
        upstream = rig.wait_for_relay().upstream
        assert upstream is not None
        assert grows_no_more(rig, lambda: upstream.received) < size
        assert 0 < rig.loop.look(lambda: buffered(rig)) <= LIMIT_BYTES
        assert client.digest_to_end(app) == (size, payload.sha256(size))
    assert rig.wait_for_end() == [Outcome.COMPLETED]


class FakeTransport:
    """Takes ``room`` bytes and then says that it is full, as a transport does, from within the write."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.taken = b""
        self.reading = True
        self.calls: list[str] = []
        self.protocol: Downstream | Upstream | None = None
        self._is_full = False

    def write(self, data: bytes) -> None:
        self.taken += data
        if len(self.taken) > self.room and not self._is_full:
            self._is_full = True
            assert self.protocol is not None
            self.protocol.pause_writing()

    def writelines(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default


def test_early_data_that_fills_the_upstream_keeps_reading_paused(one_loop: LoopThread) -> None:
    with Peer(peers.echo) as peer, Rig(one_loop, [peer]) as rig:

        def scenario() -> None:
            downstream = Downstream(rig.listener)
            downstream.cluster = rig.cluster
            near, far = FakeTransport(), FakeTransport(room=1000)
            downstream.transport = near
            downstream.data_received(b"x" * 2000)
            assert not near.reading, "one read is held, no more is read"
            (endpoint,) = rig.cluster.balancer
            upstream = Upstream(downstream, endpoint)
            far.protocol = upstream
            upstream.connection_made(far)  # type: ignore[arg-type]
            assert far.taken == b"x" * 2000
            assert not near.reading, "the upstream is full"
            upstream.resume_writing()
            assert near.reading

        one_loop.look(scenario)


# Endings before there is an upstream


def test_an_application_that_resets_while_connecting(loop: LoopThread, silent_backlog: int) -> None:
    with Rig(loop, [at("127.0.0.1", silent_backlog)]) as rig:
        app = client.connect(rig.port)
        loop.until(lambda: rig.cluster.stats.upstream_cx_active == 1, "the attempt")
        client.reset(app)
        assert rig.wait_for_end() == [Outcome.DOWNSTREAM_CLOSED_EARLY]
        assert rig.cluster.stats.upstream_cx_connect_fail == 0, "nothing is held against the endpoint"


def is_closed_without_a_byte(port: int) -> bool:
    with client.connect(port) as app:
        return client.read_to_end(app) == b""


def test_a_listener_without_a_cluster_closes(loop: LoopThread) -> None:
    with Rig(loop, []) as rig:
        rig.listener.cluster = None
        assert is_closed_without_a_byte(rig.port)
        assert rig.wait_for_end() == [Outcome.NO_CLUSTER]


def test_nobody_listens(loop: LoopThread) -> None:
    with Rig(loop, [at("127.0.0.1", 1)]) as rig:
        assert is_closed_without_a_byte(rig.port)
        assert rig.wait_for_end() == [Outcome.UPSTREAM_CONNECT_FAILED]
        (endpoint,) = rig.cluster.balancer
        assert endpoint.last_verdict is not None
        assert endpoint.last_verdict.cause == "refused"


def test_a_fault_of_ours_while_connecting_ends_the_connection(
    loop: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    with Peer(peers.echo) as peer, Rig(loop, [peer]) as rig:

        async def fail(_: Downstream) -> Outcome | None:
            raise ZeroDivisionError

        rig.cluster.connect = fail  # type: ignore[method-assign, assignment]
        with client.connect(rig.port, timeout_s=5) as app:
            assert client.read_to_end(app) == b"", "the application is not left hanging"
        rig.loop.until(lambda: rig.ended, "the relay to end")
        assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("access", "limit", "outcome"),
    [(Access.FORBID, 10, Outcome.FORBIDDEN), (Access.ALLOW, 0, Outcome.OVERFLOW)],
    ids=["forbidden", "overflow"],
)
def test_a_connection_that_may_not_be(loop: LoopThread, access: Access, limit: int, outcome: Outcome) -> None:
    with Peer(peers.echo) as peer, Rig(loop, [peer], access=access, max_connections=limit) as rig:
        assert is_closed_without_a_byte(rig.port)
        assert rig.wait_for_end() == [outcome]
        assert peer.seen == [], "the upstream never hears of it"


# Time


def test_an_idle_relay_is_ended_and_a_busy_one_is_not(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    peer, rig = serve(peers.echo, idle_timeout_s=0.4)
    with client.connect(rig.port) as idle, client.connect(rig.port) as busy:
        idle.sendall(b"a")
        assert client.read_exactly(idle, 1) == b"a"
        deadline = time.monotonic() + 0.9
        while time.monotonic() < deadline:
            busy.sendall(b"b")
            assert client.read_exactly(busy, 1) == b"b"
            time.sleep(0.02)
        assert rig.ended == [Outcome.IDLE_TIMEOUT]
        assert idle.recv(1) == b""
    assert rig.wait_for_end(2) == [Outcome.IDLE_TIMEOUT, Outcome.COMPLETED]
    assert rig.cluster.stats.upstream_cx_idle_timeout == rig.listener.stats.idle_timeout == 1
    assert len(peer.seen) == 2


def test_a_stalled_application_cannot_outlive_the_idle_timeout(loop: LoopThread) -> None:
    """What waits for it in our buffer must not keep the relay open for ever."""
    with (
        Peer(peers.source(24 * payload.MIB)) as peer,
        Rig(loop, [peer], idle_timeout_s=0.4) as rig,
        client.connect(rig.port),
    ):
        rig.wait_for_relay()
        assert rig.wait_for_end() == [Outcome.IDLE_TIMEOUT]


# Memory


def new_sides() -> int:
    """Those made since the collector was stopped: what is older is no longer young."""
    return sum(isinstance(one, Downstream | Upstream | TlsStream) for one in gc.get_objects(generation=0))


@pytest.mark.parametrize("ending", ["orderly", "upstream reset", "application reset"])
def test_a_relay_is_freed_without_the_collector(serve: Callable[..., tuple[Peer, Rig]], ending: str) -> None:
    behaviour = peers.reset_after(8) if ending == "upstream reset" else peers.echo
    _, rig = serve(behaviour)
    gc.collect()
    gc.disable()
    try:
        app = client.connect(rig.port)
        if ending != "upstream reset":
            app.sendall(b"ping")
            assert client.read_exactly(app, 4) == b"ping"
        rig.wait_for_relay()
        assert new_sides() >= 2
        if ending == "application reset":
            client.reset(app)
        elif ending == "orderly":
            app.close()
        else:
            app.sendall(b"12345678")
            assert client.was_reset(app)
            app.close()
        rig.wait_for_end()
        poll.until(lambda: new_sides() == 0, "both sides to be freed", within_s=3)
    finally:
        gc.enable()
