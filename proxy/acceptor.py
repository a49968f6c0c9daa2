"""What an accepted connection is before anybody has been made of it: bounded in number and in time."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from proxy.listener import Listener


class Acceptor(asyncio.Protocol, ABC):
    """Holds one of the listener's places from :meth:`connection_made` to :meth:`_end`."""

    __slots__ = ("_listener", "_raw", "_timer")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._raw: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw = self._raw = cast("asyncio.Transport", transport)
        if self._listener.handshake_began(self):
            self._begin()
        else:
            raw.abort()

    @abstractmethod
    def _begin(self) -> None:
        """There is room for it."""

    @abstractmethod
    def _time_out(self) -> None:
        """What :meth:`_set_timer` allowed is over."""

    def _set_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        """It is refused, lost, or somebody else's."""
        self._stop_timer()
        self._listener.handshake_ended(self)

    def drain(self) -> None:
        """The listener is closing. A peer that waits for us still may go elsewhere."""
        self.abort()

    def abort(self) -> None:
        if self._raw is not None:
            self._raw.abort()
