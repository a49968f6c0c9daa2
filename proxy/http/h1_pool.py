"""The HTTP connections of a cluster: leased to an exchange, returned, dialled when there are too few, retired.

Each request asks the balancer for its endpoint, then takes the connection to it that was used last. Where there is
none, the request waits and a connection is dialled; whichever becomes free first serves the request that waits longest.
So a burst is served in order, and what was dialled for it stays for the next. Where requests are sticky, each waits for
a connection to its own endpoint instead, unless that cannot be reached.

A connection is retired, which is to say closed as soon as it is idle, when it is as old as it may become, when its
endpoint has left the service, or when TLS is now asked for on other terms: what was verified under old terms is not
reused under new ones.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from proxy.balance import Endpoint
from proxy.http.h1_upstream import Http1Upstream
from proxy.http.pool import HttpPool
from proxy.outcome import Outcome
from proxy.tasks import spawn

if TYPE_CHECKING:
    from proxy.cluster import Cluster
    from proxy.http.exchange import Exchange


class Http1Pool(HttpPool[Http1Upstream]):
    """See the module. Who waits is listed under the endpoint, where that is not to be changed, else under ``None``."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._waiting: dict[Endpoint | None, deque[Exchange]] = {}
        self._waiting_count = 0
        self._dialling: Counter[Endpoint | None] = Counter()

    def lease(self, exchange: Exchange) -> None:
        """Find ``exchange`` a connection: at once, or when there is one, it is started; or it fails."""
        cluster = self.cluster
        if exchange.tried:
            endpoint = cluster.endpoint_for(exchange)
        else:
            endpoint = cluster.balancer.pick(exchange.began_s, (), exchange.key)
        if endpoint is not None:
            idle = endpoint.idle
            while idle:
                connection: Http1Upstream = idle.pop()
                if not connection.retired and not connection.transport.is_closing():
                    exchange.start(connection)
                    return
        self._wait(exchange, endpoint)

    def _wait(self, exchange: Exchange, endpoint: Endpoint | None) -> None:
        stats, plan = self.cluster.stats, self.cluster.plan
        place = endpoint if self.cluster.balancer.is_sticky else None
        is_full = self._has_connections(place) and self.cluster.is_full
        if is_full and place is None:
            connection = next(filter(None, map(self._idle, self.cluster.balancer)), None)
            if connection is not None:  # to another endpoint, which is better than to wait for this one
                connection.endpoint.idle.remove(connection)
                exchange.start(connection)
                return
        if self._waiting_count >= plan.max_pending_requests:
            stats.upstream_rq_pending_overflow += 1
            exchange.fail(Outcome.OVERFLOW)
            return
        stats.upstream_rq_pending_total += 1
        stats.upstream_rq_pending_active += 1
        self._waiting_count += 1
        self._waiting.setdefault(place, deque()).append(exchange)
        if is_full:
            stats.upstream_cx_overflow += 1  # it waits for one of those that exist
            return
        self._start_dialling(place, endpoint)

    def _has_connections(self, place: Endpoint | None) -> bool:
        """That may serve who waits at ``place``."""
        if place is None:
            return bool(self._connections)
        return any(connection.endpoint is place for connection in self._connections)

    def _start_dialling(self, place: Endpoint | None, endpoint: Endpoint | None) -> None:
        self._dialling[place] += 1
        spawn(self._dial(place, endpoint), f"dial {self.cluster.plan.name}")

    async def _dial(self, place: Endpoint | None, endpoint: Endpoint | None) -> None:
        policy = self.cluster.plan.tls
        try:
            result = await self.cluster.dial(lambda chosen: Http1Upstream(self, chosen, policy), endpoint, self._idle)
        except Exception:  # a fault of ours, which the task logs: nobody must wait for it for ever
            self._fail_one(place, Outcome.UPSTREAM_CONNECT_FAILED)
            raise
        finally:
            self._dialling[place] -= 1
            if not self._dialling[place]:
                del self._dialling[place]
        if isinstance(result, Outcome):
            self._fail_one(place, result)
        elif result.endpoint is not endpoint and (place is not None or result in result.endpoint.idle):
            self._follow(place, result)

    def _idle(self, endpoint: Endpoint) -> Http1Upstream | None:
        """The idle connection to ``endpoint`` that was used last; it stays where it is."""
        for connection in reversed(endpoint.idle):
            if not connection.retired and not connection.transport.is_closing():
                found: Http1Upstream = connection
                return found
        return None

    def _fail_one(self, place: Endpoint | None, outcome: Outcome) -> None:
        exchange = self._next_waiting(place)
        if exchange is not None:
            self.cluster.stats.upstream_rq_pending_failure_eject += 1
            exchange.fail(outcome)

    def _follow(self, place: Endpoint | None, connection: Http1Upstream) -> None:
        """The dialler has passed over the endpoint: who waits for it goes to the one that was found."""
        exchange = self._next_waiting(place)
        if exchange is None:
            return
        idle = connection.endpoint.idle
        if connection in idle and not connection.transport.is_closing():
            idle.remove(connection)
            exchange.start(connection)
        else:  # somebody else was quicker
            self._wait(exchange, connection.endpoint)

    def _next_waiting(self, place: Endpoint | None) -> Exchange | None:
        """The exchange that waits longest there and still wants to be served."""
        waiting = self._waiting.get(place)
        while waiting:
            exchange = waiting.popleft()
            self._waiting_count -= 1
            self.cluster.stats.upstream_rq_pending_active -= 1
            if not waiting:
                del self._waiting[place]
            if not exchange.over:
                return exchange
        return None

    def opened(self, connection: Http1Upstream) -> None:
        self._add(connection)
        self.cluster.stats.upstream_cx_http1_total += 1
        connection.retired = self._is_outdated(connection)  # the plan may have changed while it was dialled
        self.release(connection)

    def release(self, connection: Http1Upstream) -> None:
        """``connection`` is free: for whoever waits, else for the next request to its endpoint."""
        exchange: Exchange | None = None
        if self._waiting and not connection.retired:
            exchange = self._next_waiting(connection.endpoint) or self._next_waiting(None)
        if exchange is not None:
            exchange.start(connection)
        elif connection.retired or self._closed:
            connection.close()
        else:
            connection.endpoint.idle.append(connection)

    def lost(self, connection: Http1Upstream, outcome: Outcome | None) -> None:
        self._remove(connection, outcome)
        idle = connection.endpoint.idle
        if connection in idle:
            idle.remove(connection)
        for place, waiting in tuple(self._waiting.items()):  # a place has become free
            if len(waiting) > self._dialling[place]:
                self._start_dialling(place, place)
