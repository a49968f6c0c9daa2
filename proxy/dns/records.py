"""The mesh's names: which addresses they have, and the answers made of them.

A set of records never changes; a reload replaces all of it by one assignment, so that no answer mixes two plans.
Answers are packed when they are first asked for and kept: ten thousand names cost a reload nothing, and memory is
bounded by the names there are, since what is not ours is not kept.

``mesh.local`` is Kuma's own domain, and all of it is ours: a name in it that does not exist is denied here. Asked of
others it could only fail (RFC 6762 section 22.1 wants names in ``local`` not to be passed on), and their denial would
be remembered for a day, by which time the name may well exist; and where a resolver sends us that domain and we send
it what we do not know, the question would go round. Elsewhere a name of ours may have neighbours that are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address

import dns.exception
import dns.name
import dns.reversename
from dns.rdatatype import RdataType

from config.plan import MESH_DOMAIN, NamePlan
from proxy.dns.message import HEADER, Packed, name_to_text, name_to_wire, no_data, no_such_name, pack_records
from proxy.resolution import Address

MAX_RECORDS = 128
"""Addresses of a name and family, or names of an address, in one answer; a message holds as many."""
ABSENT_TTL_S = 5
"""How long it may be remembered that a name does not exist: it will, once somebody writes its file."""

_IN_MESH_DOMAIN = f".{MESH_DOMAIN}"
_MESH_DOMAIN_WIRE = name_to_wire(MESH_DOMAIN)

Answers = dict[int, Packed]
"""The answers about one name by type; under ``RdataType.NONE`` that for all types of which there are no records."""


class Records:
    """``names``: what the plan says of each."""

    def __init__(self, names: Mapping[str, NamePlan]) -> None:
        self._names = names
        self._names_of: dict[Address, list[str]] | None = None
        self._parents: set[str] | None = None
        self._packed: dict[bytes, Answers] = {}

    def __len__(self) -> int:
        return len(self._names)

    def answer(self, name: bytes, qtype: int) -> Packed | None:
        """The answer to a question for a name (lower case, wire format); ``None`` if it is for others to answer.

        A name of ours without records of that type has an answer without records: NXDOMAIN would deny the other types
        and everything below the name too (RFC 8020).
        """
        answers = self._packed.get(name)
        if answers is None:
            text = name_to_text(name)
            if text is None:
                return None
            answers = self._pack(text)
            if answers is None:
                return self._deny(text, len(name)) if f".{text}".endswith(_IN_MESH_DOMAIN) else None
            self._packed[name] = answers
        return choose(answers, qtype)

    def _pack(self, name: str) -> Answers | None:
        record = self._names.get(name)
        if record is not None:
            return pack_addresses(record.addresses, record.ttl_s)
        if name.endswith((".in-addr.arpa", ".ip6.arpa")):
            return self._pack_pointers(name)
        return None

    def _pack_pointers(self, name: str) -> Answers | None:
        """PTR, for the addresses of our names."""
        try:
            address = ip_address(dns.reversename.to_address(dns.name.from_text(name)))
        except (dns.exception.DNSException, ValueError):
            return None
        if self._names_of is None:
            self._names_of = {}
            for owner, record in self._names.items():
                for one in record.addresses:
                    self._names_of.setdefault(one, []).append(owner)
        names = sorted(self._names_of.get(address, ()))[:MAX_RECORDS]
        if not names:
            return None
        ttl_s = min(self._names[owner].ttl_s for owner in names)
        pointers = pack_records(RdataType.PTR, map(name_to_wire, names), ttl_s)
        return {RdataType.PTR: pointers, RdataType.NONE: no_data(ttl_s)}

    def _deny(self, name: str, wire_bytes: int) -> Packed:
        """A name in the mesh's domain without records. It exists if names of ours are below it."""
        if self._parents is None:
            self._parents = {MESH_DOMAIN}
            for owner in self._names:
                if owner.endswith(_IN_MESH_DOMAIN):
                    self._parents.update(_between(owner))
        if name in self._parents:
            return no_data(ABSENT_TTL_S)
        return no_such_name(HEADER.size + wire_bytes - len(_MESH_DOMAIN_WIRE), ABSENT_TTL_S)


def _between(name: str) -> Iterator[str]:
    """The names above ``name``, up to the mesh's domain."""
    while name != MESH_DOMAIN:
        name = name.partition(".")[2]
        yield name


def choose(answers: Answers, qtype: int) -> Packed:
    return answers.get(qtype) or answers[RdataType.NONE]


def pack_addresses(addresses: Iterable[Address], ttl_s: int) -> Answers:
    found: Answers = {RdataType.NONE: no_data(ttl_s)}
    for version, rdtype in ((4, RdataType.A), (6, RdataType.AAAA)):
        of_family = [address.packed for address in addresses if address.version == version][:MAX_RECORDS]
        if of_family:
            found[rdtype] = pack_records(rdtype, of_family, ttl_s)
    return found
