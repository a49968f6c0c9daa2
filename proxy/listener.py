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
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from config.plan import Access, ListenerPlan, Protocol
from proxy import splicing
from proxy.acceptor import Acceptor
from proxy.door import DoorAcceptor
from proxy.http.h1_downstream import Http1Downstream
from proxy.http.h2_downstream import Http2Downstream
from proxy.http.h2_turns import Turns
from proxy.outcome import Outcome
from proxy.peer_counts import CONNECTIONS, OTHERS, RECEIVED, SENT, PeerCounts
from proxy.redirect import Destination, Redirected, original_destination
from proxy.relay import Downstream
from proxy.sockets import StartError, bind, keep_alive, reason
from proxy.stats import HttpStats, ListenerStats
from proxy.throttle import Throttle
from proxy.tls_accept import TlsAcceptor
from proxy.wire import BadMessage

if TYPE_CHECKING:
    from proxy.caller import Caller
    from proxy.cluster import Cluster
    from proxy.http.access_log import AccessLog

HttpDownstream = Http1Downstream | Http2Downstream
Connection = Downstream | HttpDownstream

log = logging.getLogger("koguma.listener")

BACKLOG = 4096
SWEEP_INTERVAL_S = 5.0
"""How often the time limits of HTTP connections are looked at; each may be overrun by as much."""
RESERVED_DESCRIPTORS = 64
"""Besides those of splices."""


def _reserved(descriptors: int) -> int:
    """Of so many. Splices can do without theirs, where there are few."""
    return RESERVED_DESCRIPTORS + min(splicing.DESCRIPTORS, descriptors // 4)


class ConnectionLimit:
    """How many relayed connections this process holds, and may hold."""

    __slots__ = ("_descriptors", "active", "maximum")

    def __init__(self, maximum: int, descriptors: int | None = None) -> None:
        """``descriptors``: out of how many ``maximum`` was made; ``None`` where it stands by itself."""
        self.active = 0
        self.maximum = maximum
        self._descriptors = descriptors

    def make_room(self, sockets: int) -> None:
        """For so many listening sockets, which are descriptors, too."""
        if self._descriptors is not None:
            self.maximum = max(1, (self._descriptors - _reserved(self._descriptors) - sockets) // 2)

    @classmethod
    def from_descriptors(cls) -> ConnectionLimit:
        """Raise the soft limit to the hard one and take what two descriptors a connection allow."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        descriptors = 1 << 20 if hard == resource.RLIM_INFINITY else hard
        return cls(max(1, (descriptors - _reserved(descriptors)) // 2), descriptors)


class Listener:
    """One listening address. ``cluster`` may be swapped at any time; connections that exist keep theirs."""

    def __init__(
        self, plan: ListenerPlan, cluster: Cluster | None, limit: ConnectionLimit, throttle: Throttle, turns: Turns
    ) -> None:
        self.plan = plan
        self.cluster = cluster
        self.stats = ListenerStats()
        self.http = HttpStats()
        self.connections: set[Connection] = set()
        self.handshakes: set[Acceptor] = set()
        self.turns = turns
        self.idle = asyncio.Event()
        """Set while there are no connections, and none whose peers are being verified."""
        self.idle.set()
        self._limit = limit
        self._throttle = throttle
        self.access_log: AccessLog | None = None
        self.shares_port = False
        """Whether other workers listen at the same address."""
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._socket: socket.socket | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self.listening = False
        self.destination_of: Callable[[socket.socket], Destination] = original_destination
        self.owner_of: Callable[[Destination], Listener | None] = lambda _destination: None
        """Whose the redirected connections are that come in here."""
        self.routes: Mapping[str, Listener] = {}
        """Of the door of a zone egress: whose connections are, by the server name that the client asks for."""
        self.peer_counts: PeerCounts | None = None
        """Of a route: what its clients do is counted at its door."""

    def open(self) -> None:
        """Bind, if the plan says so. Nothing is accepted before :meth:`start`."""
        if not self.plan.bind_to_port:
            return
        self._socket = bind(str(self.plan.address), self.plan.port, is_shared=self.shares_port)
        keep_alive(self._socket)

    async def start(self) -> None:
        if self._socket is None:
            self.listening = True
            return
        try:
            self._server = await self._loop.create_server(self.accept, sock=self._socket, backlog=BACKLOG)
        except OSError as exc:
            raise StartError(f"cannot listen on {self.plan.bind}: {reason(exc)}") from exc
        self.listening = True

    def _check_times(self) -> None:
        """Runs while there are connections to look at: of many listeners most are idle."""
        self._sweep = None
        now = self.now()
        for connection in tuple(self.connections):
            if not isinstance(connection, Downstream):
                connection.check_times(now)
        if self.connections:
            self._sweep = self._loop.call_later(SWEEP_INTERVAL_S, self._check_times)

    def accept(self) -> Connection | Acceptor | Redirected:
        """The protocol of a new connection."""
        if self.plan.is_door:
            return DoorAcceptor(self)
        if self.plan.original_dst:
            return Redirected(self)
        return self.connection() if self.plan.acceptance is None else TlsAcceptor(self, self.plan.acceptance)

    def connection(self, *, is_opaque: bool = False, caller: Caller | None = None) -> Connection:
        """What handles a connection. HTTP/1 is assumed until the preface of HTTP/2 is seen, as Envoy's AUTO does;
        ``is_opaque``: bytes, whatever the protocol. ``caller``: who has been verified.
        """
        is_opaque = is_opaque or self.plan.protocol is Protocol.TCP
        return Downstream(self, caller) if is_opaque else Http1Downstream(self, caller)

    def handshake_began(self, acceptor: Acceptor) -> bool:
        """Account for a connection whose peer is not verified yet. False: there are too many connections."""
        self.handshakes.add(acceptor)
        self.idle.clear()
        self._limit.active += 1
        if self._limit.active <= self._limit.maximum:
            return True
        self.stats.downstream_cx_overflow += 1
        return False

    def handshake_ended(self, acceptor: Acceptor) -> None:
        if acceptor in self.handshakes:
            self.handshakes.discard(acceptor)
            self._limit.active -= 1
            if not self.handshakes and not self.connections:
                self.idle.set()

    @property
    def port(self) -> int:
        """The port in use; differs from the plan's where that is 0."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else self.plan.port

    async def stop(self) -> None:
        """Accept what already waits in the queue, then stop listening. Connections go on."""
        server, self._server = self._server, None
        self.listening = False
        if server is not None:
            poll = select.poll()
            poll.register(server.sockets[0].fileno(), select.POLLIN)
            deadline = self.now() + 1.0
            while poll.poll(0) and self.now() < deadline:  # noqa: ASYNC110 - each turn of the loop accepts one
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # asyncio's own loop attaches to the server one turn after it has accepted
            server.close()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for waiting in (*self.handshakes, *self.connections):
            waiting.drain()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def opened(self, connection: Connection) -> float:
        """Account for an accepted connection, refuse it where it may not be; the time of its start (loop seconds)."""
        stats = self.stats
        stats.downstream_cx_total += 1
        stats.downstream_cx_active += 1
        self.connections.add(connection)
        self.idle.clear()
        if self._sweep is None and not isinstance(connection, Downstream):
            self._sweep = self._loop.call_later(SWEEP_INTERVAL_S, self._check_times)
        limit = self._limit
        limit.active += 1
        if limit.active > limit.maximum:
            stats.downstream_cx_overflow += 1
            if self._throttle.allows("connection limit"):
                log.warning("connection limit of %d reached: connections are refused", limit.maximum)
            connection.end(Outcome.OVERFLOW)
        elif self.plan.access is Access.FORBID and isinstance(connection, Downstream):
            self.deny()
            connection.end(Outcome.FORBIDDEN)
        return self.now()

    def deny(self) -> None:
        """Account for a connection or a request that the mesh forbids."""
        self.stats.access_denied += 1
        if self.may_say(f"forbidden {self.plan.name}"):
            log.warning(
                "%s refused: Mesh.routing.defaultForbidMeshExternalServiceAccess is true",
                self.plan.cluster,
                extra={"event": "access_denied", "listener": self.plan.name, "cluster": self.plan.cluster},
            )

    def may_say(self, what: str) -> bool:
        """Whether this was not said a short while ago."""
        return self._throttle.allows(what)

    def refused(self, bad: BadMessage, version: tuple[int, int] = (1, 1)) -> None:
        """Account for what a client sent instead of a request."""
        stats = self.http
        stats.downstream_rq_total += 1
        stats.downstream_rq_completed += 1
        if bad.status < 500:
            stats.downstream_rq_4xx += 1
        else:
            stats.downstream_rq_5xx += 1
        if self.access_log is not None:
            self.access_log.refusal(self, bad.status, version)
        self.note_refusal(bad.code, bad.detail)

    def note_refusal(self, code: str, detail: str) -> None:
        if self.may_say(f"refused {self.plan.name} {code}"):
            event = {"event": "request_refused"}
            log.info("%s: a request was refused: %s: %s", self.plan.name, code, detail, extra=event)

    def replaced(self, connection: Http1Downstream, successor: Http2Downstream) -> None:
        """The same connection speaks another protocol from now on."""
        self.connections.discard(connection)
        self.connections.add(successor)

    def closed(self, connection: Connection) -> None:
        stats = self.stats
        stats.downstream_cx_active -= 1
        stats.downstream_cx_destroy += 1
        stats.downstream_cx_rx_bytes_total += connection.received
        stats.downstream_cx_tx_bytes_total += connection.sent
        if connection.outcome is Outcome.IDLE_TIMEOUT:
            stats.idle_timeout += 1
        stats.downstream_cx_length_ms.record((self.now() - connection.started_s) * 1000)
        if self.peer_counts is not None:
            self._count_peer(self.peer_counts, connection)
        self._limit.active -= 1
        self.connections.discard(connection)
        if not self.connections and not self.handshakes:
            self.idle.set()

    @property
    def is_idle(self) -> bool:
        return not self.connections and not self.handshakes

    def _count_peer(self, counts: PeerCounts, connection: Connection) -> None:
        peer = connection.caller.id if connection.caller is not None else OTHERS
        counts.count(peer, CONNECTIONS)
        counts.count(peer, RECEIVED, connection.received)
        counts.count(peer, SENT, connection.sent)
        if self.access_log is not None and isinstance(connection, Downstream):
            self.access_log.connection(self, connection)

    def byte_totals(self) -> tuple[int, int]:
        """(received, sent), living connections included."""
        received, sent = self.stats.downstream_cx_rx_bytes_total, self.stats.downstream_cx_tx_bytes_total
        for connection in self.connections:
            received += connection.received
            sent += connection.sent
        return received, sent

    def unwelcome(self) -> list[Connection]:
        """Connections whose peers would not be let in today."""
        return [one for one in self.connections if one.caller is not None and not one.caller.is_still_welcome(self)]

    def end_connections(self, outcome: Outcome) -> None:
        for connection in tuple(self.connections):
            connection.end(outcome)

    def abort_connections(self) -> None:
        """For peers that do not take what is left for them, or never become anybody's."""
        for connection in (*self.handshakes, *self.connections):
            connection.abort()
