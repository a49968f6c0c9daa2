"""A peer for the HTTP/2 engine, made of raw frames and of the hpack library's encoder and decoder; and streams that
write down what they hear.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hpack
import pytest

from proxy.wire import BadMessage, Field
from proxy.wire.h2 import (
    CLIENT_SETTINGS,
    REQUEST_LIMITS,
    RESPONSE_LIMITS,
    SERVER_SETTINGS,
    Broken,
    Connection,
    ErrorCode,
    FieldBlock,
    H2Limits,
    Settings,
    Stream,
)
from tests.wire.recorder import facts

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1

GET: list[Field] = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/")]
POST: list[Field] = [(b":method", b"POST"), *GET[1:]]
OK: list[Field] = [(b":status", b"200")]
OK_BLOCK = FieldBlock(OK)
GET_BLOCK = FieldBlock(GET)
POST_BLOCK = FieldBlock(POST)


def raw(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"", length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


def pieces_of(block: bytes) -> list[bytes]:
    return [block[at : at + 16_384] for at in range(0, len(block), 16_384)] or [b""]


def settings(values: dict[int, int] | None = None) -> bytes:
    return raw(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in (values or {}).items()))


def window_update(stream_id: int, increment: int) -> bytes:
    return raw(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", increment))


def rst_stream(stream_id: int, code: int = ErrorCode.CANCEL) -> bytes:
    return raw(RST_STREAM, 0, stream_id, struct.pack(">I", code))


def goaway(last_id: int, code: int = 0) -> bytes:
    return raw(GOAWAY, 0, 0, struct.pack(">II", last_id, code))


@dataclass
class Frame:
    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def number(self) -> int:
        """The payload of WINDOW_UPDATE and RST_STREAM."""
        return int(struct.unpack(">I", self.payload)[0])


def cut(data: bytes) -> list[Frame]:
    frames = []
    while data:
        size = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + size
        frames.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return frames


class Heard(Stream):
    """``calls``: ``("head", facts)``, ``("refused", status, code)``, ``("data", bytes)`` (neighbours joined), ``("end",
    trailers)``, ``("reset", code, unprocessed)``, ``("drained",)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.heads: list[Any] = []

    def on_head(self, head: Any) -> None:
        self.heads.append(head)
        self.calls.append(("head", facts(head)))

    def on_refused(self, bad: BadMessage) -> None:
        self.calls.append(("refused", bad.status, bad.code))

    def on_data(self, data: bytes) -> None:
        assert data
        if self.calls and self.calls[-1][0] == "data":
            data = self.calls.pop()[1] + data
        self.calls.append(("data", data))

    def on_end(self, trailers: list[Field] | None) -> None:
        self.calls.append(("end", trailers))

    def on_reset(self, code: ErrorCode, unprocessed: bool) -> None:
        assert self.closed
        self.calls.append(("reset", code, unprocessed))

    def on_drained(self) -> None:
        assert self.queued == 0
        self.calls.append(("drained",))

    @property
    def kinds(self) -> list[str]:
        return [call[0] for call in self.calls]

    @property
    def body(self) -> bytes:
        return b"".join(call[1] for call in self.calls if call[0] == "data")

    @property
    def was_reset(self) -> ErrorCode | None:
        return next((call[1] for call in self.calls if call[0] == "reset"), None)


class Rig:
    """An engine and its owner. Bytes go in by :meth:`feed`; :meth:`sent` says which frames came out since then."""

    def __init__(
        self,
        role: str = "server",
        ours: Settings | None = None,
        limits: H2Limits | None = None,
        stream: type[Heard] = Heard,
        peer_settings: dict[int, int] | None = None,
    ) -> None:
        self.streams: list[Heard] = []
        self.goaways = self.capacities = 0
        self.told = False
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.stream_class = stream
        server = role == "server"
        self.connection = Connection(
            self,
            self._new_stream if server else None,
            ours or (SERVER_SETTINGS if server else CLIENT_SETTINGS),
            limits or (REQUEST_LIMITS if server else RESPONSE_LIMITS),
        )
        self.connection.start()
        self.greeting = b"".join(self.connection.take())
        self.told = False
        self.feed((PREFACE if server else b"") + settings(peer_settings))
        assert [frame.kind for frame in self.sent()] == [SETTINGS]
        self.capacities = 0

    def _new_stream(self) -> Heard:
        stream = self.stream_class()
        self.streams.append(stream)
        return stream

    def on_output(self) -> None:
        assert self.connection.out
        assert not self.told, "told again before it was taken"
        self.told = True

    def on_goaway(self) -> None:
        self.goaways += 1

    def on_capacity(self) -> None:
        self.capacities += 1

    def feed(self, *frames: bytes) -> None:
        for data in frames:
            self.connection.receive(data)

    def sent(self) -> list[Frame]:
        data = b"".join(self.connection.take())
        assert self.told == bool(data)
        self.told = False
        return cut(data)

    def fields_of(self, frame: Frame) -> list[Field]:
        return [(bytes(name), bytes(value)) for name, value in self.decoder.decode(frame.payload, raw=True)]

    def headers(self, stream_id: int, fields: Sequence[Field], end: bool = True, extra_flags: int = 0) -> bytes:
        first, *rest = pieces_of(self.encoder.encode(list(fields), huffman=sum(map(len, dict(fields).values())) < 1000))
        flags = end | extra_flags | (0 if rest else END_HEADERS)
        more = [raw(CONTINUATION, END_HEADERS if piece is rest[-1] else 0, stream_id, piece) for piece in rest]
        return raw(HEADERS, flags, stream_id, first) + b"".join(more)

    # As the server

    def request(self, stream_id: int = 1, fields: Sequence[Field] = GET, end: bool = True) -> Heard:
        self.feed(self.headers(stream_id, fields, end))
        return self.streams[-1]

    # As the client

    def open(self, block: FieldBlock = GET_BLOCK, method: bytes = b"GET", end: bool = True) -> Heard:
        stream = self.stream_class()
        self.connection.open(stream, method, block, b"", end)
        self.streams.append(stream)
        return stream

    def broken_by(self, *frames: bytes) -> Broken:
        """The last of the frames breaks the connection, with a GOAWAY that says so."""
        with pytest.raises(Broken) as caught:
            self.feed(*frames)
        broken = caught.value
        last = self.sent()[-1]
        assert (last.kind, int.from_bytes(last.payload[4:8], "big")) == (GOAWAY, broken.code)
        assert self.connection.closed
        self.feed(raw(PING, 0, 0, bytes(8)))  # nothing is heard any more
        assert self.sent() == []
        return broken
