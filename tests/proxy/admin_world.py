"""A small real world for the tests of the admin interface: a runtime with a plan, and an admin server beside it.

Everything runs on the test's own loop; requests come from ``http.client`` in a thread, or as raw bytes.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from random import Random
from typing import Any, TypeVar

from config.plan import (
    ClusterPlan,
    Direction,
    EndpointPlan,
    IpTarget,
    ListenerPlan,
    Plan,
    Protocol,
    ProxyIdentity,
)
from proxy import logs
from proxy.admin.context import AdminContext
from proxy.admin.server import AdminServer
from proxy.cluster import Services
from proxy.dial import Dialer
from proxy.listener import ConnectionLimit
from proxy.resolution import Answer, Kind, ResolutionError
from proxy.resolver import ResolverPool
from proxy.runtime import Runtime
from proxy.stats import ReloadStats
from proxy.throttle import Throttle
from tests.kit.ca import Identity
from tls.material import CertificateFacts, describe_certificate
from tls.policy import ClientCertificate

T = TypeVar("T")

NAMES = {"two.example.test": ("127.0.0.2", "127.0.0.3")}


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def utc_now() -> datetime:
    return datetime.now(UTC)


async def resolve(name: str) -> Answer:
    if name not in NAMES:
        raise ResolutionError(Kind.NXDOMAIN, f"{name} does not exist")
    return Answer(tuple(ip_address(one) for one in NAMES[name]), 60.0, "hosts")


def cluster(name: str, *ports: int, **fields: Any) -> ClusterPlan:
    endpoints = tuple(EndpointPlan(IpTarget(ip_address("127.0.0.1"), port)) for port in ports)
    fields = {"mesh": "default", "service": name, "protocol": Protocol.TCP, "endpoints": endpoints} | fields
    return ClusterPlan(name=name, **fields)


def listener(name: str, to: str, direction: Direction = Direction.OUTBOUND) -> ListenerPlan:
    return ListenerPlan(name, direction, ip_address("127.0.0.1"), 0, Protocol.TCP, to)


def plan(parts: Iterable[ClusterPlan | ListenerPlan] = ()) -> Plan:
    parts = list(parts)
    return Plan(
        proxy=ProxyIdentity("default", "dp-1", "east", (("team", "payments"),)),
        clusters={part.name: part for part in parts if isinstance(part, ClusterPlan)},
        listeners={part.name: part for part in parts if isinstance(part, ListenerPlan)},
    )


def client_of(identity: Identity) -> ClientCertificate:
    return ClientCertificate(identity.chain_pem.encode(), identity.key_pem.encode(), "secret partner-client")


def facts_of(identity: Identity) -> CertificateFacts:
    return describe_certificate(identity.der)


def broken_row(name: str) -> dict[str, object]:
    accepted = {"type": "Accepted", "status": "False", "reason": "Invalid", "message": f"{name}: <b>is wrong</b>"}
    kind = {"type": "MeshExternalService", "mesh": "default", "name": name}
    return kind | {"file": "mes.yaml", "line": 3, "status": {"conditions": [accepted]}}


def sound_row(name: str) -> dict[str, object]:
    accepted = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}
    return {"type": "MeshExternalService", "mesh": "default", "name": name, "status": {"conditions": [accepted]}}


@dataclass
class Recorded:
    """Actions that only note what was asked for."""

    asked: list[tuple[str, object]] = field(default_factory=list)

    async def quit(self) -> None:
        self.asked.append(("quit", None))

    async def drain_listeners(self, *, inbound_only: bool, graceful: bool, skip_exit: bool) -> None:
        self.asked.append(("drain", (inbound_only, graceful, skip_exit)))

    async def healthcheck(self, *, fail: bool) -> None:
        self.asked.append(("fail" if fail else "ok", None))

    async def set_levels(self, levels: Mapping[str, int]) -> None:
        self.asked.append(("levels", dict(levels)))
        logs.set_levels(levels)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def stats(self) -> dict[str, str]:
        return dict(line.split(": ", 1) for line in self.text.splitlines())


@dataclass
class World:
    runtime: Runtime
    context: AdminContext
    server: AdminServer
    actions: Recorded
    state: str = "LIVE"
    resources: list[dict[str, object]] = field(default_factory=list)

    async def ask(self, target: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Reply:
        def exchange() -> Reply:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
            try:
                connection.request(method, target, body, headers)
                answer = connection.getresponse()
                fields = {name.lower(): value for name, value in answer.getheaders()}
                return Reply(answer.status, fields, answer.read())
            finally:
                connection.close()

        return await asyncio.to_thread(exchange)

    async def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes, up to the end of the stream."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(data)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def through(self, name: str, data: bytes) -> bytes:
        """Send bytes through a listener, half-close, and read to the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.runtime.listeners[name].port)
        writer.write(data)
        writer.write_eof()
        try:
            return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def world(*parts: ClusterPlan | ListenerPlan) -> AsyncIterator[World]:
    loop = asyncio.get_running_loop()
    names = ResolverPool(resolve, clock=loop.time, scheduler=loop, rng=Random(7))
    services = Services(Dialer(utc_now), names, Throttle(loop.time), utc_now)
    wanted = plan(parts)
    runtime = Runtime(wanted, services, ConnectionLimit(1000), 0.2)
    await runtime.apply(wanted)
    actions = Recorded()
    context = AdminContext(
        runtime=runtime,
        state=lambda: here.state,
        resources=lambda: here.resources,
        reload=ReloadStats(),
        node_id="default.dp-1",
        started_s=loop.time() - 90,
        started_at=utc_now() - timedelta(seconds=90),
        actions=actions,
        options={"drain_time": "30s"},
    )
    here = World(runtime, context, AdminServer(context), actions)
    await here.server.start("127.0.0.1", 0)
    try:
        yield here
    finally:
        await here.server.close()
        await runtime.drain()
        await runtime.close()
        names.close()


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """The port of a server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
