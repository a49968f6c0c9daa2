"""How many Python calls a proxied request costs: a number that noise cannot move, so that a regression shows where time
would not. Counted in the proxy's own files, for requests on kept-alive connections once everything is warm.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from random import Random
from types import FrameType
from typing import cast

import pytest
import uvloop

import proxy
from config.plan import ClusterPlan, Direction, EndpointPlan, IpTarget, ListenerPlan, Plan, Protocol, ProxyIdentity
from proxy.cluster import Services
from proxy.dial import Dialer
from proxy.listener import ConnectionLimit
from proxy.lookup import Resolver
from proxy.resolver import ResolverPool
from proxy.runtime import Runtime
from proxy.throttle import Throttle

FILES = str(Path(proxy.__file__).parent)
REQUESTS = 200
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ndate: Sun, 22 Nov 2026 00:00:00 GMT\r\n\r\nhello"


class Origin(asyncio.Protocol):
    """Answers each request, which is to fit one read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(RESPONSE)


class Client(asyncio.Protocol):
    """Sends the same request again as soon as it was answered."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.left = 0
        self.done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    async def ask(self, times: int) -> None:
        self.left = times
        self.done = asyncio.get_running_loop().create_future()
        self._next()
        await self.done

    def _next(self) -> None:
        self.left -= 1
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        assert data.endswith(b"hello"), data
        if self.left:
            self._next()
        elif self.done is not None:
            self.done.set_result(None)


async def count_calls(request: bytes) -> Counter[str]:
    loop = asyncio.get_running_loop()
    origin = await loop.create_server(Origin, "127.0.0.1", 0)
    loopback = ip_address("127.0.0.1")
    target = IpTarget(loopback, origin.sockets[0].getsockname()[1])
    cluster = ClusterPlan("c", "default", "s", Protocol.HTTP, (EndpointPlan(target),))
    listener = ListenerPlan("l", Direction.OUTBOUND, loopback, 0, Protocol.HTTP, "c")
    plan = Plan(ProxyIdentity("default", "dp"), {"l": listener}, {"c": cluster})
    resolver = Resolver(None, Path("/nonexistent"), loop.time)
    pool = ResolverPool(resolver.resolve, clock=loop.time, scheduler=loop, rng=Random(0))
    services = Services(Dialer(lambda: datetime.now(UTC)), pool, Throttle(loop.time), lambda: datetime.now(UTC))
    runtime = Runtime(plan, services, ConnectionLimit(100), 0.0)
    await runtime.apply(plan)
    transport, client = await loop.create_connection(lambda: Client(request), "127.0.0.1", runtime.listeners["l"].port)
    await client.ask(20)
    calls: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, _arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(FILES):
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(profile)
    try:
        await client.ask(REQUESTS)
    finally:
        sys.setprofile(None)
    transport.close()
    await runtime.drain()
    await runtime.close()
    origin.close()
    return calls


@pytest.mark.parametrize(
    ("request_", "budget"),
    [
        pytest.param(b"GET /s HTTP/1.1\r\nhost: a\r\nuser-agent: test\r\n\r\n", 42, id="GET"),
        pytest.param(b"POST /s HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello", 50, id="POST"),
    ],
)
def test_calls_per_request(request_: bytes, budget: int) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        calls = runner.run(count_calls(request_))
    per_request = sum(calls.values()) / REQUESTS
    detail = "\n".join(f"{count / REQUESTS:6.2f} {name}" for name, count in calls.most_common(50))
    assert per_request <= budget, f"{per_request:.1f} calls per request\n{detail}"
