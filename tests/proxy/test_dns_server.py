"""Guarantee: UDP and TCP on one port answer alike; whatever a client sends or does not take costs a bounded amount, and
the next client is served.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import dns.flags
import dns.message
import pytest
import uvloop
from dns.rcode import Rcode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import proxy
from proxy.dns import server as module
from proxy.dns.message import MAX_QUERY_BYTES
from proxy.dns.server import IDLE_S, MAX_PENDING, DnsServer
from proxy.sockets import StartError
from proxy.stats import DnsStats
from proxy.throttle import Throttle
from tests.proxy.dns_rig import (
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
NAME = "httpbin.extsvc.mesh.local"
RECORDS = names({NAME: ["242.0.0.1"]})
QUERY = dns.message.make_query(NAME, "A").to_wire()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    def runner(coro: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=request.param) as it:
            return it.run(asyncio.wait_for(coro, 20))

    return runner


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


async def until(ask: Callable[[], object], what: str) -> None:
    """On the loop itself, so that what is waited for can happen."""
    for _ in range(1000):
        if ask():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not in 5 s: {what}")


class Client:
    """A TCP connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, server: DnsServer) -> Client:
        return cls(*await asyncio.open_connection(*server.own))

    def send(self, *messages: bytes) -> None:
        self.writer.write(b"".join(map(framed, messages)))

    async def reply(self) -> dns.message.Message:
        size = int.from_bytes(await self.reader.readexactly(2), "big")
        return dns.message.from_wire(await self.reader.readexactly(size))

    async def ended(self) -> bool:
        """Nothing more comes: the end, or a reset."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()


def with_server(run: Run[None], test: Callable[[DnsServer], Awaitable[None]], *upstreams: Upstream) -> None:
    async def all_of_it() -> None:
        async with serving(RECORDS, *upstreams) as ours:
            await test(ours)

    run(all_of_it())


def test_both_transports(run: Run[None]) -> None:
    async def test(ours: DnsServer) -> None:
        for over_tcp in (False, True):
            message = await ask(ours, NAME, over_tcp=over_tcp)
            assert addresses(message) == ["242.0.0.1"]
            assert message.flags & dns.flags.AA
        stats = ours.stats
        assert (stats.udp_queries, stats.tcp_queries, stats.answered, stats.names) == (1, 1, 2, 1)
        assert (stats.forwarded, stats.refused, stats.ignored, stats.truncated) == (0, 0, 0, 0)
        await until(lambda: stats.tcp_active == 0, "the connection to be gone")

    with_server(run, test)


def test_new_records_hold_at_once(run: Run[None]) -> None:
    async def test(ours: DnsServer) -> None:
        await ask(ours, NAME)
        ours.records = names({NAME: ["242.0.0.2"], "other.mesh.local": ["242.0.0.3"]})
        assert addresses(await ask(ours, NAME)) == ["242.0.0.2"]
        assert ours.stats.names == 2
        ours.records = names({})
        assert (await ask(ours, NAME)).rcode() == Rcode.NXDOMAIN

    with_server(run, test)


def test_ipv6(run: Run[None]) -> None:
    async def test() -> None:
        server = DnsServer(resolver_for(), DnsStats(), Throttle(asyncio.get_running_loop().time))
        server.records = RECORDS
        await server.start("::1", 0)
        for over_tcp in (False, True):
            assert addresses(await ask(server, NAME, over_tcp=over_tcp)) == ["242.0.0.1"]
        await server.close()

    run(test())


# Start


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_a_port_that_is_taken(run: Run[None], kind: socket.SocketKind) -> None:
    async def test() -> None:
        with socket.socket(socket.AF_INET, kind) as other:
            other.bind(("127.0.0.1", 0))
            if kind is socket.SOCK_STREAM:
                other.listen()
            port = other.getsockname()[1]
            server = DnsServer(resolver_for(), DnsStats(), Throttle(asyncio.get_running_loop().time))
            with pytest.raises(StartError, match=f"127.0.0.1:{port}: the port is taken"):
                await server.start("127.0.0.1", port)
            await server.close()

    run(test())


def test_it_does_not_forward_to_itself(run: Run[None]) -> None:
    async def test() -> None:
        own = ("127.0.0.1", closed_port())
        server = DnsServer(resolver_for(), DnsStats(), Throttle(asyncio.get_running_loop().time))
        with pytest.raises(StartError, match="is this DNS server itself"):
            await server.start(*own, [own])
        await server.start(*own)  # the ports were given up
        await server.close()
        await server.close()

    run(test())


def test_serving_the_network_is_said(run: Run[None], caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        server = DnsServer(resolver_for(), DnsStats(), Throttle(asyncio.get_running_loop().time))
        await server.start("0.0.0.0", 0)
        await server.close()

    run(test())
    assert "to everybody who can reach it" in caplog.text


# TCP


def test_many_questions_on_one_connection(run: Run[None]) -> None:
    async def test(ours: DnsServer) -> None:
        async with await Client.connect(ours) as client:
            queries = [dns.message.make_query(NAME, "A", id=number) for number in range(200)]
            client.send(*(query.to_wire() for query in queries))
            assert [(await client.reply()).id for _ in queries] == list(range(200))

    with_server(run, test)


def test_a_question_byte_by_byte(run: Run[None]) -> None:
    async def test(ours: DnsServer) -> None:
        async with await Client.connect(ours) as client:
            for byte in framed(QUERY):
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert addresses(await client.reply()) == ["242.0.0.1"]

    with_server(run, test)


def test_a_fast_answer_overtakes_a_slow_one(run: Run[None]) -> None:
    async def test() -> None:
        async with upstream(silence) as server, serving(RECORDS, server) as ours, await Client.connect(ours) as client:
            client.send(dns.message.make_query("www.example.test", "A", id=1).to_wire(), _with_id(2))
            assert (await client.reply()).id == 2

    run(test())


def _with_id(number: int) -> bytes:
    return number.to_bytes(2, "big") + QUERY[2:]


def test_a_client_that_has_said_all_gets_its_replies(run: Run[None]) -> None:
    async def test() -> None:
        async with upstream(answering("@ 9 IN A 127.0.0.9")) as server, serving(RECORDS, server) as ours:
            async with await Client.connect(ours) as client:
                client.send(dns.message.make_query("www.example.test", "A").to_wire())
                client.writer.write_eof()
                assert addresses(await client.reply()) == ["127.0.0.9"]
                assert await client.ended()
            async with await Client.connect(ours) as client:
                client.send(QUERY)
                client.writer.write_eof()
                assert addresses(await client.reply()) == ["242.0.0.1"]
                assert await client.ended()

    run(test())


@pytest.mark.parametrize(
    "message",
    [
        pytest.param((MAX_QUERY_BYTES + 1).to_bytes(2, "big"), id="a length beyond any question"),
        pytest.param(framed(b""), id="nothing"),
        pytest.param(framed(QUERY[:11]), id="half a header"),
        pytest.param(framed(QUERY[:2] + b"\x81" + QUERY[3:]), id="a reply"),
    ],
)
def test_what_is_no_question_ends_the_connection(run: Run[None], message: bytes) -> None:
    async def test(ours: DnsServer) -> None:
        async with await Client.connect(ours) as client:
            client.writer.write(message + framed(QUERY))
            assert await client.ended()
        assert addresses(await ask(ours, NAME, over_tcp=True)) == ["242.0.0.1"]

    with_server(run, test)


def test_a_refusal_leaves_the_connection(run: Run[None]) -> None:
    async def test(ours: DnsServer) -> None:
        async with await Client.connect(ours) as client:
            client.send(dns.message.make_query(NAME, "AXFR").to_wire(), QUERY)
            assert (await client.reply()).rcode() == Rcode.REFUSED
            assert addresses(await client.reply()) == ["242.0.0.1"]
        assert ours.stats.refused == 1

    with_server(run, test)


def test_open_questions_of_a_connection_are_bounded(run: Run[None]) -> None:
    async def test() -> None:
        async with upstream(silence) as server, serving(RECORDS, server) as ours, await Client.connect(ours) as client:
            assert ours._forwarder is not None
            ours._forwarder._try_timeout_s = 60.0  # nothing is asked twice
            asked = MAX_PENDING + 20
            for number in range(asked):
                client.send(dns.message.make_query(f"{number}.example.test", "A", id=number).to_wire())
            await until(lambda: len(server.asked) == MAX_PENDING, "the questions that may be open")
            await asyncio.sleep(0.02)
            assert ours.stats.tcp_queries == MAX_PENDING
            server.answer_late(answering("@ 9 IN A 127.0.0.9"))
            replies = [await client.reply() for _ in range(asked)]
            assert {reply.id for reply in replies} == set(range(asked))

    run(test())


def test_a_client_that_takes_no_replies_is_not_read(run: Run[None]) -> None:
    many = names({NAME: [f"242.0.1.{n}" for n in range(120)]})

    async def test() -> None:
        async with serving(many) as ours:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(ours.own)
                client.setblocking(False)
                block, sent, quiet = framed(QUERY) * 2000, 0, 0
                while quiet < 20:
                    try:
                        sent += client.send(block[sent % len(block) :])
                        quiet = 0
                    except BlockingIOError:
                        quiet += 1
                    await asyncio.sleep(0.005)
                (stream,) = ours.connections
                assert stream._is_held
                assert len(stream._buffer) < 1024 * 1024
                assert addresses(await ask(ours, NAME, over_tcp=True))
                ours.end_idle(ours.now() + IDLE_S + 1)
                await until(lambda: not ours.connections, "the connection to be gone")

    run(test())


def test_idle_and_slow_connections_end(run: Run[None]) -> None:
    async def test(ours: DnsServer) -> None:
        async with await Client.connect(ours) as idle, await Client.connect(ours) as slow:
            slow.writer.write(framed(QUERY)[:5])
            await until(lambda: len(ours.connections) == 2, "both connections")
            ours.end_idle(ours.now() + IDLE_S - 1)
            assert len(ours.connections) == 2
            ours.end_idle(ours.now() + IDLE_S + 1)
            assert await idle.ended()
            assert await slow.ended()

    with_server(run, test)


def test_connections_are_bounded(run: Run[None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)

    async def test(ours: DnsServer) -> None:
        async with await Client.connect(ours) as first, await Client.connect(ours):
            await until(lambda: ours.stats.tcp_active == 2, "two connections")
            async with await Client.connect(ours) as third:
                assert await third.ended()
            assert (ours.stats.tcp_active, ours.stats.tcp_overflow) == (2, 1)
            first.send(QUERY)
            assert addresses(await first.reply()) == ["242.0.0.1"]

    with_server(run, test)


def test_closing_drops_what_waits(run: Run[None]) -> None:
    async def test() -> None:
        async with upstream(silence) as server, serving(RECORDS, server) as ours, await Client.connect(ours) as client:
            client.send(dns.message.make_query("www.example.test", "A").to_wire())
            await until(lambda: server.asked, "the question to be forwarded")
            await ours.close()
            assert await client.ended()
            server.script = answering("@ 9 IN A 127.0.0.9")

    run(test())


# Garbage


@given(st.lists(st.binary(max_size=100), max_size=8), st.binary(max_size=200))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_garbage_hurts_nobody_else(datagrams: list[bytes], stream: bytes) -> None:
    async def test() -> None:
        async with serving(RECORDS) as ours:
            complaints: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for datagram in datagrams:
                    client.sendto(datagram, ours.own)
                    client.sendto(QUERY[:12] + datagram, ours.own)
            async with await Client.connect(ours) as tcp:
                tcp.writer.write(stream)
                assert addresses(await ask(ours, NAME)) == ["242.0.0.1"]
                assert addresses(await ask(ours, NAME, over_tcp=True)) == ["242.0.0.1"]
            await asyncio.sleep(0)
            assert not complaints

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as it:
        it.run(test())


# Cost


def test_calls_per_question() -> None:
    """A number that noise cannot move: Python calls in the proxy's own files, once the answer is packed."""
    files = str(Path(proxy.__file__).parent)
    questions, budget = 100, 12
    query = dns.message.make_query(NAME, "A", use_edns=0).to_wire()

    async def test() -> Counter[str]:
        async with serving(RECORDS) as ours:
            loop = asyncio.get_running_loop()
            calls: Counter[str] = Counter()

            def profile(frame: FrameType, event: str, _arg: object) -> None:
                if event == "call" and frame.f_code.co_filename.startswith(files):
                    calls[frame.f_code.co_qualname] += 1

            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.connect(ours.own)
                client.send(query)
                await loop.sock_recv(client, 512)
                sys.setprofile(profile)
                try:
                    for _ in range(questions):
                        client.send(query)
                        await loop.sock_recv(client, 512)
                finally:
                    sys.setprofile(None)
            assert ours.stats.answered == questions + 1
            return calls

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        calls = runner.run(test())
    per_question = sum(calls.values()) / questions
    detail = "\n".join(f"{count / questions:6.2f} {name}" for name, count in calls.most_common(50))
    assert 1 < per_question <= budget, f"{per_question:.1f} calls per question\n{detail}"
