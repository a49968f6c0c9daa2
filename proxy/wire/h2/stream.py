"""One request and its response, seen from one side (RFC 9113 §5.1): what it hears, and what it is told.

What is sent goes out at once where both windows allow it, the transport takes it and nobody waits; else it queues
here, and the connection sends it on in turn (``turns``). Nothing is refused for want of window: whoever
sends looks at ``queued`` and stops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from proxy.wire import BadMessage, Field
from proxy.wire.h2.codes import ErrorCode
from proxy.wire.h2.compress import FieldBlock
from proxy.wire.h2.frames import DATA, FRAME_BYTES, pack_head

if TYPE_CHECKING:
    from proxy.wire.h2.connection import Connection

# What _left may be besides the bytes of the body that are missing.
UNKNOWN: Final = -1
NO_HEAD_YET: Final = -2

JOINED_BYTES: Final = 1024
"""Data up to this size is joined with its frame head: cheaper than one more piece for the transport."""

BLOCKS_REMEMBERED: Final = 256

_trailer_blocks: dict[tuple[Field, ...], FieldBlock] = {}


class Stream:
    """To be subclassed. One object per stream and side; use it once.

    ``id``: 0 before it is opened. ``queued``: bytes of DATA that wait to be sent. ``local_ended``: our side is
    complete, as far as we were told. ``remote_ended``: the peer's is, with what is being heard. ``closed``: it is over,
    and whatever it is told is ignored. ``fault``: which rule the peer broke, if that was the end. Private attributes
    are the connection's.

    ``onward``: a stream of another connection, on which data may be sent on without :meth:`on_data`, where all that it
    takes is another number (``passing``).
    """

    __slots__ = (
        "_connection", "_deaf", "_grant_at", "_head_asked", "_held", "_interim", "_left", "_paused", "_queue", "_ready",
        "_sent_end", "_tail", "_used", "_window", "closed", "fault", "id", "local_ended", "onward", "queued",
        "remote_ended",
    )  # fmt: skip

    _connection: Connection
    _grant_at: int

    def __init__(self) -> None:
        self.id = 0
        self.queued = 0
        self.local_ended = self.remote_ended = self.closed = False
        self.fault: str | None = None
        self.onward: Stream | None = None
        self._sent_end = self._deaf = False  # END_STREAM has gone out; nothing must be heard any more
        # Sending: what the peer lets us send; what waits; the trailers behind it; whether it is the pump's turn.
        self._window = 0
        self._queue: deque[bytes] | None = None
        self._tail: FieldBlock | None = None
        self._ready = False
        # Receiving: what of our window is used up, how much of that was received while paused; what is still to come.
        self._used = self._held = 0
        self._paused = False
        self._left = NO_HEAD_YET
        self._interim = 0
        self._head_asked = False

    # What it hears

    def on_head(self, head: Any) -> None:
        """Server: the RequestHead. Client: the ResponseHead, interim ones (1xx) first."""

    def on_refused(self, bad: BadMessage) -> None:
        """Server: instead of ``on_head``, a request that we do not serve. ``bad.status`` is what to answer. What else
        comes of it is heard as usual.
        """

    def on_data(self, data: bytes) -> None:
        """A piece of the body, never empty."""

    def on_passed(self, size: int) -> None:
        """So much data has gone ``onward``."""

    def on_end(self, trailers: list[Field] | None) -> None:
        """The peer's side is complete."""

    def on_reset(self, code: ErrorCode, unprocessed: bool) -> None:
        """It is over: the peer reset it or broke a rule (``fault``), or the connection was lost. Nothing follows.
        ``unprocessed``: the peer says that it did nothing with it, so that it may be sent again.
        """

    def on_drained(self) -> None:
        """What had to wait has gone: ``queued`` is 0 again."""

    # What it is told

    @property
    def stalled(self) -> bool:
        """Does data wait for the peer to open a window (and not for the transport)?"""
        return self.queued > 0 and (self._window <= 0 or self._connection.send_window <= 0)

    @property
    def clogs(self) -> bool:
        """Is some of the connection's window used up by data that came while this was paused?"""
        return self._held > 0

    def send_head(self, block: FieldBlock, late: bytes = b"", end: bool = False) -> None:
        """Server: the response's, after any number of interim ones. ``late``: from :func:`literal`."""
        if self.closed:
            return
        if self.local_ended:
            self._refuse()
        if end:
            self.local_ended = self._sent_end = True
        self._connection.send_block(self.id, block, late, end)
        if end and self.remote_ended:
            self._connection.finish(self)

    def send_data(self, data: bytes, end: bool = False) -> None:
        if self.closed:
            return
        if self.local_ended:
            self._refuse()
        connection = self._connection
        size = len(data)
        if size:
            if (
                self.queued
                or size > self._window
                or size > connection.send_window
                or size > FRAME_BYTES
                or connection.paused
                or connection.ready
            ):
                self.local_ended = end
                if self._queue is None:
                    self._queue = deque()
                self._queue += [data[at : at + FRAME_BYTES] for at in range(0, size, FRAME_BYTES)]
                self.queued += size
                connection.enqueue(self)
                return
            self._window -= size
            connection.send_window -= size
            connection.useful += 1
        elif not end:
            return
        elif self.queued:
            self.local_ended = True
            return
        out = connection.out
        first = not out
        if size <= JOINED_BYTES:
            out.append(pack_head(size >> 8, size & 0xFF, DATA, end, self.id) + data)
        else:
            out.append(pack_head(size >> 8, size & 0xFF, DATA, end, self.id))
            out.append(data)
        if first:
            connection.handler.on_output()
        if end:
            self.local_ended = self._sent_end = True
            if self.remote_ended:
                connection.finish(self)

    def send_trailers(self, fields: Sequence[Field]) -> None:
        """Our side ends with them. Raises ValueError for what HTTP/2 does not carry."""
        if not fields:
            self.send_data(b"", True)
            return
        if self.closed:
            return
        if self.local_ended:
            self._refuse()
        block = _trailer_block(fields)
        self.local_ended = True
        if self.queued:
            self._tail = block
        else:
            self._send_tail(block)
            if self.remote_ended:
                self._connection.finish(self)

    def _send_tail(self, block: FieldBlock) -> None:
        self._sent_end = True
        self._connection.send_block(self.id, block, b"", True)

    def reset(self, code: ErrorCode) -> None:
        """RST_STREAM. Nothing is heard of it any more."""
        self._deaf = True
        if not self.closed:
            self._connection.reset(self, code)

    def pause(self) -> None:
        """What arrives from now on earns the peer no window, on this stream nor on the connection."""
        self._paused = True
        self._grant_at = 0

    def resume(self) -> None:
        """Give the peer what pausing withheld."""
        if self._paused:
            self._paused = False
            if not self.closed:
                self._connection.release(self)

    # The connection's

    def _dequeue(self, size: int) -> bytes:
        """So many bytes (at most ``queued``) from the queue."""
        queue = self._queue
        assert queue is not None
        self.queued -= size
        data = queue.popleft()
        if len(data) < size:
            pieces = [data]
            size -= len(data)
            while size:
                data = queue.popleft()
                pieces.append(data[:size])
                if len(data) > size:
                    queue.appendleft(data[size:])
                    size = 0
                else:
                    size -= len(data)
            return b"".join(pieces)
        if len(data) > size:
            queue.appendleft(data[size:])
            return data[:size]
        return data

    def _refuse(self) -> NoReturn:
        raise RuntimeError("our side of the stream has ended")


def _trailer_block(fields: Sequence[Field]) -> FieldBlock:
    key = tuple(fields)
    block = _trailer_blocks.get(key)
    if block is None:
        block = FieldBlock(key)
        if any(name.startswith(b":") for name, _ in key):
            raise ValueError("pseudo-field in trailers")  # RFC 9113 §8.1
        if len(_trailer_blocks) >= BLOCKS_REMEMBERED:
            _trailer_blocks.clear()
        _trailer_blocks[key] = block
    return block
