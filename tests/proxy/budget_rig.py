"""A proxy and its peers on one loop, for what a unit of work costs: numbers that noise cannot move.

    async with proxied(origin, Protocol.HTTP) as port:
        ...
        calls = count_calls(...)

The peers are nothing of ours (asyncio protocols, and the ``h2`` package for HTTP/2), since only calls in our own files
are counted. Units of work follow each other, so that what shares a turn of the loop does not depend on timing.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import cast

import h2.config
import h2.connection
import h2.events
import h2.settings

import config
import proxy
import tls
from config.plan import Protocol
from proxy.cluster import Cluster
from proxy.listener import ConnectionLimit, Listener
from tests.proxy.rig import SERVER, at, cluster_plan, listener_plan, services, trusting
from tests.tls.duet import V13, server_context
from tls.policy import Origination

OURS = tuple(str(Path(package.__file__ or "").parent) for package in (proxy, config, tls))
WARM_UP = 50
WINDOW_BYTES = 6 << 20
BULK_FRAMES, BULK_FRAME_BYTES = 64, 8192
"""Of a large response: as nginx frames it."""


@asynccontextmanager
async def proxied(
    origin: Callable[[], asyncio.Protocol], protocol: Protocol, *, secure: bool = False
) -> AsyncIterator[int]:
    """The port of a listener before an origin that speaks ``protocol``, within verified TLS if ``secure``."""
    loop = asyncio.get_running_loop()
    http2 = protocol in (Protocol.HTTP2, Protocol.GRPC)
    context = server_context(SERVER, versions=(V13, V13)) if secure else None
    if context is not None and http2:
        context.set_alpn_protocols(["h2"])
    server = await loop.create_server(origin, "127.0.0.1", 0, ssl=context)
    endpoint = at("127.0.0.1", server.sockets[0].getsockname()[1])
    policy: Origination | None = (
        trusting(server_name="api.example.test", alpn=("h2",) if http2 else ()) if secure else None
    )
    shared = services()
    cluster = Cluster(cluster_plan([endpoint], protocol=protocol, tls=policy), shared)
    cluster.start()
    listener = Listener(listener_plan(protocol=protocol), cluster, ConnectionLimit(100), shared.throttle, shared.turns)
    listener.open()
    await listener.start()
    try:
        yield listener.port
    finally:
        await listener.stop()
        listener.abort_connections()
        cluster.close()
        server.close()
        await asyncio.sleep(0)


class Client(asyncio.Protocol, ABC):
    """Does a unit of work, and the next as soon as that is done. Written to be cheap and not to be counted."""

    def __init__(self) -> None:
        self.left = 0
        self.done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the proxy closed the connection"))

    async def work(self, times: int) -> None:
        self.left = times
        self.done = asyncio.get_running_loop().create_future()
        self.begin()
        await self.done

    @abstractmethod
    def begin(self) -> None:
        """Starts a unit."""

    def finished(self) -> None:
        """A unit is done."""
        self.left -= 1
        if self.left:
            self.begin()
        elif self.done is not None:
            self.done.set_result(None)


class Sender(Client):
    """Sends the same bytes, and waits for as many, or for those that end so."""

    def __init__(self, data: bytes, answer: int | bytes) -> None:
        super().__init__()
        self.data = data
        self.answer = answer
        self.received = 0

    def begin(self) -> None:
        self.received = 0
        self.transport.write(self.data)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if data.endswith(self.answer) if isinstance(self.answer, bytes) else self.received >= self.answer:
            self.finished()


class Visitor(Client):
    """A unit is a connection of its own: some bytes there and back, and the end. The first connection does nothing."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data
        self.visits: set[asyncio.Task[object]] = set()

    def begin(self) -> None:
        host, port = self.transport.get_extra_info("peername")
        visit = asyncio.get_running_loop().create_task(self._visit(host, port))
        self.visits.add(visit)
        visit.add_done_callback(self.visits.discard)

    async def _visit(self, host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(self.data)
        assert await reader.readexactly(len(self.data)) == self.data
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        self.finished()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Http1Origin(Echo):
    """Answers each request, which is to fit one read."""

    RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ndate: Sun, 22 Nov 2026 00:00:00 GMT\r\n\r\nhello"

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.RESPONSE)


class Http2Origin(Echo):
    """As :class:`Http1Origin`; a unary call of gRPC is answered with trailers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.engine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.engine.initiate_connection()
        self._send()

    def data_received(self, data: bytes) -> None:
        calls = []
        for event in self.engine.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                is_call = (b"content-type", b"application/grpc") in (event.headers or [])
                if (b":path", b"/bulk") in (event.headers or []):
                    self.engine.send_headers(event.stream_id, [(":status", "200")])
                    for left in reversed(range(BULK_FRAMES)):
                        self.engine.send_data(event.stream_id, bytes(BULK_FRAME_BYTES), end_stream=not left)
                    continue
                if is_call:
                    fields = [(":status", "200"), ("content-type", "application/grpc")]
                else:
                    fields = [(":status", "200"), ("content-length", "5")]
                self.engine.send_headers(event.stream_id, fields)
                if is_call:
                    calls.append(event.stream_id)
                else:
                    self.engine.send_data(event.stream_id, b"hello", end_stream=True)
            elif isinstance(event, h2.events.DataReceived):
                self.engine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded) and event.stream_id in calls:
                self.engine.send_data(event.stream_id, b"\0\0\0\0\5hello")
                self.engine.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        self._send()

    def _send(self) -> None:
        self.transport.write(self.engine.data_to_send())


class Http2Client(Client):
    """One request after the other; with a ``body`` it is a unary call of gRPC. Its windows are those of browsers."""

    def __init__(self, body: bytes = b"", path: str = "/s") -> None:
        super().__init__()
        self.body = body
        self.engine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.fields = [
            (":method", "POST" if body else "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a"),
        ]
        self.fields += [("content-type", "application/grpc"), ("te", "trailers")] if body else [("user-agent", "test")]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.engine.initiate_connection()
        self.engine.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES})
        self.engine.increment_flow_control_window(WINDOW_BYTES)
        self._send()

    def begin(self) -> None:
        stream = self.engine.get_next_available_stream_id()
        self.engine.send_headers(stream, self.fields, end_stream=not self.body)
        if self.body:
            self.engine.send_data(stream, self.body, end_stream=True)
        self._send()

    def data_received(self, data: bytes) -> None:
        ended = False
        for event in self.engine.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.engine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.ResponseReceived):
                assert (b":status", b"200") in (event.headers or []), event
            assert not isinstance(event, h2.events.StreamReset), event
            ended |= isinstance(event, h2.events.StreamEnded)
        self._send()
        if ended:
            self.finished()

    def _send(self) -> None:
        self.transport.write(self.engine.data_to_send())


async def count_calls(client: Client, times: int) -> tuple[Counter[str], Counter[str]]:
    """The calls of Python functions of ours that so many units make, and those that ours make of functions in C."""
    await client.work(min(times, WARM_UP))
    python: Counter[str] = Counter()
    c: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_filename.startswith(OURS):
            if event == "call":
                python[frame.f_code.co_qualname] += 1
            elif event == "c_call" and argument is not len:  # which CPython does without a call
                c[getattr(argument, "__qualname__", repr(argument))] += 1

    sys.setprofile(profile)
    try:
        await client.work(times)
    finally:
        sys.setprofile(None)
    return python, c


async def count_left_behind(client: Client, times: int) -> float:
    """Blocks that our files allocate in a unit and that outlive it, on average, while cycles are not collected."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        await client.work(min(times, WARM_UP))
        before = _our_blocks()
        await client.work(times)
        return (_our_blocks() - before) / times
    finally:
        tracemalloc.stop()
        gc.enable()


def _our_blocks() -> int:
    ours = [tracemalloc.Filter(True, f"{folder}/*") for folder in OURS]
    statistics = tracemalloc.take_snapshot().filter_traces(ours).statistics("filename")
    return sum(statistic.count for statistic in statistics)
