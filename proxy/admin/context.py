"""What the admin interface knows of the process, and what it may ask it to do.

The running state is seen through the narrow eyes of the ``…View`` protocols: a single process shows what runs in it,
a supervisor the sum of its workers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from config.plan import ClusterPlan, ListenerPlan, Plan
from proxy.balance import Balancer
from proxy.cluster import Watched
from proxy.memory import Memory, memory_held
from proxy.stats import ClusterStats, DnsStats, HttpStats, ListenerStats, ReloadStats, WorkerStats


class ClusterView(Protocol):
    """A running service."""

    plan: ClusterPlan
    stats: ClusterStats
    balancer: Balancer

    @property
    def watches(self) -> Iterable[Watched]: ...
    def byte_totals(self) -> tuple[int, int]: ...
    def describe_endpoints(self) -> list[dict[str, object]]: ...


class ListenerView(Protocol):
    """A running listener."""

    plan: ListenerPlan
    stats: ListenerStats
    http: HttpStats
    listening: bool

    @property
    def port(self) -> int: ...
    def byte_totals(self) -> tuple[int, int]: ...


class ProbeView(Protocol):
    """Whether the application behind an inbound answers."""

    @property
    def is_ready(self) -> bool: ...
    @property
    def fault(self) -> str | None: ...


class LimitView(Protocol):
    active: int
    """Connections now."""


class RuntimeView(Protocol):
    """What runs. Each look at ``clusters`` may find another mapping."""

    plan: Plan
    failed: dict[str, str]

    @property
    def clusters(self) -> Mapping[str, ClusterView]: ...
    @property
    def listeners(self) -> Mapping[str, ListenerView]: ...
    @property
    def limit(self) -> LimitView: ...
    async def reset_counters(self) -> None: ...


class Actions(Protocol):
    """What an operator may ask for. Each returns once it has begun to be true; none waits for connections to end."""

    async def quit(self) -> None:
        """End the process with exit code 0."""

    async def drain_listeners(self, *, inbound_only: bool, graceful: bool, skip_exit: bool) -> None:
        """Close the listeners: at once, or after the drain time if ``graceful``. ``skip_exit``: drain, never close."""

    async def healthcheck(self, *, fail: bool) -> None:
        """Show ``DRAINING`` from now on, or no longer."""

    async def set_levels(self, levels: Mapping[str, int]) -> None:
        """Levels of loggers, by name."""


async def _is_fresh() -> None:
    """A single process sees itself."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class AdminContext:
    """``started_s`` is loop time; ``started_at`` the same moment on the wall clock, UTC. ``options`` is the command
    line, for ``/server_info``. ``resources`` gives the JSON-able rows of ``/resources``.
    """

    runtime: RuntimeView
    state: Callable[[], str]
    """``PRE_INITIALIZING``, ``INITIALIZING``, ``LIVE`` or ``DRAINING``."""
    resources: Callable[[], list[dict[str, object]]]
    reload: ReloadStats
    node_id: str
    started_s: float
    started_at: datetime
    actions: Actions
    options: Mapping[str, object] = field(default_factory=dict)
    dns: DnsStats = field(default_factory=DnsStats)
    concurrency: int = 1
    workers: WorkerStats | None = None
    """``None``: there are none beside this process."""
    refresh: Callable[[], Awaitable[None]] = _is_fresh
    """Called before a view reads ``runtime``."""
    memory: Callable[[], Memory] = memory_held
    utc_now: Callable[[], datetime] = _utc_now
    probes: Mapping[str, ProbeView] = field(default_factory=dict)
    """By listener; for those that have one."""
