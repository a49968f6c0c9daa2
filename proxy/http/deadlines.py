"""The requests of a service that must be answered, or get on, within a time: one timer for all of them.

All have the same time, so they expire in the order in which they were added, which is the order that a dict keeps: to
add and to discard are one operation each, and the timer looks only at the oldest ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.http.exchange import Exchange


class Deadlines:
    """``timeout_s`` from :meth:`add`, ``time_out(exchange)`` is called, unless it was discarded before."""

    __slots__ = ("_expiries", "_loop", "_time_out", "_timer", "timeout_s")

    def __init__(self, timeout_s: float, time_out: Callable[[Exchange], None]) -> None:
        self.timeout_s = timeout_s
        self._time_out = time_out
        self._expiries: dict[Exchange, float] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, exchange: Exchange) -> None:
        self._expiries[exchange] = self._loop.time() + self.timeout_s
        if self._timer is None:
            self._timer = self._loop.call_later(self.timeout_s, self._expire)

    def discard(self, exchange: Exchange) -> None:
        self._expiries.pop(exchange, None)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        due: list[Exchange] = []
        for exchange, expiry in self._expiries.items():
            if expiry > now:
                self._timer = self._loop.call_at(expiry, self._expire)
                break
            due.append(exchange)
        for exchange in due:
            if self._expiries.pop(exchange, None) is not None:  # else one before it has ended it
                self._time_out(exchange)
