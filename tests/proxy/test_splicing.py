"""Guarantee: what the kernel moves from socket to socket arrives as if it had been read and written: whole, in order,
counted, bounded; each ending is passed on; TLS is never moved so; and it is given back whenever it is no help.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import select
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from proxy import splicing
from proxy.outcome import Outcome
from proxy.relay import Downstream, Upstream
from proxy.splicing import PIPE_BYTES, SMALL_MOVES, Source, Splice, Splices
from tests.kit import client, payload, peers, poll
from tests.kit.peers import Behaviour, Peer, Visit
from tests.proxy.rig import SERVER, LoopThread, Rig, grows_no_more, trusting

SIZE = 24 * payload.MIB
MUCH = 8 * payload.MIB


class Begun:
    """Notes what :meth:`Splices.begin` answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[bool] = []
        begin = Splices.begin

        def noting(splices: Splices, source: Source, *more: object) -> bool:
            answer = begin(splices, source, *more)  # type: ignore[arg-type]
            self.answers.append(answer)
            return answer

        monkeypatch.setattr(Splices, "begin", noting)

    @property
    def any(self) -> bool:
        return True in self.answers


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    return Begun(monkeypatch)


@pytest.fixture(autouse=True)
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that want one call it: a machine that is slow must not bring one about."""
    monkeypatch.setattr(splicing, "SWEEP_INTERVAL_S", 1000.0)


@pytest.fixture
def serve(one_loop: LoopThread) -> Iterator[Callable[..., tuple[Peer, Rig]]]:
    opened: list[Peer | Rig] = []

    def start(behaviour: Behaviour, *, at: str = "127.0.0.1") -> tuple[Peer, Rig]:
        peer = Peer(behaviour, at=at)
        opened.append(peer)
        rig = Rig(one_loop, [peer])
        opened.append(rig)
        return peer, rig

    yield start
    for one in reversed(opened):
        one.close()


def feed(release: threading.Event, then: Callable[[Visit], None]) -> Behaviour:
    """Sends ``MUCH``, and does something when released."""

    def behave(visit: Visit) -> None:
        for block in payload.blocks(MUCH):
            visit.send(block)
        assert release.wait(10)
        then(visit)

    return behave


def flood(visit: Visit) -> None:
    """Sends until that fails."""
    while True:
        visit.send(bytes(payload.BLOCK_BYTES))


def splice_of(rig: Rig, side: str) -> Splice | None:
    for relay in rig.listener.connections:
        assert isinstance(relay, Downstream)
        one = relay if side == "downstream" else relay.upstream
        return one.splice if one is not None else None
    return None


def wait_for_splice(rig: Rig, side: str) -> Splice:
    """The one that reads ``side``."""
    rig.loop.until(lambda: splice_of(rig, side), f"the {side} to be spliced")
    splice = rig.loop.look(lambda: splice_of(rig, side))
    assert splice is not None
    return splice


def wait_for_full(rig: Rig, side: str) -> Splice:
    """The same, once its sink takes no more."""
    rig.loop.until(lambda: (one := splice_of(rig, side)) is not None and one.held, "a pipe that waits")
    return wait_for_splice(rig, side)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Bytes


@pytest.mark.parametrize("where", ["tcp", "unix"])
def test_bulk_both_ways_comes_back_whole_and_is_counted(
    where: str, serve: Callable[..., tuple[Peer, Rig]], begun: Begun, tmp_path: Path
) -> None:
    peer, rig = serve(peers.echo, at=str(tmp_path / "socket") if where == "unix" else "127.0.0.1")
    before = descriptors()
    with client.connect(rig.port) as app:
        upload = client.Upload(app, payload.blocks(SIZE))
        assert client.digest_to_end(app) == (SIZE, payload.sha256(SIZE))
        upload.finish()
    assert begun.any
    assert rig.wait_for_end() == [Outcome.COMPLETED]
    assert peer.wait_for_ending() == "eof"
    stats = rig.cluster.stats
    assert (stats.upstream_cx_tx_bytes_total, stats.upstream_cx_rx_bytes_total) == (SIZE, SIZE)
    assert not rig.services.splices.active
    poll.until(lambda: descriptors() <= before, "every descriptor to be closed")


def test_what_little_follows_is_read_again_and_much_is_spliced_again(
    serve: Callable[..., tuple[Peer, Rig]], begun: Begun
) -> None:
    release, go_on = threading.Event(), threading.Event()

    def drip(visit: Visit) -> None:
        for _ in range(SMALL_MOVES + 1):
            visit.send(b"x")
            visit.recv(1)
        assert go_on.wait(10)
        for block in payload.blocks(MUCH):
            visit.send(block)
        visit.end()

    _, rig = serve(feed(release, drip))
    with client.connect(rig.port) as app:
        client.read_exactly(app, MUCH)
        wait_for_splice(rig, "upstream")
        release.set()
        for _ in range(SMALL_MOVES + 1):
            assert client.read_exactly(app, 1) == b"x"
            app.sendall(b"y")
        rig.loop.until(lambda: splice_of(rig, "upstream") is None, "the transport to read again")
        begun.answers.clear()
        go_on.set()
        assert client.digest_to_end(app) == (MUCH, payload.sha256(MUCH))
        assert begun.any
        assert rig.cluster.stats.upstream_cx_spliced_total >= 2
    assert rig.wait_for_end() == [Outcome.COMPLETED]


def test_what_is_within_tls_is_not_spliced(one_loop: LoopThread, begun: Begun) -> None:
    """The socket below carries records."""
    with Peer(peers.echo, tls=peers.server_tls(SERVER)) as peer, Rig(one_loop, [peer], tls=trusting()) as rig:
        with client.connect(rig.port) as app:
            upload = client.Upload(app, payload.blocks(SIZE))
            assert client.digest_to_end(app) == (SIZE, payload.sha256(SIZE))
            upload.finish()
        assert rig.wait_for_end() == [Outcome.COMPLETED]
    assert begun.answers, "it was asked for"
    assert not begun.any


def test_urgent_data_does_not_stop_the_flow(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    """Splice goes no further than to where it was, and epoll says all the while that there is something to read."""
    release = threading.Event()

    def urge(visit: Visit) -> None:
        visit.stream.sock.send(b"!", socket.MSG_OOB)
        visit.send(b"behind")
        visit.read_to_end()

    _, rig = serve(feed(release, urge))
    with client.connect(rig.port) as app:
        client.read_exactly(app, MUCH)
        wait_for_splice(rig, "upstream")
        release.set()
        assert client.read_exactly(app, 6) == b"behind", "as where it is read, which does not ask for urgent data"
    assert rig.wait_for_end() == [Outcome.COMPLETED]


def test_a_sink_that_only_seems_to_be_writable(
    serve: Callable[..., tuple[Peer, Rig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the kernel has no memory for it: the transport has it then, with what is in the pipe."""
    splice = os.splice
    refused: list[int] = []

    def into_the_source_only(source: int, sink: int, count: int, *, flags: int) -> int:
        one = next(iter(rig.services.splices.active))
        if source == one._from_pipe:
            refused.append(count)
            raise BlockingIOError
        return splice(source, sink, count, flags=flags)

    monkeypatch.setattr(os, "splice", into_the_source_only)
    _, rig = serve(peers.source(SIZE))
    with client.connect(rig.port) as app:
        assert client.digest_to_end(app) == (SIZE, payload.sha256(SIZE))
    assert refused
    assert rig.wait_for_end() == [Outcome.COMPLETED]


# Ends


def test_an_end_is_passed_on_and_the_other_direction_goes_on(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    _, rig = serve(peers.answer_after_end)
    with client.connect(rig.port) as app:
        upload = client.Upload(app, payload.blocks(SIZE))
        wait_for_splice(rig, "downstream")
        answer = client.read_to_end(app)
        upload.finish()
    assert answer == f"{SIZE} {payload.sha256(SIZE)}".encode()
    assert rig.wait_for_end() == [Outcome.COMPLETED]


def test_a_reset_of_the_source_reaches_the_application(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    release = threading.Event()
    _, rig = serve(feed(release, lambda visit: visit.reset()))
    with client.connect(rig.port) as app:
        client.read_exactly(app, MUCH)
        wait_for_splice(rig, "upstream")
        release.set()
        assert client.was_reset(app)
    assert rig.wait_for_end() == [Outcome.UPSTREAM_RESET]
    assert rig.cluster.stats.upstream_cx_destroy_remote == 1
    assert rig.cluster.stats.upstream_cx_rx_bytes_total == MUCH


def test_a_reset_of_the_source_reaches_the_upstream(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    peer, rig = serve(peers.discard)
    app = client.connect(rig.port)
    for block in payload.blocks(MUCH):
        app.sendall(block)
    wait_for_splice(rig, "downstream")
    client.reset(app)
    assert peer.wait_for_ending() == "reset"
    assert rig.wait_for_end() == [Outcome.DOWNSTREAM_RESET]
    assert rig.cluster.stats.upstream_cx_destroy_local == 1


@pytest.mark.parametrize("is_full", [False, True], ids=["in the flow", "while it takes nothing"])
def test_a_reset_of_the_sink_reaches_the_source(serve: Callable[..., tuple[Peer, Rig]], is_full: bool) -> None:
    peer, rig = serve(flood)
    app = client.connect(rig.port)
    if is_full:
        wait_for_full(rig, "upstream")
    else:
        client.read_exactly(app, MUCH)
        wait_for_splice(rig, "upstream")
    client.reset(app)
    assert peer.wait_for_ending() == "reset"
    assert rig.wait_for_end() == [Outcome.DOWNSTREAM_RESET]


def test_a_sink_that_only_the_splice_writes_to_breaks(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    """Both directions are spliced, so that nobody else may be told of it."""
    peer, rig = serve(peers.echo)
    app = client.connect(rig.port)
    upload = client.Upload(app, payload.blocks(1 << 40))
    client.read_exactly(app, MUCH)
    rig.loop.until(lambda: splice_of(rig, "upstream") and splice_of(rig, "downstream"), "both to be spliced")
    client.reset(app)
    assert peer.wait_for_ending() == "reset"
    assert rig.wait_for_end() == [Outcome.DOWNSTREAM_RESET]
    with pytest.raises(OSError, match=r"."):
        upload.finish()


def test_descriptors_go_with_the_connection_that_is_lost(
    serve: Callable[..., tuple[Peer, Rig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would keep it open for as long as the other side takes to close."""
    left: list[Splice | None] = []
    settle = Downstream._settle

    def noting(relay: Downstream) -> None:
        left.append(relay.upstream.splice if relay.upstream is not None else None)
        settle(relay)

    monkeypatch.setattr(Downstream, "_settle", noting)
    _, rig = serve(flood)
    app = client.connect(rig.port)
    wait_for_full(rig, "upstream")
    relay = rig.loop.look(rig.relay)
    rig.loop.look(relay.transport.abort)
    assert len(rig.wait_for_end()) == 1
    assert left == [None, None]
    app.close()


@pytest.mark.parametrize("end", ["orderly", "abortive"])
def test_an_end_of_ours_with_bytes_in_the_pipe(serve: Callable[..., tuple[Peer, Rig]], end: str) -> None:
    """In order, whatever was taken from the source goes to the sink first."""
    _, rig = serve(flood)
    with client.connect(rig.port) as app:
        wait_for_full(rig, "upstream")
        relay = rig.loop.look(rig.relay)
        upstream = relay.upstream
        assert upstream is not None
        rig.loop.look(relay.abort if end == "abortive" else lambda: relay.end(Outcome.IDLE_TIMEOUT))
        total = 0
        try:
            while data := app.recv(1 << 20):
                total += len(data)
        except ConnectionResetError:
            assert end == "abortive"
        assert (total == upstream.received) or end == "abortive"
    assert len(rig.wait_for_end()) == 1
    assert not rig.services.splices.active


# Memory


def test_a_sink_that_takes_nothing_stops_the_source_and_gives_its_place_up(
    serve: Callable[..., tuple[Peer, Rig]], begun: Begun
) -> None:
    _, rig = serve(peers.source(SIZE))
    with client.connect(rig.port) as app:
        splice = wait_for_full(rig, "upstream")
        upstream = rig.loop.look(rig.relay).upstream
        assert upstream is not None
        assert grows_no_more(rig, lambda: upstream.received) < SIZE
        held = rig.loop.look(lambda: splice.held)
        assert 0 < held <= PIPE_BYTES

        def sweep_twice() -> tuple[Splice | None, int]:
            splice.give_way_if_idle()
            splice.give_way_if_idle()
            return upstream.splice, rig.relay().transport.get_write_buffer_size()

        left, waits = rig.loop.look(sweep_twice)
        assert left is None
        assert waits <= held
        begun.answers.clear()
        assert client.digest_to_end(app) == (SIZE, payload.sha256(SIZE))
        assert begun.any, "it is taken over again"
    assert rig.wait_for_end() == [Outcome.COMPLETED]


def test_one_that_moves_keeps_its_place(serve: Callable[..., tuple[Peer, Rig]]) -> None:
    release = threading.Event()
    _, rig = serve(feed(release, lambda visit: visit.end()))
    with client.connect(rig.port) as app:
        client.read_exactly(app, MUCH)
        splice = wait_for_splice(rig, "upstream")
        rig.loop.look(rig.services.splices._look_for_idle)
        assert splice_of(rig, "upstream") is splice, "it has moved something since it began"
        rig.loop.look(rig.services.splices._look_for_idle)
        assert splice_of(rig, "upstream") is None
        release.set()
        assert client.read_to_end(app) == b""
    assert rig.wait_for_end() == [Outcome.COMPLETED]


def test_sweeps_come_by_themselves(serve: Callable[..., tuple[Peer, Rig]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splicing, "SWEEP_INTERVAL_S", 0.02)
    release = threading.Event()
    _, rig = serve(feed(release, lambda visit: visit.end()))
    with client.connect(rig.port) as app:
        client.read_exactly(app, MUCH)
        rig.loop.until(lambda: not rig.services.splices.active, "the splice to give way")
        release.set()
        assert client.read_to_end(app) == b""


@pytest.mark.parametrize("ending", ["orderly", "reset"])
def test_a_spliced_relay_is_freed_without_the_collector(serve: Callable[..., tuple[Peer, Rig]], ending: str) -> None:
    def alive() -> int:
        return sum(isinstance(one, Downstream | Upstream | Splice) for one in gc.get_objects(generation=0))

    _, rig = serve(peers.discard)
    gc.collect()
    gc.disable()
    try:
        app = client.connect(rig.port)
        for block in payload.blocks(MUCH):
            app.sendall(block)
        rig.loop.until(lambda: splice_of(rig, "downstream"), "the downstream to be spliced")
        assert alive() >= 3
        if ending == "reset":
            client.reset(app)
        else:
            app.close()
        rig.wait_for_end()
        poll.until(lambda: alive() == 0, "both sides and the splice to be freed", within_s=3)
    finally:
        gc.enable()


# Rest


def turns(rig: Rig, calls: list[int]) -> bool:
    """Whether the loop is busy while nothing moves; ``calls`` are those of the splices."""
    before_s, before = rig.loop.look(time.thread_time), len(calls)
    time.sleep(0.25)
    return rig.loop.look(time.thread_time) - before_s > 0.05 or len(calls) - before > 5


@pytest.mark.parametrize("half_closed", [False, True], ids=["both go on", "one has ended"])
def test_the_loop_rests_while_nothing_moves(
    half_closed: bool, serve: Callable[..., tuple[Peer, Rig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sink that is full, then with a source that is silent, of which none is watched for what it has."""
    calls: list[int] = []
    go_on = Splices._go_on
    monkeypatch.setattr(Splices, "_go_on", lambda splices: (calls.append(1), go_on(splices)))
    release = threading.Event()
    _, rig = serve(feed(release, lambda visit: visit.reset()))
    with client.connect(rig.port) as app:
        if half_closed:
            app.shutdown(socket.SHUT_WR)
        splice = wait_for_full(rig, "upstream")
        assert not turns(rig, calls), "the sink takes nothing"
        client.read_exactly(app, MUCH)
        rig.loop.until(lambda: not splice.held, "all of it to have gone")
        assert splice_of(rig, "upstream") is splice
        assert not turns(rig, calls), "the source sends nothing"
        release.set()
        assert client.was_reset(app)
        rig.wait_for_end()
        assert not turns(rig, calls), "it is over"


# Where it cannot be


def relay_whole(rig: Rig, relays: int = 1) -> None:
    for number in range(1, relays + 1):
        with client.connect(rig.port) as app:
            assert client.digest_to_end(app) == (SIZE, payload.sha256(SIZE))
        rig.wait_for_end(number)


def test_there_are_only_so_many(
    serve: Callable[..., tuple[Peer, Rig]], begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splicing, "MAX_SPLICES", 1)
    _, rig = serve(peers.source(SIZE))
    with client.connect(rig.port) as one:
        wait_for_full(rig, "upstream")
        begun.answers.clear()
        with client.connect(rig.port) as other:
            assert client.digest_to_end(other) == (SIZE, payload.sha256(SIZE))
        assert begun.answers
        assert not begun.any
        assert client.digest_to_end(one) == (SIZE, payload.sha256(SIZE))
    assert rig.wait_for_end(2) == [Outcome.COMPLETED] * 2


@pytest.mark.parametrize("step", ["out of the source", "into the sink"])
def test_a_kernel_that_does_not_splice_is_asked_once(
    step: str, serve: Callable[..., tuple[Peer, Rig]], begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    splice = os.splice
    asked = 0

    def refuse(source: int, sink: int, count: int, *, flags: int) -> int:
        nonlocal asked
        asked += 1
        if step == "out of the source" or asked == 2:
            raise OSError(errno.EINVAL, "splice")
        return splice(source, sink, count, flags=flags)

    monkeypatch.setattr(os, "splice", refuse)
    _, rig = serve(peers.source(SIZE))
    before = descriptors()
    relay_whole(rig, 2)
    assert begun.answers.count(True) == 1
    assert asked == (1 if step == "out of the source" else 2)
    poll.until(lambda: descriptors() <= before, "every descriptor to be closed")


def test_a_kernel_that_has_no_memory_is_asked_again(
    serve: Callable[..., tuple[Peer, Rig]], begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    splice = os.splice
    asked = 0

    def refuse(source: int, sink: int, count: int, *, flags: int) -> int:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError(errno.ENOBUFS, "splice")
        return splice(source, sink, count, flags=flags)

    monkeypatch.setattr(os, "splice", refuse)
    _, rig = serve(peers.source(SIZE))
    relay_whole(rig)
    assert begun.answers.count(True) > 1


@pytest.mark.parametrize("lacking", ["dup", "pipe2", "fcntl"])
def test_without_descriptors_or_pipes_it_is_read_and_written(
    lacking: str, serve: Callable[..., tuple[Peer, Rig]], begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(fcntl if lacking == "fcntl" else os, lacking, fail)
    _, rig = serve(peers.source(SIZE))
    before = descriptors()
    relay_whole(rig)
    assert begun.answers
    assert not begun.any
    poll.until(lambda: descriptors() <= before, "every descriptor to be closed")


class Epoll:
    """Has room for so many, one after the other."""

    room = 0

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def register(self, descriptor: int, events: int) -> None:
        if not Epoll.room:
            raise OSError(errno.ENOSPC, "too many")
        Epoll.room -= 1
        self._epoll.register(descriptor, events)

    def __getattr__(self, name: str) -> object:
        return getattr(self._epoll, name)


def without_descriptors() -> Epoll:
    raise OSError(errno.EMFILE, "too many")


@pytest.mark.parametrize("lacking", ["a descriptor", "room for the source", "room for the sink"])
def test_where_sockets_cannot_be_watched_they_are_read_and_written(
    lacking: str, serve: Callable[..., tuple[Peer, Rig]], begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoll is a descriptor like others, and of what is in one a user has only so much (epoll(7))."""
    Epoll.room = 1 if lacking == "room for the sink" else 0
    made = without_descriptors if lacking == "a descriptor" else Epoll
    monkeypatch.setattr(
        splicing, "select", SimpleNamespace(epoll=made, EPOLLIN=select.EPOLLIN, EPOLLOUT=select.EPOLLOUT)
    )
    _, rig = serve(peers.source(SIZE))
    before = descriptors()
    with client.connect(rig.port) as app:
        rig.loop.until(lambda: begun.answers and not rig.services.splices.active, "it to be tried")
        assert client.digest_to_end(app) == (SIZE, payload.sha256(SIZE))
    assert rig.wait_for_end() == [Outcome.COMPLETED]
    assert begun.answers.count(True) == (lacking == "room for the sink")
    poll.until(lambda: descriptors() <= before, "every descriptor to be closed")


def test_nothing_that_waits_to_be_written_is_overtaken(one_loop: LoopThread) -> None:
    release = threading.Event()

    def behave(visit: Visit) -> None:
        assert release.wait(10)
        visit.send(b"behind")
        visit.end()

    with Peer(behave) as peer, Rig(one_loop, [peer]) as rig, client.connect(rig.port) as app:
        relay = rig.wait_for_relay()
        upstream = relay.upstream
        assert upstream is not None

        def fill() -> int:
            """The socket, of which its transport knows nothing."""
            sock = cast("socket.socket", relay.transport.get_extra_info("socket"))
            filled = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    filled += os.write(sock.fileno(), bytes(65536))
            return filled

        def begin() -> bool:
            relay.transport.write(b"before")
            return rig.services.splices.begin(upstream, relay, SIZE)

        filled = one_loop.look(fill)
        assert one_loop.look(begin) is False
        release.set()
        assert client.read_to_end(app) == bytes(filled) + b"before" + b"behind"


def test_a_connection_that_is_closing_is_not_begun(one_loop: LoopThread) -> None:
    with Peer(peers.echo) as peer, Rig(one_loop, [peer]) as rig, client.connect(rig.port) as app:
        relay = rig.wait_for_relay()
        upstream = relay.upstream
        assert upstream is not None

        def close() -> tuple[bool, bool]:
            relay.transport.close()
            return rig.services.splices.begin(upstream, relay, SIZE), rig.services.splices.begin(relay, upstream, SIZE)

        assert rig.loop.look(close) == (False, False)
        assert app.recv(1) == b""


def test_what_a_move_costs(one_loop: LoopThread) -> None:
    """Calls: what has come is moved by two of the kernel's, and accounted for by one of ours."""
    size = 32 * 1024
    release = threading.Event()

    def behave(visit: Visit) -> None:
        assert release.wait(10)
        visit.send(bytes(size))
        visit.read_to_end()

    with Peer(behave) as peer, Rig(one_loop, [peer]) as rig, client.connect(rig.port) as app:
        relay = rig.wait_for_relay()
        upstream = relay.upstream
        assert upstream is not None
        one_loop.look(upstream.transport.pause_reading)
        release.set()
        sock = cast("socket.socket", upstream.transport.get_extra_info("socket"))

        def waiting() -> int:
            return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)

        poll.until(lambda: waiting() == size, "all to have come")
        calls: list[str] = []

        def move() -> int:
            assert rig.services.splices.begin(upstream, relay, SIZE)
            splice = upstream.splice
            assert splice is not None

            def note(frame: object, event: str, function: object) -> None:
                calls.append(event if event == "call" else f"{event} {getattr(function, '__name__', '')}")

            sys.setprofile(note)
            splice.go_on()
            sys.setprofile(None)
            return upstream.received

        assert one_loop.look(move) == size
        assert calls.count("call") <= 3, calls
        assert calls.count("c_call splice") <= 4, calls
        assert client.read_exactly(app, size) == bytes(size)
