"""HTTP/1 as bytes: messages read from a stream just far enough to know where they end, and kept as they came.

Independent of the proxy's own codec, and without judgement: a test compares ``head`` and ``wire`` byte by byte.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from tests.kit import client
from tests.kit.streams import CHUNK_BYTES

KEPT_BYTES = 4 * 1024 * 1024
"""Of a body; the rest is counted and hashed."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response. ``wire`` is the body as it was framed, ``body`` what it holds, ``trailers`` the lines of
    its trailer section; ``is_whole``: it ended where it said.
    """

    head: bytes
    wire: bytes
    body: bytes
    trailers: bytes
    length: int
    sha256: str
    is_whole: bool

    @property
    def start_line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    @property
    def status(self) -> int:
        return int(self.start_line.split(" ")[1])

    @property
    def fields(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    def values(self, name: str) -> list[str]:
        return [value for field, value in self.fields if field == name]

    def __getitem__(self, name: str) -> str:
        """The only value of a field."""
        (value,) = self.values(name)
        return value

    def __contains__(self, name: str) -> bool:
        return bool(self.values(name))


class MessageReader:
    """Messages from ``recv``, which returns no bytes at the end."""

    def __init__(self, recv: Callable[[], bytes]) -> None:
        self._recv = recv
        self.rest = bytearray()
        """Arrived, and not part of a message yet."""

    def more(self) -> bool:
        data = self._recv()
        self.rest += data
        return bool(data)

    def read(self, *, method: str | None = None) -> Message | None:
        """The next message; ``None`` if the stream has ended. ``method``: it is the response to such a request."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            if not self.rest:
                return None
            raise AssertionError(f"ended within a head: {bytes(self.rest)!r}")
        body = _Body()
        fields = head.lower().split(b"\r\n")[1:]
        lengths = [int(field.partition(b":")[2]) for field in fields if field.startswith(b"content-length:")]
        is_whole = True
        if method is not None and _has_no_body(head, method):
            pass
        elif any(field.startswith(b"transfer-encoding:") for field in fields):
            is_whole = self._chunks(body)
        elif lengths:
            is_whole = self._take(lengths[0], body)
        elif method is not None:
            self._take(1 << 62, body)
        return body.message(head, is_whole)

    def _until(self, mark: bytes) -> bytes | None:
        while (end := self.rest.find(mark)) < 0:
            if not self.more():
                return None
        found = bytes(self.rest[: end + len(mark)])
        del self.rest[: end + len(mark)]
        return found

    def _take(self, count: int, body: _Body) -> bool:
        """Whether ``count`` bytes came."""
        while count:
            if not self.rest and not self.more():
                return False
            data = bytes(self.rest[:count])
            del self.rest[:count]
            body.add(data)
            count -= len(data)
        return True

    def _chunks(self, body: _Body) -> bool:
        while (line := self._until(b"\r\n")) is not None:
            body.frame(line)
            size = int(line.partition(b";")[0], 16)
            if size == 0:
                while (trailer := self._until(b"\r\n")) is not None:
                    body.frame(trailer)
                    if trailer == b"\r\n":
                        return True
                    body.trailers += trailer
                return False
            if not self._take(size, body) or (end := self._until(b"\r\n")) is None:
                return False
            body.frame(end)
        return False


class _Body:
    def __init__(self) -> None:
        self._wire = bytearray()
        self._data = bytearray()
        self._hasher = hashlib.sha256()
        self._length = 0
        self.trailers = b""

    def frame(self, data: bytes) -> None:
        if len(self._wire) < KEPT_BYTES:
            self._wire += data

    def add(self, data: bytes) -> None:
        self.frame(data)
        if len(self._data) < KEPT_BYTES:
            self._data += data
        self._hasher.update(data)
        self._length += len(data)

    def message(self, head: bytes, is_whole: bool) -> Message:
        sha256 = self._hasher.hexdigest()
        return Message(head, bytes(self._wire), bytes(self._data), self.trailers, self._length, sha256, is_whole)


def _has_no_body(head: bytes, method: str) -> bool:
    status = int(head.split(b" ")[1][:3])
    return method == "HEAD" or status < 200 or status in (204, 304)


class Wire:
    """A client that sends bytes and reads responses, on one connection."""

    def __init__(self, port: int, *, timeout_s: float = client.TIMEOUT_S, tls: ssl.SSLContext | None = None) -> None:
        self.sock = client.connect(port, timeout_s=timeout_s)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock)
        self._reader = MessageReader(lambda: self.sock.recv(CHUNK_BYTES))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, request: bytes) -> Message:
        """Send a request and read its response."""
        self.send(request)
        return self.response(request.partition(b" ")[0].decode("latin-1"))

    def get(self, path: str = "/", *fields: str, method: str = "GET") -> Message:
        lines = "".join(f"{line}\r\n" for line in ("host: app.test", *fields))
        return self.ask(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))

    def response(self, method: str = "GET") -> Message:
        message = self._reader.read(method=method)
        assert message is not None, "the connection has ended"
        return message

    def read_to_end(self) -> bytes:
        """Whatever comes before the end, or before a reset."""
        try:
            while self._reader.more():
                pass
        except ConnectionResetError:
            pass
        rest = bytes(self._reader.rest)
        self._reader.rest.clear()
        return rest

    def half_close(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:  # the other side has ended both directions, and ours with them
                raise

    def reset(self) -> None:
        client.reset(self.sock)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
