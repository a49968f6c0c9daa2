"""Runs extensions, and keeps what they supply.

    plan -> apply(who is wanted) -> a task for each service, in the thread of its type -> publish
         -> supplied(), read by the next plan, which `changed` asks for

A thread for each type: code of others may block its own event loop and not ours. Nobody waits for it, not even at the
end: the threads are daemons. All that crosses between threads is a finished, immutable value; what comes from a watch
that is no longer wanted is dropped. Changes are told at most once in ``TELL_INTERVAL_S``, however fast they come.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

from config.extension import NOTHING, Supplied, Supply
from config.load import Key
from config.resources.meshexternalservice import Extension as Reference
from proxy.extensions.api import Context, Endpoint, Extension
from proxy.extensions.registry import Registry
from proxy.tasks import spawn

log = logging.getLogger("koguma.extensions")

MAX_ENDPOINTS = 1024
MAX_SUPPLY_BYTES = 1024 * 1024
FIRST_RESTART_S = 1.0
MAX_RESTART_S = 60.0
TELL_INTERVAL_S = 1.0
GOODBYE_S = 1.0


class _Worker:
    """The thread of one type, with its event loop."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._run, name=f"extension {name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def do(self, action: Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(action)

    def stop(self) -> None:
        self.do(self.loop.stop)

    def join(self) -> None:
        self._thread.join(GOODBYE_S)


@dataclass(slots=True, eq=False)
class _Watch:
    """One service's. Its fields belong to the main thread, ``task`` to the worker's."""

    key: Key
    reference: Reference
    worker: _Worker
    supplied: Supplied = NOTHING
    task: asyncio.Task[None] | None = None


class ExtensionHost:
    """Lives in the event loop that it was made in. Implements :class:`config.extension.Extensions`."""

    def __init__(
        self,
        registry: Registry,
        changed: Callable[[], object],
        nameservers: Callable[[], Sequence[tuple[str, int]]],
    ) -> None:
        """``changed`` is called in our event loop when there is something new to plan with."""
        self._registry = registry
        self._changed = changed
        self._nameservers = nameservers
        self._loop = asyncio.get_running_loop()
        self._workers: dict[str, _Worker] = {}
        self._watches: dict[Key, _Watch] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._told_s = float("-inf")
        self.version = 0
        """Grows with each change of what is supplied."""

    # For planning, from any thread

    def check(self, type: str, config: Any) -> Sequence[str] | None:
        return self._registry.check(type, config)

    def supplied(self, key: Key) -> Supplied:
        watch = self._watches.get(key)
        return watch.supplied if watch is not None else NOTHING

    # What runs

    def apply(self, wanted: Mapping[Key, Reference]) -> None:
        """Watch for these services and no others. A watch whose config stayed the same goes on."""
        for key, watch in tuple(self._watches.items()):
            if wanted.get(key) != watch.reference:
                del self._watches[key]
                self._cancel(watch)
        for key, reference in wanted.items():
            if key not in self._watches:
                extension = self._registry.extension(reference.type, reference.config)
                if extension is not None:
                    self._start(key, reference, extension)

    def _start(self, key: Key, reference: Reference, extension: Extension) -> None:
        worker = self._workers.get(reference.type)
        if worker is None:
            worker = self._workers[reference.type] = _Worker(reference.type)
        watch = self._watches[key] = _Watch(key, reference, worker)

        def publish(endpoints: Sequence[Endpoint], tls: Mapping[str, Any] | None = None) -> None:
            supply = _frozen(endpoints, tls)
            self._loop.call_soon_threadsafe(self._take, watch, Supplied(supply))

        context = Context(key[1], key[2], json.loads(json.dumps(reference.config)), publish, self._nameservers)

        def begin() -> None:
            watch.task = spawn(self._watch(watch, extension, context), f"extension {reference.type} {key[2]}")

        worker.do(begin)

    async def _watch(self, watch: _Watch, extension: Extension, context: Context) -> None:
        """In the worker's loop: watch, and begin again when that ends, later each time."""
        wait_s = FIRST_RESTART_S
        while True:
            before = watch.supplied
            try:
                await extension.watch(context)
                fault = "stopped watching"
            except Exception as exc:
                fault = f"failed: {type(exc).__name__}: {exc}"
            if watch.supplied is not before:  # it has been of use: begin anew with the shortest wait
                wait_s = FIRST_RESTART_S
            self._loop.call_soon_threadsafe(self._blame, watch, fault)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, MAX_RESTART_S)

    def _take(self, watch: _Watch, supplied: Supplied) -> None:
        if self._watches.get(watch.key) is watch and watch.supplied != supplied:
            watch.supplied = supplied
            self._tell()

    def _blame(self, watch: _Watch, fault: str) -> None:
        if self._watches.get(watch.key) is not watch:
            return
        if watch.supplied.fault != fault:
            log.warning(
                "%s: extension %s %s; it is started again",
                watch.key[2],
                watch.reference.type,
                fault,
                extra={"event": "extension_failed", "extension": watch.reference.type, "service": watch.key[2]},
            )
        self._take(watch, Supplied(watch.supplied.supply, fault))

    def _tell(self) -> None:
        self.version += 1
        if self._telling is None:
            wait_s = max(0.0, self._told_s + TELL_INTERVAL_S - self._loop.time())
            self._telling = self._loop.call_later(wait_s, self._tell_now)

    def _tell_now(self) -> None:
        self._telling = None
        self._told_s = self._loop.time()
        self._changed()

    def _cancel(self, watch: _Watch) -> None:
        def end() -> None:
            if watch.task is not None:
                watch.task.cancel()

        watch.worker.do(end)

    def close(self) -> None:
        """Ask all watches to end; those that do not listen end with the process."""
        if self._telling is not None:
            self._telling.cancel()
        for watch in self._watches.values():
            self._cancel(watch)
        self._watches.clear()
        for worker in self._workers.values():
            worker.stop()
        for worker in self._workers.values():
            worker.join()
        self._workers.clear()


def _frozen(endpoints: Sequence[Endpoint], tls: Mapping[str, Any] | None) -> Supply:
    """A copy that nobody else can change. Raises ``ValueError``."""
    if len(endpoints) > MAX_ENDPOINTS:
        raise ValueError(f"{len(endpoints)} endpoints: there may be {MAX_ENDPOINTS}")
    try:
        text = json.dumps({"endpoints": [dict(one) for one in endpoints], "tls": tls if tls is None else dict(tls)})
    except (TypeError, RecursionError) as exc:
        raise ValueError(f"not JSON: {exc}") from exc
    if len(text) > MAX_SUPPLY_BYTES:
        raise ValueError(f"more than {MAX_SUPPLY_BYTES} bytes")
    tree = json.loads(text)
    return Supply(tuple(tree["endpoints"]), tree["tls"])
