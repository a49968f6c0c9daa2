"""Service probes (``networking.inbound[].serviceProbe``): does the application behind an inbound answer?

One probe for each inbound that asks for it, in the process that has the admin interface and in none of its workers:
connect, close, wait for the interval. As in Kuma the answer is told and changes no traffic. Whoever balances between
proxies leaves out one whose inbound is not ready; a connection that comes all the same is forwarded.

An application is not known to be ready before the first probe, whose outcome counts at once; from then on it takes
``unhealthyThreshold`` failures in a row, or ``healthyThreshold`` successes, to change what is said.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping

from config.plan import ListenerPlan, ProbePlan
from proxy.tasks import spawn

log = logging.getLogger("koguma.probes")


class Probe:
    """Of one inbound."""

    def __init__(self, name: str, plan: ProbePlan) -> None:
        self.plan = plan
        self.is_ready = False
        self.fault: str | None = "not probed yet"
        """Why the last probe failed."""
        self._name = name
        self._is_known = False
        self._in_a_row = 0
        """Probes that speak against what is said."""
        self._task = spawn(self._run(), f"probe {name}")

    def close(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            self.take(await connect(self.plan))
            await asyncio.sleep(self.plan.interval_s)

    def take(self, fault: str | None) -> None:
        """The outcome of one probe; ``None``: the application answers."""
        self.fault = fault
        succeeded = fault is None
        if self._is_known and succeeded == self.is_ready:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        needed = self.plan.healthy_threshold if succeeded else self.plan.unhealthy_threshold
        if self._is_known and self._in_a_row < needed:
            return
        self._is_known, self.is_ready, self._in_a_row = True, succeeded, 0
        event = {"event": "inbound_ready" if succeeded else "inbound_not_ready", "listener": self._name}
        if succeeded:
            log.info("%s is ready: the application at %s answers", self._name, self.plan.target, extra=event)
        else:
            text = "%s is not ready: the application at %s does not answer: %s"
            log.warning(text, self._name, self.plan.target, fault, extra=event)


class Probes:
    """Those of a plan, by the names of its listeners."""

    def __init__(self) -> None:
        self._probes: dict[str, Probe] = {}

    @property
    def by_listener(self) -> Mapping[str, Probe]:
        return self._probes

    def apply(self, listeners: Iterable[ListenerPlan]) -> None:
        """A probe that stays the same goes on, and keeps what it knows."""
        wanted = {one.name: one.probe for one in listeners if one.probe is not None}
        for name, probe in tuple(self._probes.items()):
            if wanted.get(name) != probe.plan:
                self._probes.pop(name).close()
        for name, plan in wanted.items():
            if name not in self._probes:
                self._probes[name] = Probe(name, plan)

    def close(self) -> None:
        self.apply(())


async def connect(plan: ProbePlan) -> str | None:
    """Why the application cannot be reached; ``None``: it can."""
    loop, target = asyncio.get_running_loop(), plan.target
    source = (str(plan.source), 0) if plan.source is not None else None
    try:
        async with asyncio.timeout(plan.timeout_s):
            transport, _ = await loop.create_connection(
                asyncio.Protocol, str(target.address), target.port, local_addr=source
            )
    except TimeoutError:
        return f"no connection within {plan.timeout_s:g} s"
    except OSError as exc:
        return os.strerror(exc.errno) if exc.errno is not None else str(exc)
    transport.close()
    return None
