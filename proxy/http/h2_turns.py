"""Whose turn is it? One read may hold hundreds of requests, and many clients may send as many at once: each turn of the
loop begins a bounded number of them, and whoever else has something to do waits for no more.

    begins at once     while there are turns left, and the client has nothing that waits
    waits              the request, and behind it all that its connection has received (``Connection.hold``)

A turn goes round among those who wait, a few requests for each. What has been received is worked through ahead of the
requests that wait to be sent on, so that one that is reset at once costs an endpoint nothing. What a client can make
wait is one read: its connection is not read from meanwhile.

All listeners of a process share the turns: a burst at each of a hundred services is as long for everybody else as a
hundred at one.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

MAX_REQUESTS_PER_TURN = 32
"""Of all clients of all listeners: those that begin at once, and likewise those that have waited."""
MAX_REQUESTS_AT_A_TIME = 8
"""Of one of them, before it is the next one's turn."""
HALF_SPENT = MAX_REQUESTS_PER_TURN // 2


class Waiting(Protocol):
    def go_on(self, requests: int) -> bool:
        """Take in so many requests, and send as many on; whether there is more."""

    def abort(self) -> None: ...


class Turns:
    """Of a process. ``left``: how many requests may still begin at once. Who takes the one at ``HALF_SPENT`` has it
    filled up in the next turn (:meth:`go_round`): who sends a few requests at a time never has to wait.
    """

    __slots__ = ("_is_due", "_loop", "_waiting", "left")

    def __init__(self) -> None:
        self.left = MAX_REQUESTS_PER_TURN
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Waiting, None] = {}
        self._is_due = False

    def wait(self, client: Waiting) -> None:
        """Let ``client`` go on in a later turn. Who waits already keeps its place."""
        self._waiting[client] = None
        self.go_round()

    def go_round(self) -> None:
        """In the next turn of the loop."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        self.left = MAX_REQUESTS_PER_TURN
        waiting = self._waiting
        try:
            for _ in range(MAX_REQUESTS_PER_TURN // MAX_REQUESTS_AT_A_TIME):
                client = next(iter(waiting), None)
                if client is None:
                    return
                del waiting[client]
                try:
                    has_more = client.go_on(MAX_REQUESTS_AT_A_TIME)
                except Exception:
                    client.abort()  # a fault of ours: nobody knows what of it would be left
                    raise
                if has_more:
                    waiting[client] = None
        finally:
            if waiting:
                self.go_round()
