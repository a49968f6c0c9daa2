"""Questions that are not ours: the hosts file, the cache, then the machine's resolvers, in turn.

Equal questions that arrive while one of them is being asked wait for its answer: a crowd costs one question, and a
loop of resolvers that leads back here ends when the time for the question does instead of multiplying. A resolver
that failed is asked after the others for a while. When none answers, the client gets SERVFAIL, and so do those that
ask within the next second (RFC 9520 section 3.2).

Each question has an id and a port of its own, and is written anew: nothing of the client's message but the name, the
type and the DNSSEC bits reaches a resolver. AD is not passed back, since nothing here validates.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
from dns.rcode import Rcode
from dns.rdatatype import RdataType

from proxy.dns.cache import Cache
from proxy.dns.message import (
    FAILED,
    MAX_TCP_REPLY_BYTES,
    MAX_UDP_REPLY_BYTES,
    Packed,
    Query,
    name_to_text,
    pack_reply,
)
from proxy.dns.records import choose, pack_addresses
from proxy.dnsquery import describe, exchange
from proxy.lookup import HOSTS_TTL_S, LOOPBACK, Resolver, ask_in_turn, is_localhost
from proxy.resolution import Address, Clock, Kind, Nameserver, ResolutionError, show
from proxy.sockets import StartError
from proxy.stats import DnsStats
from proxy.tasks import spawn
from proxy.throttle import Throttle

log = logging.getLogger("koguma.dns")

FAILING_S = 30.0
"""How long a server that failed is asked after the others."""
FAILURE_TTL_S = 1.0
MAX_ASKING = 256
"""Different questions that are being asked."""
MAX_WAITING = 4096
"""Clients that wait for an answer."""

Done = Callable[[Packed], None]
Key = tuple[bytes, int, bool, bool]


class Forwarder:
    """``own``: where our server listens; a resolver at that address is never asked. ``total_timeout_s``, for all
    resolvers and tries, is less than the 5 s that clients of the C library wait.
    """

    def __init__(
        self,
        resolver: Resolver,
        own: Nameserver,
        stats: DnsStats,
        throttle: Throttle,
        clock: Clock,
        *,
        try_timeout_s: float = 2.0,
        total_timeout_s: float = 4.5,
    ) -> None:
        self.cache = Cache()
        self._resolver = resolver
        self._own = own
        self._stats = stats
        self._throttle = throttle
        self._clock = clock
        self._try_timeout_s = try_timeout_s
        self._total_timeout_s = total_timeout_s
        self._waiting: dict[Key, list[Done]] = {}
        self._waiters = 0
        self._failing_until: dict[Nameserver, float] = {}

    def ask(self, query: Query, done: Done) -> None:
        """``done`` is called exactly once with the answer, at once or later."""
        answer = self._hosted(query)
        if answer is not None:
            done(answer)
            return
        key = _key(query)
        answer = self.cache.get(key, self._clock())
        if answer is not None:
            self._stats.cache_hits += 1
            done(answer)
            return
        waiting = self._waiting.get(key)
        if self._waiters >= MAX_WAITING or (waiting is None and len(self._waiting) >= MAX_ASKING):
            self._stats.overflow += 1
            done(FAILED)
            return
        self._waiters += 1
        if waiting is not None:
            waiting.append(done)
            return
        self._waiting[key] = [done]
        self._stats.forwarding += 1
        spawn(self._ask_and_tell(key, query), "forward a question")

    def servers(self) -> list[Nameserver]:
        """The resolvers to ask, those that failed lately last."""
        now = self._clock()
        servers = [server for server in self._resolver.nameservers() if not is_same(self._own, server)]
        self._failing_until = {
            server: until for server, until in self._failing_until.items() if until > now and server in servers
        }
        return sorted(servers, key=lambda server: server in self._failing_until)

    def _hosted(self, query: Query) -> Packed | None:
        """The answer of the hosts file, which speaks of addresses only."""
        name = name_to_text(query.name)
        if name is None:
            return None
        is_address = query.qtype in (RdataType.A, RdataType.AAAA)
        addresses = self._resolver.hosted(name) if is_address or is_localhost(name) else ()
        return choose(pack_addresses(addresses, int(HOSTS_TTL_S)), query.qtype) if addresses else None

    async def _ask_and_tell(self, key: Key, query: Query) -> None:
        answer, ttl_s = FAILED, 0.0
        try:
            answer, ttl_s = await self._ask_servers(query)
        except ResolutionError as error:
            ttl_s = FAILURE_TTL_S
            self._stats.upstream_unanswered += 1
            if self._throttle.allows("dns forward"):
                log.warning("a question could not be forwarded: %s", error.message, extra={"event": "dns_unanswered"})
        finally:
            self.cache.put(key, answer, ttl_s, self._clock())
            self._stats.cached = len(self.cache)
            self._stats.forwarding -= 1
            waiting = self._waiting.pop(key)
            self._waiters -= len(waiting)
            loop = asyncio.get_running_loop()
            for done in waiting:
                loop.call_soon(done, answer)  # one that fails keeps nothing from the others

    async def _ask_servers(self, query: Query) -> tuple[Packed, float]:
        """The answer, and for how many seconds it holds. Raises :class:`ResolutionError`."""
        name = dns.name.from_wire(query.name, 0)[0]
        rdtype = RdataType.make(query.qtype)
        return await ask_in_turn(
            self.servers(),
            lambda server: self._ask_one(server, name, rdtype, query),
            lambda server: describe(name, rdtype, server),
            clock=self._clock,
            deadline=self._clock() + self._total_timeout_s,
            try_timeout_s=self._try_timeout_s,
        )

    async def _ask_one(
        self, server: Nameserver, name: dns.name.Name, rdtype: RdataType, query: Query
    ) -> tuple[Packed, float]:
        stats = self._stats
        stats.upstream_queries += 1
        began_s = self._clock()
        answered = False
        try:
            answer = await _ask(server, name, rdtype, query)
            answered = True
            return answer
        finally:  # a time-out comes as a cancellation
            if answered:
                self._failing_until.pop(server, None)
                stats.upstream_ms.record((self._clock() - began_s) * 1000)
            else:
                self._failing_until[server] = self._clock() + FAILING_S
                stats.upstream_failures += 1


def refuse_loop(own: Nameserver, given: Iterable[Nameserver], found: Iterable[Nameserver]) -> None:
    """``given``: the resolvers of the command line; ``found``: those in use. Raises :class:`StartError` where a
    question would come back to ``own``.
    """
    for server in given:
        if is_same(own, server):
            raise StartError(f"--dns-upstream {show(server)} is this DNS server itself")
    if all(is_same(own, server) for server in found):
        raise StartError(
            f"/etc/resolv.conf names no resolver but this DNS server ({show(own)}): name others with --dns-upstream"
        )


def is_same(own: Nameserver, server: Nameserver) -> bool:
    """Whether what is sent to ``server`` reaches the socket that is bound to ``own``."""
    if own[1] != server[1]:
        return False
    bound, target = ip_address(own[0]), ip_address(server[0])
    if isinstance(target, IPv6Address) and target.ipv4_mapped is not None:
        target = target.ipv4_mapped
    if target.is_unspecified:  # connect(2) takes it for the local host
        target = LOOPBACK[target.version == 6]
    if bound.is_unspecified:
        return bound.version == target.version and _is_local(target)
    return bound == target


def _is_local(address: Address) -> bool:
    """Whether this machine has the address: only then can a socket be bound to it."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True


def _key(query: Query) -> Key:
    return query.name, query.qtype, query.dnssec_ok, query.checking_disabled


async def _ask(server: Nameserver, name: dns.name.Name, rdtype: RdataType, query: Query) -> tuple[Packed, float]:
    """One server's answer, and for how many seconds it holds. Raises :class:`ResolutionError`."""
    question = describe(name, rdtype, server)
    reply = await exchange(server, _message(name, rdtype, query, edns=bool(query.opt)), question)
    if query.opt and reply.rcode() in (Rcode.FORMERR, Rcode.NOTIMP):
        # RFC 6891 section 6.2.2: a server from before EDNS.
        reply = await exchange(server, _message(name, rdtype, query, edns=False), question)
    rcode = reply.rcode()
    if rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
        raise ResolutionError(Kind.SERVFAIL, f"{question}: {dns.rcode.to_text(rcode)}")
    try:
        return _pack(reply), _ttl_s(reply)
    except dns.exception.DNSException as error:
        raise ResolutionError(Kind.MALFORMED, f"{question}: malformed answer: {error}") from error


def _message(name: dns.name.Name, rdtype: RdataType, query: Query, *, edns: bool) -> dns.message.QueryMessage:
    """No EDNS for a client without: an answer that did not fit it would have to come by TCP all the same."""
    message = dns.message.make_query(
        name, rdtype, use_edns=0 if edns else False, want_dnssec=edns and query.dnssec_ok, payload=MAX_UDP_REPLY_BYTES
    )
    if query.checking_disabled:
        message.flags |= dns.flags.CD
    return message


def _pack(reply: dns.message.QueryMessage) -> Packed:
    """Raises ``DNSException`` for what cannot be written."""
    reply.use_edns(False)  # it concerned the way from the server to us
    return pack_reply(reply.to_wire(max_size=MAX_TCP_REPLY_BYTES))


def _ttl_s(reply: dns.message.QueryMessage) -> float:
    """The smallest TTL of the CNAME chain and the records. Without records it is that of the SOA (RFC 2308 section 5),
    and without an SOA the answer may not be kept. Raises ``DNSException``.
    """
    chain = reply.resolve_chaining()
    if chain.answer is None and not any(rrset.rdtype == RdataType.SOA for rrset in reply.authority):
        return 0.0
    return float(chain.minimum_ttl)
