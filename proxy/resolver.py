"""Names and their addresses, kept fresh: refresh at the TTL, keep the last good answer while DNS fails, tell
only of changes. ``lookup`` answers once, and ``dnsquery`` asks one server.

A watch is idle (a timer is set) or refreshing (a task runs); each refresh sets the next timer before it tells
anybody, so that a listener's fault cannot end the watch. Unlike Envoy, an empty or NXDOMAIN answer counts as
a failure: the addresses known last stay for ``max_stale_s`` after they were last confirmed, then go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from proxy.resolution import Address, Answer, Clock, ResolutionError
from proxy.tasks import spawn

log = logging.getLogger("koguma.dns")

OnChange = Callable[[tuple[Address, ...]], None]
Resolve = Callable[[str], Awaitable[Answer]]

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 30.0
JITTER = 0.05
"""Spreads refreshes by this share of the interval both ways, so that watches begun together drift apart."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """The part of an event loop that a watch needs."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


class NameWatch:
    """One name, kept fresh between ``start`` and ``close``. The loop must run when ``start`` is called.

    ``on_change`` receives the new addresses (IPv4 first, sorted; empty once they are too stale to keep) each
    time that the set changes. ``ready`` is set after the first answer or the first failure, whichever comes
    first.
    """

    def __init__(
        self,
        name: str,
        resolve: Resolve,
        on_change: OnChange,
        *,
        clock: Clock,
        scheduler: Scheduler,
        rng: Random,
        max_stale_s: float = 3600.0,
    ) -> None:
        self.name = name
        self.addresses: tuple[Address, ...] = ()
        self.last_error: ResolutionError | None = None
        """What the last refresh met; ``None`` after a success."""
        self.ready = asyncio.Event()
        self.update_attempt = 0
        self.update_success = 0
        self.update_failure = 0
        self._resolve = resolve
        self._on_change = on_change
        self._clock = clock
        self._scheduler = scheduler
        self._rng = rng
        self._max_stale_s = max_stale_s
        self._confirmed_at: float | None = None
        self._failures_in_a_row = 0
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def age_s(self) -> float | None:
        """Seconds since DNS last gave an answer; ``None`` if it never did."""
        return None if self._confirmed_at is None else self._clock() - self._confirmed_at

    @property
    def stale(self) -> bool:
        """The addresses are from before the last failure."""
        return bool(self.addresses) and self.last_error is not None

    def start(self) -> None:
        if self._closed or self._task is not None:
            raise RuntimeError(f"the watch of {self.name} was started before")
        self._refresh_now()

    def close(self) -> None:
        """No refresh and no call of ``on_change`` after this. May be called twice."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _refresh_now(self) -> None:
        self._task = spawn(self._refresh(), f"resolve {self.name}")

    async def _refresh(self) -> None:
        before = self.addresses
        self.update_attempt += 1
        delay_s = MAX_RETRY_S
        try:
            try:
                answer = await self._resolve(self.name)
            except ResolutionError as error:
                delay_s = self._failed(error)
            else:
                delay_s = self._succeeded(answer)
        finally:
            if not self._closed:
                delay_s *= self._rng.uniform(1 - JITTER, 1 + JITTER)
                self._timer = self._scheduler.call_later(delay_s, self._refresh_now)
                self.ready.set()
        if not self._closed and self.addresses != before:
            self._on_change(self.addresses)

    def _succeeded(self, answer: Answer) -> float:
        if self._failures_in_a_row:
            log.info("%s resolves again after %d failures", self.name, self._failures_in_a_row)
        self.update_success += 1
        self.last_error = None
        self._failures_in_a_row = 0
        self._confirmed_at = self._clock()
        self.addresses = answer.addresses
        return answer.ttl_s

    def _failed(self, error: ResolutionError) -> float:
        """Seconds until the retry: doubled each time, but never past the moment at which the addresses
        expire.
        """
        self.update_failure += 1
        self.last_error = error
        self._failures_in_a_row += 1
        retry_s = min(FIRST_RETRY_S * 2.0 ** min(self._failures_in_a_row - 1, 16), MAX_RETRY_S)
        if self._failures_in_a_row == 1:
            kept = f"; the last {len(self.addresses)} addresses stay in use" if self.addresses else ""
            log.warning("%s does not resolve (%s): %s%s", self.name, error.kind, error.message, kept)
        age_s = self.age_s
        if not self.addresses or age_s is None:
            return retry_s
        if age_s >= self._max_stale_s:
            self.addresses = ()
            log.warning("%s has not resolved for %.0f s: its last addresses are dropped", self.name, age_s)
            return retry_s
        return min(retry_s, self._max_stale_s - age_s)


@dataclass(slots=True)
class _Shared:
    watch: NameWatch
    listeners: list[OnChange] = field(default_factory=list)


class ResolverPool:
    """One running watch for each distinct name, shared by all that use it, closed when the last has left."""

    def __init__(
        self,
        resolve: Resolve,
        *,
        clock: Clock,
        scheduler: Scheduler,
        rng: Random,
        max_stale_s: float = 3600.0,
    ) -> None:
        self._resolve = resolve
        self._clock = clock
        self._scheduler = scheduler
        self._rng = rng
        self._max_stale_s = max_stale_s
        self._shared: dict[str, _Shared] = {}

    def watch(self, name: str, on_change: OnChange) -> NameWatch:
        """Begin to be told of changes of ``name`` (case is ignored). What is known already is in the returned
        watch's ``addresses``; only what comes later is called back. Pair each call with :meth:`unwatch`.
        """
        key = name.lower()
        shared = self._shared.get(key)
        if shared is None:
            watch = NameWatch(
                key,
                self._resolve,
                lambda addresses: self._tell(key, addresses),
                clock=self._clock,
                scheduler=self._scheduler,
                rng=self._rng,
                max_stale_s=self._max_stale_s,
            )
            shared = self._shared[key] = _Shared(watch)
            watch.start()
        shared.listeners.append(on_change)
        return shared.watch

    def unwatch(self, name: str, on_change: OnChange) -> None:
        """Raises ``KeyError`` or ``ValueError`` for a name or a listener that is not watching."""
        key = name.lower()
        shared = self._shared[key]
        shared.listeners.remove(on_change)
        if not shared.listeners:
            del self._shared[key]
            shared.watch.close()

    def close(self) -> None:
        for shared in self._shared.values():
            shared.watch.close()
        self._shared.clear()

    def __iter__(self) -> Iterator[NameWatch]:
        return iter([shared.watch for shared in self._shared.values()])

    def __len__(self) -> int:
        return len(self._shared)

    def _tell(self, key: str, addresses: tuple[Address, ...]) -> None:
        shared = self._shared[key]
        for listener in tuple(shared.listeners):
            if listener not in shared.listeners:
                continue  # an earlier listener made this one leave
            try:
                listener(addresses)
            except Exception:
                # One cluster's fault must not keep the change from the others.
                log.exception("a listener failed on the new addresses of %s", key)
