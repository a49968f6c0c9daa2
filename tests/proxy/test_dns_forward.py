"""Guarantee: a question that is not ours is answered by the hosts file, the cache or a resolver, whatever one resolver
does wrong; each question is asked once at a time, and everything that waits is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import dns.flags
import dns.message
import dns.rcode
import pytest
import uvloop
from dns.rcode import Rcode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.dns import forward
from proxy.dns.forward import FAILING_S, Forwarder, is_same, refuse_loop
from proxy.dns.message import FAILED, Packed, parse, reply
from proxy.lookup import Resolver
from proxy.sockets import StartError
from proxy.stats import DnsStats
from proxy.throttle import Throttle
from tests.proxy.dns_rig import (
    NOWHERE,
    Script,
    Upstream,
    addresses,
    answering,
    ask,
    closed_port,
    names,
    resolver_for,
    serving,
    silence,
    upstream,
)

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
A = "@ 60 IN A 127.0.0.9"
WAIT_S = 0.4
"""For a resolver that is silent, before the next one, which must answer within it, is asked."""
SOA = "example.test. 600 IN SOA ns.example.test. admin.example.test. 1 2 3 4 20"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    def runner(coro: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=request.param) as it:
            return it.run(coro)

    return runner


def run_once(coro: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as it:
        return it.run(coro)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A forwarder without sockets in front of it, its clock in hand. Resolvers have time enough to answer, unless the
    test is about their silence.
    """

    def __init__(self, *upstreams: Upstream, try_timeout_s: float = 10.0, total_timeout_s: float = 20.0) -> None:
        self.clock = Clock()
        self.stats = DnsStats()
        self.forwarder = Forwarder(
            resolver_for(*upstreams),
            ("127.0.0.1", 1),
            self.stats,
            Throttle(self.clock),
            self.clock,
            try_timeout_s=try_timeout_s,
            total_timeout_s=total_timeout_s,
        )

    def start(self, name: str = "www.example.test", rdtype: str = "A", **more: Any) -> asyncio.Future[Packed]:
        """Ask; the answer comes in time."""
        done: asyncio.Future[Packed] = asyncio.get_running_loop().create_future()
        query = parse(dns.message.make_query(name, rdtype, **more).to_wire())
        self.forwarder.ask(query, done.set_result)
        return done

    async def ask(self, name: str = "www.example.test", rdtype: str = "A", **more: Any) -> dns.message.Message:
        answer = await self.start(name, rdtype, **more)
        query = parse(dns.message.make_query(name, rdtype).to_wire(), over_tcp=True)
        return dns.message.from_wire(reply(query, answer))


def one_resolver(
    script: Script, test: Callable[[World, Upstream], Coroutine[Any, Any, T]], *, try_timeout_s: float = 10.0
) -> T:
    async def all_of_it() -> T:
        async with upstream(script) as server:
            return await test(World(server, try_timeout_s=try_timeout_s), server)

    return run_once(all_of_it())


# Answers


def test_an_answer_is_passed_on_and_kept(run: Run[None]) -> None:
    async def test() -> None:
        async with upstream(answering(A)) as server, serving(names({}), server) as ours:
            for number, over_tcp in enumerate((False, True, False)):
                message = await ask(ours, "WWW.Example.test", over_tcp=over_tcp)
                assert addresses(message) == ["127.0.0.9"]
                assert message.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
                assert ours.stats.cache_hits == number
            assert len(server.asked) == 1
            assert (ours.stats.forwarded, ours.stats.answered, ours.stats.cached) == (3, 0, 1)

    run(test())


def test_what_the_resolver_is_asked() -> None:
    async def test(world: World, server: Upstream) -> None:
        await world.ask("WWW.Example.test")
        await world.ask(use_edns=0, want_dnssec=True, options=[dns.edns.GenericOption(10, b"12345678")])
        await world.ask(flags=dns.flags.CD)
        plain, signed, unchecked = (query for query, _ in server.asked)
        assert plain.question[0].to_text() == "www.example.test. IN A"
        assert (plain.edns, plain.flags) == (-1, dns.flags.RD)
        assert (signed.edns, signed.ednsflags, signed.payload, signed.options) == (0, dns.flags.DO, 1232, ())
        assert unchecked.flags == dns.flags.RD | dns.flags.CD
        assert len({query.id for query in (plain, signed, unchecked)}) > 1

    one_resolver(answering(A), test)


def test_ttls_run_down_and_end() -> None:
    async def test(world: World, server: Upstream) -> None:
        ttls = []
        for world.clock.now in (0.0, 0.5, 1.0, 59.9, 60.0):
            ttls.append((await world.ask()).answer[0].ttl)
        assert ttls == [60, 60, 59, 1, 60]
        assert len(server.asked) == 2

    one_resolver(answering(A), test)


@pytest.mark.parametrize(
    ("script", "kept_s"),
    [
        pytest.param(answering("@ 0 IN A 127.0.0.9"), 0, id="TTL 0"),
        pytest.param(answering("@ 5 IN CNAME a.example.test.", "a.example.test. 90 IN A 127.0.0.9"), 5, id="CNAME"),
        pytest.param(answering(rcode=Rcode.NXDOMAIN, authority=[SOA]), 20, id="NXDOMAIN"),
        pytest.param(answering(authority=[SOA]), 20, id="no data"),
        pytest.param(answering(), 0, id="no data, no SOA"),
        pytest.param(answering(rcode=Rcode.NXDOMAIN), 0, id="NXDOMAIN, no SOA"),
        pytest.param(answering(rcode=Rcode.SERVFAIL), 1, id="failure"),
    ],
)
def test_how_long_an_answer_is_kept(script: Script, kept_s: int) -> None:
    async def test(world: World, server: Upstream) -> None:
        began = world.clock.now
        await world.ask()
        if kept_s:
            world.clock.now = began + kept_s - 0.01
            await world.ask()
        assert len(server.asked) == 1
        world.clock.now = began + kept_s
        await world.ask()
        assert len(server.asked) == 2

    one_resolver(script, test)


@pytest.mark.parametrize("rcode", [Rcode.NOERROR, Rcode.NXDOMAIN])
def test_a_no_is_passed_on_with_its_soa(rcode: Rcode) -> None:
    async def test(world: World, server: Upstream) -> None:
        message = await world.ask()
        assert (message.rcode(), message.answer) == (rcode, [])
        assert message.authority[0].to_text().startswith("example.test. 600 IN SOA")

    one_resolver(answering(rcode=rcode, authority=[SOA]), test)


@pytest.mark.parametrize(
    ("rdtype", "record"),
    [
        ("MX", "10 mail.example.test."),
        ("TXT", '"a" "b"'),
        ("SRV", "0 0 443 www.example.test."),
        ("HTTPS", '1 . alpn="h2"'),
        ("PTR", "a.test."),
        ("TYPE65280", r"\# 2 abcd"),
    ],
)
def test_every_type_is_passed_on(rdtype: str, record: str) -> None:
    async def test(world: World, server: Upstream) -> None:
        assert addresses(await world.ask(rdtype=rdtype)) == [record]

    one_resolver(answering(f"@ 60 IN {rdtype} {record}"), test)


def test_a_large_answer_comes_by_tcp_and_leaves_by_tcp(run: Run[None]) -> None:
    many = [f"@ 60 IN A 127.0.{n // 200}.{n % 200 + 1}" for n in range(300)]

    async def test() -> None:
        async with upstream(_truncating(answering(*many))) as server, serving(names({}), server) as ours:
            small = await ask(ours, "www.example.test")
            assert small.flags & dns.flags.TC
            assert len(addresses(await ask(ours, "www.example.test", over_tcp=True))) == 300
            assert [over_tcp for _, over_tcp in server.asked][:2] == [False, True]
            assert ours.stats.truncated == 1

    run(test())


def _truncating(script: Script) -> Script:
    def truncated(query: dns.message.QueryMessage, over_tcp: bool) -> bytes | None:
        if over_tcp:
            return script(query, True)
        message = dns.message.make_response(query)
        message.flags |= dns.flags.TC
        return message.to_wire()

    return truncated


@pytest.mark.parametrize("rcode", [Rcode.FORMERR, Rcode.NOTIMP])
def test_a_resolver_from_before_edns(rcode: Rcode) -> None:
    def old(query: dns.message.QueryMessage, over_tcp: bool) -> bytes | None:
        if query.edns < 0:
            return answering(A)(query, over_tcp)
        return query.id.to_bytes(2, "big") + bytes([0x81, 0x80 | rcode]) + bytes(8)

    async def test(world: World, server: Upstream) -> None:
        assert addresses(await world.ask(use_edns=0)) == ["127.0.0.9"]
        assert [query.edns for query, _ in server.asked] == [0, -1]

    one_resolver(old, test)


def test_the_opt_of_the_resolver_stays_behind() -> None:
    async def test(world: World, server: Upstream) -> None:
        answer = await world.start(use_edns=0)
        assert answer.counts == (1, 0, 0)
        assert (await world.ask()).edns == -1

    one_resolver(answering(A), test)


# Resolvers that fail


@pytest.mark.parametrize(
    ("script", "waits"),
    [
        pytest.param(silence, True, id="silence"),
        pytest.param(answering(rcode=Rcode.SERVFAIL), False, id="SERVFAIL"),
        pytest.param(answering(rcode=Rcode.REFUSED), False, id="REFUSED"),
        pytest.param(lambda query, _: query.to_wire()[:2] + b"\x81\x80" + b"\xff" * 20, False, id="malformed"),
        pytest.param(
            lambda query, _: dns.message.make_response(dns.message.make_query("x.test", "A")).to_wire(),
            True,
            id="to another question",
        ),
    ],
)
def test_the_next_resolver_is_asked(script: Script, waits: bool) -> None:
    async def test() -> None:
        async with upstream(script) as bad, upstream(answering(A)) as good:
            world = World(bad, good, try_timeout_s=WAIT_S if waits else 10.0)
            assert addresses(await world.ask()) == ["127.0.0.9"]
            assert world.stats.upstream_failures == 1
            await world.ask("other.example.test")
            assert len(bad.asked) == 1, "asked after the others for a while"
            world.clock.now += FAILING_S
            await world.ask("third.example.test")
            assert len(bad.asked) == 2

    run_once(test())


def test_a_resolver_that_recovers_is_first_again() -> None:
    async def test() -> None:
        async with upstream(answering(rcode=Rcode.SERVFAIL)) as first, upstream(answering(A)) as second:
            world = World(first, second)
            await world.ask()
            first.script, second.script = answering(A), answering(rcode=Rcode.SERVFAIL)
            assert addresses(await world.ask("b.example.test")) == ["127.0.0.9"], "both failed; each is still asked"
            assert world.forwarder.servers() == [first.server, second.server]

    run_once(test())


def test_no_resolver_answers() -> None:
    async def test() -> None:
        async with upstream(silence) as one, upstream(silence) as two:
            world = World(one, two, try_timeout_s=0.05)
            assert (await world.ask()).rcode() == Rcode.SERVFAIL
            assert (len(one.asked), len(two.asked)) == (2, 2), "the silent are asked again"
            assert world.stats.upstream_unanswered == 1
            await world.ask()
            assert len(one.asked) == 2, "not at once again (RFC 9520)"

    run_once(test())


def test_the_time_for_a_question_ends() -> None:
    async def test() -> None:
        async with upstream(silence) as server:
            world = World(server, total_timeout_s=0.0)
            assert (await world.ask()).rcode() == Rcode.SERVFAIL
            assert not server.asked

    run_once(test())


def test_nobody_listens(run: Run[None]) -> None:
    async def test() -> None:
        nobody = Upstream(silence)
        nobody.server = ("127.0.0.1", closed_port())
        async with serving(names({"a.mesh.local": ["127.1.0.1"]}), nobody) as ours:
            assert (await ask(ours, "www.example.test")).rcode() == Rcode.SERVFAIL
            assert addresses(await ask(ours, "a.mesh.local")) == ["127.1.0.1"], "ours need nobody"

    run(test())


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_a_resolver_says(tail: bytes, is_header_sound: bool) -> None:
    """The client gets a well-formed answer in time."""

    def script(query: dns.message.QueryMessage, over_tcp: bool) -> bytes:
        start = query.id.to_bytes(2, "big") + (b"\x81\x80\x00\x01\x00\x01" if is_header_sound else b"")
        return start + tail

    async def test(world: World, server: Upstream) -> None:
        await asyncio.wait_for(world.ask(), 20)

    one_resolver(script, test, try_timeout_s=0.05)


# Bounds


def test_a_crowd_costs_one_question() -> None:
    async def test(world: World, server: Upstream) -> None:
        answers = await asyncio.gather(*(world.start() for _ in range(50)))
        assert len(set(map(id, answers))) == 1
        assert len(server.asked) == 1
        assert world.stats.forwarding == 0

    one_resolver(answering(A), test)


def test_dnssec_and_plain_answers_are_kept_apart() -> None:
    async def test(world: World, server: Upstream) -> None:
        await asyncio.gather(
            world.start(), world.start(use_edns=0, want_dnssec=True), world.start(flags=dns.flags.CD), world.start()
        )
        assert len(server.asked) == 3

    one_resolver(answering(A), test)


def test_too_many_questions_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "MAX_ASKING", 3)
    monkeypatch.setattr(forward, "MAX_WAITING", 5)

    async def test(world: World, server: Upstream) -> None:
        waiting = [world.start(f"{number}.example.test") for number in range(3)]
        assert world.start("4.example.test").result() is FAILED
        waiting += [world.start("0.example.test") for _ in range(2)]
        assert world.start("0.example.test").result() is FAILED
        assert (world.stats.overflow, world.stats.forwarding) == (2, 3)
        for one in waiting:
            assert (await one) is not FAILED
        assert (await world.start("4.example.test")) is not FAILED, "there is room again"
        assert world.stats.forwarding == 0

    one_resolver(answering(A), test)


def test_one_client_that_fails_keeps_nothing_from_the_others() -> None:
    async def test(world: World, server: Upstream) -> None:
        query = parse(dns.message.make_query("www.example.test", "A").to_wire())
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        world.forwarder.ask(query, lambda _: 1 / 0)  # type: ignore[arg-type]
        assert (await asyncio.wait_for(world.start(), 20)).counts == (1, 0, 0)

    one_resolver(answering(A), test)


# The hosts file


def test_the_hosts_file_beats_the_resolvers(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.7 Www.example.test\n")

    async def test() -> None:
        async with upstream(answering(A)) as server, serving(names({}), server, hosts=hosts) as ours:
            message = await ask(ours, "www.Example.test")
            assert addresses(message) == ["127.0.0.7"]
            message = await ask(ours, "www.example.test", "AAAA")
            assert (message.rcode(), message.answer) == (Rcode.NOERROR, [])
            assert not server.asked
            await ask(ours, "www.example.test", "TXT")
            assert len(server.asked) == 1, "the file speaks of addresses only"

    run_once(test())


@pytest.mark.parametrize(
    ("name", "rdtype", "expected"),
    [("localhost", "A", ["127.0.0.1"]), ("a.b.localhost", "AAAA", ["::1"]), ("localhost", "TXT", [])],
)
def test_localhost_is_never_asked_of_others(name: str, rdtype: str, expected: list[str]) -> None:
    async def test() -> None:
        async with upstream(answering(A)) as server, serving(names({}), server) as ours:
            message = await ask(ours, name, rdtype)
            assert (message.rcode(), addresses(message)) == (Rcode.NOERROR, expected)
            assert not server.asked

    run_once(test())


# Loops


@pytest.mark.parametrize(
    ("own", "server", "same"),
    [
        (("127.0.0.1", 53), ("127.0.0.1", 53), True),
        (("127.0.0.1", 53), ("127.0.0.1", 54), False),
        (("127.0.0.1", 53), ("127.0.0.2", 53), False),
        (("127.0.0.1", 53), ("::ffff:127.0.0.1", 53), True),
        (("127.0.0.1", 53), ("0.0.0.0", 53), True),
        (("127.0.0.1", 53), ("::1", 53), False),
        (("::1", 53), ("0:0::1", 53), True),
        (("::1", 53), ("::", 53), True),
        (("0.0.0.0", 53), ("127.0.0.53", 53), True),
        (("0.0.0.0", 53), ("192.0.2.1", 53), False),
        (("0.0.0.0", 53), ("::1", 53), False),
        (("::", 53), ("::1", 53), True),
        (("::", 53), ("127.0.0.1", 53), False),
    ],
)
def test_which_resolver_is_this_server(own: tuple[str, int], server: tuple[str, int], same: bool) -> None:
    assert is_same(own, server) is same


def test_a_loop_is_refused() -> None:
    own, other = ("127.0.0.1", 53), ("192.0.2.1", 53)
    refuse_loop(own, [], [own, other])
    refuse_loop(own, [other], [other])
    with pytest.raises(StartError, match=r"^--dns-upstream 127.0.0.1:53 is this DNS server itself$"):
        refuse_loop(own, [other, own], [other, own])
    with pytest.raises(StartError, match="name others with --dns-upstream"):
        refuse_loop(own, [], [own])


def test_a_server_in_resolv_conf_that_is_this_one_is_passed_over(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\nnameserver 192.0.2.1\n")

    async def test() -> None:
        clock = Clock()
        resolver = Resolver(None, NOWHERE, clock, resolv_conf_path=conf)
        forwarder = Forwarder(resolver, ("127.0.0.1", 53), DnsStats(), Throttle(clock), clock)
        assert forwarder.servers() == [("192.0.2.1", 53)]

    run_once(test())


def test_a_loop_through_another_resolver_ends(run: Run[None]) -> None:
    """Its question comes back to us, and waits for itself."""

    async def test() -> None:
        async with AsyncExitStack() as stack:
            loop = asyncio.get_running_loop()
            back: list[Any] = []

            def forwarding(query: dns.message.QueryMessage, over_tcp: bool) -> None:
                back.append(loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=ours.own))
                stack.push_async_callback(send, query.to_wire())

            async def send(wire: bytes) -> None:
                transport, _ = await back.pop()
                transport.sendto(wire)
                transport.close()

            server = await stack.enter_async_context(upstream(forwarding))
            ours = await stack.enter_async_context(serving(names({}), server))
            assert ours._forwarder is not None
            ours._forwarder._try_timeout_s = 0.05
            assert (await ask(ours, "www.example.test")).rcode() == Rcode.SERVFAIL
            assert len(server.asked) <= 2

    run(test())
