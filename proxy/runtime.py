"""What runs, and the only place that changes it: a new plan is applied as the difference to the old one.

Law: after ``apply(plan)`` what runs is what the plan says, whatever ran before; parts that did not change keep their
sockets, counters and connections. A listener that cannot be opened does not stop the others: it is reported, kept in
``failed`` and tried again with the next plan.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from config.plan import Add, Change, ClusterPlan, Direction, ListenerPlan, Plan, Remove, Step, diff
from proxy.cluster import Cluster, Services
from proxy.listener import Connection, ConnectionLimit, Listener
from proxy.outcome import Outcome
from proxy.peer_counts import PeerCounts
from proxy.redirect import Destination
from proxy.sockets import StartError
from proxy.tasks import spawn

log = logging.getLogger("koguma.runtime")


@dataclass(frozen=True, slots=True)
class Applied:
    """What a plan changed, in numbers, and the listeners (by name) that could not be opened."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class Runtime:
    """Running listeners and clusters, by the names that the plan gives them."""

    def __init__(
        self,
        plan: Plan,
        services: Services,
        limit: ConnectionLimit,
        drain_time_s: float,
        *,
        shares_ports: bool = False,
    ) -> None:
        self.plan = replace(plan, listeners={}, clusters={})
        self.listeners: dict[str, Listener] = {}
        self.clusters: dict[str, Cluster] = {}
        self.failed: dict[str, str] = {}
        self.limit = limit
        self.draining = False
        self._services = services
        self._drain_time_s = drain_time_s
        self._shares_ports = shares_ports
        self._leaving: set[Listener] = set()
        self._destinations: dict[tuple[Direction, Destination], str] = {}
        """The names of listeners by their addresses, while the kernel redirects connections to us."""
        self._drains_untrusted = plan.drain_untrusted

    async def apply(self, plan: Plan) -> Applied:
        # What failed to open is not running: take it out of the old plan, so that it is added again.
        running = {name: part for name, part in self.plan.listeners.items() if name not in self.failed}
        steps = diff(replace(self.plan, listeners=running), plan)
        self.failed = {}
        self._drains_untrusted = plan.drain_untrusted
        for step in steps:  # all ports that are given up, before any is taken: two listeners may swap theirs
            if isinstance(step, Change) and _moves(step):
                await self._leave(self.listeners.pop(step.old.name))
        for step in steps:
            await self._perform(step)
        self.plan = plan
        self._destinations = _destinations(plan)
        self._lead_through_doors()
        self.limit.make_room(sum(one.listening and one.plan.bind_to_port for one in self.listeners.values()))
        return Applied(
            added=sum(isinstance(step, Add) for step in steps),
            changed=sum(isinstance(step, Change) for step in steps),
            removed=sum(isinstance(step, Remove) for step in steps),
            failed=dict(self.failed),
        )

    async def _perform(self, step: Step) -> None:
        match step:
            case Add(ClusterPlan() as part):
                cluster = self.clusters[part.name] = Cluster(part, self._services)
                cluster.start()
            case Change(_, ClusterPlan() as part):
                self.clusters[part.name].update(part)
            case Remove(ClusterPlan() as part):
                self.clusters.pop(part.name).close()
            case Add(ListenerPlan() as part):
                await self._listen(part)
            case Change(_, ListenerPlan() as part) if _moves(step):
                await self._listen(part)
            case Change(_, ListenerPlan() as part):
                listener = self.listeners[part.name]
                listener.plan, listener.cluster = part, self.clusters.get(part.cluster)
                if self._drains_untrusted:
                    self._part_with_the_unwelcome(listener)
            case Remove(ListenerPlan() as part):
                if part.name in self.listeners:
                    await self._leave(self.listeners.pop(part.name))

    async def _listen(self, part: ListenerPlan) -> None:
        services = self._services
        listener = Listener(part, self.clusters.get(part.cluster), self.limit, services.throttle, services.turns)
        listener.access_log = services.access_log
        listener.shares_port = self._shares_ports
        listener.owner_of = lambda destination: self._owner_of(part.direction, destination)
        if part.is_door:
            listener.peer_counts = PeerCounts(listener.stats.peers)
        try:
            listener.open()
            await listener.start()
        except StartError as exc:
            await listener.stop()
            if part.original_dst and exc.no_such_family:
                log.info("%s: not needed, this machine has no IPv6", part.name)
            else:
                self.failed[part.name] = str(exc)
            return
        self.listeners[part.name] = listener

    def _owner_of(self, direction: Direction, destination: Destination) -> Listener | None:
        name = self._destinations.get((direction, destination))
        return self.listeners.get(name) if name is not None else None

    def _lead_through_doors(self) -> None:
        """Tell the doors of a zone egress which routes there are now."""
        routes: dict[str, dict[str, Listener]] = {
            name: {} for name, listener in self.listeners.items() if listener.plan.is_door
        }
        if not routes:
            return
        for listener in self.listeners.values():
            plan = listener.plan
            if plan.door in routes:
                routes[plan.door].update(dict.fromkeys(plan.server_names, listener))
                listener.peer_counts = self.listeners[plan.door].peer_counts
        for name, behind in routes.items():
            self.listeners[name].routes = behind

    async def _leave(self, listener: Listener) -> None:
        """Stop listening; connections may finish within the drain time."""
        await listener.stop()
        if not listener.is_idle:
            self._leaving.add(listener)
            spawn(self._finish(listener), f"drain {listener.plan.name}")

    async def _finish(self, listener: Listener) -> None:
        await self._emptied([listener], self._drain_time_s)
        listener.end_connections(Outcome.REMOVED)
        await self._emptied([listener], 1.0)
        listener.abort_connections()
        self._leaving.discard(listener)

    def _part_with_the_unwelcome(self, listener: Listener) -> None:
        """Connections whose peers are no longer trusted or permitted take no more requests, and end within the drain
        time.
        """
        unwelcome = listener.unwelcome()
        if unwelcome:
            log.warning(
                "%s: %d connections are drained: their peers are no longer trusted or permitted",
                listener.plan.name,
                len(unwelcome),
                extra={"event": "peers_drained", "listener": listener.plan.name, "connections": len(unwelcome)},
            )
            for connection in unwelcome:
                connection.drain()
            spawn(self._end_later(listener, unwelcome), f"drain peers of {listener.plan.name}")

    async def _end_later(self, listener: Listener, connections: Iterable[Connection]) -> None:
        await asyncio.sleep(self._drain_time_s)
        for connection in connections:
            if connection in listener.connections:
                connection.end(Outcome.UNTRUSTED)

    async def drain(self) -> None:
        """Stop accepting, give connections the drain time, then end those that are left."""
        self.draining = True
        listeners = [*self.listeners.values(), *self._leaving]
        for listener in self.listeners.values():
            await listener.stop()
        await self._emptied(listeners, self._drain_time_s)
        left = sum(len(listener.connections) for listener in listeners)
        if left:
            log.warning("drain time is over: %d connections are closed", left)
            for listener in listeners:
                listener.end_connections(Outcome.DRAINED)
            await self._emptied(listeners, 1.0)
        for listener in listeners:
            listener.abort_connections()

    async def _emptied(self, listeners: Iterable[Listener], within_s: float) -> None:
        """Return when no listener has a connection left, or the time is over."""
        try:
            async with asyncio.timeout(within_s):
                for listener in listeners:
                    while not listener.is_idle:  # a peer that was verified is between both for a moment
                        await listener.idle.wait()
        except TimeoutError:
            pass

    async def stop_listening(self, inbound_only: bool) -> None:
        """``POST /drain_listeners``: no new connections; those that exist go on."""
        for listener in self.listeners.values():
            if not inbound_only or listener.plan.direction is Direction.INBOUND:
                await listener.stop()

    async def close(self) -> None:
        for listener in self.listeners.values():
            await listener.stop()
        for cluster in self.clusters.values():
            cluster.close()
        self._services.close()

    async def reset_counters(self) -> None:
        """Counters alone, as Envoy does; of bytes, those of connections that have ended."""
        for cluster in self.clusters.values():
            cluster.stats.reset_counters()
            for watch in cluster.watches:
                watch.update_attempt = watch.update_success = watch.update_failure = 0
        for listener in self.listeners.values():
            listener.stats.reset_counters()
            listener.http.reset_counters()


def _moves(step: Change) -> bool:
    """Whether a listener changes its address, which takes a new socket."""
    old, new = step.old, step.new
    return (
        isinstance(old, ListenerPlan)
        and isinstance(new, ListenerPlan)
        and (old.address, old.port, old.bind_to_port) != (new.address, new.port, new.bind_to_port)
    )


def _destinations(plan: Plan) -> dict[tuple[Direction, Destination], str]:
    directions = {one.direction for one in plan.listeners.values() if one.original_dst}
    return {
        (one.direction, (str(one.address), one.port)): one.name
        for one in plan.listeners.values()
        if one.direction in directions and not one.original_dst and not one.door
    }
