"""Putting together what carries traffic in one process: the single process, or each worker of several."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from config.plan import Plan
from proxy.clock import wall_clock
from proxy.cluster import Services
from proxy.dial import Dialer
from proxy.http.access_log import AccessLog
from proxy.listener import ConnectionLimit
from proxy.resolver import ResolverPool
from proxy.runtime import Runtime
from proxy.sockets import StartError
from proxy.throttle import Throttle

if TYPE_CHECKING:
    from proxy.lookup import Resolver


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says of traffic. It is the same for all workers."""

    drain_time_s: float
    dns_upstreams: tuple[tuple[str, int], ...] = ()
    hosts_file: Path = Path("/etc/hosts")
    access_log: str | None = None
    access_log_is_json: bool = False


def assemble(plan: Plan, settings: Settings, *, shares_ports: bool = False, write_lock: int | None = None) -> Runtime:
    """A runtime to which no plan was applied yet; of ``plan``, only whose it is counts. Its ``close`` ends all of it.

    ``shares_ports``: other workers listen at the same addresses; ``write_lock``: the file by whose lock they take turns
    at the access log. Raises :class:`StartError`.
    """
    loop = asyncio.get_running_loop()

    @cache
    def resolver() -> Resolver:
        # Imported here, when the first endpoint that has a name is set up: many have addresses only.
        from proxy.lookup import Resolver

        return Resolver(settings.dns_upstreams or None, settings.hosts_file, loop.time)

    names = ResolverPool(lambda name: resolver().resolve(name), clock=loop.time, scheduler=loop, rng=random.Random())
    access_log = _open_access_log(settings, write_lock)
    services = Services(Dialer(wall_clock), names, Throttle(loop.time), wall_clock, access_log)
    limit = ConnectionLimit.from_descriptors()
    return Runtime(plan, services, limit, settings.drain_time_s, shares_ports=shares_ports)


def _open_access_log(settings: Settings, write_lock: int | None) -> AccessLog | None:
    path = settings.access_log
    if path is None:
        return None
    try:
        return AccessLog(path, settings.access_log_is_json, write_lock)
    except OSError as exc:
        raise StartError(f"cannot write the access log {path}: {exc.strerror}") from exc
