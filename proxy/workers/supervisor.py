"""The workers as one: where a single process has a runtime, the supervisor has a fleet.

    apply(plan)    every running worker gets the difference to what it has; returns when all run the plan
    refresh()      asks every worker for its numbers, and shows the sums as ``clusters`` and ``listeners``
    drain()        all workers stop listening and let their connections finish, together

A place in the fleet is kept by one task: it starts a worker, brings it up to the plan that holds by then, and waits for
its end. A worker that ends takes its own connections with it and nothing else: the others listen on, and the place is
filled again, at once the first time, then after longer and longer waits, for a worker may die of its plan.

Ports. Each worker binds every address itself, with SO_REUSEPORT, and the kernel gives each new connection to one of
them by a hash of its addresses and ports. With that option two programs of one user could share a port without a word,
so the supervisor first binds the address without it, which fails where anybody else is; then it lets go. A program of
the same user that asks for SO_REUSEPORT later, while we run, does get its share: Linux offers no defence.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field, replace

from config.plan import Add, Change, ListenerPlan, Plan, Remove, Step, diff
from proxy import logs
from proxy.assembly import Settings
from proxy.memory import Memory, memory_held
from proxy.runtime import Applied
from proxy.sockets import StartError, bind
from proxy.stats import WorkerStats
from proxy.tasks import spawn
from proxy.workers.difference import NOTHING, compare
from proxy.workers.image import ClusterImage, Known, ListenerImage
from proxy.workers.messages import Apply, Command, Drain, Look, ResetCounters, SetLevels, Setup, StopListening
from proxy.workers.process import ANSWER_S, WorkerFailed, WorkerGone, WorkerProcess, how_it_ended
from proxy.workers.report import Slice, Summary

log = logging.getLogger("koguma.workers")

FIRST_RESTART_S = 0.5
MAX_RESTART_S = 30.0
STABLE_S = 60.0
"""A worker that has lived as long is replaced at once when it ends."""
LOOK_INTERVAL_S = 10.0
"""How often numbers are asked for when nobody looks: as much is lost of what a crashed worker counted."""
CLOSE_S = 5.0


def restart_delay_s(crashes: int) -> float:
    """How long to wait after so many ends in a row, none of which came after ``STABLE_S``."""
    return 0.0 if crashes <= 1 else min(MAX_RESTART_S, FIRST_RESTART_S * 2.0 ** min(crashes - 2, 16))


@dataclass(slots=True)
class Limit:
    """Looks like a :class:`~proxy.listener.ConnectionLimit`: the connections of all workers."""

    active: int = 0


@dataclass(slots=True, eq=False)
class _Place:
    """``sent`` is the plan that the worker has; ``is_ready``: it runs one, and may be asked."""

    number: int
    worker: WorkerProcess | None = None
    is_ready: bool = False
    sent: Plan = NOTHING
    failed: dict[str, str] = field(default_factory=dict)
    known: Known = field(default_factory=Known)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    keeper: asyncio.Task[None] | None = None
    began_s: float = 0.0


class Fleet:
    """See the module. :meth:`apply` starts the workers; :meth:`close` ends them."""

    def __init__(self, settings: Settings, count: int, log_level: str, log_format: logs.Format) -> None:
        self.plan = NOTHING
        self.clusters: dict[str, ClusterImage] = {}
        self.listeners: dict[str, ListenerImage] = {}
        self.failed: dict[str, str] = {}
        self.limit = Limit()
        self.stats = WorkerStats()
        self._settings = settings
        self._log_level = log_level
        self._log_format = log_format
        self._loop = asyncio.get_running_loop()
        self._target = NOTHING
        self._blocked: dict[str, str] = {}
        self._places = [_Place(number) for number in range(1, count + 1)]
        self._past = Known()
        self._outdated: set[str] = set()
        self._levels: dict[str, int] = {}
        self._is_leaving = False
        self._looking: asyncio.Task[None] | None = None
        self._looker: asyncio.Task[None] | None = None
        self._write_lock = os.memfd_create("koguma access log")

    @property
    def _running(self) -> list[tuple[_Place, WorkerProcess]]:
        return [(place, place.worker) for place in self._places if place.worker is not None and place.is_ready]

    @property
    def is_serving(self) -> bool:
        """Whether there is a worker at all."""
        return bool(self._running)

    # Plans

    async def apply(self, plan: Plan) -> Applied:
        """As :meth:`proxy.runtime.Runtime.apply`. The first call returns when all workers listen; it raises
        :class:`StartError` if one cannot.
        """
        steps = diff(replace(self.plan, listeners=_without(self.plan.listeners, self.failed)), plan)
        self._blocked = self._probe(plan)
        before, self._target = self._target, replace(plan, listeners=_without(plan.listeners, self._blocked))
        if self._looker is None:
            if self._blocked:
                return _applied(steps, self._blocked)
            await self._start()
        else:
            try:
                await self._for_all(self._bring_up_to_date)
            except WorkerFailed:
                self._target = before
                raise
        self.plan = plan
        self._note_failures()
        for known in (self._past, *(place.known for place in self._places)):
            known.keep_only(plan.clusters, plan.listeners)
        await self.refresh()
        return _applied(steps, self.failed)

    def _probe(self, plan: Plan) -> dict[str, str]:
        """Why listeners cannot be opened whose address somebody else holds, or that is none of ours."""
        ours = {
            (listener.address, listener.port)
            for name, listener in self._target.listeners.items()
            if any(name not in place.failed for place, _ in self._running)
        }
        blocked: dict[str, str] = {}
        for name, listener in plan.listeners.items():
            if listener.bind_to_port and (listener.address, listener.port) not in ours:
                try:
                    bind(str(listener.address), listener.port).close()
                except StartError as exc:
                    if not (listener.original_dst and exc.no_such_family):
                        blocked[name] = str(exc)
        return blocked

    async def _bring_up_to_date(self, place: _Place, worker: WorkerProcess) -> None:
        """Let the worker run what holds by now. Raises :class:`WorkerGone`, :class:`WorkerFailed`."""
        async with place.changing:
            target = self._target
            stages, difference = compare(place.sent, target, len(self._places))
            for stage in stages:
                await worker.call(stage)
            failed = await worker.call(Apply(difference))
            place.sent = target
            place.failed = dict(failed) if isinstance(failed, dict) else {}

    def _note_failures(self) -> None:
        self.failed = dict(self._blocked)
        for place, _ in self._running:
            for name, reason in place.failed.items():
                self.failed.setdefault(name, f"worker {place.number}: {reason}")

    # Workers

    async def _start(self) -> None:
        results = await asyncio.gather(*(self._raise_worker(place) for place in self._places), return_exceptions=True)
        for result in results:
            if isinstance(result, WorkerGone | WorkerFailed | OSError):
                raise StartError(f"a worker could not be started: {result}") from result
            if isinstance(result, BaseException):
                raise result
        for place in self._places:
            place.keeper = spawn(self._keep(place), f"keep worker {place.number}")
        self._looker = spawn(self._look_for_ever(), "look at workers")

    async def _raise_worker(self, place: _Place) -> None:
        """Start a worker and let it run what holds by now. Raises :class:`WorkerGone`, :class:`WorkerFailed`,
        :class:`StartError`, ``OSError``.
        """
        place.began_s = self._loop.time()
        worker = place.worker = await WorkerProcess.start(place.number, (self._write_lock,))
        place.sent, place.failed, place.known = NOTHING, {}, Known()
        try:
            settings, lock = self._settings, self._write_lock
            await worker.call(Setup(place.number, settings, self._log_level, self._log_format, lock))
            if self._levels:
                await worker.call(SetLevels(self._levels))
            await self._bring_up_to_date(place, worker)
            while place.sent is not self._target:  # the plan may have changed meanwhile
                await self._bring_up_to_date(place, worker)
        except BaseException:
            place.worker = None
            worker.kill()
            await worker.ended()
            raise
        place.is_ready = True
        self.stats.running += 1

    async def _keep(self, place: _Place) -> None:
        crashes = 0
        while True:
            worker = place.worker
            assert worker is not None
            how = how_it_ended(await worker.ended())
            self._bury(place)
            if self._is_leaving:
                return
            crashes = 1 if self._loop.time() - place.began_s >= STABLE_S else crashes + 1
            crashes = await self._replace(place, f"{worker} ended: {how}", crashes)

    async def _replace(self, place: _Place, what_happened: str, crashes: int) -> int:
        """Fill a place again, however long it takes; the number of ends in a row."""
        while True:
            self.stats.crashed += 1
            delay_s = restart_delay_s(crashes)
            logs.event(
                log,
                "worker_ended",
                f"{what_happened}; the next one starts {f'in {delay_s:g} s' if delay_s else 'now'}",
                level=logging.ERROR,
                number=place.number,
                restart_in_s=delay_s,
            )
            await asyncio.sleep(delay_s)
            try:
                await self._raise_worker(place)
            except (WorkerGone, WorkerFailed, StartError, OSError) as exc:
                what_happened = f"worker {place.number} could not be started: {exc}"
                crashes += 1
                continue
            self._note_failures()
            assert place.worker is not None
            logs.event(log, "worker_started", f"{place.worker} runs", number=place.number, pid=place.worker.pid)
            return crashes

    def _bury(self, place: _Place) -> None:
        """Keep what an ended worker has counted."""
        self.stats.running -= 1
        place.worker, place.is_ready = None, False
        self._past.bury(place.known)
        self._outdated.update(place.known.clusters, place.known.listeners)
        place.known = Known()

    async def _for_all(self, do: Callable[[_Place, WorkerProcess], Awaitable[object]]) -> None:
        """Returns when it is done for all that run. One that ends meanwhile is left to its keeper."""
        jobs = [do(place, worker) for place, worker in self._running]
        for result in await asyncio.gather(*jobs, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, WorkerGone):
                raise result

    async def _tell_all(self, command: Command, within_s: float = ANSWER_S) -> None:
        await self._for_all(lambda _, worker: worker.call(command, within_s=within_s))

    # What the admin interface sees

    async def refresh(self) -> None:
        """Ask all workers for their numbers. Whoever asks while it is under way shares the answer."""
        if self._looking is None or self._looking.done():
            self._looking = spawn(self._look(), "look at workers")
        await asyncio.shield(self._looking)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self.refresh()

    async def _look(self) -> None:
        await self._for_all(self._look_at)
        self._draw()

    async def _look_at(self, place: _Place, worker: WorkerProcess) -> None:
        known = place.known
        try:
            async for part in worker.ask(Look()):
                if isinstance(part, Slice):
                    known.take(part)
                    self._outdated.update(state.name for state in part.clusters)
                    self._outdated.update(state.name for state in part.listeners)
                elif isinstance(part, Summary):
                    known.summary = part
        except WorkerFailed as exc:
            log.error("%s: its numbers are those of the last look", exc)

    def _draw(self) -> None:
        """Without a pause: a worker that ended in between would be counted twice, with the living and with the past."""
        everyone = [place.known for place, _ in self._running]
        past, outdated, self._outdated = self._past, self._outdated, set()
        clusters: dict[str, ClusterImage] = {}
        for name, part in self.plan.clusters.items():
            cluster = self.clusters.get(name)
            if cluster is None or cluster.plan is not part or name in outdated:
                states = [known.clusters[name] for known in everyone if name in known.clusters]
                cluster = ClusterImage(part, states, past.clusters.get(name))
            clusters[name] = cluster
        listeners: dict[str, ListenerImage] = {}
        for name, one in self.plan.listeners.items():
            listener = self.listeners.get(name)
            if listener is None or listener.plan is not one or name in outdated:
                known_of_it = [known.listeners[name] for known in everyone if name in known.listeners]
                listener = ListenerImage(one, known_of_it, past.listeners.get(name))
            if name not in self._blocked:
                listeners[name] = listener
        self.clusters, self.listeners = clusters, listeners
        self.limit.active = sum(known.summary.connections for known in everyone if known.summary is not None)

    def memory(self) -> Memory:
        """Of the supervisor and all workers, as of the last look."""
        summaries = (place.known.summary for place, _ in self._running)
        return sum((summary.memory for summary in summaries if summary is not None), start=memory_held())

    async def reset_counters(self) -> None:
        self._past = Known()
        self._outdated.update(self.clusters, self.listeners)
        self.stats.reset_counters()
        await self._tell_all(ResetCounters())

    async def set_levels(self, levels: Mapping[str, int]) -> None:
        """Levels by name of the logger; workers that start later have them too."""
        self._levels |= levels
        await self._tell_all(SetLevels(levels))

    # The end

    async def stop_listening(self, inbound_only: bool) -> None:
        await self._tell_all(StopListening(inbound_only))

    async def drain(self) -> None:
        """As :meth:`proxy.runtime.Runtime.drain`. From now on nobody is replaced."""
        self._is_leaving = True
        for place in self._places:
            if place.keeper is not None and not place.is_ready:
                place.keeper.cancel()
        await self._tell_all(Drain(), within_s=self._settings.drain_time_s + ANSWER_S)

    async def close(self) -> None:
        """Let the workers end; kill those that do not. May be called twice."""
        self._is_leaving = True
        keepers = [place.keeper for place in self._places]
        for task in (self._looker, self._looking, *keepers):
            if task is not None:
                task.cancel()
        workers = [place.worker for place in self._places if place.worker is not None]
        for worker in workers:
            worker.leave()
        try:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*(worker.ended() for worker in workers))
        except TimeoutError:
            self.kill()
            await asyncio.gather(*(worker.ended() for worker in workers))
        if self._write_lock >= 0:
            os.close(self._write_lock)
            self._write_lock = -1

    def kill(self) -> None:
        """At once, without a word."""
        for place in self._places:
            if place.worker is not None:
                place.worker.kill()


def _without(listeners: Mapping[str, ListenerPlan], names: Container[str]) -> dict[str, ListenerPlan]:
    return {name: listener for name, listener in listeners.items() if name not in names}


def _applied(steps: list[Step], failed: Mapping[str, str]) -> Applied:
    return Applied(
        added=sum(isinstance(step, Add) for step in steps),
        changed=sum(isinstance(step, Change) for step in steps),
        removed=sum(isinstance(step, Remove) for step in steps),
        failed=dict(failed),
    )
