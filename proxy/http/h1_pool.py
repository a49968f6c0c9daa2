"""The HTTP connections of a cluster: leased to an exchange, returned, dialled when there are too few, retired.

Each request asks the balancer for its endpoint, then takes the connection to it that was used last. Where there is
none, the request waits and a connection is dialled; whichever becomes free first serves the request that waits longest.
So a burst is served in order, and what was dialled for it stays for the next.

A connection is retired, which is to say closed as soon as it is idle, when its endpoint has left the service or TLS is
now asked for on other terms: what was verified under old terms is not reused under new ones.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from proxy.balance import Endpoint
from proxy.http.h1_upstream import Http1Upstream
from proxy.outcome import Outcome
from proxy.tasks import spawn

if TYPE_CHECKING:
    from proxy.cluster import Cluster
    from proxy.http.exchange import Exchange


class Http1Pool:
    """See the module."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._connections: set[Http1Upstream] = set()
        self._waiting: deque[Exchange] = deque()
        self._dialling = 0
        self._closed = False

    def lease(self, exchange: Exchange) -> None:
        """Find ``exchange`` a connection: at once, or when there is one, it is started; or it fails."""
        cluster = self.cluster
        endpoint = cluster.endpoint_for(exchange) if exchange.tried else cluster.balancer.pick(exchange.began_s)
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
        if len(self._waiting) >= plan.max_pending_requests:
            stats.upstream_rq_pending_overflow += 1
            exchange.fail(Outcome.OVERFLOW)
            return
        stats.upstream_rq_pending_total += 1
        stats.upstream_rq_pending_active += 1
        self._waiting.append(exchange)
        if self._connections and self.cluster.is_full:
            stats.upstream_cx_overflow += 1  # it waits for one of those that exist
            return
        self._dialling += 1
        spawn(self._dial(endpoint), f"dial {plan.name}")

    async def _dial(self, endpoint: Endpoint | None) -> None:
        policy = self.cluster.plan.tls
        try:
            result = await self.cluster.dial(lambda chosen: Http1Upstream(self, chosen, policy), endpoint)
        except Exception:  # a fault of ours, which the task logs: nobody must wait for it for ever
            self._fail_one(Outcome.UPSTREAM_CONNECT_FAILED)
            raise
        finally:
            self._dialling -= 1
        if isinstance(result, Outcome):
            self._fail_one(result)

    def _fail_one(self, outcome: Outcome) -> None:
        exchange = self._next_waiting()
        if exchange is not None:
            self.cluster.stats.upstream_rq_pending_failure_eject += 1
            exchange.fail(outcome)

    def _next_waiting(self) -> Exchange | None:
        """The exchange that waits longest and still wants to be served."""
        waiting = self._waiting
        while waiting:
            exchange = waiting.popleft()
            self.cluster.stats.upstream_rq_pending_active -= 1
            if not exchange.over:
                return exchange
        return None

    def opened(self, connection: Http1Upstream) -> None:
        self._connections.add(connection)
        self.cluster.connections.add(connection)
        self.cluster.stats.upstream_cx_http1_total += 1
        connection.retired = self._is_outdated(connection)  # the plan may have changed while it was dialled
        self.release(connection)

    def release(self, connection: Http1Upstream) -> None:
        """``connection`` is free: for whoever waits, else for the next request to its endpoint."""
        exchange = self._next_waiting() if self._waiting and not connection.retired else None
        if exchange is not None:
            exchange.start(connection)
        elif connection.retired or self._closed:
            connection.close()
        else:
            connection.endpoint.idle.append(connection)

    def interim(self, status: int) -> None:
        """Account for a 1xx response, which goes no further."""
        codes = self.cluster.stats.codes
        codes[status] = codes.get(status, 0) + 1

    def lost(self, connection: Http1Upstream, outcome: Outcome | None) -> None:
        self._connections.discard(connection)
        self.cluster.closed(connection, outcome)
        idle = connection.endpoint.idle
        if connection in idle:
            idle.remove(connection)
        if self._waiting and len(self._waiting) > self._dialling:  # a place has become free
            self._dialling += 1
            spawn(self._dial(None), f"dial {self.cluster.plan.name}")

    def retire_outdated(self) -> None:
        """After a change of the plan or of a name's addresses."""
        for connection in tuple(self._connections):
            if self._is_outdated(connection):
                self._retire(connection)

    def _is_outdated(self, connection: Http1Upstream) -> bool:
        cluster = self.cluster
        return connection.policy != cluster.plan.tls or connection.endpoint not in cluster.balancer

    def close(self) -> None:
        """No listener uses the cluster any more: idle connections go now, others after their exchange."""
        self._closed = True
        for connection in tuple(self._connections):
            self._retire(connection)

    def _retire(self, connection: Http1Upstream) -> None:
        connection.retired = True
        if connection.exchange is None:
            connection.close()
