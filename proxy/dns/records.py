"""The mesh's names: which addresses they have, and the answers made of them.

A set of records never changes; a reload replaces all of it by one assignment, so that no answer mixes two plans.
Answers are packed when they are first asked for and kept: ten thousand names cost a reload nothing, and memory is
bounded by the names there are, since what is not ours is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

import dns.exception
import dns.name
import dns.reversename
from dns.rdatatype import RdataType

from proxy.dns.message import Packed, name_to_text, name_to_wire, no_data, pack_records
from proxy.dnsquery import Address

TTL_S = 30
"""As Kuma's. Low, since a name's address may move, and libraries keep what they got for longer than they should."""
MAX_RECORDS = 256
"""Addresses of a name, or names of an address, in one answer."""

_ARPA = b"\x04arpa\x00"

Answers = dict[int, Packed]
"""The answers about one name by type; under ``RdataType.NONE`` that for all types of which there are no records."""


@dataclass(frozen=True, slots=True)
class Record:
    """A name's addresses, of both families. Raises ``ValueError`` without any, or with more than ``MAX_RECORDS``."""

    addresses: tuple[Address, ...]
    ttl_s: int = TTL_S

    def __post_init__(self) -> None:
        if not 1 <= len(self.addresses) <= MAX_RECORDS:
            raise ValueError(f"a name has 1 to {MAX_RECORDS} addresses, not {len(self.addresses)}")


class Records:
    """``names``: host names, in lower case and without the final dot."""

    def __init__(self, names: Mapping[str, Record]) -> None:
        self._names = names
        self._names_of: dict[Address, list[str]] | None = None
        self._packed: dict[bytes, Answers] = {}

    def __len__(self) -> int:
        return len(self._names)

    def answer(self, name: bytes, qtype: int) -> Packed | None:
        """The answer to a question for a name (lower case, wire format); ``None`` if the name is not ours. A name that
        is ours and has no records of that type has an answer without records, not NXDOMAIN, which would deny the
        other types too (RFC 8020).
        """
        answers = self._packed.get(name)
        if answers is None:
            answers = self._pack(name)
            if answers is None:
                return None
            self._packed[name] = answers
        return choose(answers, qtype)

    def _pack(self, wire: bytes) -> Answers | None:
        name = name_to_text(wire)
        record = self._names.get(name) if name is not None else None
        if record is not None:
            return pack_addresses(record.addresses, record.ttl_s)
        if not wire.endswith(_ARPA):
            return None
        return self._pack_pointers(wire)

    def _pack_pointers(self, wire: bytes) -> Answers | None:
        """PTR, for the addresses of our names."""
        try:
            address = ip_address(dns.reversename.to_address(dns.name.from_wire(wire, 0)[0]))
        except (dns.exception.DNSException, ValueError):
            return None
        if self._names_of is None:
            self._names_of = {}
            for name, record in self._names.items():
                for one in record.addresses:
                    self._names_of.setdefault(one, []).append(name)
        names = sorted(self._names_of.get(address, ()))[:MAX_RECORDS]
        if not names:
            return None
        ttl_s = min(self._names[name].ttl_s for name in names)
        pointers = pack_records(RdataType.PTR, map(name_to_wire, names), ttl_s)
        return {RdataType.PTR: pointers, RdataType.NONE: no_data(ttl_s)}


def choose(answers: Answers, qtype: int) -> Packed:
    return answers.get(qtype) or answers[RdataType.NONE]


def pack_addresses(addresses: Iterable[Address], ttl_s: int) -> Answers:
    found: Answers = {RdataType.NONE: no_data(ttl_s)}
    for version, rdtype in ((4, RdataType.A), (6, RdataType.AAAA)):
        of_family = [address.packed for address in addresses if address.version == version]
        if of_family:
            found[rdtype] = pack_records(rdtype, of_family, ttl_s)
    return found
