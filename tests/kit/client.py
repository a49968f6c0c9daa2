"""The application's side: plain blocking sockets towards a listener of the proxy."""

from __future__ import annotations

import errno
import hashlib
import socket
import threading
from collections.abc import Iterable

from tests.kit.streams import CHUNK_BYTES, Stream

TIMEOUT_S = 15.0
BROKEN = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)
"""How the kernel says that a connection is gone; which of them depends on who is quicker."""


def connect(port: int, *, host: str = "127.0.0.1", timeout_s: float = TIMEOUT_S) -> socket.socket:
    """A connection to a listener; every later operation on it is bounded by ``timeout_s`` too."""
    sock = socket.create_connection((host, port), timeout=timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    """Everything until the other side ends. A reset raises ``ConnectionResetError``."""
    chunks = []
    while data := sock.recv(CHUNK_BYTES):
        chunks.append(data)
    return b"".join(chunks)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """``count`` bytes; an end before that raises ``EOFError`` with how many came."""
    data = bytearray()
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise EOFError(f"{len(data)} of {count} bytes")
        data += chunk
    return bytes(data)


def digest_to_end(sock: socket.socket) -> tuple[int, str]:
    """How many bytes come until the end, and their SHA-256; memory stays flat."""
    hasher = hashlib.sha256()
    total = 0
    while data := sock.recv(CHUNK_BYTES):
        hasher.update(data)
        total += len(data)
    return total, hasher.hexdigest()


def ask(port: int, question: bytes = b"ping", *, host: str = "127.0.0.1", timeout_s: float = TIMEOUT_S) -> bytes:
    """One short conversation: connect, send, end, and everything that comes back."""
    with connect(port, host=host, timeout_s=timeout_s) as sock:
        sock.sendall(question)
        sock.shutdown(socket.SHUT_WR)
        return read_to_end(sock)


def fate(port: int, question: bytes = b"ping", *, timeout_s: float = TIMEOUT_S) -> bytes | None:
    """As :func:`ask`, for a connection that may fail: what came back, or ``None`` if it was reset or
    broken.
    """
    try:
        return ask(port, question, timeout_s=timeout_s)
    except OSError as error:
        if error.errno in BROKEN:
            return None
        raise


def gets_nowhere(port: int) -> bool:
    """Whether a conversation with this listener yields nothing: closed without a byte, reset, or nobody
    listens.
    """
    try:
        return not fate(port)
    except ConnectionRefusedError:
        return True


def was_reset(sock: socket.socket) -> bool:
    """Whether what comes next, after any bytes, is a reset (or a broken pipe) and not an orderly end."""
    try:
        read_to_end(sock)
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    Stream(sock).reset()


class Upload(threading.Thread):
    """Sends blocks and then half-closes, while the test reads. ``finish`` raises what went wrong."""

    def __init__(self, sock: socket.socket, blocks: Iterable[bytes]) -> None:
        super().__init__(name="upload", daemon=True)
        self._sock = sock
        self._blocks = blocks
        self._error: OSError | None = None
        self.sent_bytes = 0
        self.start()

    def run(self) -> None:
        try:
            for block in self._blocks:
                self._sock.sendall(block)
                self.sent_bytes += len(block)
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._error = error

    def finish(self, within_s: float = TIMEOUT_S) -> None:
        self.join(within_s)
        assert not self.is_alive(), f"the upload hangs after {self.sent_bytes} bytes"
        if self._error is not None:
            raise self._error
