"""What an upstream connection is, whatever it carries: dialled for, then owned and accounted for by its cluster."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from proxy.balance import Endpoint


class Dialled(asyncio.Protocol, ABC):
    """A protocol that the dialer connects. ``connected`` is false until ``connection_made`` has taken the connection:
    from then on it is the protocol's own.
    """

    __slots__ = ()
    connected: bool

    @abstractmethod
    def abandon(self) -> None:
        """The dialer has given up: a connection that comes all the same must be aborted."""

    def chunks_received(self, chunks: list[bytes]) -> None:
        """As ``data_received``, for what came in one read but in several pieces."""
        self.data_received(b"".join(chunks))


class Idleness:
    """For the cluster's idle sweep: the bytes that had gone when it looked last, and how often that was the same."""

    __slots__ = ("ticks", "total")

    def __init__(self) -> None:
        self.ticks = 0
        self.total = -1


class ClusterConnection(Dialled):
    """An upstream connection of a cluster."""

    __slots__ = ()
    endpoint: Endpoint
    ended: bool
    """The endpoint said that it has no more to send."""
    failure: Exception | None
    """What the connection was lost with."""
    opened_s: float
    """Loop time, set by the cluster."""
    received: int
    idleness: Idleness

    @property
    @abstractmethod
    def sent(self) -> int:
        """Bytes handed to the transport."""

    @abstractmethod
    def idle_out(self) -> None:
        """No byte went either way for the whole idle timeout. Called again with each tick that this stays so."""
