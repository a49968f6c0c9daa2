"""What a connection of HTTP/2 sends: collected while the loop works through what has arrived, written once a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.relay import ByteTransport
from proxy.wire.h2 import Connection

JOINED_BYTES = 64 * 1024
"""Up to here, one piece is cheaper for the transport than many; above, copying them is what costs."""


class Http2Output:
    """``sent`` counts bytes handed to the transport. ``is_held``: a read is being worked through, at whose end its
    owner flushes. ``is_full``: the transport has more than it should. ``later`` is what a later turn calls, where that
    is more than :meth:`flush`.
    """

    __slots__ = ("_engine", "_is_due", "_later", "_loop", "_waiting", "is_full", "is_held", "sent", "transport")

    transport: ByteTransport

    def __init__(self, engine: Connection, later: Callable[[], None] | None = None) -> None:
        self._engine = engine
        self._later = later
        self._is_due = False
        self._loop = asyncio.get_running_loop()
        self._waiting: set[Callable[[], None]] = set()
        self.is_full = False
        self.is_held = False
        self.sent = 0

    def begin(self) -> None:
        """The engine has something to send: see that it goes (``Handler.on_output``)."""
        if not self.is_held and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._later or self.flush)

    def flush(self) -> None:
        self._is_due = False
        pieces = self._engine.take()
        if pieces and not self.transport.is_closing():
            size = sum(map(len, pieces))
            self.sent += size
            if size <= JOINED_BYTES:
                self.transport.write(b"".join(pieces))
            else:
                self.transport.writelines(pieces)

    def flush_early(self) -> None:
        """Send what there is, and not only when this turn is over."""
        if self._engine.out and not self.is_held:
            self.flush()

    # The transport

    def pause(self) -> None:
        self.is_full = True
        self._engine.pause()

    def resume(self) -> None:
        self.end()
        self._engine.resume()

    def when_taken(self, call: Callable[[], None]) -> None:
        """Call this once, when the transport takes more, or is lost."""
        self._waiting.add(call)

    def forget(self, call: Callable[[], None]) -> None:
        """It need not be called any more."""
        self._waiting.discard(call)

    def end(self) -> None:
        """Nobody needs to wait for the transport any more. For one that is lost."""
        self.is_full = False
        waiting, self._waiting = self._waiting, set()
        for call in waiting:
            call()
