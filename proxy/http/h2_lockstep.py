"""Where all that an endpoint's connection carries is for one client, read no more than that client takes.

A sidecar's requests reach an egress on one connection, and may leave it on one. What the endpoint sends may be much
ahead of what the client has taken: as much as the windows let in. That waits in streams, a frame at a time, grows cold,
and takes its turn (``proxy.wire.h2.turns``). So whoever has read much for one client sends it on at once, and while
the client's transport is full reads no more; then all of it passes right through (``proxy.wire.h2.passing``).

Nobody else waits for that client. As soon as another has a stream there, we read as ever. And so do we when
:data:`PATIENCE_S` is over: a client that takes nothing may wait for what the endpoint has to say of its uploads.
"""

from __future__ import annotations

import asyncio

from proxy.http.h2_output import Http2Output
from proxy.relay import ByteTransport

PATIENCE_S = 0.05


class Lockstep:
    """Of one connection to an endpoint. ``client``: the only one that it carries anything for, if that is so."""

    __slots__ = ("_is_in_vain", "_loop", "_timer", "client", "transport")

    transport: ByteTransport

    def __init__(self) -> None:
        self.client: Http2Output | None = None
        self._is_in_vain = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def change(self, client: Http2Output | None, *, is_only: bool) -> None:
        """A stream begins that is not for :attr:`client`. ``is_only``: there is no other. ``None``: a client whose
        connection carries nothing else, and that is paused by itself.
        """
        self._forget_client()
        self.client = client if is_only else None
        self._is_in_vain = False
        self._read_on()

    def wait(self) -> None:
        """The client's transport is full: read on when it no longer is."""
        if self.client is None or self._timer is not None or self._is_in_vain or self.transport.is_closing():
            return
        self.transport.pause_reading()
        self._timer = self._loop.call_later(PATIENCE_S, self._lose_patience)
        self.client.when_taken(self._taken)

    def end(self) -> None:
        """The connection is lost."""
        self._forget_client()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget_client(self) -> None:
        """It may be full for long, and outlive many connections to endpoints."""
        if self.client is not None:
            self.client.forget(self._taken)
            self.client = None

    def _taken(self) -> None:
        self._is_in_vain = False
        self._read_on()

    def _lose_patience(self) -> None:
        self._is_in_vain = True
        self._read_on()

    def _read_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if not self.transport.is_closing():
                self.transport.resume_reading()
