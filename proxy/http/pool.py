"""What the pools of either version have in common: which connections there are, and when one of them is retired."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from proxy.balance import Endpoint
from proxy.dialled import ClusterConnection, Idleness
from proxy.outcome import Outcome
from proxy.relay import ByteTransport

if TYPE_CHECKING:
    from proxy.cluster import Cluster
    from tls.policy import Origination


class PooledConnection(ClusterConnection):
    """A connection for exchanges, one after another or many at a time. ``retired``: it takes no new ones. ``served``
    counts them. ``policy``: the terms of TLS that it was made under.
    """

    __slots__ = (
        "_abandoned", "age_timer", "connected", "ended", "endpoint", "failure", "idleness", "opened_s", "policy",
        "received", "retired", "served", "transport",
    )  # fmt: skip

    transport: ByteTransport

    def __init__(self, endpoint: Endpoint, policy: Origination | None) -> None:
        self.endpoint = endpoint
        self.policy = policy
        self._abandoned = False
        self.age_timer: asyncio.TimerHandle | None = None
        self.connected = False
        self.ended = False
        self.retired = False
        self.failure: Exception | None = None
        self.received = 0
        self.served = 0
        self.idleness = Idleness()

    def abandon(self) -> None:
        self._abandoned = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("ByteTransport", transport)
        if self._abandoned:
            self.transport.abort()
            return
        self.connected = True
        self._opened()

    @abstractmethod
    def _opened(self) -> None:
        """It is ours. Tell the pool."""

    @abstractmethod
    def retire(self) -> None:
        """Take no new exchanges; close now, or after the last of those that run."""


C = TypeVar("C", bound=PooledConnection)


class HttpPool(Generic[C]):
    """The connections of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._connections: set[C] = set()
        self._closed = False

    def _add(self, connection: C) -> None:
        cluster = self.cluster
        self._connections.add(connection)
        cluster.connections.add(connection)
        limit_s = cluster.plan.max_connection_duration_s
        if limit_s:
            connection.age_timer = asyncio.get_running_loop().call_later(limit_s, self._outlived, connection)

    def _remove(self, connection: C, outcome: Outcome | None) -> None:
        if connection.age_timer is not None:
            connection.age_timer.cancel()
        self._connections.discard(connection)
        self.cluster.closed(connection, outcome)

    def interim(self, status: int) -> None:
        """Account for a 1xx response, which goes no further."""
        codes = self.cluster.stats.codes
        codes[status] = codes.get(status, 0) + 1

    def _outlived(self, connection: C) -> None:
        """``connection`` is as old as one may become."""
        self.cluster.stats.upstream_cx_max_duration_reached += 1
        connection.retire()

    def retire_outdated(self) -> None:
        """After a change of the plan or of a name's addresses."""
        for connection in tuple(self._connections):
            if self._is_outdated(connection):
                connection.retire()

    def _is_outdated(self, connection: C) -> bool:
        """What was verified under old terms is not reused under new ones."""
        cluster = self.cluster
        return connection.policy != cluster.plan.tls or connection.endpoint not in cluster.balancer

    def close(self) -> None:
        """No listener uses the cluster any more: connections go now, or after their exchanges."""
        self._closed = True
        for connection in tuple(self._connections):
            connection.retire()
