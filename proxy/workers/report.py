"""What a worker says of its state: everything that the admin interface shows of traffic, as values that add up.

A report comes in slices, so that traffic does not wait for the numbers of 10,000 services, and leaves out what has not
changed since the last one: most services of many are idle. Whether something has changed is seen by a hash of its
counters and gauges; histograms, verdicts and endpoints do not change without one of them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from proxy.balance import Endpoint, EndpointKey, SocketAddress
from proxy.cluster import Cluster
from proxy.listener import Listener
from proxy.memory import Memory, memory_held
from proxy.resolution import Address
from proxy.runtime import Runtime
from proxy.stats import ClusterStats, HttpStats, ListenerStats, Stats
from tls.material import CertificateFacts
from tls.verdict import Verdict

T = TypeVar("T")
S = TypeVar("S")
N = TypeVar("N", bound=Stats)
A = TypeVar("A", "EndpointState", "WatchState")

SLICE = 100
"""Services or listeners that are reported between two turns of the event loop."""


@dataclass(frozen=True, slots=True)
class EndpointState:
    """An :class:`~proxy.balance.Endpoint` without what only its process can use."""

    address: SocketAddress
    host: str | None
    is_dns: bool
    priority: int
    ejected_until: float
    cx_total: int
    cx_active: int
    cx_connect_fail: int
    rq_total: int
    rq_active: int
    last_verdict: Verdict | None
    peer: CertificateFacts | None

    @property
    def key(self) -> EndpointKey:
        return self.address, self.host, self.priority

    def __add__(self, other: EndpointState) -> EndpointState:
        return replace(
            self,
            ejected_until=max(self.ejected_until, other.ejected_until),
            cx_total=self.cx_total + other.cx_total,
            cx_active=self.cx_active + other.cx_active,
            cx_connect_fail=self.cx_connect_fail + other.cx_connect_fail,
            rq_total=self.rq_total + other.rq_total,
            rq_active=self.rq_active + other.rq_active,
            last_verdict=self.last_verdict or other.last_verdict,
            peer=self.peer or other.peer,
        )

    def ended(self) -> EndpointState:
        """What stays when its worker has ended: the counts."""
        return replace(self, ejected_until=-math.inf, cx_active=0, rq_active=0, last_verdict=None, peer=None)


@dataclass(frozen=True, slots=True)
class WatchState:
    """A :class:`~proxy.resolver.NameWatch`."""

    name: str
    addresses: tuple[Address, ...]
    last_error: str | None
    update_attempt: int
    update_success: int
    update_failure: int

    def __add__(self, other: WatchState) -> WatchState:
        return WatchState(
            self.name,
            tuple(dict.fromkeys(self.addresses + other.addresses)),
            self.last_error or other.last_error,
            self.update_attempt + other.update_attempt,
            self.update_success + other.update_success,
            self.update_failure + other.update_failure,
        )

    def ended(self) -> WatchState:
        return replace(self, addresses=(), last_error=None)


@dataclass(frozen=True, slots=True)
class ClusterState:
    """``received`` and ``sent`` include living connections, unlike ``stats``."""

    name: str
    stats: ClusterStats
    received: int
    sent: int
    endpoints: tuple[EndpointState, ...]
    watches: tuple[WatchState, ...]

    def __add__(self, other: ClusterState) -> ClusterState:
        return ClusterState(
            self.name,
            _sum(ClusterStats(), self.stats, other.stats),
            self.received + other.received,
            self.sent + other.sent,
            _merged(self.endpoints, other.endpoints, lambda one: one.key),
            _merged(self.watches, other.watches, lambda one: one.name),
        )

    def ended(self) -> ClusterState:
        stats = _sum(ClusterStats(), self.stats)
        stats.clear_gauges()
        endpoints = tuple(one.ended() for one in self.endpoints)
        return replace(self, stats=stats, endpoints=endpoints, watches=tuple(one.ended() for one in self.watches))


@dataclass(frozen=True, slots=True)
class ListenerState:
    name: str
    stats: ListenerStats
    http: HttpStats
    received: int
    sent: int
    listening: bool
    port: int

    def __add__(self, other: ListenerState) -> ListenerState:
        return ListenerState(
            self.name,
            _sum(ListenerStats(), self.stats, other.stats),
            _sum(HttpStats(), self.http, other.http),
            self.received + other.received,
            self.sent + other.sent,
            self.listening or other.listening,
            self.port or other.port,
        )

    def ended(self) -> ListenerState:
        stats, http = _sum(ListenerStats(), self.stats), _sum(HttpStats(), self.http)
        stats.clear_gauges()
        http.clear_gauges()
        return replace(self, stats=stats, http=http, listening=False)


@dataclass(frozen=True, slots=True)
class Slice:
    """What changed. A name that is here replaces what was known of it."""

    clusters: tuple[ClusterState, ...] = ()
    listeners: tuple[ListenerState, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a report."""

    connections: int
    memory: Memory


class Reporter:
    """Makes the reports of one worker, and remembers what it has said."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._clusters: dict[str, int] = {}
        self._listeners: dict[str, int] = {}

    async def report(self) -> AsyncIterator[Slice | Summary]:
        runtime = self._runtime
        async for clusters in _slices(runtime.clusters.values(), self._cluster):
            yield Slice(clusters=clusters)
        async for listeners in _slices(runtime.listeners.values(), self._listener):
            yield Slice(listeners=listeners)
        for said, known in ((self._clusters, runtime.clusters.keys()), (self._listeners, runtime.listeners.keys())):
            for name in said.keys() - known:
                del said[name]
        yield Summary(runtime.limit.active, memory_held())

    def _cluster(self, cluster: Cluster) -> ClusterState | None:
        received, sent = cluster.byte_totals()
        watches = tuple(
            WatchState(
                watch.name,
                watch.addresses,
                str(watch.last_error) if watch.last_error is not None else None,
                watch.update_attempt,
                watch.update_success,
                watch.update_failure,
            )
            for watch in cluster.watches
        )
        keys = tuple((endpoint.key, endpoint.ejected_until) for endpoint in cluster.balancer)
        numbers = cluster.stats.numbers()
        if not _is_news(self._clusters, cluster.plan.name, numbers, received, sent, watches, keys):
            return None
        endpoints = tuple(map(_endpoint, cluster.balancer))
        return ClusterState(cluster.plan.name, cluster.stats, received, sent, endpoints, watches)

    def _listener(self, listener: Listener) -> ListenerState | None:
        stats, http = listener.stats, listener.http
        received, sent = listener.byte_totals()
        numbers = stats.numbers() + http.numbers()
        port, name = listener.port, listener.plan.name
        if not _is_news(self._listeners, name, numbers, received, sent, listener.listening, port):
            return None
        return ListenerState(name, stats, http, received, sent, listener.listening, port)


def _sum(total: N, *parts: N) -> N:
    for part in parts:
        total.add(part)
    return total


def _merged(mine: tuple[A, ...], others: tuple[A, ...], key: Callable[[A], Hashable]) -> tuple[A, ...]:
    """Those of both, what both have added up; in order of their first appearance."""
    found = {key(one): one for one in mine}
    for other in others:
        same = found.get(key(other))
        found[key(other)] = other if same is None else same + other
    return tuple(found.values())


def _endpoint(endpoint: Endpoint) -> EndpointState:
    return EndpointState(
        endpoint.address,
        endpoint.host,
        endpoint.is_dns,
        endpoint.priority,
        endpoint.ejected_until,
        endpoint.cx_total,
        endpoint.cx_active,
        endpoint.cx_connect_fail,
        endpoint.rq_total,
        endpoint.rq_active,
        endpoint.last_verdict,
        endpoint.peer,
    )


def _is_news(said: dict[str, int], name: str, *numbers: Hashable) -> bool:
    now = hash(numbers)
    if said.get(name) == now:
        return False
    said[name] = now
    return True


async def _slices(things: Iterable[T], state_of: Callable[[T], S | None]) -> AsyncIterator[tuple[S, ...]]:
    things = tuple(things)
    for start in range(0, len(things), SLICE):
        states = tuple(state for one in things[start : start + SLICE] if (state := state_of(one)) is not None)
        if states:
            yield states
        await asyncio.sleep(0)
