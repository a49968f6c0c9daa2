"""Bulk of plain connections, moved from socket to socket by the kernel: no byte of it comes here.

Who has read much (``LARGE_READ_BYTES``) several times, and passes it on as it came, may have a :class:`Splice` take
that direction over: the source's transport reads no more, and ``splice(2)`` moves pages from the one socket into a pipe
and from the pipe into the other. Nothing else changes hands: the other direction, ends, timeouts and accounts stay
where they were, and the transports get it back as soon as this is no help.

    what a splice meets                   what becomes of it
    ----------------------------------    --------------------------------------------------------------------------
    the end of the stream, or of what     the transport reads again, and meets the end itself
    may be spliced; little at a time
    a socket that is ready, and is not    likewise: splice stands before urgent data (RFC 9293 §3.8.5), which a read
                                          passes over, and the loop would turn for as long
    a sink that is full                   the source is left alone until the sink has taken what is in the pipe
    a fault of a socket                   the kernel tells of it once: :meth:`End.socket_broke` is told
    nobody sends or takes any more        what is in the pipe goes to the sink's transport, which the source's stops for
                                          as ever; another may have the place
    a kernel that does not do it          likewise, and it is not asked again; where it has no memory, just likewise

**TLS is never spliced**: only transports that are known to be the event loop's own sockets are.

The descriptors are our own (``dup``): a number that the event loop has closed may be somebody else's the next moment.
They hold the connection open, so whoever loses a connection ends its splices first. And the epoll is our own, seen by
the loop as one descriptor: the loop itself would not tell us of a broken socket, only stop watching it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import socket
from typing import Protocol, cast

from uvloop.loop import TCPTransport, UnixTransport  # type: ignore[attr-defined]

PIPE_BYTES = 256 * 1024
"""As much as a read: what waits in one direction of a relay is no more than before."""
TURN_BYTES = 2 * PIPE_BYTES
"""What a splice moves before it is another's turn."""
SPLICES_PER_TURN = 8
MAX_SPLICES = 64
"""At a time, of the process. Each takes four descriptors, and a pipe, of which a user has 64 MiB in all (pipe(7))."""
DESCRIPTORS = 4 * MAX_SPLICES + 1

LARGE_READS = 4
"""So many, and a splice is worth its beginning."""
SMALL_BYTES = 16 * 1024
SMALL_MOVES = 16
"""So many in a row, and reading is as cheap."""
MORE_BYTES = 64 * 1024
"""Who has sent as much may have sent more meanwhile."""
SWEEP_INTERVAL_S = 1.0
"""Who has moved nothing from one sweep to the next gives up its place."""

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_PLAIN = (TCPTransport, UnixTransport)
_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})
_SCARCE = frozenset({errno.ENOMEM, errno.ENOBUFS})


class Transport(Protocol):
    """The part of an asyncio transport that matters here."""

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool: ...
    def get_write_buffer_size(self) -> int: ...
    def get_extra_info(self, name: str, default: object = None) -> object: ...


class End(Protocol):
    """A connection that is spliced to or from."""

    @property
    def transport(self) -> Transport: ...
    def socket_broke(self) -> None:
        """The kernel has told of a fault, as a reset, and will not tell the transport again: abort it."""


class Source(End, Protocol):
    splice: Splice | None

    def spliced(self, nbytes: int) -> None:
        """So many have been taken from the socket, and will reach the sink unless that breaks."""


class Splices:
    """Those of a process. Made in its event loop."""

    __slots__ = ("_by_descriptor", "_epoll", "_is_able", "_loop", "_sweep", "active")

    def __init__(self) -> None:
        self.active: set[Splice] = set()
        self._loop = asyncio.get_running_loop()
        self._by_descriptor: dict[int, Splice] = {}
        self._epoll: select.epoll | None = None  # while any is active
        self._sweep: asyncio.TimerHandle | None = None
        self._is_able = True

    def begin(self, source: Source, sink: End, limit: int) -> bool:
        """Have what arrives at ``source`` spliced to ``sink``, up to ``limit`` bytes. False where that may not be, as
        within TLS, or not now. Called when all that was read before has been given to the sink's transport.
        """
        reads, writes = source.transport, sink.transport
        if not (self._is_able and isinstance(reads, _PLAIN) and isinstance(writes, _PLAIN)):
            return False
        if len(self.active) >= MAX_SPLICES or reads.is_closing() or writes.is_closing():
            return False
        if writes.get_write_buffer_size():
            return False  # it would be overtaken
        try:
            splice = Splice(self, source, sink, limit)
        except OSError:
            self._rest()
            return False  # there are no more descriptors, or pipes
        reads.pause_reading()
        source.splice = splice
        self.active.add(splice)
        return True

    def watch(self, descriptor: int, events: int, splice: Splice) -> None:
        """Raises ``OSError`` where the kernel has no room for that."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._go_on)
            self._sweep = self._loop.call_later(SWEEP_INTERVAL_S, self._look_for_idle)
        self._epoll.register(descriptor, events)
        self._by_descriptor[descriptor] = splice

    def unwatch(self, descriptor: int) -> None:
        """Harmless where it is not watched."""
        if self._by_descriptor.pop(descriptor, None) is not None:
            assert self._epoll is not None
            self._epoll.unregister(descriptor)

    def ended(self, splice: Splice) -> None:
        self.active.discard(splice)
        self._rest()

    def _rest(self) -> None:
        """While there is none."""
        if not self.active and self._epoll is not None and self._sweep is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._sweep.cancel()
            self._epoll = self._sweep = None

    def cannot(self) -> None:
        """This kernel does not splice sockets such as ours."""
        self._is_able = False

    def _go_on(self) -> None:
        assert self._epoll is not None
        for descriptor, _ in self._epoll.poll(0, SPLICES_PER_TURN):
            splice = self._by_descriptor.get(descriptor)  # one may have ended another
            if splice is not None:
                splice.go_on()

    def _look_for_idle(self) -> None:
        self._sweep = self._loop.call_later(SWEEP_INTERVAL_S, self._look_for_idle)
        for splice in tuple(self.active):
            splice.give_way_if_idle()


class Splice:
    """One direction of two connections. Either the pipe is empty and the source is watched, or it is not and the sink
    is. ``held``: bytes in the pipe. Raises ``OSError`` where descriptors or pipes have run out.
    """

    __slots__ = (
        "_from_pipe", "_left", "_moved", "_moved_before", "_sink", "_sink_socket", "_small_moves", "_source",
        "_source_socket", "_splices", "_to_pipe", "_watched", "held",
    )  # fmt: skip

    def __init__(self, splices: Splices, source: Source, sink: End, limit: int) -> None:
        self._splices = splices
        self._source = source
        self._sink = sink
        self._left = limit
        self.held = 0
        self._moved = 0
        self._moved_before = 0
        self._small_moves = 0
        with contextlib.ExitStack() as opened:
            self._source_socket = _descriptor(source)
            opened.callback(os.close, self._source_socket)
            self._sink_socket = _descriptor(sink)
            opened.callback(os.close, self._sink_socket)
            self._from_pipe, self._to_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            opened.callback(os.close, self._from_pipe)
            opened.callback(os.close, self._to_pipe)
            fcntl.fcntl(self._to_pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            self._watched = self._source_socket
            splices.watch(self._source_socket, select.EPOLLIN, self)
            opened.pop_all()

    def go_on(self) -> None:
        """As far as the sockets go, up to ``TURN_BYTES``."""
        last = self._moved + TURN_BYTES
        while self._moved < last:
            taken = 0
            if not self.held:
                try:
                    taken = os.splice(self._source_socket, self._to_pipe, min(PIPE_BYTES, self._left), flags=_FLAGS)
                except BlockingIOError:
                    if self._moved == last - TURN_BYTES:
                        self.hand_back()  # it was said to be readable, and would be again at once
                        return
                    break
                except OSError as exc:
                    self._failed(exc, self._source)
                    return
                if not taken:
                    self.hand_back()
                    return
                self.held = taken
                self._left -= taken
                self._small_moves = 0 if taken >= SMALL_BYTES else self._small_moves + 1
                self._source.spliced(taken)
            try:
                given = os.splice(self._from_pipe, self._sink_socket, self.held, flags=_FLAGS)
            except BlockingIOError:
                given = 0
            except OSError as exc:
                self._failed(exc, self._sink)
                return
            if not (taken or given):
                self.hand_back()  # the same of one that was said to be writable
                return
            self.held -= given
            self._moved += given
            if self.held:
                self._watch(self._sink_socket, select.EPOLLOUT)
                return
            if taken < MORE_BYTES or not self._left:
                break
        if self._small_moves >= SMALL_MOVES or not self._left:
            self.hand_back()
        else:
            self._watch(self._source_socket, select.EPOLLIN)

    def _watch(self, descriptor: int, events: int) -> None:
        """This one only: epoll tells of a socket's fault whether one asks for it or not."""
        if descriptor != self._watched:
            self._splices.unwatch(self._watched)
            self._watched = descriptor
            try:
                self._splices.watch(descriptor, events, self)
            except OSError:
                self.hand_back()

    def _failed(self, exc: OSError, end: End) -> None:
        if exc.errno in _CANNOT:
            self._splices.cannot()
        if exc.errno in _CANNOT or exc.errno in _SCARCE:
            self.hand_back()
        else:
            self.end()
            end.socket_broke()

    def give_way_if_idle(self) -> None:
        """Called with each sweep."""
        if self._moved == self._moved_before:
            self.hand_back()
        self._moved_before = self._moved

    def hand_back(self) -> None:
        """Both transports go on, with what is in the pipe."""
        rest = os.read(self._from_pipe, self.held) if self.held else b""
        self.end()
        reads, writes = self._source.transport, self._sink.transport
        if not reads.is_closing():
            reads.resume_reading()  # first: what is written now may fill the sink, which pauses again
        if rest and not writes.is_closing():
            writes.write(rest)

    def end(self) -> None:
        """One of the connections is lost, and with it what is in the pipe."""
        self._splices.unwatch(self._watched)
        for descriptor in (self._source_socket, self._sink_socket, self._from_pipe, self._to_pipe):
            os.close(descriptor)
        self._source.splice = None
        self._splices.ended(self)


def _descriptor(end: End) -> int:
    return os.dup(cast("socket.socket", end.transport.get_extra_info("socket")).fileno())
