"""DNS messages as far as a server for stub resolvers needs them (RFC 1035, RFC 6891): no I/O, no clock.

A question is read by hand and strictly: one question, no other records but one OPT, nothing behind it. What is wrong
gets the shortest reply that says so, built from the header alone; a message that claims to be a reply gets none, since
two servers that answer each other's replies never end.

A :class:`Packed` answer leaves out what differs from client to client (id, spelling of the name, OPT). It refers to
the question by a compression pointer to offset 12, where every message has its question, so it fits them all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

MAX_QUERY_BYTES = 4096
"""A question needs at most 271 bytes; the rest is room for EDNS options, of which padding is the largest."""
MAX_UDP_REPLY_BYTES = 1232
"""The largest reply that no path has to fragment (DNS flag day 2020), whatever the client would take."""
MIN_UDP_REPLY_BYTES = 512
MAX_TCP_REPLY_BYTES = 65535
MAX_NAME_BYTES = 255
MAX_LABEL_BYTES = 63

QR, OPCODE, AA, TC, RD, RA, CD = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
DNSSEC_OK = 0x8000

HEADER = struct.Struct("!HHHHHH")
_TYPE_AND_CLASS = struct.Struct("!HH")
_OPT = struct.Struct("!BHHIH")
_RECORD = struct.Struct("!HHHIH")
_TTL = struct.Struct("!I")
_OPTS = tuple(_OPT.pack(0, RdataType.OPT, MAX_UDP_REPLY_BYTES, flags, 0) for flags in (0, DNSSEC_OK))
"""The OPT records of our replies, without and with DNSSEC OK."""
_IN, _OPT_TYPE = int(RdataClass.IN), int(RdataType.OPT)  # comparing with a member of an enum costs 0.2 µs
_POINTER = 0xC000
"""A compression pointer is this and an offset (RFC 1035 section 4.1.4)."""
_NOBODY = b"\x06nobody\x07invalid\x00"


class Ignored(Exception):
    """A message that gets no reply."""


class Refused(Exception):
    """A question that is answered by an error. ``reply`` is ready to send."""

    def __init__(self, rcode: Rcode, reply: bytes) -> None:
        super().__init__(rcode.name)
        self.rcode = rcode
        self.reply = reply


class Query(NamedTuple):
    """A question that may be answered. ``name`` is its name in wire format, lower case; ``question`` is the question
    as the client wrote it. ``opt`` is the OPT record of the reply, empty for a client without EDNS.
    """

    id: int
    flags: int
    question: bytes
    name: bytes
    qtype: int
    opt: bytes
    dnssec_ok: bool
    max_reply_bytes: int

    @property
    def checking_disabled(self) -> bool:
        return bool(self.flags & CD)


@dataclass(frozen=True, slots=True)
class Packed:
    """An answer to every client that asks the same. ``flags``: the RCODE, and AA where it is our own. ``counts``: of
    answer, authority and additional records. ``ttls``: where in ``body`` the TTLs stand.
    """

    flags: int
    counts: tuple[int, int, int] = (0, 0, 0)
    body: bytes = b""
    ttls: tuple[int, ...] = ()

    def aged(self, age_s: int) -> Packed:
        """The same answer, ``age_s`` later."""
        if age_s <= 0 or not self.ttls:
            return self
        body = bytearray(self.body)
        for at in self.ttls:
            (ttl_s,) = _TTL.unpack_from(body, at)
            _TTL.pack_into(body, at, max(0, ttl_s - age_s))
        return replace(self, body=bytes(body))


FAILED = Packed(Rcode.SERVFAIL)
"""No server could be asked, or none had an answer."""


def parse(data: bytes, *, over_tcp: bool = False) -> Query:
    """Raises :class:`Ignored` and :class:`Refused`."""
    if len(data) < HEADER.size:
        raise Ignored("shorter than a header")
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(data)
    if flags & QR:
        raise Ignored("a reply")
    if flags & OPCODE:
        raise _refused(ident, flags, Rcode.NOTIMP)
    if len(data) > MAX_QUERY_BYTES or questions != 1 or answers or authorities or additionals > 1:
        raise _refused(ident, flags, Rcode.FORMERR)
    try:
        end = _end_of_name(data, HEADER.size)
        qtype, qclass = _TYPE_AND_CLASS.unpack_from(data, end)
        after = end + _TYPE_AND_CLASS.size
        room, version, dnssec_ok = _read_opt(data, after) if additionals else (0, 0, False)
        if not additionals and len(data) != after:
            raise ValueError("bytes behind the question")
    except (ValueError, IndexError, struct.error) as exc:
        raise _refused(ident, flags, Rcode.FORMERR) from exc
    question = data[HEADER.size : after]
    opt = _OPTS[dnssec_ok] if additionals else b""
    if version:
        # RFC 6891 section 6.1.3: the upper bits of the RCODE BADVERS (16) are the first byte of the OPT's TTL.
        raise _refused(
            ident, flags, Rcode.BADVERS, question, _OPT.pack(0, RdataType.OPT, MAX_UDP_REPLY_BYTES, 1 << 24, 0)
        )
    if qclass != _IN or not _may_be_asked(qtype):
        raise _refused(ident, flags, Rcode.REFUSED, question, opt)
    room = MAX_TCP_REPLY_BYTES if over_tcp else min(max(room, MIN_UDP_REPLY_BYTES), MAX_UDP_REPLY_BYTES)
    name = data[HEADER.size : end].lower()  # the bytes of lengths are below "A"
    return Query(ident, flags, question, name, qtype, opt, dnssec_ok, room)


def reply(query: Query, answer: Packed) -> bytes:
    """What to send. An answer that is too large for the client is left out, and TC says so (RFC 2181 section 9)."""
    flags = QR | RA | answer.flags | query.flags & (RD | CD)
    question, body, opt = query.question, answer.body, query.opt
    answers, authorities, additionals = answer.counts
    if HEADER.size + len(question) + len(body) + len(opt) > query.max_reply_bytes:
        flags |= TC
        answers = authorities = additionals = 0
        body = b""
    if opt:
        additionals += 1
    return HEADER.pack(query.id, flags, 1, answers, authorities, additionals) + question + body + opt


def is_truncated(message: bytes) -> bool:
    return bool(message[2] & TC >> 8)


def pack_records(rdtype: RdataType, rdatas: Iterable[bytes], ttl_s: int) -> Packed:
    """An answer of ours: records of the name that was asked for."""
    records = [_record(HEADER.size, rdtype, rdata, ttl_s) for rdata in rdatas]
    return Packed(AA, (len(records), 0, 0), b"".join(records))


@lru_cache(maxsize=64)
def no_data(ttl_s: int) -> Packed:
    """The name is ours and has no records of this type."""
    return _denied(Rcode.NOERROR, HEADER.size, ttl_s)


def no_such_name(zone_at: int, ttl_s: int) -> Packed:
    """The name, in a zone of ours whose name starts ``zone_at`` bytes into the message, does not exist."""
    return _denied(Rcode.NXDOMAIN, zone_at, ttl_s)


def pack_reply(wire: bytes) -> Packed:
    """The answer in a well-formed reply without OPT, whose question is not compressed."""
    _, flags, _, *counts = HEADER.unpack_from(wire)
    answers, authorities, additionals = counts
    start = _end_of_name(wire, HEADER.size) + _TYPE_AND_CLASS.size
    ttls = tuple(at - start for at in _ttls(wire, start, sum(counts)))
    return Packed(flags & 0xF, (answers, authorities, additionals), wire[start:], ttls)


def name_to_wire(name: str) -> bytes:
    """A lower-case host name without its final dot. Raises ``ValueError`` for what is no name."""
    wire = bytearray()
    for label in name.encode("ascii").split(b"."):
        if not 1 <= len(label) <= MAX_LABEL_BYTES:
            raise ValueError(f"{name!r} is not a domain name")
        wire.append(len(label))
        wire += label
    wire.append(0)
    if len(wire) > MAX_NAME_BYTES:
        raise ValueError(f"{name!r} is too long for a domain name")
    return bytes(wire)


def name_to_text(wire: bytes) -> str | None:
    """The name in wire format as a host name without its final dot; ``None`` if it is not made of plain labels, so
    that no label with a dot in it can pass for two.
    """
    labels = []
    at = 0
    while length := wire[at]:
        label = wire[at + 1 : at + 1 + length]
        if b"." in label or not label.isascii():
            return None
        labels.append(label.decode("ascii"))
        at += 1 + length
    return ".".join(labels)


def _end_of_name(data: bytes, at: int) -> int:
    """The offset behind the name that starts at ``at``. Raises ``ValueError`` or ``IndexError``."""
    start = at
    while length := data[at]:
        if length > MAX_LABEL_BYTES:
            # A compression pointer too: before the first name there is nothing to point to.
            raise ValueError("not a label")
        at += 1 + length
        if at - start >= MAX_NAME_BYTES:
            raise ValueError("the name is too long")
    return at + 1


def _read_opt(data: bytes, at: int) -> tuple[int, int, bool]:
    """(UDP payload size, version, DNSSEC OK) of the OPT record that ends the message. Its options are checked for
    their form; what they ask for concerns one hop, and we have none of it (RFC 6891 section 6.1.2).

    Raises ``ValueError`` or ``struct.error``.
    """
    root, rdtype, room, more, rdata_bytes = _OPT.unpack_from(data, at)
    at += _OPT.size
    if root or rdtype != _OPT_TYPE or len(data) != at + rdata_bytes:
        raise ValueError("not one OPT record at the end")
    while at < len(data):
        _, length = _TYPE_AND_CLASS.unpack_from(data, at)
        at += _TYPE_AND_CLASS.size + length
    if at != len(data):
        raise ValueError("an option exceeds the OPT record")
    return room, more >> 16 & 0xFF, bool(more & DNSSEC_OK)


def _may_be_asked(qtype: int) -> bool:
    """Types of data. Not the rest (RFC 6895 section 3.1): zone transfers and ANY copy more than a stub resolver has
    use for, and the others are no questions.
    """
    return (0 < qtype < 128 and qtype != _OPT_TYPE) or qtype > 255


def _refused(ident: int, flags: int, rcode: Rcode, question: bytes = b"", opt: bytes = b"") -> Refused:
    kept = flags & (OPCODE | RD | CD)
    header = HEADER.pack(ident, QR | RA | kept | rcode & 0xF, bool(question), 0, 0, bool(opt))
    return Refused(rcode, header + question + opt)


def _record(name_at: int, rdtype: RdataType, rdata: bytes, ttl_s: int) -> bytes:
    return _RECORD.pack(_POINTER | name_at, rdtype, RdataClass.IN, ttl_s, len(rdata)) + rdata


def _denied(rcode: Rcode, zone_at: int, ttl_s: int) -> Packed:
    """No records but an SOA, which lets resolvers remember that for ``ttl_s`` and no longer (RFC 2308 section 5). Its
    fields are those of RFC 6303 section 3.
    """
    times = struct.pack("!IIIII", 1, 3600, 1200, 604800, ttl_s)
    rdata = (_POINTER | zone_at).to_bytes(2, "big") + _NOBODY + times
    return Packed(AA | rcode, (0, 1, 0), _record(zone_at, RdataType.SOA, rdata, ttl_s))


def _ttls(wire: bytes, at: int, records: int) -> Iterator[int]:
    """The offsets of the records' TTLs. The message was written by us: it is not checked again."""
    for _ in range(records):
        while (length := wire[at]) and length <= MAX_LABEL_BYTES:
            at += 1 + length
        at += 2 if length else 1
        yield at + 4
        at += 10 + int.from_bytes(wire[at + 8 : at + 10], "big")
