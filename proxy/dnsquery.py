"""One question to one name server: UDP first, TCP when the answer did not fit.

dnspython writes and reads the wire format; this file owns the two sockets. Each question has its own
connected UDP socket, so the kernel picks a fresh source port, drops datagrams of strangers, and reports a
closed port at once. A datagram that is not a reply to *this* question (id, name, type) is ignored rather than
believed or complained about: RFC 5452 section 9.1. No EDNS, like the C library's default: what exceeds 512
bytes comes by TCP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from proxy.resolution import Address, Kind, Nameserver, ResolutionError, show, sort_addresses

MAX_ADDRESSES = 256
"""Addresses of one family that are taken from one answer; a message over TCP could hold thousands."""


@dataclass(frozen=True, slots=True)
class Records:
    """The addresses of one family, sorted; never empty. ``ttl_s`` is the smallest of the CNAME chain and the
    records.
    """

    addresses: tuple[Address, ...]
    ttl_s: float


async def ask(server: Nameserver, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Records:
    """The ``A`` or ``AAAA`` records of an absolute name. Waits for ever: the caller holds the deadline.

    Raises :class:`ResolutionError` (every kind but ``timeout``).
    """
    question = describe(name, rdtype, server)
    reply = await exchange(server, dns.message.make_query(name, rdtype), question)
    try:
        return _records(reply, question)
    except dns.exception.DNSException as error:
        raise ResolutionError(Kind.MALFORMED, f"{question}: malformed answer: {error}") from error


async def exchange(server: Nameserver, query: dns.message.QueryMessage, question: str) -> dns.message.QueryMessage:
    """The reply to ``query``, whatever it says; ``question`` describes it for people. Waits for ever.

    Raises :class:`ResolutionError` (``servfail`` or ``malformed``).
    """
    try:
        reply: dns.message.QueryMessage | None
        try:
            reply = await _over_udp(server, query)
        except dns.message.Truncated:
            reply = await _over_tcp(server, query)
    except dns.exception.DNSException as error:
        raise ResolutionError(Kind.MALFORMED, f"{question}: malformed answer: {error}") from error
    except (OSError, EOFError) as error:
        raise ResolutionError(Kind.SERVFAIL, f"{question}: {error}") from error
    if reply is None:
        raise ResolutionError(Kind.MALFORMED, f"{question}: the answer is to another question")
    return reply


def describe(name: dns.name.Name, rdtype: dns.rdatatype.RdataType, server: Nameserver) -> str:
    """``api.example.test A at 10.0.0.2:53``."""
    return f"{name.to_text(omit_final_dot=True)} {dns.rdatatype.to_text(rdtype)} at {show(server)}"


def _records(reply: dns.message.QueryMessage, question: str) -> Records:
    rcode = reply.rcode()
    if rcode == dns.rcode.NXDOMAIN:
        raise ResolutionError(Kind.NXDOMAIN, f"{question}: no such name")
    if rcode != dns.rcode.NOERROR:
        raise ResolutionError(Kind.SERVFAIL, f"{question}: {dns.rcode.to_text(rcode)}")
    chain = reply.resolve_chaining()
    if chain.answer is None:
        raise ResolutionError(Kind.NO_DATA, f"{question}: the name has no such record")
    addresses = sort_addresses(ip_address(record.address) for record in chain.answer)
    return Records(addresses[:MAX_ADDRESSES], float(chain.minimum_ttl))


def _read_reply(query: dns.message.Message, wire: bytes) -> dns.message.QueryMessage | None:
    """The reply in ``wire``, or ``None`` if it answers something else.

    Raises ``dns.message.Truncated``, and other ``DNSException`` for what carries our id and cannot be parsed.
    """
    if wire[:2] != query.id.to_bytes(2, "big"):
        return None
    reply = dns.message.from_wire(wire, raise_on_truncation=True)
    if not isinstance(reply, dns.message.QueryMessage) or not query.is_response(reply):
        return None
    return reply


class _Exchange(asyncio.DatagramProtocol):
    """Settles ``reply`` with the first datagram that answers ``query``, or the first error."""

    def __init__(self, query: dns.message.Message, reply: asyncio.Future[dns.message.QueryMessage]) -> None:
        self._query = query
        self._reply = reply

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self._reply.done():
            return
        try:
            reply = _read_reply(self._query, data)
        except dns.exception.DNSException as error:
            self._reply.set_exception(error)
            return
        if reply is not None:
            self._reply.set_result(reply)

    def error_received(self, exc: Exception) -> None:
        if not self._reply.done():
            self._reply.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._reply.done():
            self._reply.set_exception(exc or ConnectionAbortedError("the socket was closed"))


async def _over_udp(server: Nameserver, query: dns.message.Message) -> dns.message.QueryMessage:
    loop = asyncio.get_running_loop()
    reply: asyncio.Future[dns.message.QueryMessage] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Exchange(query, reply), remote_addr=server)
    try:
        transport.sendto(query.to_wire())
        return await reply
    finally:
        reply.cancel()  # so that closing the socket has nobody left to tell
        transport.close()


async def _over_tcp(server: Nameserver, query: dns.message.Message) -> dns.message.QueryMessage | None:
    """RFC 1035 section 4.2.2: each message is preceded by its length in two bytes, so 64 KiB bound the
    answer.
    """
    reader, writer = await asyncio.open_connection(*server)
    try:
        wire = query.to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
        length = int.from_bytes(await reader.readexactly(2), "big")
        return _read_reply(query, await reader.readexactly(length))
    finally:
        writer.transport.abort()
