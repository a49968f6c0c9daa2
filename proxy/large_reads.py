"""Reading much without copying it: into one buffer of the process, where whoever reads may look at it, and change it.

A plain protocol is handed bytes of its own, which is best for small reads; of large ones the copy is what costs. So a
protocol that can do without begins as a plain one, and when a read brings much puts a :class:`LargeReads` between
itself and its transport, which takes itself out again when some small reads have come in a row::

    def data_received(self, data): ...
        if len(data) >= LARGE_READ_BYTES: self.transport.set_protocol(LargeReads(self, self.transport))

    def large_read(self, data: memoryview): ...

What a reader is shown is gone when it returns. There is one buffer: a transport fills it and passes it on in one go.
Who reads while another looks at it, as one end of a relay may make the other look for what TLS has left, gets a buffer
for itself. :class:`~proxy.tls_stream.TlsStream` is a transport as well as a reader: it decrypts into the very buffer
that the ciphertext came in, once OpenSSL has a copy of that.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Protocol, cast

READ_BYTES = 256 * 1024
"""The most that is read at a time."""

_BUFFER = memoryview(bytearray(READ_BYTES + 32 * 1024))
"""Longer than a read by more than TLS can have kept of the one before: less than a record (RFC 8446 §5.2)."""
_READ = _BUFFER[:READ_BYTES]

LARGE_READ_BYTES = 64 * 1024
"""From here on a read of TLS is cheaper without a copy, and below :data:`SMALL_READ_BYTES` with fewer calls."""
SMALL_READ_BYTES = 16 * 1024
SMALL_READS = 4
"""So many in a row: a small message among large ones, as where a response begins, changes nothing."""


class LargeReader(Protocol):
    """An ``asyncio.Protocol`` that can be shown data in a buffer that is not its own."""

    def large_read(self, data: memoryview) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class LargeReads(asyncio.BufferedProtocol):
    """Stands below a reader for as long as much arrives at once. ``is_brief``: it has done with what it is shown before
    anybody else can read.
    """

    __slots__ = ("_is_brief", "_own", "_reader", "_small_reads", "_transport")

    _is_shown: ClassVar[bool] = False
    """Whether some reader looks at the buffer."""

    def __init__(self, reader: LargeReader, transport: asyncio.Transport, *, is_brief: bool = False) -> None:
        self._reader = reader
        self._transport = transport
        self._is_brief = is_brief
        self._small_reads = 0
        self._own: memoryview | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        if LargeReads._is_shown:
            self._own = memoryview(bytearray(max(sizehint, READ_BYTES)))
            return self._own
        return _BUFFER if sizehint > READ_BYTES else _READ

    def buffer_updated(self, nbytes: int) -> None:
        if nbytes >= SMALL_READ_BYTES:
            self._small_reads = 0
        else:
            self._small_reads += 1
            if self._small_reads == SMALL_READS:
                self._transport.set_protocol(cast("asyncio.Protocol", self._reader))
        own, self._own = self._own, None
        if own is not None:
            self._reader.large_read(own[:nbytes])
            return
        if self._is_brief:
            self._reader.large_read(_BUFFER[:nbytes])
            return
        LargeReads._is_shown = True
        try:
            self._reader.large_read(_BUFFER[:nbytes])
        finally:
            LargeReads._is_shown = False

    def eof_received(self) -> bool | None:
        return self._reader.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reader.connection_lost(exc)

    def pause_writing(self) -> None:
        self._reader.pause_writing()

    def resume_writing(self) -> None:
        self._reader.resume_writing()
