"""The two readers of HTTP/1: requests from a client, responses from an origin.

How a reader works
    ``receive`` takes bytes as they arrive and calls the sink, in order and at once; it keeps nothing but an incomplete
    head, chunk line or trailer section, and what came after the end of a message. One message at a time: behind its
    end the reader holds what arrives until ``next_message``, which may be called from within ``on_end``: the loop
    that called ``on_end`` goes on then, so that a thousand pipelined requests are a loop and not a recursion.

What bounds memory
    :class:`Limits`. A body is never held. Whoever owns the connection stops reading from it while ``pending``.

What is remembered
    Clients and origins repeat themselves. A head's bytes are a key to the head that they parsed to, in a table for
    the whole process (``HEADS_REMEMBERED`` heads of at most ``REMEMBERED_HEAD_BYTES``, forgotten all at once when it is
    full), so that an identical head costs one look-up. It also makes heads shared: see ``proxy.wire``.
    A response's meaning depends on whether HEAD was asked, so there is a table for either, and one for each ``Limits``.

How it ends
    After BadMessage, or ``stop``, a reader ignores whatever it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Generic, TypeVar

from proxy.wire import (
    CHUNKED,
    NONE,
    UNTIL_CLOSE,
    BadMessage,
    RequestHead,
    RequestSink,
    ResponseHead,
    ResponseSink,
    Sink,
)
from proxy.wire.body import ChunkedReader
from proxy.wire.head import parse_request_head, parse_response_head, refuse_early
from proxy.wire.limits import REQUEST_LIMITS, RESPONSE_LIMITS, Limits

HEADS_REMEMBERED: Final = 1024
REMEMBERED_HEAD_BYTES: Final = 4096
TABLES_REMEMBERED: Final = 16

# Where a reader is.
_HEAD: Final = 0  # before or in a head
_LENGTH: Final = 1  # in a body, of which _left bytes are missing
_CHUNKS: Final = 2  # in a chunked body
_TO_END: Final = 3  # in a body that the end of the connection ends
_ENDED: Final = 4  # behind a message, or behind a 101: next_message or switch_protocol is next
_RAW: Final = 5  # another protocol: everything is data
_STOPPED: Final = 6

Head = TypeVar("Head", bound=RequestHead | ResponseHead)

_request_tables: dict[Limits, dict[bytes, RequestHead]] = {}
_response_tables: dict[tuple[Limits, bool], dict[bytes, ResponseHead]] = {}


def forget_heads() -> None:
    """Start afresh, for those who count or measure. Readers that exist keep the tables that they have."""
    _request_tables.clear()
    _response_tables.clear()


class _Reader(ABC, Generic[Head]):
    """What both readers do. Theirs is to parse a head, to say what follows one without a body, and whom to blame."""

    __slots__ = ("_at", "_behind", "_chunks", "_heads", "_kept", "_left", "_limits", "_partial", "_sink", "_state")

    def __init__(self, sink: Sink[Head], limits: Limits, heads: dict[bytes, Head], state: int) -> None:
        self._sink = sink
        self._limits = limits
        self._heads = heads
        self._state = state
        self._left = 0
        self._chunks: ChunkedReader | None = None
        self._partial: bytearray | None = None  # an incomplete head
        self._kept: list[bytes] = []  # what waits for next_message, from _at of the first piece
        self._at = 0
        self._behind = False  # the same while on_end is called, when what waits is still in the hands of receive

    @property
    def pending(self) -> bool:
        """Do bytes wait behind the end of the message? Then read no more from the connection."""
        return self._behind or bool(self._kept)

    @property
    def body_left(self) -> int:
        """What is missing of a body whose length was given; else 0."""
        return self._left if self._state == _LENGTH else 0

    def passed_by(self, nbytes: int) -> None:
        """So much of ``body_left``, and not all, went to whoever it is for without having been here."""
        self._left -= nbytes

    def receive(self, data: bytes, at: int = 0) -> None:
        """Work through ``data[at:]`` until it is used up, or the message has ended and no other is asked for.

        Raises BadMessage, and what the sink raises.
        """
        size = len(data)
        sink = self._sink
        try:
            while at < size:
                state = self._state
                if state == _HEAD:
                    at = self._read_head(data, at)
                elif state == _LENGTH:
                    end = at + self._left
                    if end > size:
                        self._left = end - size
                        sink.on_data(data[at:])
                        return
                    sink.on_data(data[at:end])
                    at = end
                    if self._state == _LENGTH:
                        self._state = _ENDED
                        self._behind = at < size
                        sink.on_end(None)
                elif state == _CHUNKS:
                    chunks = self._chunks
                    assert chunks is not None
                    at = chunks.read(data, at)
                    if chunks.ended and self._state == _CHUNKS:
                        self._state = _ENDED
                        self._behind = at < size
                        self._chunks = None
                        sink.on_end(chunks.trailers)
                elif state == _ENDED:
                    self._keep(data, at)
                    return
                elif state == _STOPPED:
                    return
                else:
                    sink.on_data(data[at:])
                    return
        except BadMessage as bad:
            self.stop()
            self._blame(bad)
            raise

    def switch_protocol(self) -> None:
        """After an upgrade: whatever waits and comes is ``on_data``, and the end of input is ``on_end``."""
        self._go_on(_RAW)

    def stop(self) -> None:
        """Drop what is held and ignore what comes."""
        self._state = _STOPPED
        self._behind = False
        self._kept.clear()
        self._partial = None
        if self._chunks is not None:
            self._chunks.on_data = _ignore

    def _go_on(self, state: int) -> None:
        if self._state == _STOPPED:
            return
        if self._state != _ENDED:
            raise RuntimeError("the message has not ended")
        self._state = state
        self._behind = False
        kept = self._kept
        if kept:  # while receive is running nothing is kept, and it goes on by itself
            self._kept = []
            self.receive(kept[0] if len(kept) == 1 else b"".join(kept), self._at)

    def _keep(self, data: bytes, at: int) -> None:
        self._behind = False
        if not self._kept:
            self._at = at
        self._kept.append(data)
        if sum(map(len, self._kept)) - self._at > self._limits.max_pending_bytes:
            raise BadMessage(400, "http1.pipeline_overflow", "too many bytes behind the end of a message")

    def _read_head(self, data: bytes, at: int) -> int:
        """Take the head, or what there is of it, from ``data[at:]``; return where it ended."""
        if self._partial is None and (end := data.find(b"\r\n\r\n", at, at + self._limits.max_head_bytes)) >= 0:
            end += 4
            block = data[at:end]
        else:
            block, end = self._gather_head(data, at)
            if not block:
                return end
        head = self._heads.get(block)
        if head is None:
            head = self._parse(block)
        body = head.body
        if body > 0:
            self._left = body
            self._state = _LENGTH
        elif body == CHUNKED:
            self._chunks = ChunkedReader(self._sink.on_data, self._limits)
            self._state = _CHUNKS
        elif body == UNTIL_CLOSE:
            self._state = _TO_END
        else:
            self._behind = end < len(data)
            self._begin_bodiless(head)
            return end
        self._sink.on_head(head)
        return end

    def _gather_head(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Add to the incomplete head: its block, once it is complete, or nothing; and where in ``data`` it ended."""
        limit = self._limits.max_head_bytes
        partial = self._partial
        if partial is None:
            partial = self._partial = bytearray()
        scanned = len(partial)
        partial += data[at : at + limit + 1 - scanned]
        end = partial.find(b"\r\n\r\n", max(scanned - 3, 0), limit)
        if end < 0:
            refuse_early(partial, scanned, self._limits)
            return b"", len(data)
        self._partial = None
        return bytes(partial[: end + 4]), at + end + 4 - scanned

    def _begin_bodiless(self, head: Head) -> None:
        self._state = _ENDED
        self._sink.on_head(head)
        if self._state == _ENDED:
            self._sink.on_end(None)

    @abstractmethod
    def _parse(self, block: bytes) -> Head:
        """The head, remembered. Raises BadMessage."""

    def _blame(self, bad: BadMessage) -> None:
        """Turn the status into the one to answer with: as it is, if the client's message was at fault."""

    def _remember(self, block: bytes, head: Head) -> Head:
        if len(block) <= REMEMBERED_HEAD_BYTES:
            if len(self._heads) >= HEADS_REMEMBERED:
                self._heads.clear()
            self._heads[block] = head
        return head


class RequestReader(_Reader[RequestHead]):
    """Reads the requests of one connection; ready for the first one at once."""

    __slots__ = ()

    def __init__(self, sink: RequestSink, limits: Limits = REQUEST_LIMITS) -> None:
        heads = _request_tables.get(limits)
        if heads is None:
            if len(_request_tables) >= TABLES_REMEMBERED:
                _request_tables.clear()
            heads = _request_tables[limits] = {}
        super().__init__(sink, limits, heads, _HEAD)

    @property
    def started(self) -> bool:
        """Has a byte of a message arrived whose end has not?"""
        return self._partial is not None or _HEAD < self._state < _ENDED

    def receive(self, data: bytes, at: int = 0) -> None:
        if self._state == _HEAD and self._partial is None and at == 0:
            head = self._heads.get(data)
            if head is not None and NONE <= head.body <= 0:  # the usual request: one known head, nothing else
                self._state = _ENDED
                self._sink.on_head(head)
                if self._state == _ENDED:
                    self._sink.on_end(None)
                return
        _Reader.receive(self, data, at)

    def next_message(self) -> None:
        """The message is dealt with: read the next one, which may be waiting. Raises as ``receive``."""
        self._go_on(_HEAD)

    def eof(self) -> None:
        """The connection brings no more. Raises BadMessage where that cuts a message short."""
        if self._state == _RAW:
            self._state = _ENDED
            self._sink.on_end(None)
        elif self.started:
            self.stop()
            raise BadMessage(400, "http1.codec_error", "end of input within a message")

    def _parse(self, block: bytes) -> RequestHead:
        return self._remember(block, parse_request_head(block, self._limits))


class ResponseReader(_Reader[ResponseHead]):
    """Reads the responses of one connection. Before each, ``next_message`` says which method was asked.

    Whatever arrives otherwise is unsolicited: it stays ``pending``, and the connection is not fit for use (look before
    it is given to another request; ``next_message`` refuses). A 101 is the end of HTTP: ``on_head``, and then
    ``switch_protocol`` or ``stop``. Each BadMessage has status 502.
    """

    __slots__ = ("_interim", "_method")

    def __init__(self, sink: ResponseSink, limits: Limits = RESPONSE_LIMITS) -> None:
        super().__init__(sink, limits, _response_table(limits, False), _ENDED)
        self._method = b""
        self._interim = 0

    @property
    def started(self) -> bool:
        """Has a byte of the response arrived whose end has not? Until then the request may be sent elsewhere."""
        if self._state == _HEAD:
            return self._partial is not None or self._interim > 0
        return _HEAD < self._state < _ENDED

    def next_message(self, request_method: bytes) -> None:
        """A request goes out: what comes next is its response. Raises BadMessage if something came before."""
        if self.pending:
            # RFC 9112 §9.2: "MUST NOT be considered a valid response": it would be given to somebody else's request.
            self.stop()
            raise BadMessage(502, "http1.codec_error", "bytes behind the end of a response")
        if request_method != self._method:
            self._method = request_method
            self._heads = _response_table(self._limits, request_method == b"HEAD")
        self._interim = 0
        self._go_on(_HEAD)

    def eof(self) -> None:
        """The connection brings no more: the end of a body until close, else BadMessage where a response was due."""
        if self._state == _TO_END or self._state == _RAW:
            self._state = _ENDED
            self._sink.on_end(None)
        elif self._state < _ENDED:
            self.stop()
            raise BadMessage(502, "http1.codec_error", "end of input within a response")

    def _begin_bodiless(self, head: ResponseHead) -> None:
        if head.status >= 200:
            super()._begin_bodiless(head)
        elif head.status == 101:
            self._state = _ENDED
            self._sink.on_head(head)
        else:
            self._behind = False
            self._interim += 1
            if self._interim > self._limits.max_interim_responses:
                raise BadMessage(502, "http1.codec_error", "too many interim responses")
            self._sink.on_head(head)

    def _parse(self, block: bytes) -> ResponseHead:
        return self._remember(block, parse_response_head(block, self._method, self._limits))

    def _blame(self, bad: BadMessage) -> None:
        bad.status = 502


def _response_table(limits: Limits, head_was_asked: bool) -> dict[bytes, ResponseHead]:
    key = limits, head_was_asked
    heads = _response_tables.get(key)
    if heads is None:
        if len(_response_tables) >= TABLES_REMEMBERED:
            _response_tables.clear()
        heads = _response_tables[key] = {}
    return heads


def _ignore(data: bytes, /) -> None:
    """For a reader that was stopped while it read chunks."""
