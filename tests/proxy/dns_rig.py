"""The DNS server on a loop of its own kind, in front of resolvers that answer by script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import dns.rcode
import dns.rrset

from config.plan import NamePlan
from proxy.dns.records import Records
from proxy.dns.server import DnsServer
from proxy.lookup import Resolver
from proxy.resolution import Nameserver
from proxy.stats import DnsStats
from proxy.throttle import Throttle
from tests.kit.ports import free_port

Script = Callable[[dns.message.QueryMessage, bool], bytes | None]
"""(query, over TCP) -> the reply's bytes, or None for silence."""

NOWHERE = Path("/nonexistent")
WAIT_S = 5.0


def names(table: Mapping[str, Iterable[str]], ttl_s: int = 30) -> Records:
    return Records(
        {name: NamePlan(name, tuple(map(ip_address, addresses)), ttl_s) for name, addresses in table.items()}
    )


def answering(*records: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, authority: Iterable[str] = ()) -> Script:
    """Answers every question with these records: ``name TTL class type rdata``, ``@`` being the name asked for."""

    def script(query: dns.message.QueryMessage, over_tcp: bool) -> bytes:
        message = dns.message.make_response(query)
        message.set_rcode(rcode)
        name = query.question[0].name.to_text()
        for section, lines in ((message.answer, records), (message.authority, authority)):
            for line in lines:
                owner, ttl, *rest = line.split(" ", 4)
                section.append(dns.rrset.from_text(name if owner == "@" else owner, int(ttl), *rest))
        return message.to_wire(max_size=65535 if over_tcp else query.payload or 512)

    return script


def silence(query: dns.message.QueryMessage, over_tcp: bool) -> None:
    return None


class Upstream(asyncio.DatagramProtocol):
    """A resolver; ``asked`` holds the questions, with whether they came over TCP. ``script`` may be replaced."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[tuple[dns.message.QueryMessage, bool]] = []
        self._unanswered: list[tuple[dns.message.QueryMessage, Any]] = []
        self.server: Nameserver = ("", 0)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        reply = self._answer(data, over_tcp=False)
        if reply is not None:
            self._transport.sendto(reply, addr)
        else:
            self._unanswered.append((self.asked[-1][0], addr))

    def answer_late(self, script: Script) -> None:
        """Whatever was asked over UDP and not answered; what is asked from now on as well."""
        self.script = script
        for query, addr in self._unanswered:
            self._transport.sendto(script(query, False), addr)
        self._unanswered.clear()

    def _answer(self, data: bytes, *, over_tcp: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        assert isinstance(query, dns.message.QueryMessage)
        self.asked.append((query, over_tcp))
        return self.script(query, over_tcp)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = self._answer(await reader.readexactly(size), over_tcp=True)
        if reply is not None:
            writer.write(len(reply).to_bytes(2, "big") + reply)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    loop = asyncio.get_running_loop()
    ours = Upstream(script)
    streams = await asyncio.start_server(ours._stream, "127.0.0.1", 0)
    ours.server = ("127.0.0.1", streams.sockets[0].getsockname()[1])
    transport, _ = await loop.create_datagram_endpoint(lambda: ours, local_addr=ours.server)
    try:
        yield ours
    finally:
        transport.close()
        streams.close()


def resolver_for(*upstreams: Upstream, hosts: Path = NOWHERE, resolv_conf: Path = NOWHERE) -> Resolver:
    clock = asyncio.get_running_loop().time
    servers = [one.server for one in upstreams]
    return Resolver(servers or None, hosts, clock, resolv_conf_path=resolv_conf)


@asynccontextmanager
async def serving(records: Records, *upstreams: Upstream, hosts: Path = NOWHERE) -> AsyncIterator[DnsServer]:
    """Without upstreams every forwarded question fails at once."""
    server = DnsServer(resolver_for(*upstreams, hosts=hosts), DnsStats(), Throttle(asyncio.get_running_loop().time))
    server.records = records
    await server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.close()
        await asyncio.sleep(0)


async def ask(
    server: DnsServer, name: str, rdtype: str = "A", *, over_tcp: bool = False, **more: Any
) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, **more)
    host, port = server.own
    if over_tcp:
        return await dns.asyncquery.tcp(query, host, WAIT_S, port)
    return await dns.asyncquery.udp(query, host, WAIT_S, port)


def addresses(message: dns.message.Message) -> list[str]:
    return sorted(record.to_text() for rrset in message.answer for record in rrset)


def closed_port() -> int:
    """For UDP and TCP."""
    return free_port()
