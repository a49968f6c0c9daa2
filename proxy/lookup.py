"""A name becomes addresses: the hosts file, then DNS, as the C library would, but without its threads.

Order: ``localhost`` (RFC 6761 section 6.3), the hosts file, then the name servers. A name with fewer dots
than ``ndots`` tries the search domains before itself; any other name, and every absolute one, is asked as it
is and never with a suffix, because a partner's name that is briefly gone must not become a host of the search
domain. For the same reason only a definite "no" moves on to the next candidate; a time-out ends the search.

``A`` and ``AAAA`` are asked in parallel. Servers are asked in turn: one that fails is passed over, one that
stays silent is asked once more after the others, since UDP loses datagrams.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TypeVar

import dns.exception
import dns.name
import dns.rdatatype

from proxy.dnsquery import Records, ask, describe
from proxy.resolution import Address, Answer, Clock, Kind, Nameserver, ResolutionError, sort_addresses

log = logging.getLogger("koguma.dns")

T = TypeVar("T")

MIN_TTL_S = 1.0
MAX_TTL_S = 300.0
HOSTS_TTL_S = 5.0
"""How long an answer of the hosts file holds, and so how soon an edit of it is noticed."""
PARTIAL_TTL_S = 30.0
"""Bounds the TTL when one family failed: its addresses are missed until the next refresh."""
MAX_FILE_BYTES = 1024 * 1024
FILE_CHECK_INTERVAL_S = 1.0
MAX_NDOTS = 15
MAX_SEARCH_DOMAINS = 32
MAX_NAMESERVERS = 8
ROUNDS = 2

LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


class _TextFile:
    """A small file that others edit. It is read at most once a second, by a read that blocks the loop for
    microseconds; content is compared, not its time stamp, whose granularity hides quick edits.

    A missing file is empty. One that is too large or unreadable keeps its last text, and that is logged once.
    """

    def __init__(self, path: str | Path, clock: Clock) -> None:
        self.path = Path(path)
        self._clock = clock
        self._next_check = float("-inf")
        self._content = b""
        self._complaint = ""

    def read_if_changed(self) -> str | None:
        """The new text, or ``None`` if it is what it was (at first: empty)."""
        now = self._clock()
        if now < self._next_check:
            return None
        self._next_check = now + FILE_CHECK_INTERVAL_S
        content = self._read()
        if content is None or content == self._content:
            return None
        self._content = content
        return content.decode("utf-8", "replace")

    def _read(self) -> bytes | None:
        complaint = ""
        content: bytes | None
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            content = b""
        except OSError as error:
            content, complaint = None, str(error)
        if content is not None and len(content) > MAX_FILE_BYTES:
            content, complaint = None, f"larger than {MAX_FILE_BYTES} bytes"
        if complaint and complaint != self._complaint:
            log.warning("%s: %s; what was read before stays in force", self.path, complaint)
        self._complaint = complaint
        return content


class HostsFile:
    """``/etc/hosts`` format: an address, then its names; ``#`` starts a comment; names ignore case. Lines
    that say something else are skipped. A name on several lines has all of their addresses.
    """

    def __init__(self, path: str | Path, clock: Clock) -> None:
        self._file = _TextFile(path, clock)
        self._addresses: dict[str, tuple[Address, ...]] = {}

    def lookup(self, name: str) -> tuple[Address, ...]:
        """The addresses of a name without its final dot; empty if the file has none. Reads the file if it is
        due.
        """
        text = self._file.read_if_changed()
        if text is not None:
            self._addresses = _parse_hosts(text)
        return self._addresses.get(name.lower(), ())


def _parse_hosts(text: str) -> dict[str, tuple[Address, ...]]:
    found: dict[str, list[Address]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = ip_address(words[0])
        except ValueError:
            continue
        for name in words[1:]:
            found.setdefault(name.lower().removesuffix("."), []).append(address)
    return {name: sort_addresses(addresses) for name, addresses in found.items()}


@dataclass(frozen=True, slots=True)
class _ResolvConf:
    """resolv.conf(5), the parts that a stub resolver needs. Without a nameserver line: the local host."""

    nameservers: tuple[Nameserver, ...] = (("127.0.0.1", 53),)
    search: tuple[dns.name.Name, ...] = ()
    ndots: int = 1


def _parse_resolv_conf(text: str) -> _ResolvConf:
    nameservers: list[Nameserver] = []
    search: list[dns.name.Name] = []
    ndots = 1
    for line in text.splitlines():
        match line.split():
            case ["nameserver", host, *_]:
                try:
                    ip_address(host)
                except ValueError:
                    log.warning("resolv.conf: %r is not an IP address; it is skipped", host)
                else:
                    nameservers.append((host, 53))
            case ["search" | "domain", *domains]:  # the last such line wins
                search = list(_valid_names(domains))
            case ["options", *options]:
                for option in options:
                    key, _, value = option.partition(":")
                    if key == "ndots" and value.isascii() and value.isdigit():
                        ndots = min(int(value[:3]), MAX_NDOTS)
            case _:
                pass  # comments, and what concerns only the C library
    return _ResolvConf(
        tuple(nameservers[:MAX_NAMESERVERS]) or _ResolvConf().nameservers,
        tuple(search[:MAX_SEARCH_DOMAINS]),
        ndots,
    )


def _valid_names(domains: list[str]) -> Iterator[dns.name.Name]:
    for domain in domains:
        try:
            yield dns.name.from_text(domain)
        except (dns.exception.DNSException, UnicodeError):
            log.warning("resolv.conf: %r is not a domain name; it is skipped", domain)


class Resolver:
    """Resolves names for all of the process. Holds no answers: whoever asks keeps them for their TTL.

    ``nameservers``: (IP address, port), asked in this order; ``None`` takes those of ``resolv_conf_path``,
    whose search domains and ``ndots`` apply either way. Both files are followed when they change. At most
    ``max_concurrent`` names are looked up at once (two sockets each); the others wait, and their time with
    them.
    """

    def __init__(
        self,
        nameservers: Sequence[Nameserver] | None,
        hosts_path: str | Path,
        clock: Clock,
        *,
        resolv_conf_path: str | Path = "/etc/resolv.conf",
        try_timeout_s: float = 2.0,
        total_timeout_s: float = 5.0,
        max_concurrent: int = 128,
    ) -> None:
        self._nameservers = tuple(nameservers or ())
        self._hosts = HostsFile(hosts_path, clock)
        self._conf_file = _TextFile(resolv_conf_path, clock)
        self._conf = _ResolvConf()
        self._clock = clock
        self._try_timeout_s = try_timeout_s
        self._total_timeout_s = total_timeout_s
        self._slots = asyncio.Semaphore(max_concurrent)

    async def resolve(self, name: str) -> Answer:
        """Every address of ``name``; a final dot makes it absolute. Takes at most ``total_timeout_s`` once
        begun.

        Raises :class:`ResolutionError`.
        """
        hosted = self.hosted(name.lower().removesuffix("."))
        if hosted:
            return Answer(hosted, HOSTS_TTL_S, "hosts")
        async with self._slots:
            return await self._search(name)

    def hosted(self, name: str) -> tuple[Address, ...]:
        """What is known of a name (lower case, without its final dot) without asking anybody; empty if nothing is."""
        hosted = self._hosts.lookup(name)
        if is_localhost(name):
            return tuple(address for address in hosted if address.is_loopback) or LOOPBACK
        return hosted

    def nameservers(self) -> tuple[Nameserver, ...]:
        """The servers that are asked now, in their order."""
        return self._nameservers or self._current_conf().nameservers

    def _current_conf(self) -> _ResolvConf:
        text = self._conf_file.read_if_changed()
        if text is not None:
            self._conf = _parse_resolv_conf(text)
        return self._conf

    async def _search(self, name: str) -> Answer:
        conf = self._current_conf()
        lookup = _Lookup(
            self._nameservers or conf.nameservers,
            self._clock,
            self._clock() + self._total_timeout_s,
            self._try_timeout_s,
        )
        refusals: list[ResolutionError] = []
        for candidate in _candidates(name, conf):
            try:
                return await lookup.both_families(candidate)
            except ResolutionError as error:
                if not error.kind.is_definite:
                    raise
                refusals.append(error)
        # "It exists, without addresses" tells more than that some other candidate does not exist.
        raise next((error for error in refusals if error.kind is Kind.NO_DATA), refusals[-1])


def is_localhost(name: str) -> bool:
    """RFC 6761 section 6.3: never asked of a server."""
    return name == "localhost" or name.endswith(".localhost")


def _candidates(name: str, conf: _ResolvConf) -> list[dns.name.Name]:
    """The absolute names that ``name`` may mean, in order; the last is the name itself."""
    try:
        given = dns.name.from_text(name, origin=None)
        absolute = given.derelativize(dns.name.root)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ResolutionError(Kind.MALFORMED, f"{name!r} is not a domain name: {error}") from error
    if absolute == dns.name.root:
        raise ResolutionError(Kind.MALFORMED, f"{name!r} is not a host name")
    candidates = []
    if not given.is_absolute() and len(given) - 1 < conf.ndots:
        for domain in conf.search:
            try:
                candidates.append(given.derelativize(domain))
            except dns.name.NameTooLong:
                continue  # no such name can exist
    return [*candidates, absolute]


@dataclass(frozen=True, slots=True)
class _Lookup:
    """One resolution under its deadline."""

    servers: tuple[Nameserver, ...]
    clock: Clock
    deadline: float
    try_timeout_s: float

    async def both_families(self, name: dns.name.Name) -> Answer:
        async with asyncio.TaskGroup() as group:
            v4_task = group.create_task(self._family(name, dns.rdatatype.A))
            v6_task = group.create_task(self._family(name, dns.rdatatype.AAAA))
        v4, v6 = v4_task.result(), v6_task.result()
        found = [result for result in (v4, v6) if isinstance(result, Records)]
        if not found:
            assert isinstance(v4, ResolutionError)
            assert isinstance(v6, ResolutionError)
            raise _why_neither(v4, v6)
        ttl_s = min(records.ttl_s for records in found)
        if any(isinstance(result, ResolutionError) and not result.kind.is_definite for result in (v4, v6)):
            ttl_s = min(ttl_s, PARTIAL_TTL_S)
        addresses = tuple(address for records in found for address in records.addresses)
        return Answer(addresses, min(max(ttl_s, MIN_TTL_S), MAX_TTL_S), "dns")

    async def _family(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Records | ResolutionError:
        """A failure is returned, not raised: it must not cancel the other family."""
        try:
            return await ask_in_turn(
                self.servers,
                lambda server: ask(server, name, rdtype),
                lambda server: describe(name, rdtype, server),
                clock=self.clock,
                deadline=self.deadline,
                try_timeout_s=self.try_timeout_s,
            )
        except ResolutionError as error:
            return error


async def ask_in_turn(
    servers: Iterable[Nameserver],
    ask_one: Callable[[Nameserver], Awaitable[T]],
    describe_one: Callable[[Nameserver], str],
    *,
    clock: Clock,
    deadline: float,
    try_timeout_s: float,
) -> T:
    """The first answer of a server; those that stay silent are asked again after the others.

    Raises :class:`ResolutionError`: the first that is definite, else the last.
    """
    failure = ResolutionError(Kind.TIMEOUT, "no name server was asked: there is none, or no time left")
    waiting = tuple(servers)
    for _ in range(ROUNDS):
        silent: list[Nameserver] = []
        for server in waiting:
            budget_s = min(try_timeout_s, deadline - clock())
            if budget_s <= 0:
                raise failure
            try:
                async with asyncio.timeout(budget_s):
                    return await ask_one(server)
            except TimeoutError:
                failure = ResolutionError(Kind.TIMEOUT, f"{describe_one(server)}: no answer in {budget_s:.3g} s")
                silent.append(server)
            except ResolutionError as error:
                failure = error
                if error.kind.is_definite:
                    raise
        waiting = tuple(silent)
    raise failure


def _why_neither(v4: ResolutionError, v6: ResolutionError) -> ResolutionError:
    """The A answer decides. Only where it says that the name exists without such records does AAAA's count;
    an NXDOMAIN for AAAA alone then comes from a broken server, since NXDOMAIN concerns all types (RFC 8020).
    """
    if v4.kind is not Kind.NO_DATA or v6.kind is Kind.NXDOMAIN:
        return v4
    return v6
