"""HTTP/2 as frames: a client that sends what it is told, right or wrong, and reports what comes back.

Independent of the proxy's own engine. Builders return the bytes of one frame and check nothing; :class:`Frames` is a
blocking connection that only does what every client must not forget: it keeps the HPACK state of what it sends and
receives, and acknowledges nothing after the handshake. Every wait ends by a deadline.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
DEFAULT_WINDOW_BYTES = 65_535
DEFAULT_FRAME_BYTES = 16_384
MAX_WINDOW_BYTES = 2**31 - 1
PATIENCE_S = 2.0
CHUNK_BYTES = 256 * 1024

END_STREAM = ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
WITH_PRIORITY = 0x20


class Kind(enum.IntEnum):
    """Frame types, RFC 9113 section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(enum.IntEnum):
    """Error codes, RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(enum.IntEnum):
    """Settings, RFC 9113 section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Ending(enum.Enum):
    """What comes instead of a frame."""

    CLOSED = "the connection was closed"
    RESET = "the connection was reset"
    TRUNCATED = "the connection was closed within a frame"
    SILENCE = "nothing more came"


Fields = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Frame:
    """A received frame. ``kind`` is a plain number if RFC 9113 does not define it."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def is_ack(self) -> bool:
        return self.kind in (Kind.SETTINGS, Kind.PING) and bool(self.flags & ACK)

    @property
    def ends_stream(self) -> bool:
        return self.kind in (Kind.DATA, Kind.HEADERS) and bool(self.flags & END_STREAM)

    @property
    def code(self) -> int | None:
        """The error code of RST_STREAM and GOAWAY."""
        if self.kind == Kind.RST_STREAM:
            return int.from_bytes(self.payload[:4])
        return int.from_bytes(self.payload[4:8]) if self.kind == Kind.GOAWAY else None

    @property
    def settings(self) -> dict[int, int]:
        """Of a SETTINGS frame, by number."""
        return dict(struct.iter_unpack(">HL", self.payload))

    def __str__(self) -> str:
        told = "" if self.code is None else f" {_name(Code, self.code)}"
        name = _name(Kind, self.kind)
        return f"{name}{told} (stream {self.stream_id}, flags {self.flags:#04x}, {len(self.payload)} bytes)"


Event = Frame | Ending


def _name(numbers: type[enum.IntEnum], value: int) -> str:
    try:
        return numbers(value).name
    except ValueError:
        return hex(value)


# Building


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """Any frame. ``stream_id`` may have its reserved bit set."""
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def data(stream_id: int, payload: bytes, *, end: bool = False, padding: bytes | None = None) -> bytes:
    flags = END_STREAM if end else 0
    if padding is not None:
        flags, payload = flags | PADDED, bytes([len(padding)]) + payload + padding
    return frame(Kind.DATA, flags, stream_id, payload)


def headers(
    stream_id: int,
    block: bytes,
    *,
    end: bool = True,
    end_headers: bool = True,
    pad_bytes: int | None = None,
    priority: bytes | None = None,
) -> bytes:
    """HEADERS; ``end``: END_STREAM, ``priority``: five bytes as :func:`dependency` makes them."""
    flags = (END_STREAM if end else 0) | (END_HEADERS if end_headers else 0)
    payload = block
    if priority is not None:
        flags, payload = flags | WITH_PRIORITY, priority + payload
    if pad_bytes is not None:
        flags, payload = flags | PADDED, bytes([pad_bytes]) + payload + bytes(pad_bytes)
    return frame(Kind.HEADERS, flags, stream_id, payload)


def continuation(stream_id: int, block: bytes, *, end_headers: bool = True) -> bytes:
    return frame(Kind.CONTINUATION, END_HEADERS if end_headers else 0, stream_id, block)


def dependency(on: int, *, exclusive: bool = False, weight: int = 255) -> bytes:
    """The priority fields of RFC 7540 section 6.3; ``weight`` is as sent, one less than meant."""
    return struct.pack(">LB", on | (exclusive << 31), weight)


def priority(stream_id: int, fields: bytes) -> bytes:
    return frame(Kind.PRIORITY, 0, stream_id, fields)


def rst_stream(stream_id: int, code: int = Code.CANCEL) -> bytes:
    return frame(Kind.RST_STREAM, 0, stream_id, code.to_bytes(4))


def settings(*values: tuple[int, int]) -> bytes:
    return frame(Kind.SETTINGS, payload=b"".join(struct.pack(">HL", number, value) for number, value in values))


def settings_ack() -> bytes:
    return frame(Kind.SETTINGS, ACK)


def push_promise(stream_id: int, promised_id: int, block: bytes) -> bytes:
    return frame(Kind.PUSH_PROMISE, END_HEADERS, stream_id, promised_id.to_bytes(4) + block)


def ping(opaque: bytes = bytes(8), *, ack: bool = False) -> bytes:
    return frame(Kind.PING, ACK if ack else 0, 0, opaque)


def goaway(last_stream_id: int, code: int = Code.NO_ERROR, debug: bytes = b"") -> bytes:
    return frame(Kind.GOAWAY, 0, 0, struct.pack(">LL", last_stream_id, code) + debug)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4))


# The connection


class Frames:
    """A TCP connection to a loopback port. ``patience_s`` is how long one expectation may take in all."""

    def __init__(self, port: int, *, patience_s: float = PATIENCE_S) -> None:
        self.port = port
        self.patience_s = patience_s
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=patience_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer_settings: Mapping[int, int] = {}
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.granted: Counter[int] = Counter()
        """Bytes that WINDOW_UPDATE frames gave us so far, by stream."""
        self._received = bytearray()

    def __enter__(self) -> Frames:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    # Sending

    def send(self, *parts: bytes) -> None:
        """Each in a write of its own. A peer that has gone already is no error: what it says tells more."""
        self.sock.settimeout(self.patience_s)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                self.sock.sendall(part)

    def request(self, *more: tuple[str, str], method: str = "GET", path: str = "/") -> list[tuple[str, str]]:
        """The fields of a plain request to this port."""
        authority = f"127.0.0.1:{self.port}"
        return [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority), *more]

    def encode(self, fields: Fields) -> bytes:
        """A field block, with the tables as they are now."""
        return self.encoder.encode(fields)

    def get(self, stream_id: int = 1, *more: tuple[str, str], end: bool = True, end_headers: bool = True) -> bytes:
        """HEADERS of a GET."""
        return headers(stream_id, self.encode(self.request(*more)), end=end, end_headers=end_headers)

    def post(self, stream_id: int = 1, *more: tuple[str, str], end: bool = False, end_headers: bool = True) -> bytes:
        """HEADERS of a POST, with a body to come."""
        block = self.encode(self.request(*more, method="POST"))
        return headers(stream_id, block, end=end, end_headers=end_headers)

    def handshake(self, *values: tuple[int, int]) -> None:
        """The preface and SETTINGS both ways, each acknowledged."""
        self.send(PREFACE, settings((Setting.INITIAL_WINDOW_SIZE, DEFAULT_WINDOW_BYTES), *values))
        missing = {"SETTINGS", "their acknowledgement"}
        for event in self.events():
            assert isinstance(event, Frame), f"{event.value} in the handshake, before {missing}"
            if event.kind == Kind.SETTINGS and event.is_ack:
                missing.discard("their acknowledgement")
            elif event.kind == Kind.SETTINGS:
                self.peer_settings = event.settings
                self.send(settings_ack())
                missing.discard("SETTINGS")
            if not missing:
                return

    # Receiving

    def events(self) -> Iterator[Event]:
        """What arrives, up to and including the ending, or silence until the patience is at its end."""
        deadline = time.monotonic() + self.patience_s
        while True:
            event = self.read(deadline)
            yield event
            if isinstance(event, Ending):
                return

    def read(self, deadline: float) -> Event:
        """The next frame, or why there is none by ``deadline`` (of the monotonic clock)."""
        while (received := self._take()) is None:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return Ending.SILENCE
            self.sock.settimeout(remaining_s)
            try:
                chunk = self.sock.recv(CHUNK_BYTES)
            except TimeoutError:
                return Ending.SILENCE
            except ConnectionResetError:
                return Ending.RESET
            if not chunk:
                return Ending.TRUNCATED if self._received else Ending.CLOSED
            self._received += chunk
        if received.kind == Kind.WINDOW_UPDATE:
            self.granted[received.stream_id] += int.from_bytes(received.payload)
        return received

    def decode(self, received: Frame) -> dict[str, str]:
        """The fields of a HEADERS frame without padding and priority; every block must be decoded, in order."""
        return {str(name): str(value) for name, value in self.decoder.decode(received.payload)}

    def _take(self) -> Frame | None:
        if len(self._received) < HEADER_BYTES:
            return None
        high, low, kind, flags, stream_id = struct.unpack_from(">HBBBL", self._received)
        end = HEADER_BYTES + (high << 8 | low)
        if len(self._received) < end:
            return None
        payload = bytes(self._received[HEADER_BYTES:end])
        del self._received[:end]
        return Frame(kind, flags, stream_id & MAX_WINDOW_BYTES, payload)
