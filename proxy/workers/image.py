"""The reports of all workers as one picture, in which the admin interface sees what it would see of a single process.

Counters, gauges and histograms are sums. What a worker counted before it ended stays in the sums, as of its last
report, so that no total ever goes back. An endpoint is shown as passed over, or with a verdict, as soon as one worker
says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add

from config.plan import ClusterPlan, ListenerPlan
from proxy.balance import Balancer, Endpoint
from proxy.cluster import describe_endpoints
from proxy.stats import ClusterStats, HttpStats, ListenerStats
from proxy.workers.report import ClusterState, EndpointState, ListenerState, Slice, Summary, WatchState


@dataclass(slots=True)
class Known:
    """What one worker has reported, or all that have ended."""

    clusters: dict[str, ClusterState] = field(default_factory=dict)
    listeners: dict[str, ListenerState] = field(default_factory=dict)
    summary: Summary | None = None

    def take(self, part: Slice) -> None:
        self.clusters.update((state.name, state) for state in part.clusters)
        self.listeners.update((state.name, state) for state in part.listeners)

    def bury(self, other: Known) -> None:
        """Add the counts of a worker that has ended."""
        for name, cluster in other.clusters.items():
            past = self.clusters.get(name)
            self.clusters[name] = cluster.ended() if past is None else past + cluster.ended()
        for name, listener in other.listeners.items():
            before = self.listeners.get(name)
            self.listeners[name] = listener.ended() if before is None else before + listener.ended()

    def keep_only(self, clusters: Container[str], listeners: Container[str]) -> None:
        """Forget what the plan has no more."""
        self.clusters = {name: state for name, state in self.clusters.items() if name in clusters}
        self.listeners = {name: state for name, state in self.listeners.items() if name in listeners}


class ClusterImage:
    """Looks like a :class:`~proxy.cluster.Cluster` to whoever only looks."""

    def __init__(self, plan: ClusterPlan, living: Iterable[ClusterState], past: ClusterState | None) -> None:
        total = ClusterState(plan.name, ClusterStats(), 0, 0, (), ())
        total = reduce(add, living, total)
        if past is not None:
            still_there = {endpoint.key for endpoint in total.endpoints}
            total += replace(past, endpoints=tuple(one for one in past.endpoints if one.key in still_there))
        self.plan = plan
        self.stats = total.stats
        self.watches: tuple[WatchState, ...] = total.watches
        self.balancer = Balancer(map(_endpoint, total.endpoints))
        self._bytes = total.received, total.sent

    def byte_totals(self) -> tuple[int, int]:
        return self._bytes

    def describe_endpoints(self) -> list[dict[str, object]]:
        return describe_endpoints(self.balancer, self.watches, asyncio.get_running_loop().time())


class ListenerImage:
    """Looks like a :class:`~proxy.listener.Listener` to whoever only looks."""

    def __init__(self, plan: ListenerPlan, living: Iterable[ListenerState], past: ListenerState | None) -> None:
        total = ListenerState(plan.name, ListenerStats(), HttpStats(), 0, 0, False, plan.port)
        total = reduce(add, living, total)
        if past is not None:
            total += past
        self.plan = plan
        self.stats = total.stats
        self.http = total.http
        self.listening = total.listening
        self.port = total.port
        self._bytes = total.received, total.sent

    def byte_totals(self) -> tuple[int, int]:
        return self._bytes


def _endpoint(state: EndpointState) -> Endpoint:
    endpoint = Endpoint(state.address, state.host, state.is_dns, state.priority)
    endpoint.ejected_until = state.ejected_until
    endpoint.cx_total = state.cx_total
    endpoint.cx_active = state.cx_active
    endpoint.cx_connect_fail = state.cx_connect_fail
    endpoint.rq_total = state.rq_total
    endpoint.rq_active = state.rq_active
    endpoint.last_verdict = state.last_verdict
    endpoint.peer = state.peer
    return endpoint
