"""A sink that writes down what it is told, and ways to feed a reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from proxy.wire import BadMessage, Field, RequestHead, ResponseHead
from proxy.wire.h1 import RequestReader, ResponseReader
from proxy.wire.limits import REQUEST_LIMITS, RESPONSE_LIMITS, Limits

Call = tuple[Any, ...]


def facts(head: RequestHead | ResponseHead) -> Call:
    """All that a head says, comparable."""
    return tuple((name, getattr(head, name)) for name in sorted(type(head).__slots__) if name != "memo")


class Recorder:
    """``calls``: ``("head", facts)``, ``("data", bytes)`` (neighbours joined), ``("end", trailers)``."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.heads: list[Any] = []
        self.pieces: list[bytes] = []
        self.at_head: Callable[[], None] | None = None
        self.at_data: Callable[[], None] | None = None
        self.at_end: Callable[[], None] | None = None

    def on_head(self, head: Any, /) -> None:
        self.heads.append(head)
        self.calls.append(("head", facts(head)))
        if self.at_head is not None:
            self.at_head()

    def on_data(self, data: bytes, /) -> None:
        assert data
        self.pieces.append(data)
        if self.calls[-1][0] == "data":
            data = self.calls.pop()[1] + data
        self.calls.append(("data", data))
        if self.at_data is not None:
            self.at_data()

    def on_end(self, trailers: list[Field] | None, /) -> None:
        self.calls.append(("end", trailers))
        if self.at_end is not None:
            self.at_end()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def kinds(self) -> list[str]:
        return [call[0] for call in self.calls]


def read_requests(pieces: Iterable[bytes], limits: Limits = REQUEST_LIMITS, eof: bool = False) -> Recorder:
    """Everything that comes, one request after the other; a BadMessage becomes a call."""
    sink = Recorder()
    reader = RequestReader(sink, limits)
    sink.at_end = reader.next_message
    try:
        for piece in pieces:
            reader.receive(piece)
        if eof:
            reader.eof()
    except BadMessage as bad:
        sink.calls.append(("bad", bad.status, bad.code))
    return sink


def read_responses(
    pieces: Iterable[bytes], methods: Sequence[bytes], limits: Limits = RESPONSE_LIMITS, eof: bool = False
) -> Recorder:
    """As many responses as there are methods."""
    sink = Recorder()
    reader = ResponseReader(sink, limits)
    left = list(methods)

    def following() -> None:
        if left:
            reader.next_message(left.pop(0))

    sink.at_end = following
    try:
        following()
        for piece in pieces:
            reader.receive(piece)
        if eof:
            reader.eof()
    except BadMessage as bad:
        sink.calls.append(("bad", bad.status, bad.code))
    return sink
