"""HPACK (RFC 7541), the sending side.

Our encoder wants to give the same bytes for the same fields, so that they can be remembered. It therefore inserts into
the peer's dynamic table what it has seen twice on a connection, until the table is full, and *never evicts*: indices
settle, and from then on an encoded block stays right. Every insertion moves the indices of all entries; what was
remembered until then is forgotten.

What differs from message to message, and what an attacker could guess at through the size of a compressed block
(RFC 7541 §7.1), is never inserted; credentials go as literals that no hop may index (§7.1.3). Values are not Huffman
coded: that costs more time here than it saves bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hpack.table import HeaderTable

from proxy.wire import Field
from proxy.wire.fields import TOKEN_IN_LOWER_CASE, TRIMMED_VALUE

STATIC: Final[tuple[Field, ...]] = tuple(HeaderTable.STATIC_TABLE)
"""RFC 7541 Appendix A, of which the first has index 1."""

TABLE_BYTES: Final = 4096
"""Of a dynamic table (RFC 9113 §6.5.2): what we let a peer use, and the most that we use of what it offers."""
ENTRY_BYTES: Final = 32
"""What an entry counts beyond name and value (RFC 7541 §4.1)."""

LARGEST_INSERTED_BYTES: Final = 256
BLOCKS_REMEMBERED: Final = 128
FIELDS_SEEN: Final = 128
NAMES_REMEMBERED: Final = 256

_SECRET: Final = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"))
_CHANGING: Final = frozenset(
    (
        b":path", b"age", b"content-length", b"content-range", b"date", b"etag", b"expires", b"grpc-timeout",
        b"if-match", b"if-modified-since", b"if-none-match", b"last-modified", b"location", b"range", b"traceparent",
        b"x-envoy-upstream-service-time", b"x-request-id",
    )
)  # fmt: skip
PLAIN_FIELD_LINE: Final = (
    rb"(?!(?:connection|keep-alive|proxy-connection|transfer-encoding|upgrade)\n)"  # RFC 9113 §8.2.2
    + TOKEN_IN_LOWER_CASE
    + rb"\n"
    + TRIMMED_VALUE
    + rb"\n"
)
"""Name and value of a field that is no pseudo-field, each with an LF behind it, for use in a pattern. (Neither may have
an LF in it: RFC 9113 §8.2.1. Whoever joins them counts.)"""

_BLOCK: Final = re.compile(rb"(?::[a-z]++\n[!-~\x80-\xff]*+\n)*+(?:" + PLAIN_FIELD_LINE + rb")*+")
_VALUE: Final = re.compile(TRIMMED_VALUE)


class FieldBlock:
    """Fields that are ready to be sent, pseudo-fields first. Hashed by identity: share it where fields repeat.

    Raises ValueError for what HTTP/2 does not carry (RFC 9113 §8.2), which is a fault of ours.
    """

    __slots__ = ("fields",)

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        lines = b"".join([b"%b\n%b\n" % field for field in self.fields])
        if lines.count(b"\n") != 2 * len(self.fields) or not _BLOCK.fullmatch(lines):
            raise ValueError("field that HTTP/2 does not carry")


def integer(value: int, prefix_bits: int, pattern: int = 0) -> bytes:
    """RFC 7541 §5.1, with ``pattern`` in the bits above the prefix."""
    largest = (1 << prefix_bits) - 1
    if value < largest:
        return bytes((pattern | value,))
    octets = [pattern | largest]
    value -= largest
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


# RFC 7541 §6.1 and §6.2: the first octets of the representations.
_INDEXED: Final = (0x80, 7)
_INSERTED: Final = (0x40, 6)
_PLAIN: Final = (0x00, 4)
_NEVER_INDEXED: Final = (0x10, 4)

_LENGTHS: Final = [integer(length, 7) for length in range(1024)]
_INDICES: Final = [integer(index, 7, 0x80) for index in range(len(STATIC) + 1 + TABLE_BYTES // ENTRY_BYTES)]
_STATIC_FIELDS: Final = {field: _INDICES[index] for index, field in reversed([*enumerate(STATIC, 1)])}
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed([*enumerate(STATIC, 1)])}

_literal_names: dict[bytes, bytes] = {}


def _name(name: bytes, kind: tuple[int, int]) -> bytes:
    """A literal's beginning, with the name (RFC 7541 §6.2): its index in the static table, or itself."""
    pattern, prefix_bits = kind
    index = _STATIC_NAMES.get(name)
    if index is not None:
        return integer(index, prefix_bits, pattern)
    return bytes((pattern,)) + integer(len(name), 7) + name


def literal(name: bytes, value: bytes) -> bytes:
    """One field that touches no table: to be sent behind a :class:`FieldBlock`. For what is different each time.

    ``name`` is one of ours. Raises ValueError for a value that HTTP/2 does not carry.
    """
    beginning = _literal_names.get(name)
    if beginning is None:
        if len(_literal_names) >= NAMES_REMEMBERED:
            _literal_names.clear()
        beginning = _literal_names[name] = _name(name, _NEVER_INDEXED if name in _SECRET else _PLAIN)
    if not _VALUE.fullmatch(value):
        raise ValueError("value that HTTP/2 does not carry")
    size = len(value)
    return beginning + (_LENGTHS[size] if size < 1024 else integer(size, 7)) + value


class Encoder:
    """For one connection. Blocks must be sent in the order in which they were encoded."""

    __slots__ = ("_count", "_free", "_max", "_positions", "_resize", "_seen", "remembered")

    def __init__(self) -> None:
        self.remembered: dict[FieldBlock, bytes] = {}
        """Blocks that encode to the same bytes as before, until something is inserted. Look here first."""
        self._positions: dict[Field, int] = {}  # of what is in the table: the how-manieth it was
        self._seen: set[Field] = set()  # once
        self._max = self._free = TABLE_BYTES
        self._count = 0
        self._resize = b""

    def resize(self, size: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE (RFC 7541 §4.2). A larger table than ours is not made use of."""
        size = min(size, TABLE_BYTES)
        if size == self._max:
            return
        self._max = self._free = size
        self._count = 0
        self._positions.clear()
        self.remembered.clear()
        self._resize = b"\x20" if size == 0 else b"\x20" + integer(size, 5, 0x20)  # by way of 0: all entries go

    def encode(self, block: FieldBlock) -> bytes:
        positions = self._positions
        pieces: list[bytes] = []
        settled = not self._resize
        if not settled:
            pieces.append(self._resize)
            self._resize = b""
        for field in block.fields:
            piece = _STATIC_FIELDS.get(field)
            if piece is None:
                position = positions.get(field)
                if position is not None:
                    piece = _INDICES[len(STATIC) + self._count - position]
                elif self._may_insert(field):
                    settled = False
                    if field in self._seen:
                        piece = self._insert(field)
                    else:
                        if len(self._seen) >= FIELDS_SEEN:
                            self._seen.clear()
                        self._seen.add(field)
                        piece = literal(*field)
                else:
                    piece = literal(*field)
            pieces.append(piece)
        encoded = b"".join(pieces)
        if settled:
            if len(self.remembered) >= BLOCKS_REMEMBERED:
                self.remembered.clear()
            self.remembered[block] = encoded
        return encoded

    def _may_insert(self, field: Field) -> bool:
        name, value = field
        size = len(name) + len(value) + ENTRY_BYTES
        return size <= self._free and size <= LARGEST_INSERTED_BYTES and name not in _CHANGING and name not in _SECRET

    def _insert(self, field: Field) -> bytes:
        name, value = field
        self._seen.discard(field)
        self._positions[field] = self._count
        self._count += 1
        self._free -= len(name) + len(value) + ENTRY_BYTES
        self.remembered.clear()
        return _name(name, _INSERTED) + _LENGTHS[len(value)] + value
