"""Field blocks and what they mean: requests, responses and trailers (RFC 9113 §4.3 and §8), for one connection.

HPACK (``decompress``) makes fields of a block, ``heads`` makes a message of the fields; here they are put together,
with the limits between them. Every block must come to :class:`BlockReader`, in order, because each may change what
the next ones mean; also one that nobody wants any more, for which there is ``decode``.

A block that has come before and that no change of the dynamic table lies behind is not decoded again: the tables
``requests``, ``responses`` and ``trailers`` know what it meant. Whoever receives one looks there first, and reads it
where it is not found.

Faults are of three kinds. ``Unreadable`` ends the connection, whose table would be out of step or which does too much.
``Malformed`` (from ``heads``) is the stream's, and so is ``BadMessage``: a message that is understood, and refused.
"""

from __future__ import annotations

from itertools import chain
from typing import Final, TypeVar

from proxy.wire import BadMessage, Field, RequestHead, ResponseHead
from proxy.wire.h2.codes import ErrorCode
from proxy.wire.h2.compress import ENTRY_BYTES
from proxy.wire.h2.decompress import BadBlock, Decoder, Inflated
from proxy.wire.h2.heads import request_head, request_trailers, response_head, response_trailers
from proxy.wire.h2.limits import H2Limits

BLOCKS_REMEMBERED: Final = 128
LARGEST_REMEMBERED_BYTES: Final = 1024

T = TypeVar("T")


class Unreadable(Exception):
    """The connection cannot go on behind this block. The attributes are those of :class:`~proxy.wire.h2.Broken`."""

    def __init__(self, code: ErrorCode, detail: str, over_budget: bool) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.over_budget = over_budget


class BlockReader:
    """``of_server``: what comes are requests and their trailers; else responses and theirs.

    ``requests``: without and with END_STREAM. ``responses``: the same, and behind them those to HEAD.
    """

    __slots__ = ("_decoder", "_limits", "_of_server", "requests", "responses", "trailers")

    def __init__(self, of_server: bool, limits: H2Limits) -> None:
        self.requests: tuple[dict[bytes, RequestHead], ...] = ({}, {})
        self.responses: tuple[dict[bytes, ResponseHead], ...] = ({}, {}, {}, {})
        self.trailers: dict[bytes, list[Field]] = {}
        self._of_server = of_server
        self._limits = limits
        self._decoder = Decoder(limits.max_inflation * limits.max_fields)

    def read_request(self, block: bytes, ended: int) -> RequestHead:
        """Raises Unreadable, Malformed, BadMessage."""
        changes = self._decoder.changes
        fields = self.decode(block)
        head = request_head(fields, bool(ended), self._measure(fields))
        self._remember(self.requests[ended], block, head, changes)
        return head

    def read_response(self, block: bytes, ended: int, head_was_asked: bool) -> ResponseHead:
        """As :meth:`read_request`."""
        changes = self._decoder.changes
        fields = self.decode(block)
        head = response_head(fields, bool(ended), head_was_asked, self._measure(fields))
        self._remember(self.responses[ended + 2 * head_was_asked], block, head, changes)
        return head

    def read_trailers(self, block: bytes) -> list[Field]:
        """As :meth:`read_request`."""
        changes = self._decoder.changes
        fields = self.decode(block)
        self._measure(fields)
        trailers = request_trailers(fields) if self._of_server else response_trailers(fields)
        self._remember(self.trailers, block, trailers, changes)
        return trailers

    def decode(self, block: bytes) -> list[Field]:
        """The fields alone, as they are. Raises Unreadable."""
        if len(block) > self._limits.max_block_bytes:
            raise Unreadable(ErrorCode.ENHANCE_YOUR_CALM, "field block too large", True)
        decoder = self._decoder
        changes = decoder.changes
        try:
            fields = decoder.decode(block)
        except BadBlock:
            raise Unreadable(ErrorCode.COMPRESSION_ERROR, "field block that cannot be decompressed", False) from None
        except Inflated:
            raise Unreadable(ErrorCode.ENHANCE_YOUR_CALM, "field block that inflates too much", True) from None
        if decoder.changes != changes:
            for requests in self.requests:
                requests.clear()
            for responses in self.responses:
                responses.clear()
            self.trailers.clear()
        return fields

    def _measure(self, fields: list[Field]) -> int:
        """The size of the header list, as SETTINGS_MAX_HEADER_LIST_SIZE counts it (RFC 9113 §6.5.2). Raises Unreadable
        and BadMessage where it is too large.
        """
        limits = self._limits
        size = ENTRY_BYTES * len(fields) + sum(map(len, chain.from_iterable(fields)))
        if size > limits.max_inflation * limits.max_header_list_bytes:
            raise Unreadable(ErrorCode.ENHANCE_YOUR_CALM, "field block that inflates too much", True)
        if len(fields) > limits.max_fields:
            raise BadMessage(431, "http2.too_many_headers", f"more than {limits.max_fields} fields")
        if size > limits.max_header_list_bytes:
            raise BadMessage(431, "http2.headers_too_large", f"header list over {limits.max_header_list_bytes} bytes")
        return size

    def _remember(self, table: dict[bytes, T], block: bytes, meaning: T, changes: int) -> None:
        """``changes``: of the dynamic table, before the block was decoded. If it made some itself, it means something
        else next time.
        """
        if self._decoder.changes == changes and len(block) <= LARGEST_REMEMBERED_BYTES:
            if len(table) >= BLOCKS_REMEMBERED:
                table.clear()
            table[block] = meaning
