"""Messages between supervisor and worker: values arrive as they were, and nothing else is ever built from bytes."""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.plan import ClusterPlan, EndpointPlan, IpTarget, Plan, Protocol, ProxyIdentity
from proxy.assembly import Settings
from proxy.stats import ClusterStats
from proxy.workers import channel as module
from proxy.workers.channel import Channel, ChannelError, decode, encode
from proxy.workers.difference import Stage, compare
from proxy.workers.messages import Apply, Failure, Look, Piece, Request, Setup
from tests.proxy.rig import trusting
from tls.verdict import Cause, Verdict

HEADER_BYTES = 4


def cluster(name: str) -> ClusterPlan:
    endpoint = EndpointPlan(IpTarget(ip_address("::1"), 443))
    return ClusterPlan(name, "default", name, Protocol.HTTP, (endpoint,), tls=trusting())


def over(frame: bytes) -> object:
    return decode(frame[HEADER_BYTES:])


class Call:
    """Pickled as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.function, self.arguments


async def send_often(channel: Channel) -> None:
    for _ in range(100):
        await channel.send(Piece(1, b"x" * 100_000))


def run(scenario: Callable[[Channel, Channel, socket.socket], Awaitable[None]]) -> None:
    """With two ends of a channel, and the socket below the first."""

    async def main() -> None:
        one, other = socket.socketpair()
        for sock in (one, other):
            sock.setblocking(False)
        mine, its = await Channel.open(one), await Channel.open(other)
        try:
            await scenario(mine, its, one)
        finally:
            mine.close()
            its.close()
            await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize(
    "message",
    [
        Request(1, Look()),
        Request(2, Setup(3, Settings(30.0, (("127.0.0.1", 53),), Path("/etc/hosts"), "-", True), "info", "json", 9)),
        Request(3, Stage("clusters", {"a": cluster("a")})),
        Request(4, Apply(compare(Plan(ProxyIdentity("", "")), Plan(ProxyIdentity("m", "n")), 2)[1])),
        Piece(5, {"out": "taken"}, last=False),
        Piece(6, Verdict(Cause.TIMED_OUT, "too late")),
        Failure(7, "no", expected=True),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_arrive_as_they_were(message: object) -> None:
    assert over(encode(message)) == message


def test_statistics_arrive_with_what_is_not_zero() -> None:
    stats = ClusterStats()
    stats.ssl_handshake = 3
    stats.codes[200] = 4
    stats.upstream_rq_time.record(7.0)
    arrived = over(encode(stats))
    assert isinstance(arrived, ClusterStats)
    assert (arrived.ssl_handshake, arrived.codes, arrived.upstream_cx_total) == (3, {200: 4}, 0)
    assert (arrived.upstream_rq_time.count, arrived.upstream_rq_time.sum_ms) == (1, 7.0)
    assert len(encode(ClusterStats())) < 100


def test_equal_trust_anchors_are_one_object_after_the_journey() -> None:
    first, second = (over(encode(cluster(name))) for name in "ab")
    assert isinstance(first, ClusterPlan)
    assert isinstance(second, ClusterPlan)
    assert first.tls is not None
    assert second.tls is not None
    assert first.tls.anchors is second.tls.anchors


def test_no_more_trust_anchors_are_shared_than_the_limit() -> None:
    """Each rotation sends others, and they may have 4 MB."""
    assert module.shared_anchors.cache_parameters()["maxsize"] == module.MAX_SHARED_ANCHORS


@pytest.mark.parametrize(
    "harm",
    [
        Call(eval, "1"),
        Call(getattr, "x", "upper"),
        Call(Path.unlink, Path("no-such-file")),
        Call(socket.create_connection, ("127.0.0.1", 1)),
        Call(encode, "a function of ours"),
        Call(Channel, None, None),
    ],
    ids=lambda call: call.function.__name__,
)
def test_what_is_no_value_is_not_built(harm: Call) -> None:
    with pytest.raises(ChannelError):
        decode(pickle.dumps(harm, 5))


@pytest.mark.parametrize(("where", "name"), [("proxy.process", "os.system"), ("proxy.process", "os"), ("os", "system")])
def test_nothing_is_reached_through_our_modules(where: str, name: str) -> None:
    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    with pytest.raises(ChannelError, match=r"does not belong into a message|not a message"):
        decode(b"\x80\x04" + text(where) + text(name) + b"\x93.")


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_a_plain_value(data: bytes) -> None:
    try:
        value = decode(data)
    except ChannelError:
        return
    assert not callable(value) or isinstance(value, type)


def test_order_is_kept_and_an_end_is_an_end() -> None:
    async def scenario(mine: Channel, its: Channel, _sock: socket.socket) -> None:
        await asyncio.gather(*(mine.send(Piece(number)) for number in range(50)))
        assert [await its.receive() for _ in range(50)] == [Piece(number) for number in range(50)]
        mine.close()
        assert await its.receive() is None

    run(scenario)


@pytest.mark.parametrize("cut", [1, HEADER_BYTES, HEADER_BYTES + 1])
def test_an_end_within_a_message_is_an_end(cut: int) -> None:
    async def scenario(mine: Channel, its: Channel, sock: socket.socket) -> None:
        mine._writer.write(encode(Piece(1))[:cut])
        mine.close()
        assert await its.receive() is None

    run(scenario)


def test_too_long_a_message_is_neither_sent_nor_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FRAME_BYTES", 1000)

    async def scenario(mine: Channel, its: Channel, _sock: socket.socket) -> None:
        with pytest.raises(ChannelError, match="1000 are allowed"):
            await mine.send(Piece(1, "x" * 1001))
        mine._writer.write((1001).to_bytes(HEADER_BYTES, "big"))
        with pytest.raises(ChannelError, match="announced"):
            await its.receive()

    run(scenario)


def test_to_send_to_an_end_that_has_gone_raises() -> None:
    async def scenario(mine: Channel, its: Channel, _sock: socket.socket) -> None:
        its.close()
        assert await mine.receive() is None
        with pytest.raises(OSError):  # noqa: PT011 - broken pipe or reset, whichever is first
            await send_often(mine)

    run(scenario)
