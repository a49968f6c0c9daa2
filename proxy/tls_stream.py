"""TLS over an asyncio transport, as a transport: what is written is encrypted, what arrives is decrypted and delivered.

``tls`` decides whom to trust and speaks TLS as bytes in, bytes out; this file only moves those bytes. A connection has
two protocols in turn: :class:`TlsConnector` until the handshake is done *and verified*, then :class:`TlsStream`. The
protocol above is told of its connection only by the second, so nothing can be written to a peer that was not verified.

Why not the event loop's own TLS: it hides the peer's chain and alerts when a handshake fails, cannot half-close, keeps
256 KiB a connection, and costs more CPU for small messages.

What a message costs here is calls, and what bulk costs is copies: see ``large_reads``, for both sides of a stream. The
slots that are called for each message hold bound methods, and are called as local names: CPython 3.11 looks
``self.slot(...)`` up the slow way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast

from proxy.dialled import Dialled
from proxy.large_reads import LARGE_READ_BYTES, LargeReads
from tls.handshake import ClientHandshake, Established, Refused, recheck
from tls.server_handshake import Accepted

MAX_RECORD_BYTES = 16 * 1024  # RFC 8446 §5.1: the most plaintext that one record carries

MAX_ENCRYPTED_BYTES = 256 * 1024
"""Plaintext that is encrypted before it goes to the transport: what OpenSSL wrote stays allocated with the connection,
and is best sent on while it is in the processor's cache.
"""


class TlsConnector(asyncio.Protocol):
    """Drives a handshake. ``result`` yields :class:`Established`, or raises :class:`Refused`."""

    def __init__(self, handshake: ClientHandshake, inner: Dialled, wall_clock: Callable[[], datetime]) -> None:
        self._handshake = handshake
        self._inner = inner
        self._wall_clock = wall_clock
        self._raw: asyncio.Transport | None = None
        self.result: asyncio.Future[Established] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        self._guarded(self._handshake.start)

    def data_received(self, data: bytes) -> None:
        if self.result.done():
            return
        self._guarded(lambda: self._handshake.feed(data))
        established = self._handshake.established
        if self._handshake.done and established is not None and not self.result.done():
            assert self._raw is not None
            stream = TlsStream(self._raw, established, self._inner, self._wall_clock)
            self._raw.set_protocol(stream)
            self.result.set_result(established)
            self._inner.connection_made(stream)
            stream.deliver_pending()

    def eof_received(self) -> None:
        if not self.result.done():
            self._guarded(self._handshake.eof)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.result.done():
            error = exc if isinstance(exc, OSError) else ConnectionResetError("connection lost")
            self.result.set_exception(self._handshake.broken(error))

    def time_out(self, error: TimeoutError) -> bool:
        """Give up because time is over. False if there is no connection yet: then there is nothing to say of TLS."""
        if self._raw is None or self.result.done():
            return False
        self.result.set_exception(self._handshake.broken(error))
        self._raw.abort()
        return True

    def abandon(self) -> None:
        """Give up because the application has gone: nobody waits for the result any more."""
        self.result.cancel()
        if self._raw is not None and not self._handshake.done:
            self._raw.abort()

    def _guarded(self, step: Callable[[], bytes]) -> None:
        """Take a step of the handshake and send what it says, be it the next flight or an alert."""
        assert self._raw is not None
        try:
            self._raw.write(step())
        except Refused as refused:
            if self._handshake.farewell:
                self._raw.write(self._handshake.farewell)
            self.result.set_exception(refused)
            self._raw.close()


class TlsStream(asyncio.Transport, asyncio.Protocol):
    """A verified TLS connection: the transport of the protocol above, the protocol of the transport below.

    Fatal TLS errors reach the protocol above as ``connection_lost(ssl.SSLError)``, a peer that became another by
    renegotiation as ``connection_lost(Refused)``.
    """

    __slots__ = (
        "_backlog", "_congested", "_deliver", "_deliver_all", "_end_due", "_ended", "_established", "_failure", "_feed",
        "_incoming", "_inner", "_large", "_outgoing", "_raw", "_raw_write", "_read", "_recheck", "_session_due", "_ssl",
        "_ssl_write", "_take", "_wall_clock",
    )  # fmt: skip

    def __init__(
        self,
        raw: asyncio.Transport,
        established: Established | Accepted,
        inner: asyncio.Protocol,
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._raw = raw
        self._established = established
        self._ssl = established.sslobj
        self._incoming = established.incoming
        self._outgoing = established.outgoing
        self._recheck = established.renegotiation_allowed
        self._wall_clock = wall_clock
        self._session_due = established.version == "TLSv1.3"
        self._failure: ssl.SSLError | Refused | None = None
        self._ended = False
        # While a renegotiation is under way: what was written, whether an end follows, whether ``raw`` is full as well.
        self._backlog: list[bytes] = []
        self._end_due = False
        self._congested = False
        # Bound once: each is called per chunk. ``SSLObject`` only passes calls on to the object in C.
        below = getattr(self._ssl, "_sslobj", self._ssl)
        self._read = below.read
        self._ssl_write = below.write
        self._feed = self._incoming.write
        self._take = self._outgoing.read
        self._raw_write = raw.write
        self.set_protocol(inner)

    # The protocol below

    def data_received(self, data: bytes) -> None:
        if len(data) >= LARGE_READ_BYTES:
            self._raw.set_protocol(LargeReads(self, self._raw, is_brief=True))
        feed = self._feed
        feed(data)
        self.deliver_pending()

    def large_read(self, data: memoryview) -> None:
        """As :meth:`data_received`, by way of ``large_reads``."""
        self._feed(data)
        self.deliver_pending()

    def deliver_pending(self) -> None:
        """Decrypt whatever whole records have arrived and hand them up together."""
        incoming, read = self._incoming, self._read
        left = incoming.pending
        if not left:
            return
        if self._large is not None:
            self._deliver_large(self._large)
            return
        chunks: list[bytes] = []
        failure: ssl.SSLError | None = None
        ended = False
        try:
            while left:
                size = left if left < MAX_RECORD_BYTES else MAX_RECORD_BYTES
                chunk = read(size)
                if not chunk:
                    ended = True  # close_notify
                    break
                chunks.append(chunk)
                if len(chunk) == size and (rest := self._ssl.pending()):  # of a record that began to arrive before
                    chunks.append(read(rest))
                left = incoming.pending
        except ssl.SSLWantReadError:
            pass  # the last record is not complete yet
        except ssl.SSLZeroReturnError:
            ended = True  # close_notify, after our own
        except ssl.SSLError as exc:
            failure = exc
        if self._recheck and not self._still_trusted():
            return  # before anything of what was read is handed up
        if self._session_due and failure is None:  # TLS 1.3 sends its tickets with, or before, the first data
            self._session_due = False
            self._established.remember(self._wall_clock())
        if chunks and not self._raw.is_closing():
            if len(chunks) == 1:
                deliver = self._deliver
                deliver(chunks[0])
            elif self._deliver_all is not None:
                self._deliver_all(chunks)
            else:
                self._deliver(b"".join(chunks))
        if failure is not None or ended or self._outgoing.pending or self._backlog:
            self._settle(failure, ended)

    def _deliver_large(self, inner: asyncio.BufferedProtocol) -> None:
        """The same into a buffer of the protocol above."""
        incoming, read = self._incoming, self._read
        buffer = memoryview(inner.get_buffer(incoming.pending))
        filled = 0
        failure: ssl.SSLError | None = None
        ended = False
        try:
            while filled < len(buffer) and (incoming.pending or self._ssl.pending()):
                size = cast("int", read(len(buffer) - filled, buffer[filled:]))
                if not size:
                    ended = True
                    break
                filled += size
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as exc:
            failure = exc
        if self._recheck and not self._still_trusted():
            return
        if filled and not self._raw.is_closing():
            inner.buffer_updated(filled)
        if filled == len(buffer) and failure is None and not ended:
            self._deliver_large(inner)
        else:
            self._settle(failure, ended)

    def _settle(self, failure: ssl.SSLError | None, ended: bool) -> None:
        """What there is to do after reading, besides delivering."""
        if failure is not None:
            self._fail(failure)
        elif ended:
            self._end_of_stream()
        else:
            if self._outgoing.pending and not self._ended and not self._raw.is_closing():
                self._raw_write(self._take())  # an answer of TLS itself: key update, renegotiation
            if self._backlog:
                self._retry_backlog()

    def _still_trusted(self) -> bool:
        """After a renegotiation the peer may be somebody else; nothing it sends counts until its names are checked."""
        assert isinstance(self._established, Established), "nobody else may renegotiate"
        try:
            recheck(self._established)
        except Refused as refused:
            self._fail(refused)
            return False
        return True

    def eof_received(self) -> bool | None:
        # Many servers close without close_notify; like Envoy we pass that on as an end of stream.
        return self._end_of_stream()

    def _end_of_stream(self) -> bool | None:
        self._raw.pause_reading()
        keep_open = self._inner.eof_received()
        if not keep_open:
            self.close()
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        if self._failure is None and self._established.version == "TLSv1.3":
            self._established.remember(self._wall_clock())
        self._inner.connection_lost(self._failure or exc)
        # The protocol above holds us as its transport: untie.
        del self._inner, self._large, self._deliver, self._deliver_all

    def pause_writing(self) -> None:
        self._congested = True
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._congested = False
        if not self._backlog:
            self._inner.resume_writing()

    def _fail(self, exc: ssl.SSLError | Refused) -> None:
        if self._failure is None:  # what follows the first fault only follows from it
            self._failure = exc
        if self._outgoing.pending and not self._ended and not self._raw.is_closing():
            self._raw_write(self._take())  # our alert
        self._raw.close()

    # The transport above

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to another protocol from now on."""
        inner = cast("asyncio.Protocol", protocol)
        self._inner = inner
        self._large = protocol if isinstance(protocol, asyncio.BufferedProtocol) else None
        if self._large is not None:
            return
        self._deliver = inner.data_received
        self._deliver_all: Callable[[list[bytes]], None] | None = getattr(inner, "chunks_received", None)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._backlog:
            self._backlog.append(bytes(data))
            return
        encrypt, take, send = self._ssl_write, self._take, self._raw_write
        try:
            encrypt(data)
        except ssl.SSLError as exc:
            if not self._is_held_up(exc, [data]):
                return
        send(take())

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Whole records of one peer leave as records to the other, without having been joined; pieces of a message in
        one.
        """
        pieces = list(list_of_data)
        if self._backlog or not pieces:
            self._backlog.extend(map(bytes, pieces))
            return
        if len(pieces[0]) < MAX_RECORD_BYTES:
            pieces = _in_blocks(pieces)
        encrypt, outgoing = self._ssl_write, self._outgoing
        written = 0
        try:
            for data in pieces:
                encrypt(data)
                written += 1
                if outgoing.pending >= MAX_ENCRYPTED_BYTES:
                    self._raw_write(self._take())
        except ssl.SSLError as exc:
            if not self._is_held_up(exc, pieces[written:]):
                return
        if outgoing.pending:
            self._raw_write(self._take())

    def _is_held_up(self, exc: ssl.SSLError, rest: list[bytes | bytearray | memoryview[Any]]) -> bool:
        """Whether a renegotiation is under way, which needs the peer's next message before ``rest`` can be written."""
        if not isinstance(exc, ssl.SSLWantReadError):
            self._fail(exc)
            return False
        self._backlog.extend(map(bytes, rest))
        self._inner.pause_writing()
        return True

    def _retry_backlog(self) -> None:
        backlog, self._backlog = self._backlog, []
        for data in backlog:
            self.write(data)
        if self._backlog:
            return
        if self._end_due:
            self.write_eof()
        elif not self._congested:
            self._inner.resume_writing()

    def write_eof(self) -> None:
        """Half-close: close_notify, then FIN. The peer may go on sending."""
        if self._ended or self._raw.is_closing():
            return
        if self._incoming.pending:
            self.deliver_pending()  # OpenSSL refuses to read on past its own close_notify where data already waits
            if self._ended or self._raw.is_closing():
                return
        if self._backlog:
            self._end_due = True
            return
        self._say_goodbye()
        self._raw.write_eof()

    def _say_goodbye(self) -> None:
        self._ended = True
        try:
            self._ssl.unwrap()  # queues close_notify; then wants the peer's, which we do not wait for
        except ssl.SSLError:
            pass
        if self._outgoing.pending:
            self._raw_write(self._take())

    def close(self) -> None:
        if self._raw.is_closing():
            return
        if not self._ended and self._failure is None:
            self._say_goodbye()
        self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._ssl
        return self._raw.get_extra_info(name, default)


def _in_blocks(pieces: list[bytes | bytearray | memoryview[Any]]) -> list[bytes | bytearray | memoryview[Any]]:
    """With small neighbours joined, and all of them if that is little: each block has records of its own."""
    if sum(map(len, pieces)) <= 4 * MAX_RECORD_BYTES:
        return [b"".join(pieces)]
    blocks: list[bytes | bytearray | memoryview[Any]] = []
    small: list[bytes | bytearray | memoryview[Any]] = []
    for data in pieces:
        if len(data) < MAX_RECORD_BYTES:
            small.append(data)
            continue
        if small:
            blocks.append(b"".join(small))
            small = []
        blocks.append(data)
    if small:
        blocks.append(b"".join(small))
    return blocks
