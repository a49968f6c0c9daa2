"""The HTTP/2 connections of a cluster: one for each endpoint, more where its streams run out.

Each request asks the balancer for its endpoint and takes a stream of a connection to it. Where none has room the
request waits, and a connection is dialled, one at a time for each endpoint: what a burst needs is streams, not
connections. Should the dialler have passed over the endpoint, those who wait follow to the one that it found.

A client that does not take its responses clogs the connection that brings them: what waits for it uses up the window
that all streams share. When that has happened to every connection that there may be, those who wait need not wait for
such clients: what stands still is ended (``Http2Upstream.end_stalled``). And so it is where it leaves little of the
window to those who have streams there and take what they get.

A connection is retired, which is to say closed after the last of its exchanges, when the origin says GOAWAY, when its
endpoint has left the service, when TLS is now asked for on other terms, or when it is as old as it may become.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from proxy.balance import Endpoint
from proxy.http.h2_upstream import Http2Upstream, OriginStream
from proxy.http.headers import asks_for_upgrade
from proxy.http.pool import HttpPool
from proxy.outcome import Outcome
from proxy.tasks import spawn

if TYPE_CHECKING:
    from proxy.cluster import Cluster
    from proxy.http.exchange import Exchange


MAX_CONNECTIONS_PER_ENDPOINT = 8

LOOK_INTERVAL_S = 1.0
"""Between two looks for such responses."""


def _with_room(endpoint: Endpoint) -> Http2Upstream | None:
    """A connection to ``endpoint`` that exists and takes another stream."""
    for connection in reversed(endpoint.idle):
        if connection.has_room:
            found: Http2Upstream = connection
            return found
    return None


class Http2Pool(HttpPool[Http2Upstream]):
    """See the module. ``Endpoint.idle`` holds the connections that have room, the one to be used next at the end."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._waiting: dict[Endpoint | None, deque[Exchange]] = {}
        self.waiting_count = 0
        self._dialling: set[Endpoint | None] = set()
        self._loop = asyncio.get_running_loop()
        self._looked_at: set[Endpoint] = set()
        """Those that have been looked at for responses that stand still, until the next look."""

    def lease(self, exchange: Exchange) -> None:
        """Find ``exchange`` a stream: at once, or when there is one, it is started; or it fails."""
        if exchange.head.upgrade is not None and asks_for_upgrade(exchange.head):
            exchange.fail(Outcome.UPGRADE_REFUSED)
            return
        cluster = self.cluster
        endpoint = (
            cluster.endpoint_for(exchange)
            if exchange.tried
            else cluster.balancer.pick(exchange.began_s, (), exchange.key)
        )
        if endpoint is not None:
            idle = endpoint.idle
            while idle:
                connection: Http2Upstream = idle[-1]
                if connection.has_room:
                    exchange.start(OriginStream(connection))
                    return
                connection.is_pooled = False
                idle.pop()
        self._wait(exchange, endpoint)

    def _wait(self, exchange: Exchange, endpoint: Endpoint | None) -> None:
        stats, plan = self.cluster.stats, self.cluster.plan
        if self.waiting_count >= plan.max_pending_requests:
            stats.upstream_rq_pending_overflow += 1
            exchange.fail(Outcome.OVERFLOW)
            return
        stats.upstream_rq_pending_total += 1
        stats.upstream_rq_pending_active += 1
        self.waiting_count += 1
        self._waiting.setdefault(endpoint, deque()).append(exchange)
        self._dial_for(endpoint)

    def _dial_for(self, endpoint: Endpoint | None, *, again: bool = False) -> None:
        """``again``: it has been tried, and counted, for the same exchanges before."""
        if endpoint in self._dialling:
            return
        if endpoint is not None:
            open_ones = sum(
                connection.endpoint is endpoint and not connection.retired for connection in self._connections
            )
            is_full = self.cluster.is_full
            if open_ones and (is_full or open_ones >= MAX_CONNECTIONS_PER_ENDPOINT):
                if is_full and not again:
                    self.cluster.stats.upstream_cx_overflow += 1
                self._end_stalled(endpoint)  # they wait for a stream of those that exist
                return
        self._dialling.add(endpoint)
        spawn(self._dial(endpoint), f"dial {self.cluster.plan.name}")

    def _end_stalled(self, endpoint: Endpoint) -> None:
        """Clear one connection of those that are clogged. Look again soon if that is not enough for all who wait, or
        if there was none: what ends then may leave nothing but clogged ones.
        """
        if endpoint in self._looked_at:
            return
        clogged = [
            one for one in self._connections if one.endpoint is endpoint and one.engine.is_clogged and not one.retired
        ]
        for connection in clogged:
            if connection.end_stalled():
                break
        if endpoint in self._waiting:
            if not self._looked_at:
                self._loop.call_later(LOOK_INTERVAL_S, self._look_again)
            self._looked_at.add(endpoint)

    def _look_again(self) -> None:
        self._looked_at.clear()
        for endpoint, waiting in tuple(self._waiting.items()):
            self._forget_those_gone(endpoint, waiting)
            if endpoint in self._waiting:
                self._dial_for(endpoint, again=True)

    def _forget_those_gone(self, endpoint: Endpoint | None, waiting: deque[Exchange]) -> None:
        """Nobody's response is ended for their sake."""
        count = len(waiting)
        left = [exchange for exchange in waiting if not exchange.over]
        waiting.clear()
        waiting.extend(left)
        gone = count - len(left)
        self.waiting_count -= gone
        self.cluster.stats.upstream_rq_pending_active -= gone
        if not left:
            self._waiting.pop(endpoint, None)

    async def _dial(self, endpoint: Endpoint | None) -> None:
        policy = self.cluster.plan.tls
        result: Http2Upstream | Outcome = Outcome.UPSTREAM_CONNECT_FAILED
        try:
            result = await self.cluster.dial(lambda chosen: Http2Upstream(self, chosen, policy), endpoint, _with_room)
        finally:  # also after a fault of ours, which the task logs: nobody must wait for it for ever
            self._dialling.discard(endpoint)
            if isinstance(result, Outcome):
                self._fail_all(endpoint, result)
        if isinstance(result, Http2Upstream):
            if result.endpoint is not endpoint:
                self._serve(endpoint, result)
            if endpoint in self._waiting:  # there are more than one connection has streams
                self._dial_for(endpoint)

    def _fail_all(self, endpoint: Endpoint | None, outcome: Outcome) -> None:
        for exchange in self._waiting.pop(endpoint, ()):
            self.waiting_count -= 1
            self.cluster.stats.upstream_rq_pending_active -= 1
            if not exchange.over:
                self.cluster.stats.upstream_rq_pending_failure_eject += 1
                exchange.fail(outcome)

    def _serve(self, endpoint: Endpoint | None, connection: Http2Upstream) -> None:
        """Start those who wait for ``endpoint`` on ``connection``, as far as it has room."""
        waiting = self._waiting.get(endpoint)
        while waiting and connection.has_room:
            exchange = waiting.popleft()
            self.waiting_count -= 1
            self.cluster.stats.upstream_rq_pending_active -= 1
            if not exchange.over:
                exchange.start(OriginStream(connection))
        if waiting is not None and not waiting:
            self._waiting.pop(endpoint, None)

    def opened(self, connection: Http2Upstream) -> None:
        self._add(connection)
        if connection.endpoint.max_streams is not None:
            connection.engine.max_streams = connection.endpoint.max_streams
        self.cluster.stats.upstream_cx_http2_total += 1
        if self._is_outdated(connection) or self._closed:  # the plan may have changed while it was dialled
            self._serve(connection.endpoint, connection)
            connection.retire()
        else:
            self.has_room(connection)

    def has_room(self, connection: Http2Upstream) -> None:
        """A stream of ``connection`` is free: for whoever waits, else for the next request to its endpoint."""
        if self.waiting_count:
            self._serve(connection.endpoint, connection)
        if connection.has_room and not connection.is_pooled:
            connection.is_pooled = True
            connection.endpoint.idle.append(connection)

    def withdraw(self, connection: Http2Upstream) -> None:
        """``connection`` takes no new exchanges."""
        if connection.is_pooled:
            connection.is_pooled = False
            connection.endpoint.idle.remove(connection)

    def lost(self, connection: Http2Upstream, outcome: Outcome | None) -> None:
        self.withdraw(connection)
        self._remove(connection, outcome)
        if self.waiting_count:  # a place has become free
            for endpoint in tuple(self._waiting):
                self._dial_for(endpoint)
