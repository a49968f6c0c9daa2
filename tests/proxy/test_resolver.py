"""Guarantee: a name resolves to what the hosts file or the name servers say, whatever one server does wrong,
within the deadline, on both event loops. The server is scripted, on loopback, UDP and TCP on one port.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import lookup
from proxy.dnsquery import MAX_ADDRESSES, Records, _read_reply, _records
from proxy.lookup import MAX_FILE_BYTES, MAX_NAMESERVERS, MAX_NDOTS, MAX_SEARCH_DOMAINS, HostsFile, Resolver
from proxy.resolution import Answer, Kind, Nameserver, ResolutionError

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
Script = Callable[[dns.message.Message, bool], bytes | None]
"""(query, over TCP) -> the reply's bytes, or None for silence."""


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    def runner(coro: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=request.param) as it:
            return it.run(coro)

    return runner


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server(asyncio.DatagramProtocol):
    """Answers by script and records ``(name, type, over TCP)``."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.peer: Any = None
        self.asked: list[tuple[str, str, bool]] = []

    async def __aenter__(self) -> Server:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            self._tcp = await asyncio.start_server(self._serve_tcp, "127.0.0.1", 0)
            self.address: Nameserver = self._tcp.sockets[0].getsockname()[:2]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=self.address)
            except OSError as error:
                self._tcp.close()
                if error.errno != errno.EADDRINUSE:  # the UDP port of that number belongs to somebody else
                    raise
                continue
            return self
        raise AssertionError("no port is free for both UDP and TCP")

    async def __aexit__(self, *_: object) -> None:
        self._udp.close()
        self._tcp.close()
        await self._tcp.wait_closed()
        await asyncio.sleep(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.peer = addr
        reply = self._reply(data, over_tcp=False)
        if reply is not None:
            self.transport.sendto(reply, addr)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2), "big")
        reply = self._reply(await reader.readexactly(length), over_tcp=True)
        if reply is not None:
            writer.write(len(reply).to_bytes(2, "big") + reply)
        writer.close()

    def _reply(self, wire: bytes, over_tcp: bool) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.asked.append((question.name.to_text(), question.rdtype.name, over_tcp))
        return self.script(query, over_tcp)


Zone = dict[str, list[str]]
"""``"name. TYPE"`` -> ``"TTL DATA"`` records. A name without any record does not exist."""


def reply_from(zone: Zone, query: dns.message.Message) -> dns.message.Message:
    """What a recursive server would answer: the CNAME chain, then the records asked for."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    name, rdtype = query.question[0].name.to_text().lower(), query.question[0].rdtype.name
    while True:
        records = zone.get(f"{name} {rdtype}", [])
        alias = zone.get(f"{name} CNAME")
        found, kind = (alias, "CNAME") if alias and not records else (records, rdtype)
        if not found and not any(key.startswith(f"{name} ") for key in zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        if found:
            ttl_s = min(int(record.split()[0]) for record in found)
            data = (record.split()[1] for record in found)
            response.answer.append(dns.rrset.from_text(name, ttl_s, "IN", kind, *data))
        if kind != "CNAME":
            return response
        name = found[0].split()[1]


def serving(zone: Zone) -> Script:
    return lambda query, over_tcp: reply_from(zone, query).to_wire(max_size=65535)


def failing(rcode: dns.rcode.Rcode) -> Script:
    def script(query: dns.message.Message, over_tcp: bool) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(rcode)
        return response.to_wire()

    return script


def silent(query: dns.message.Message, over_tcp: bool) -> None:
    return None


ZONE: Zone = {
    "both.test. A": ["60 192.0.2.9", "60 192.0.2.10"],
    "both.test. AAAA": ["40 2001:db8::2", "40 2001:db8::1"],
    "four.test. A": ["60 192.0.2.1"],
    "six.test. AAAA": ["60 2001:db8::6"],
    "alias.test. CNAME": ["20 hop.test."],
    "hop.test. CNAME": ["90 both.test."],
    "empty.test. TXT": ["60 x"],
    "brief.test. A": ["0 192.0.2.1"],
    "eternal.test. A": ["86400 192.0.2.1"],
    "db.corp.test. A": ["60 192.0.2.50"],
    "db. A": ["60 192.0.2.51"],
    "bare. A": ["60 192.0.2.52"],
    "www.partner.corp.test. A": ["60 192.0.2.66"],
}


class Files:
    """The files of the system, in a directory of the test."""

    def __init__(self, root: Path) -> None:
        self.hosts = root / "hosts"
        self.resolv_conf = root / "resolv.conf"
        self.clock = Clock()

    def resolver(self, *servers: Nameserver, **options: Any) -> Resolver:
        settings: dict[str, Any] = {"try_timeout_s": 10.0, "resolv_conf_path": self.resolv_conf} | options
        return Resolver(servers, self.hosts, self.clock, **settings)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def texts(answer: Answer) -> list[str]:
    return [str(address) for address in answer.addresses]


async def resolve_with(
    script: Script, files: Files, name: str, **options: Any
) -> tuple[Answer | ResolutionError, list[tuple[str, str, bool]]]:
    async with Server(script) as server:
        try:
            outcome: Answer | ResolutionError = await files.resolver(server.address, **options).resolve(name)
        except ResolutionError as error:
            outcome = error
        return outcome, server.asked


def answer_of(run: Run[Any], script: Script, files: Files, name: str) -> Answer:
    outcome, _ = run(resolve_with(script, files, name))
    assert isinstance(outcome, Answer), outcome
    return outcome


def error_of(run: Run[Any], script: Script, files: Files, name: str, **options: Any) -> ResolutionError:
    outcome, _ = run(resolve_with(script, files, name, **options))
    assert isinstance(outcome, ResolutionError), outcome
    return outcome


@pytest.mark.parametrize(
    ("name", "addresses", "ttl_s"),
    [
        pytest.param("both.test", ["192.0.2.9", "192.0.2.10", "2001:db8::1", "2001:db8::2"], 40.0, id="both families"),
        pytest.param("BOTH.Test.", ["192.0.2.9", "192.0.2.10", "2001:db8::1", "2001:db8::2"], 40.0, id="case"),
        pytest.param("four.test", ["192.0.2.1"], 60.0, id="only IPv4"),
        pytest.param("six.test", ["2001:db8::6"], 60.0, id="only IPv6"),
        pytest.param("alias.test", ["192.0.2.9", "192.0.2.10", "2001:db8::1", "2001:db8::2"], 20.0, id="CNAME chain"),
        pytest.param("brief.test", ["192.0.2.1"], 1.0, id="TTL 0 becomes 1 s"),
        pytest.param("eternal.test", ["192.0.2.1"], 300.0, id="a day becomes 300 s"),
    ],
)
def test_answers(run: Run[Any], files: Files, name: str, addresses: list[str], ttl_s: float) -> None:
    answer = answer_of(run, serving(ZONE), files, name)
    assert texts(answer) == addresses
    assert (answer.ttl_s, answer.source) == (ttl_s, "dns")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("missing.test", Kind.NXDOMAIN),
        ("empty.test", Kind.NO_DATA),
        ("two..dots.test", Kind.MALFORMED),
        ("a" * 64 + ".test", Kind.MALFORMED),
        ("", Kind.MALFORMED),
        (".", Kind.MALFORMED),
    ],
)
def test_refusals_name_their_kind(run: Run[Any], files: Files, name: str, kind: Kind) -> None:
    error = error_of(run, serving(ZONE), files, name)
    assert error.kind is kind
    assert "test" in error.message or "host name" in error.message or "domain name" in error.message


def test_a_circular_alias_is_malformed(run: Run[Any], files: Files) -> None:
    def script(query: dns.message.Message, over_tcp: bool) -> bytes:
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text("a.test.", 60, "IN", "CNAME", "b.test."))
        response.answer.append(dns.rrset.from_text("b.test.", 60, "IN", "CNAME", "a.test."))
        return response.to_wire()

    assert error_of(run, script, files, "a.test").kind is Kind.MALFORMED


def test_truncation_is_repeated_over_tcp(run: Run[Any], files: Files) -> None:
    zone = {"many.test. A": [f"60 192.0.2.{i}" for i in range(100)]}

    def script(query: dns.message.Message, over_tcp: bool) -> bytes:
        response = reply_from(zone, query)
        if over_tcp or not response.answer:
            return response.to_wire(max_size=65535)
        response.flags |= dns.flags.TC
        response.answer.clear()
        return response.to_wire()

    outcome, asked = run(resolve_with(script, files, "many.test"))
    assert len(outcome.addresses) == 100
    assert ("many.test.", "A", True) in asked


def test_a_reply_cut_mid_record_is_repeated_over_tcp(run: Run[Any], files: Files) -> None:
    def script(query: dns.message.Message, over_tcp: bool) -> bytes:
        response = reply_from(ZONE, query)
        if over_tcp:
            return response.to_wire()
        response.flags |= dns.flags.TC
        return response.to_wire()[:-3]

    assert texts(answer_of(run, script, files, "four.test")) == ["192.0.2.1"]


def test_tcp_that_answers_another_question_is_malformed(run: Run[Any], files: Files) -> None:
    def script(query: dns.message.Message, over_tcp: bool) -> bytes:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.TC
        if over_tcp:
            response.id ^= 1
        return response.to_wire()

    assert error_of(run, script, files, "four.test").kind is Kind.MALFORMED


def test_tcp_closed_without_an_answer_is_a_server_failure(run: Run[Any], files: Files) -> None:
    def script(query: dns.message.Message, over_tcp: bool) -> bytes | None:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.TC
        return None if over_tcp else response.to_wire()

    assert error_of(run, script, files, "four.test").kind is Kind.SERVFAIL


async def _with_two(first: Script, second: Script, files: Files) -> tuple[Answer, Server, Server]:
    async with Server(first) as one, Server(second) as two:
        answer = await files.resolver(one.address, two.address, try_timeout_s=0.3).resolve("four.test")
        return answer, one, two


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(failing(dns.rcode.SERVFAIL), id="SERVFAIL"),
        pytest.param(failing(dns.rcode.REFUSED), id="REFUSED"),
        pytest.param(silent, id="silence"),
        pytest.param(lambda query, _: query.id.to_bytes(2, "big") + b"garbage", id="garbage"),
        pytest.param(lambda query, _: b"x", id="one byte"),
    ],
)
def test_the_second_server_is_asked(run: Run[Any], files: Files, first: Script) -> None:
    answer, one, two = run(_with_two(first, serving(ZONE), files))
    assert texts(answer) == ["192.0.2.1"]
    assert one.asked
    assert two.asked


def test_a_definite_no_is_believed(run: Run[Any], files: Files) -> None:
    """NXDOMAIN of the first server is not shopped around."""

    async def scenario() -> list[tuple[str, str, bool]]:
        async with Server(failing(dns.rcode.NXDOMAIN)) as one, Server(serving(ZONE)) as two:
            with pytest.raises(ResolutionError) as caught:
                await files.resolver(one.address, two.address).resolve("four.test")
            assert caught.value.kind is Kind.NXDOMAIN
            return two.asked

    assert run(scenario()) == []


def test_a_closed_port_is_passed_over_at_once(run: Run[Any], files: Files) -> None:
    async def scenario() -> list[str]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:  # bound, then closed: nobody is there
            held.bind(("127.0.0.1", 0))
            closed = held.getsockname()
        async with Server(serving(ZONE)) as server:
            return texts(await files.resolver(closed, server.address, try_timeout_s=30.0).resolve("four.test"))

    assert run(scenario()) == ["192.0.2.1"]


def test_failures_name_the_server_and_the_reason(run: Run[Any], files: Files) -> None:
    error = error_of(run, failing(dns.rcode.SERVFAIL), files, "four.test")
    assert error.kind is Kind.SERVFAIL
    assert "four.test A at 127.0.0.1:" in error.message
    assert error.message.endswith("SERVFAIL")


def test_silence_times_out_after_two_rounds(run: Run[Any], files: Files) -> None:
    outcome, asked = run(resolve_with(silent, files, "four.test", try_timeout_s=0.05))
    assert outcome.kind is Kind.TIMEOUT
    assert sorted(asked) == [("four.test.", "A", False)] * 2 + [("four.test.", "AAAA", False)] * 2


def test_the_deadline_bounds_all_tries(run: Run[Any], files: Files) -> None:
    """Time is the clock's: the first try uses it up, and no other server is asked."""

    def script(query: dns.message.Message, over_tcp: bool) -> bytes:
        files.clock.now += 5.0
        return failing(dns.rcode.SERVFAIL)(query, over_tcp) or b""

    async def scenario() -> list[tuple[str, str, bool]]:
        async with Server(script) as one, Server(serving(ZONE)) as two:
            with pytest.raises(ResolutionError):
                await files.resolver(one.address, two.address).resolve("four.test")
            return two.asked

    assert run(scenario()) == []


@pytest.mark.parametrize("spoil", ["id", "question", "not a response"])
def test_a_reply_to_another_question_is_ignored(run: Run[Any], files: Files, spoil: str) -> None:
    """The forged reply comes first, on the right port; the true one is still waited for."""

    async def scenario() -> list[str]:
        async with Server(silent) as server:

            def script(query: dns.message.Message, over_tcp: bool) -> bytes | None:
                forged = reply_from({"four.test. A": ["60 203.0.113.66"]}, query)
                if spoil == "id":
                    forged.id ^= 0x0101
                elif spoil == "question":
                    forged.question[0] = dns.rrset.from_text("evil.test.", 0, "IN", "A")
                else:
                    forged.flags &= ~dns.flags.QR
                server.transport.sendto(forged.to_wire(), server.peer)
                return reply_from(ZONE, query).to_wire()

            server.script = script
            return texts(await files.resolver(server.address).resolve("four.test"))

    assert run(scenario()) == ["192.0.2.1"]


@pytest.mark.parametrize("broken", ["A", "AAAA"])
def test_one_family_may_fail(run: Run[Any], files: Files, broken: str) -> None:
    """The other is returned, and asked again soon, however long its TTL."""
    zone = {"x.test. A": ["300 192.0.2.1"], "x.test. AAAA": ["300 2001:db8::1"]}

    def script(query: dns.message.Message, over_tcp: bool) -> bytes | None:
        faulty = query.question[0].rdtype.name == broken
        return (failing(dns.rcode.SERVFAIL) if faulty else serving(zone))(query, over_tcp)

    answer = answer_of(run, script, files, "x.test")
    assert texts(answer) == (["2001:db8::1"] if broken == "A" else ["192.0.2.1"])
    assert answer.ttl_s == 30.0


@pytest.mark.parametrize(
    ("a", "aaaa", "kind"),
    [
        ("NXDOMAIN", "SERVFAIL", Kind.NXDOMAIN),
        ("SERVFAIL", "NXDOMAIN", Kind.SERVFAIL),
        ("NOERROR", "SERVFAIL", Kind.SERVFAIL),
        ("NOERROR", "NXDOMAIN", Kind.NO_DATA),
        ("NOERROR", "NOERROR", Kind.NO_DATA),
    ],
)
def test_which_refusal_counts_when_both_refuse(run: Run[Any], files: Files, a: str, aaaa: str, kind: Kind) -> None:
    def script(query: dns.message.Message, over_tcp: bool) -> bytes | None:
        rcode = a if query.question[0].rdtype.name == "A" else aaaa
        return failing(dns.rcode.from_text(rcode))(query, over_tcp)

    assert error_of(run, script, files, "x.test").kind is kind


@pytest.mark.parametrize(
    ("conf", "name", "address"),
    [
        pytest.param("search other.test corp.test\n", "db", "192.0.2.50", id="the second domain"),
        pytest.param("search corp.test\n", "db.", "192.0.2.51", id="absolute: as is"),
        pytest.param("search corp.test\n", "bare", "192.0.2.52", id="itself at last"),
        pytest.param("search corp.test\nsearch other.test\n", "db", "192.0.2.51", id="the last line wins"),
        pytest.param("domain corp.test\n", "db", "192.0.2.50", id="domain"),
        pytest.param("search corp.test\noptions ndots:0\n", "db", "192.0.2.51", id="ndots 0"),
        pytest.param("search test\noptions rotate ndots:2\n", "db.corp", "192.0.2.50", id="ndots 2"),
        pytest.param("# search corp.test\n; x\nsearch b@d..x corp.test", "db", "192.0.2.50", id="bad lines"),
        pytest.param(f"search {'a.' * 126}x corp.test\n", "db", "192.0.2.50", id="too long together"),
        pytest.param("", "db", "192.0.2.51", id="no search list"),
    ],
)
def test_search_domains(run: Run[Any], files: Files, conf: str, name: str, address: str) -> None:
    files.resolv_conf.write_text(conf)
    assert texts(answer_of(run, serving(ZONE), files, name)) == [address]


def test_a_resolv_conf_without_end(files: Files) -> None:
    """Each server and each domain is one more question for each name: of too many, the first count."""
    many = range(1000)
    conf = lookup._parse_resolv_conf(
        "\n".join(f"nameserver 127.0.{n // 250}.{n % 250 + 1}" for n in many)
        + f"\nsearch {' '.join(f'd{n}.test' for n in many)}\noptions ndots:{10**9}\n"
    )
    assert conf.nameservers == tuple((f"127.0.0.{n + 1}", 53) for n in range(MAX_NAMESERVERS))
    assert [domain.to_text() for domain in conf.search] == [f"d{n}.test." for n in range(MAX_SEARCH_DOMAINS)]
    assert conf.ndots == MAX_NDOTS


def test_a_name_with_enough_dots_never_gets_a_suffix(run: Run[Any], files: Files) -> None:
    files.resolv_conf.write_text("search corp.test\n")
    outcome, asked = run(resolve_with(serving(ZONE), files, "www.partner"))
    assert outcome.kind is Kind.NXDOMAIN
    assert {name for name, _, _ in asked} == {"www.partner."}


def test_an_absolute_name_is_asked_once(run: Run[Any], files: Files) -> None:
    files.resolv_conf.write_text("search corp.test\noptions ndots:5\n")
    _, asked = run(resolve_with(serving(ZONE), files, "missing."))
    assert sorted(asked) == [("missing.", "A", False), ("missing.", "AAAA", False)]


def test_a_failure_ends_the_search(run: Run[Any], files: Files) -> None:
    """The name that the search meant may exist: another candidate must not take its place."""
    files.resolv_conf.write_text("search corp.test\n")

    def script(query: dns.message.Message, over_tcp: bool) -> bytes | None:
        inside = query.question[0].name.to_text().endswith("corp.test.")
        return (failing(dns.rcode.SERVFAIL) if inside else serving(ZONE))(query, over_tcp)

    assert error_of(run, script, files, "db").kind is Kind.SERVFAIL


def test_resolv_conf_names_the_servers_and_is_followed(run: Run[Any], files: Files) -> None:
    def resolver() -> Resolver:
        return Resolver(None, files.hosts, files.clock, resolv_conf_path=files.resolv_conf, try_timeout_s=1.0)

    async def error(it: Resolver) -> str:
        with pytest.raises(ResolutionError) as caught:
            await it.resolve("a.test")
        return caught.value.message

    async def scenario() -> None:
        # Port 53 of these loopback addresses is closed: the message says who was asked.
        it = resolver()
        assert "127.0.0.1:53" in await error(it)
        files.resolv_conf.write_text("nameserver nonsense\nnameserver 127.0.0.77\n")
        assert "127.0.0.1:53" in await error(it), "checked at most once a second"
        files.clock.now += 1.0
        assert "127.0.0.77:53" in await error(it)

    run(scenario())


def test_the_hosts_file_overrides_dns_and_is_followed(run: Run[Any], files: Files) -> None:
    files.hosts.write_text("192.0.2.200 FOUR.test alias # four.test\n2001:db8::c four.test\nnonsense four.test\n")

    async def scenario() -> None:
        async with Server(serving(ZONE)) as server:
            resolver = files.resolver(server.address)
            answer = await resolver.resolve("Four.Test.")
            assert (texts(answer), answer.source) == (["192.0.2.200", "2001:db8::c"], "hosts")
            assert server.asked == []
            files.hosts.write_text("192.0.2.201 four.test alias # four.test\n")
            files.clock.now += answer.ttl_s
            assert texts(await resolver.resolve("four.test")) == ["192.0.2.201"]
            files.hosts.unlink()
            files.clock.now += answer.ttl_s
            assert (await resolver.resolve("four.test")).source == "dns"

    run(scenario())


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "app.localhost"])
@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        ("", ["127.0.0.1", "::1"]),
        ("127.0.0.1 localhost app.localhost\n", ["127.0.0.1"]),
        ("192.0.2.66 localhost app.localhost\n", ["127.0.0.1", "::1"]),
    ],
)
def test_localhost_is_always_loopback(run: Run[Any], files: Files, name: str, hosts: str, addresses: list[str]) -> None:
    files.hosts.write_text(hosts)
    outcome, asked = run(resolve_with(serving(ZONE), files, name))
    assert texts(outcome) == addresses
    assert asked == []


def test_a_hosts_file_that_is_too_large_keeps_what_was_read(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.hosts.write_text("192.0.2.1 a\n")
    hosts = HostsFile(files.hosts, files.clock)
    assert hosts.lookup("a") == (ip_address("192.0.2.1"),)
    files.hosts.write_text("192.0.2.2 a\n".ljust(MAX_FILE_BYTES + 1, "#"))
    for size in (MAX_FILE_BYTES + 1, 1 << 40, 1 << 40):
        os.truncate(files.hosts, size)  # a hole: whoever reads it whole has no memory for it
        files.clock.now += 1.0
        assert hosts.lookup("a") == (ip_address("192.0.2.1"),)
    assert len(caplog.records) == 1
    assert "larger than" in caplog.text
    files.hosts.write_text("192.0.2.2 a\n".ljust(MAX_FILE_BYTES, "#"))
    files.clock.now += 1.0
    assert hosts.lookup("a") == (ip_address("192.0.2.2"),)


def test_a_hosts_file_that_cannot_be_read_is_said_once(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.hosts.mkdir()
    hosts = HostsFile(files.hosts, files.clock)
    assert hosts.lookup("a") == ()
    files.clock.now += 1.0
    assert hosts.lookup("a") == ()
    assert len(caplog.records) == 1


@settings(deadline=None)
@given(st.binary(max_size=4096))
def test_any_bytes_are_a_hosts_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "hosts"
    path.write_bytes(content + b"\n192.0.2.1 sure\n")
    assert ip_address("192.0.2.1") in HostsFile(path, Clock()).lookup("sure")


def test_lookups_at_once_are_bounded(run: Run[Any], files: Files) -> None:
    """The server collects four queries (two names, two families) and listens on a while before it answers."""

    async def scenario() -> tuple[int, int]:
        waiting: list[tuple[bytes, Any]] = []
        most = 0

        async with Server(silent) as server:

            async def answer_all() -> None:
                nonlocal most
                for _ in range(50):
                    await asyncio.sleep(0)
                most = max(most, len(waiting))
                for reply, peer in waiting:
                    server.transport.sendto(reply, peer)
                waiting.clear()

            def script(query: dns.message.Message, over_tcp: bool) -> None:
                waiting.append((reply_from(ZONE, query).to_wire(), server.peer))
                if len(waiting) == 4:
                    background.create_task(answer_all())

            server.script = script
            resolver = files.resolver(server.address, max_concurrent=2, try_timeout_s=20.0, total_timeout_s=20.0)
            async with asyncio.TaskGroup() as background:
                answers = await asyncio.gather(*(resolver.resolve("four.test") for _ in range(6)))
            return len(answers), most

    assert run(scenario()) == (6, 4)


def test_addresses_of_one_answer_are_bounded() -> None:
    query = dns.message.make_query("x.test.", "A")
    zone = {"x.test. A": [f"60 10.0.{i // 250}.{i % 250}" for i in range(1000)]}
    reply = _read_reply(query, reply_from(zone, query).to_wire(max_size=65535))
    assert reply is not None
    assert len(_records(reply, "x.test A").addresses) == MAX_ADDRESSES


@settings(deadline=None)
@given(st.data())
def test_no_reply_breaks_the_reader(data: st.DataObject) -> None:
    """Mutations of a good reply give records, our error, dnspython's error, or are ignored: nothing else."""
    query = dns.message.make_query("alias.test.", "AAAA")
    wire = bytearray(reply_from(ZONE, query).to_wire())
    for _ in range(data.draw(st.integers(0, 8))):
        wire[data.draw(st.integers(2, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(wire)))
    try:
        reply = _read_reply(query, bytes(wire[:cut]) + data.draw(st.binary(max_size=20)))
        assert reply is None or isinstance(_records(reply, "x"), Records)
    except (ResolutionError, dns.exception.DNSException):
        pass
