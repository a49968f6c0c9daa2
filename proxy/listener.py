"""A listening socket and what happens to a connection between its accept and its cluster.

Descriptors are the scarce thing: a proxied connection needs two. :class:`ConnectionLimit` is shared by all listeners
and sized from ``RLIMIT_NOFILE``, so that accepting stops (accept and close, counted) before ``accept`` or ``connect``
can run into EMFILE. Should EMFILE come all the same, from outside, the event loop closes what it cannot keep through
a descriptor held in reserve, and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import select
import socket
from typing import TYPE_CHECKING

from config.plan import Access, ListenerPlan
from proxy.outcome import Outcome
from proxy.relay import Downstream
from proxy.sockets import StartError, bind, keep_alive, reason
from proxy.stats import ListenerStats
from proxy.throttle import Throttle

if TYPE_CHECKING:
    from proxy.cluster import Cluster

log = logging.getLogger("koguma.listener")

BACKLOG = 4096
RESERVED_DESCRIPTORS = 64


class ConnectionLimit:
    """How many relayed connections this process holds, and may hold."""

    __slots__ = ("active", "maximum")

    def __init__(self, maximum: int) -> None:
        self.active = 0
        self.maximum = maximum

    @classmethod
    def from_descriptors(cls) -> ConnectionLimit:
        """Raise the soft limit to the hard one and take what two descriptors a connection allow."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        descriptors = 1 << 20 if hard == resource.RLIM_INFINITY else hard
        return cls(max(1, (descriptors - RESERVED_DESCRIPTORS) // 2))


class Listener:
    """One listening address. ``cluster`` may be swapped at any time; connections that exist keep theirs."""

    def __init__(self, plan: ListenerPlan, cluster: Cluster | None, limit: ConnectionLimit, throttle: Throttle) -> None:
        self.plan = plan
        self.cluster = cluster
        self.stats = ListenerStats()
        self.connections: set[Downstream] = set()
        self.idle = asyncio.Event()
        """Set while there are no connections."""
        self.idle.set()
        self._limit = limit
        self._throttle = throttle
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    def open(self) -> None:
        """Bind. Nothing is accepted before :meth:`start`."""
        self._socket = bind(str(self.plan.address), self.plan.port)
        keep_alive(self._socket)

    async def start(self) -> None:
        assert self._socket is not None
        try:
            self._server = await self._loop.create_server(lambda: Downstream(self), sock=self._socket, backlog=BACKLOG)
        except OSError as exc:
            raise StartError(f"cannot listen on {self.plan.bind}: {reason(exc)}") from exc

    @property
    def listening(self) -> bool:
        return self._server is not None

    @property
    def port(self) -> int:
        """The port in use; differs from the plan's where that is 0."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else self.plan.port

    async def stop(self) -> None:
        """Accept what already waits in the queue, then stop listening. Connections go on."""
        server, self._server = self._server, None
        if server is not None:
            poll = select.poll()
            poll.register(server.sockets[0].fileno(), select.POLLIN)
            deadline = self._now() + 1.0
            while poll.poll(0) and self._now() < deadline:  # noqa: ASYNC110 - each turn of the loop accepts one
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # asyncio's own loop attaches to the server one turn after it has accepted
            server.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def opened(self, connection: Downstream) -> float:
        """Account for an accepted connection, refuse it where it may not be; the time of its start (loop seconds)."""
        stats = self.stats
        stats.downstream_cx_total += 1
        stats.downstream_cx_active += 1
        self.connections.add(connection)
        self.idle.clear()
        limit = self._limit
        limit.active += 1
        if limit.active > limit.maximum:
            stats.downstream_cx_overflow += 1
            if self._throttle.allows("connection limit"):
                log.warning("connection limit of %d reached: connections are refused", limit.maximum)
            connection.end(Outcome.OVERFLOW)
        elif self.plan.access is Access.FORBID:
            stats.access_denied += 1
            if self._throttle.allows(f"forbidden {self.plan.name}"):
                log.warning(
                    "%s refused: Mesh.routing.defaultForbidMeshExternalServiceAccess is true",
                    self.plan.cluster,
                    extra={
                        "event": "access_denied",
                        "listener": self.plan.name,
                        "cluster": self.plan.cluster,
                    },
                )
            connection.end(Outcome.FORBIDDEN)
        return self._now()

    def closed(self, connection: Downstream) -> None:
        stats = self.stats
        stats.downstream_cx_active -= 1
        stats.downstream_cx_destroy += 1
        stats.downstream_cx_rx_bytes_total += connection.received
        if connection.upstream is not None:
            stats.downstream_cx_tx_bytes_total += connection.upstream.received
        if connection.outcome is Outcome.IDLE_TIMEOUT:
            stats.idle_timeout += 1
        stats.downstream_cx_length_ms.record((self._now() - connection.started_s) * 1000)
        self._limit.active -= 1
        self.connections.discard(connection)
        if not self.connections:
            self.idle.set()

    def byte_totals(self) -> tuple[int, int]:
        """(received, sent), living connections included."""
        received, sent = self.stats.downstream_cx_rx_bytes_total, self.stats.downstream_cx_tx_bytes_total
        for connection in self.connections:
            received += connection.received
            if connection.upstream is not None:
                sent += connection.upstream.received
        return received, sent

    def end_connections(self, outcome: Outcome) -> None:
        for connection in tuple(self.connections):
            connection.end(outcome)

    def abort_connections(self) -> None:
        """For peers that do not take what is left for them."""
        for connection in tuple(self.connections):
            connection.abort()
