"""A blocking byte stream, plain or TLS, with the ending that matters to a relay: half-close, reset,
truncation.

TLS goes through memory BIOs and not through ``ssl.SSLSocket``, because only so can one side send
``close_notify`` and go on reading (``SSLSocket.unwrap`` waits for the other side and chokes on data). One
thread at a time uses a stream.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

CHUNK_BYTES = 64 * 1024


class Stream:
    """A connected plain socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def recv(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        """Some bytes; ``b""`` when the other side has ended its direction."""
        return self.sock.recv(max_bytes)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def end(self) -> None:
        """Half-close: nothing more comes from us, and we still read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def interrupt(self) -> None:
        """Wake whoever blocks on the stream, from another thread."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.sock.close()


class TlsStream(Stream):
    """A TLS side on a connected socket; :meth:`handshake` comes first.

    A TCP end without ``close_notify`` raises ``ssl.SSLEOFError`` from :meth:`recv`: a truncation is not an
    end.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session,
        )
        self._early = bytearray()
        """Decrypted by :meth:`end`, not yet asked for."""

    def handshake(self) -> None:
        self._drive(self.tls.do_handshake)

    def recv(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        if self._early:
            data = bytes(self._early[:max_bytes])
            del self._early[:max_bytes]
            return data
        try:
            return self._drive(lambda: self.tls.read(max_bytes))
        except ssl.SSLZeroReturnError:
            return b""

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            chunk = data[start : start + CHUNK_BYTES]
            self._drive(lambda chunk=chunk: self.tls.write(chunk))  # type: ignore[misc]

    def end(self) -> None:
        # unwrap() also reads, and takes application data for an error: have what is here out of its way.
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while data := self.tls.read(CHUNK_BYTES):
                self._early += data
        with contextlib.suppress(ssl.SSLWantReadError):  # close_notify is out; theirs need not be here
            self.tls.unwrap()
        self._flush()

    def _drive(self, step: Callable[[], T]) -> T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert that says why
                raise
            else:
                self._flush()
                return result

    def _fill(self) -> None:
        data = self.sock.recv(CHUNK_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.sock.sendall(self._outgoing.read())
