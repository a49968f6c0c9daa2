"""HPACK (RFC 7541), the receiving side. Huffman codes are the ``hpack`` library's.

What bounds memory: the table has at most 4096 bytes, as everywhere. A block makes literals of at most 8/5 of its own
size (no Huffman code is shorter than five bits); an indexed field is the table's own object. So a block that is a bomb
costs a pointer for each of its octets, and its size can be judged when it has been decoded. Time: a field costs at
least an octet, so the number of fields is bounded apart.

``changes`` counts what moved indices: as long as it stands still, a block means what it meant before.
"""

from __future__ import annotations

from typing import Final

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman

from proxy.wire import Field
from proxy.wire.h2.compress import ENTRY_BYTES, STATIC, TABLE_BYTES

_FIRST_DYNAMIC: Final = len(STATIC) + 1
_NO_FIELD: Final[Field] = (b"", b"")
_INTEGER_SHIFT_LIMIT: Final = 28  # five octets: more than any index or length that could be right


_MOST_RESIZES: Final = 16  # RFC 7541 §4.2 has use for two; the hpack library announces each change

TEXTS_REMEMBERED: Final = 1024
LARGEST_REMEMBERED_BYTES: Final = 128
"""Huffman codes and what they say, for the whole process: who does not index paths sends the same few again."""

_texts: dict[bytes, bytes] = {}


class BadBlock(Exception):
    """RFC 9113 §4.3, COMPRESSION_ERROR: it cannot be decoded."""


class Inflated(Exception):
    """The block has more fields than anybody means."""


class Decoder:
    """For one connection: every block that arrives must pass through it, in order. An exception is its end."""

    __slots__ = ("_max", "_max_fields", "_size", "_table", "changes")

    def __init__(self, max_fields: int) -> None:
        self._max_fields = max_fields
        self._table: list[Field] = [_NO_FIELD, *STATIC]  # and behind them the dynamic ones, the newest first
        self._max = TABLE_BYTES
        self._size = 0
        self.changes = 0

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a whole block. Raises BadBlock and Inflated."""
        try:
            return self._decode(block)
        except (IndexError, HPACKDecodingError):  # an index beyond the table; a block that ends within a field
            raise BadBlock from None

    def _decode(self, block: bytes) -> list[Field]:
        table = self._table
        fields: list[Field] = []
        at, end, most = 0, len(block), self._max_fields
        resizes = 0
        while at < end:
            if len(fields) >= most:
                raise Inflated
            octet = block[at]
            at += 1
            if octet >= 0x80:  # §6.1: indexed
                index = octet & 0x7F
                if index == 0x7F:
                    index, at = _integer(block, at, 0x7F)
                if index == 0:
                    raise BadBlock
                fields.append(table[index])
                continue
            if octet >= 0x40:  # §6.2.1: literal, to be inserted
                index, largest = octet & 0x3F, 0x3F
            elif octet >= 0x20:  # §6.3: size of the table
                resizes += 1
                if fields or resizes > _MOST_RESIZES:
                    raise BadBlock  # §4.2: "MUST occur at the beginning of the first header block"
                at = self._resize(block, at, octet & 0x1F)
                continue
            else:  # §6.2.2 and §6.2.3: literal
                index, largest = octet & 0x0F, 0x0F
            if index == largest:
                index, at = _integer(block, at, largest)
            if index:
                name = table[index][0]
            else:
                name, at = _string(block, at)
            value, at = _string(block, at)
            field = (name, value)
            fields.append(field)
            if octet >= 0x40:
                self._insert(field)
        return fields

    def _resize(self, block: bytes, at: int, size: int) -> int:
        if size == 0x1F:
            size, at = _integer(block, at, 0x1F)
        if size > TABLE_BYTES:
            raise BadBlock
        self._max = size
        self._evict(size)
        return at

    def _insert(self, field: Field) -> None:
        """RFC 7541 §4.4: what is too large for the table empties it."""
        size = len(field[0]) + len(field[1]) + ENTRY_BYTES
        self.changes += 1
        self._evict(self._max - size)
        if size <= self._max:
            self._table.insert(_FIRST_DYNAMIC, field)
            self._size += size

    def _evict(self, size: int) -> None:
        """Oldest first, until at most ``size`` bytes are left."""
        table = self._table
        self.changes += 1
        while self._size > size and len(table) > _FIRST_DYNAMIC:
            name, value = table.pop()
            self._size -= len(name) + len(value) + ENTRY_BYTES


def _integer(block: bytes, at: int, value: int) -> tuple[int, int]:
    """RFC 7541 §5.1, behind a prefix that is all ones (``value``)."""
    shift = 0
    while True:
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7
        if shift > _INTEGER_SHIFT_LIMIT:
            raise BadBlock


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    octet = block[at]
    at += 1
    size = octet & 0x7F
    if size == 0x7F:
        size, at = _integer(block, at, 0x7F)
    end = at + size
    if end > len(block):
        raise BadBlock
    if octet < 0x80:
        return block[at:end], end
    coded = block[at:end]
    text = _texts.get(coded)
    if text is None:
        text = decode_huffman(coded)
        if size <= LARGEST_REMEMBERED_BYTES:
            if len(_texts) >= TEXTS_REMEMBERED:
                _texts.clear()
            _texts[coded] = text
    return text, end
