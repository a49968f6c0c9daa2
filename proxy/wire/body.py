"""Chunked bodies (RFC 9112 §7.1), decoded as they arrive and encoded piece by piece.

A body with a length is counted down and one until close is passed on, both in ``h1.py``; only chunks need a decoder.
Chunk data is handed on as slices of what arrived, never joined. What is kept between two reads is at most one chunk
line, or the trailer section, each under its limit.

The grammar is the RFC's without the liberties that it grants recipients: no blanks around a size or in extensions, a
CRLF and nothing else after chunk data, sizes of at most 16 hexadecimal digits. Extensions are checked and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from proxy.wire import BadMessage, Field
from proxy.wire.fields import TOKEN, parse_trailers, refuse_bytes, render_trailers
from proxy.wire.limits import Limits

_PLAIN_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})((?:;" + TOKEN + rb"++(?:=(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?+)*+)\r\n"
)
_LINE_SO_FAR: Final = re.compile(rb"[0-9A-Fa-f]{1,16}+(?:;[^\r\n]*+)?+\r?")
_EXTENSION: Final = re.compile(rb";" + TOKEN + rb"++(?:=(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?+")

# Where the decoder is.
_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILER: Final = 3


class ChunkedReader:
    """Decodes one body: data goes to ``on_data``; behind its last byte ``ended`` is true, and ``trailers`` is set."""

    __slots__ = ("_held", "_left", "_limits", "_state", "ended", "on_data", "trailers")

    def __init__(self, on_data: Callable[[bytes], None], limits: Limits) -> None:
        self.on_data = on_data
        self.ended = False
        self.trailers: list[Field] | None = None
        self._limits = limits
        self._state = _SIZE
        self._left = 0  # of the chunk's data; of the CRLF behind it
        self._held = bytearray()  # of a chunk line; of the trailers, from the CRLF of the last chunk's line

    def read(self, data: bytes, at: int) -> int:
        """Take ``data[at:]`` as far as the body goes; return where it stopped. Raises BadMessage."""
        size = len(data)
        while at < size and not self.ended:
            state = self._state
            if state == _DATA:
                end = at + self._left
                if end > size:
                    self._left = end - size
                    self.on_data(data[at:])
                    return size
                self.on_data(data[at:end])
                if data.startswith(b"\r\n", end):
                    self._state = _SIZE
                    at = end + 2
                else:
                    self._state, self._left = _DATA_END, 2
                    at = end
            elif state == _SIZE:
                at = self._read_size(data, at)
            elif state == _DATA_END:
                if data[at] != (0x0D if self._left == 2 else 0x0A):
                    raise BadMessage(400, "http1.codec_error", "chunk data that no CRLF follows")
                self._left -= 1
                at += 1
                if self._left == 0:
                    self._state = _SIZE
            else:
                at = self._read_trailers(data, at)
        return at

    def _read_size(self, data: bytes, at: int) -> int:
        held = self._held
        plain = None if held else _PLAIN_LINE.match(data, at)
        if plain is not None:
            size, at = int(plain[1], 16), plain.end()
        else:
            limit = self._limits.max_chunk_line_bytes
            start, at = at, data.find(b"\n", at, at + limit) + 1
            held += data[start : at or start + limit]
            if len(held) > limit or (not at and len(held) == limit):
                raise BadMessage(400, "http1.codec_error", f"chunk line over {limit} bytes")
            if not at:
                if not _LINE_SO_FAR.fullmatch(held):
                    raise BadMessage(400, "http1.codec_error", "malformed chunk size or extension")
                return len(data)
            line = _LINE.fullmatch(bytes(held))
            if line is None:
                raise BadMessage(400, "http1.codec_error", "malformed chunk size or extension")
            if len(_EXTENSION.findall(line[2])) > self._limits.max_chunk_extensions:
                raise BadMessage(400, "http1.codec_error", "too many chunk extensions")
            size = int(line[1], 16)
            held.clear()
        if size:
            self._state, self._left = _DATA, size
        else:
            self._state = _TRAILER
            held += b"\r\n"
        return at

    def _read_trailers(self, data: bytes, at: int) -> int:
        held, limit = self._held, self._limits.max_trailer_bytes + 2
        scanned = len(held)
        held += data[at : at + limit + 1 - scanned]
        end = held.find(b"\r\n\r\n", max(scanned - 3, 0), limit)
        if end < 0:
            refuse_bytes(held, scanned - 1, limit)
            if len(held) > limit:
                raise BadMessage(431, "http1.headers_too_large", f"trailers over {limit - 2} bytes")
            return len(data)
        if end:
            self.trailers = parse_trailers(bytes(held[2 : end + 2]), self._limits.max_fields)
        self.ended = True
        return at + end + 4 - scanned


def chunk(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The pieces of one chunk, for ``writelines``; ``data`` is not copied. Raises ValueError if it is empty."""
    if not data:
        raise ValueError("an empty chunk ends the body: use last_chunk")
    return b"%x\r\n" % len(data), data, b"\r\n"


def last_chunk(trailers: Sequence[Field] | None = None) -> bytes:
    """The end of a chunked body. Raises ValueError for trailers that would not be read back as they were given."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"0\r\n%b\r\n" % render_trailers(trailers)
