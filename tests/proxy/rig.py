"""The relay inside the test process: its loop runs in a thread, the test stays blocking and looks at the objects.

with LoopThread(factory) as loop:
    rig = Rig(loop, [peer])                    # one listener before one cluster
    with client.connect(rig.port) as app: ...
    assert rig.look(lambda: rig.cluster.stats.upstream_cx_active) == 0
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from random import Random
from types import TracebackType
from typing import Any, TypeVar

from config.plan import (
    Access,
    ClusterPlan,
    Direction,
    DnsTarget,
    EndpointPlan,
    IpTarget,
    ListenerPlan,
    Protocol,
    UnixTarget,
)
from proxy.cluster import Cluster, Services
from proxy.dial import Dialer
from proxy.listener import ConnectionLimit, Listener
from proxy.outcome import Outcome
from proxy.relay import Downstream
from proxy.resolution import Answer, Kind, ResolutionError
from proxy.resolver import ResolverPool
from proxy.throttle import Throttle
from tests.kit import poll
from tests.kit.ca import Authority, Identity
from tests.kit.peers import Peer
from tls.policy import ClientCertificate, Mode, Origination, TrustAnchors

T = TypeVar("T")
CALL_S = 15.0

ROOT = Authority.root("Rig Root")
SERVER = ROOT.leaf("api.example.test", "127.0.0.1", "::1")


def utc_now() -> datetime:
    return datetime.now(UTC)


class LoopThread:
    """An event loop in a thread. What it complains about (a callback that raised, a lost exception) fails the test."""

    def __init__(self, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop = factory()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._thread = threading.Thread(target=self._run, name="rig loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coro, self.loop).result(CALL_S)

    def look(self, function: Callable[[], T]) -> T:
        """Call a function on the loop's own thread."""

        async def call() -> T:
            return function()

        return self.run(call())

    def until(self, ask: Callable[[], object], what: str, *, within_s: float = 10.0) -> None:
        poll.until(lambda: self.look(ask), what, within_s=within_s)

    def close(self) -> None:
        async def cancel_all() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

        self.run(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CALL_S)
        self.loop.close()

    def __enter__(self) -> LoopThread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        assert kind is not None or not self.complaints, self.complaints


class Zone:
    """A resolver whose answers the test writes down. ``ttl_s`` is how soon a change is noticed."""

    def __init__(self, ttl_s: float = 0.02) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.ttl_s = ttl_s
        self.hangs = False

    async def resolve(self, name: str) -> Answer:
        if self.hangs:
            await asyncio.Event().wait()
        found = self.addresses.get(name)
        if not found:
            raise ResolutionError(Kind.NXDOMAIN, f"{name}: no such name")
        return Answer(tuple(map(ip_address, found)), self.ttl_s, "dns")


def services(zone: Zone | None = None) -> Services:
    """On the running loop."""
    loop = asyncio.get_running_loop()
    resolve = (zone or Zone()).resolve
    pool = ResolverPool(resolve, clock=loop.time, scheduler=loop, rng=Random(1), max_stale_s=0.0)
    return Services(Dialer(utc_now), pool, Throttle(loop.time), utc_now)


def target_of(peer: Peer) -> EndpointPlan:
    where = peer.endpoint
    if "port" not in where:
        return EndpointPlan(UnixTarget(where["address"].removeprefix("unix://")))
    return at(where["address"], where["port"])


def at(address: str, port: int, priority: int = 0) -> EndpointPlan:
    return EndpointPlan(IpTarget(ip_address(address), port), priority)


def named(name: str, port: int) -> EndpointPlan:
    return EndpointPlan(DnsTarget(name, port))


def cluster_plan(endpoints: Iterable[EndpointPlan], name: str = "app", **more: Any) -> ClusterPlan:
    protocol = more.pop("protocol", Protocol.TCP)
    return ClusterPlan(name, "default", name, protocol, tuple(endpoints), **more)


def listener_plan(port: int = 0, cluster: str = "app", name: str = "out", **more: Any) -> ListenerPlan:
    protocol, access = more.pop("protocol", Protocol.TCP), more.pop("access", Access.ALLOW)
    return ListenerPlan(name, Direction.OUTBOUND, ip_address("127.0.0.1"), port, protocol, cluster, access)


def trusting(
    *, mode: Mode = Mode.SECURED, client: Identity | None = None, root: Authority = ROOT, **more: Any
) -> Origination:
    own = None if client is None else ClientCertificate(client.chain_pem.encode(), client.key_pem.encode(), "client")
    return Origination(mode=mode, anchors=TrustAnchors(root.pem.encode(), "caCert"), client=own, **more)


class Rig:
    """One open listener in front of one started cluster. ``ended`` holds the outcome of each relay, in order."""

    def __init__(
        self,
        loop: LoopThread,
        targets: Iterable[Peer | EndpointPlan],
        *,
        zone: Zone | None = None,
        max_connections: int = 1000,
        access: Access = Access.ALLOW,
        protocol: Protocol = Protocol.TCP,
        **more: Any,
    ) -> None:
        self.loop = loop
        endpoints = [target_of(target) if isinstance(target, Peer) else target for target in targets]
        self.ended: list[Outcome | None] = []
        self.limit = ConnectionLimit(max_connections)

        async def open_all() -> None:
            self.services = services(zone)
            self.cluster = Cluster(cluster_plan(endpoints, protocol=protocol, **more), self.services)
            self.cluster.start()
            plan = listener_plan(access=access, protocol=protocol)
            self.listener = Listener(plan, self.cluster, self.limit, self.services.throttle, self.services.turns)
            closed = self.listener.closed

            def note(connection: Downstream) -> None:
                self.ended.append(connection.outcome)
                closed(connection)

            self.listener.closed = note  # type: ignore[method-assign]
            self.listener.open()
            await self.listener.start()

        loop.run(open_all())
        self.port = self.listener.port

    def update(self, **changes: Any) -> None:
        self.loop.look(lambda: self.cluster.update(replace(self.cluster.plan, **changes)))

    def relay(self) -> Downstream:
        """The one connection there is."""
        (connection,) = self.listener.connections
        return connection

    def wait_for_relay(self) -> Downstream:
        """The one connection there is, once it is joined to an upstream."""
        self.loop.until(
            lambda: [c for c in self.listener.connections if c.upstream is not None], "a relay that is joined"
        )
        return self.loop.look(self.relay)

    def wait_for_end(self, relays: int = 1, *, within_s: float = 10.0) -> list[Outcome | None]:
        """The outcomes, once so many relays are over; and the accounts are balanced."""
        self.loop.until(lambda: len(self.ended) >= relays, f"{relays} relays to end", within_s=within_s)
        self.loop.until(lambda: not self.cluster.connections, "the cluster to let go")
        self.loop.look(self.check_accounts)
        return list(self.ended)

    def check_accounts(self) -> None:
        stats, listener = self.cluster.stats, self.listener.stats
        assert (stats.upstream_cx_active, listener.downstream_cx_active, self.limit.active) == (0, 0, 0)
        assert not self.listener.connections
        assert not self.cluster.connections
        assert [endpoint.cx_active for endpoint in self.cluster.balancer] == [0] * len(self.cluster.balancer)
        assert listener.downstream_cx_total == listener.downstream_cx_destroy == len(self.ended)
        assert listener.downstream_cx_length_ms.count == len(self.ended)
        assert listener.downstream_cx_tx_bytes_total == stats.upstream_cx_rx_bytes_total

    def close(self) -> None:
        async def shut() -> None:
            await self.listener.stop()
            self.listener.abort_connections()
            self.cluster.close()
            self.services.names.close()
            await asyncio.sleep(0.01)

        self.loop.run(shut())

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def grows_no_more(rig: Rig, count: Callable[[], int]) -> int:
    """Wait until a counter stands still; its value."""
    last = -1

    def stands() -> bool:
        nonlocal last
        before, last = last, rig.loop.look(count)
        time.sleep(0.1)
        return before == last > 0

    poll.until(stands, "the flow to stand still")
    return last
