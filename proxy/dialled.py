"""What an upstream connection is handed to."""

from __future__ import annotations

import asyncio


class Dialled(asyncio.Protocol):
    """What is dialled for. ``connected`` is false until ``connection_made``: from then on the connection is its own."""

    __slots__ = ()
    connected: bool

    def chunks_received(self, chunks: list[bytes]) -> None:
        """As ``data_received``, for what came in one read but in several pieces."""
        self.data_received(b"".join(chunks))

    def abandon(self) -> None:
        """The dialer has given up: a connection that comes all the same must be aborted."""
        raise NotImplementedError
