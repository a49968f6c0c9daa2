"""The h2 package and our engine, each fed the same frames in the same role; what either says of them, in one form.

A :class:`Reaction` is what one frame brought about: what was heard, and what was sent back because of it (errors with
their scope, acknowledgements). Windows that either gives are its own affair and left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from proxy.wire import RequestHead
from proxy.wire.h2 import Broken, ErrorCode, FieldBlock
from tests.wire.h2.h2_rig import (
    END_HEADERS,
    GET_BLOCK,
    GOAWAY,
    HEADERS,
    OK,
    PING,
    POST_BLOCK,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Heard,
    Rig,
    cut,
    raw,
    settings,
)

Fields = list[tuple[bytes, bytes]]

READ_APART = (b"content-length", b"host", b"te", b"expect")


class Unjoined(Heard):
    def on_data(self, data: bytes) -> None:
        self.calls.append(("data", data))


@dataclass
class Reaction:
    heard: list[tuple[Any, ...]] = field(default_factory=list)
    """``(kind, stream, what)``: head, data, end (trailers), reset (code)."""
    error: tuple[str, int] | None = None
    """``stream`` or ``connection``, and the code."""
    answers: list[int] = field(default_factory=list)
    """Acknowledgements: types of frames."""


def _read_output(reaction: Reaction, data: bytes) -> Reaction:
    for frame in cut(data):
        if frame.kind == RST_STREAM:
            reaction.error = "stream", frame.number
        elif frame.kind == GOAWAY:
            reaction.error = "connection", int.from_bytes(frame.payload[4:8], "big")
        elif frame.kind in (PING, SETTINGS):
            reaction.answers.append(frame.kind)
    if reaction.error is not None:
        reaction.heard = [heard for heard in reaction.heard if heard[0] != "reset"]  # by ourselves
    return reaction


def _facts(start: tuple[Any, ...], fields: Sequence[tuple[bytes, bytes]]) -> tuple[Any, ...]:
    return *start, sorted((name, value) for name, value in fields if name not in READ_APART)


class Ours:
    def __init__(self, role: str) -> None:
        self.rig = Rig(role, stream=Unjoined)
        self._told: dict[int, int] = {}

    def feed(self, frame: bytes) -> Reaction:
        reaction = Reaction()
        with contextlib.suppress(Broken):
            self.rig.feed(frame)
        for stream in self.rig.streams:
            told = self._told.get(stream.id, 0)
            self._told[stream.id] = len(stream.calls)
            heads = iter(stream.heads[len([call for call in stream.calls[:told] if call[0] == "head"]) :])
            reaction.heard += [self._heard(stream.id, call, heads) for call in stream.calls[told:]]
        return _read_output(reaction, self._taken())

    def _taken(self) -> bytes:
        self.rig.told = False
        return b"".join(self.rig.connection.take())

    def _heard(self, stream_id: int, call: tuple[Any, ...], heads: Iterator[Any]) -> tuple[Any, ...]:
        if call[0] != "head":
            return call[0], stream_id, *call[1:2]
        head = next(heads)
        start = (head.method, head.authority, head.path) if isinstance(head, RequestHead) else (b"%d" % head.status,)
        return "head", stream_id, _facts(start, head.fields)

    def open(self, block: FieldBlock, end: bool) -> int:
        stream = self.rig.open(block, b"GET", end)
        self._taken()
        return stream.id

    def respond(self, stream_id: int, fields: Fields, end: bool) -> None:
        self.rig.connection.streams[stream_id].send_head(FieldBlock(fields), end=end)
        self._taken()

    def send(self, stream_id: int, data: bytes, end: bool) -> None:
        self.rig.connection.streams[stream_id].send_data(data, end)
        self._taken()

    def reset(self, stream_id: int) -> None:
        self.rig.connection.streams[stream_id].reset(ErrorCode.CANCEL)
        self._taken()

    def send_window(self, stream_id: int) -> int:
        connection = self.rig.connection
        return min(connection.send_window, connection.streams[stream_id]._window)

    def sending(self) -> list[int]:
        """Streams on which we may send."""
        return [number for number, stream in self.rig.connection.streams.items() if not stream.local_ended]


class Theirs:
    def __init__(self, role: str) -> None:
        config = h2.config.H2Configuration(client_side=role == "client", header_encoding=None)
        self.connection = h2.connection.H2Connection(config)
        self.connection.local_settings.initial_window_size = 1 << 20
        self.connection.local_settings.acknowledge()
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window((16 << 20) - 65_535)
        self.connection.receive_data((PREFACE if role == "server" else b"") + settings())
        self.connection.data_to_send()

    def feed(self, frame: bytes) -> Reaction:
        reaction = Reaction()
        events: list[h2.events.Event] = []
        with contextlib.suppress(h2.exceptions.ProtocolError):
            events = self.connection.receive_data(frame)
        trailers: Fields | None = None
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                pseudo = {bytes(n): bytes(v) for n, v in event.headers if n.startswith(b":")}
                fields = [(bytes(n), bytes(v)) for n, v in event.headers if not n.startswith(b":")]
                authority = pseudo.get(b":authority", dict(fields).get(b"host", b""))
                start = pseudo[b":method"], authority, pseudo.get(b":path", b"")
                reaction.heard.append(("head", event.stream_id, _facts(start, fields)))
            elif isinstance(event, (h2.events.ResponseReceived, h2.events.InformationalResponseReceived)):
                fields = [(bytes(n), bytes(v)) for n, v in event.headers]
                reaction.heard.append(("head", event.stream_id, _facts((fields[0][1],), fields[1:])))
            elif isinstance(event, h2.events.TrailersReceived):
                trailers = [(bytes(n), bytes(v)) for n, v in event.headers]
            elif isinstance(event, h2.events.DataReceived):
                if event.data:
                    reaction.heard.append(("data", event.stream_id, event.data))
                if event.flow_controlled_length:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                reaction.heard.append(("end", event.stream_id, trailers))
            elif isinstance(event, h2.events.StreamReset):
                reaction.heard.append(("reset", event.stream_id, event.error_code))
        return _read_output(reaction, self.connection.data_to_send())

    def open(self, block: FieldBlock, end: bool) -> int:
        stream_id: int = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream_id, list(block.fields), end_stream=end)
        self.connection.data_to_send()
        return stream_id

    def respond(self, stream_id: int, fields: Fields, end: bool) -> None:
        self.connection.send_headers(stream_id, fields, end_stream=end)
        self.connection.data_to_send()

    def send(self, stream_id: int, data: bytes, end: bool) -> None:
        self.connection.send_data(stream_id, data, end_stream=end)
        self.connection.data_to_send()

    def reset(self, stream_id: int) -> None:
        self.connection.reset_stream(stream_id, 8)
        self.connection.data_to_send()

    def send_window(self, stream_id: int) -> int:
        window: int = self.connection.local_flow_control_window(stream_id)
        return window


Step = bytes | tuple[str, bool] | tuple[str, int] | tuple[str, int, bool]
"""A frame from the peer; or ``("open", end)``, ``("respond", stream, end)``, ``("send", stream, end)``, ``("reset",
stream)`` on our side.
"""


def plain(stream_id: int, fields: Fields, end: bool = True) -> bytes:
    """HEADERS with literals that touch no table, so that the frame means the same wherever it is."""
    block = b"".join(b"\x00%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields)
    return raw(HEADERS, END_HEADERS | end, stream_id, block)


class Pair:
    """Both, in the same role."""

    def __init__(self, role: str) -> None:
        self.ours = Ours(role)
        self.theirs = Theirs(role)

    def take(self, step: Step) -> tuple[Reaction, Reaction]:
        if isinstance(step, bytes):
            return self.ours.feed(step), self.theirs.feed(step)
        for side in (self.ours, self.theirs):
            match step:
                case ("open", bool(end)):
                    side.open(GET_BLOCK if end else POST_BLOCK, end)
                case ("respond", int(stream_id), bool(end)):
                    side.respond(stream_id, OK, end)
                case ("send", int(stream_id), bool(end)):
                    side.send(stream_id, b"" if end else b"data", end)
                case ("reset", int(stream_id)):
                    side.reset(stream_id)
        return Reaction(), Reaction()
