"""What the admin interface knows of the process, and what it may ask it to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from proxy.runtime import Runtime
from proxy.stats import DnsStats, ReloadStats


class Actions(Protocol):
    """What an operator may ask for. Each returns once it has begun to be true; none waits for connections to end."""

    async def quit(self) -> None:
        """End the process with exit code 0."""

    async def drain_listeners(self, *, inbound_only: bool, graceful: bool, skip_exit: bool) -> None:
        """Close the listeners: at once, or after the drain time if ``graceful``. ``skip_exit``: drain, never close."""

    async def healthcheck(self, *, fail: bool) -> None:
        """Show ``DRAINING`` from now on, or no longer."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class AdminContext:
    """``started_s`` is loop time; ``started_at`` the same moment on the wall clock, UTC. ``options`` is the command
    line, for ``/server_info``. ``resources`` gives the JSON-able rows of ``/resources``.
    """

    runtime: Runtime
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
    utc_now: Callable[[], datetime] = _utc_now
