"""The turns of the loop in which balancers do what an update has left to do: one slice in each turn, however many of
them have work. So a change of all services at once takes longer, and delays nobody by more than one does.
"""

from __future__ import annotations

import asyncio

from proxy.balance import Balancer


class Builds:
    """Those who wait keep their places, also if they are updated meanwhile."""

    __slots__ = ("_is_due", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Balancer, None] = {}
        self._is_due = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, balancer: Balancer) -> None:
        """See it through, if there is something to do."""
        if balancer.is_building:
            self._waiting[balancer] = None
            self._schedule()

    def discard(self, balancer: Balancer) -> None:
        """Nobody uses it any more."""
        self._waiting.pop(balancer, None)

    def _schedule(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        balancer = next(iter(self._waiting), None)
        if balancer is None:
            return
        has_more = False
        try:
            has_more = balancer.build()
        finally:  # a fault of ours in one of them stops no other
            if not has_more:
                del self._waiting[balancer]
            self._schedule()
