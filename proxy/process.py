"""The life of one proxy process: load, plan, apply, serve, reload, drain.

    starting --ready--> LIVE --SIGTERM--> DRAINING --> exit 0

Every change, a file edit or SIGHUP, goes the same way: read everything, plan, apply the difference. What is wrong stays
out, keeps its last good version, and is said: in the log, in ``/resources`` and in a counter. A second SIGTERM ends
the process at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import operator
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.load import Loaded, Loader
from config.plan import Plan
from config.planner import Health, Planned, Planner, ResourceState, Settings
from config.problems import Problem
from proxy import logs
from proxy.admin.context import AdminContext
from proxy.admin.server import AdminServer
from proxy.assembly import Settings as TrafficSettings
from proxy.assembly import assemble
from proxy.clock import wall_clock
from proxy.exits import EXIT_CANNOT_START, EXIT_INVALID, EXIT_OK
from proxy.files import watch_files
from proxy.options import RunOptions
from proxy.reading import read_dataplane, standard_input
from proxy.runtime import Applied, Runtime
from proxy.sockets import StartError
from proxy.stats import ReloadStats
from proxy.tasks import spawn
from proxy.workers.supervisor import Fleet

log = logging.getLogger("koguma.process")

MIN_RENEWAL_WAIT_S = 1.0
MAX_RENEWAL_WAIT_S = 60.0
MAX_PROBLEMS_LOGGED = 200


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that was read at one moment."""

    resources: Loaded
    dataplane: Loaded

    def is_same_as(self, other: Snapshot | None) -> bool:
        """Whether nothing was read that was not read before. Documents of unchanged files are the same objects."""
        return (
            other is not None
            and self.dataplane == other.dataplane
            and self.resources.problems == other.resources.problems
            and len(self.resources.documents) == len(other.resources.documents)
            and all(map(operator.is_, self.resources.documents, other.resources.documents))
        )


class Process:
    """One ``koguma run``. :meth:`run` returns the exit code."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._loader = Loader()
        self._planner = Planner(Settings(os.environ, options.admin_address, options.admin_port))
        self._reload_stats = ReloadStats()
        self._planned: Planned | None = None
        self._runtime: Runtime | Fleet | None = None
        self._admin: AdminServer | None = None
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._stdin = standard_input(options.sources)
        self._reported: frozenset[Problem] = frozenset()
        self._snapshot: Snapshot | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._renewal_due = False
        self._failing_health = False
        self._state = "INITIALIZING"

    async def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        snapshot = self._snapshot = self._read()
        planned = self._plan(snapshot)
        if planned.plan is None or (self._options.strict and planned.has_errors):
            for problem in planned.problems:
                print(problem.as_text(), file=sys.stderr)
            return EXIT_INVALID
        try:
            await self._start(planned)
        except StartError as exc:
            print(f"koguma: {exc}", file=sys.stderr)
            await self._close()
            return EXIT_CANNOT_START
        spawn(self._watch(), "watch files")
        reloader = spawn(self._reload_for_ever(), "reload")
        await self._stopping.wait()
        reloader.cancel()
        await self._drain()
        await self._close()
        self._ignore_signals()
        return EXIT_OK

    # Start

    def _read(self) -> Snapshot:
        sources = self._options.sources
        return Snapshot(
            self._loader.load(sources.resources),
            read_dataplane(sources, self._stdin),
        )

    def _plan(self, snapshot: Snapshot) -> Planned:
        return self._planner.plan(snapshot.resources, snapshot.dataplane, wall_clock())

    async def _start(self, planned: Planned) -> None:
        assert planned.plan is not None
        options = self._options
        runtime = self._runtime = self._new_runtime(planned.plan)
        for flag in options.without_effect:
            log.warning("%s has no effect in this version", flag)
        self._report(planned.problems)
        applied = await runtime.apply(planned.plan)
        if applied.failed:
            raise StartError("; ".join(applied.failed.values()))
        self._planned = planned
        self._expect_renewal()
        self._admin = AdminServer(self._admin_context(runtime))
        await self._admin.start(planned.plan.admin.address, planned.plan.admin.port)
        self._state = "LIVE"
        self._reload_stats.generation = 1
        self._say_ready(planned)

    def _new_runtime(self, plan: Plan) -> Runtime | Fleet:
        """What carries traffic: this process, or workers. Raises :class:`StartError`."""
        options = self._options
        settings = TrafficSettings(
            options.drain_time_s,
            options.names.upstreams,
            options.names.hosts_file,
            options.access_log,
            options.log_format == "json",
        )
        if options.concurrency == 1:
            return assemble(plan, settings)
        return Fleet(settings, options.concurrency, options.log_level, options.log_format)

    def _say_ready(self, planned: Planned) -> None:
        assert self._runtime is not None
        assert self._admin is not None
        assert planned.plan is not None
        for name, listener in self._runtime.listeners.items():
            log.info("%s listens on %s for %s", name, listener.plan.bind, listener.plan.cluster)
        facts = {
            "event": "ready",
            "listeners": len(self._runtime.listeners),
            "services": len(planned.plan.clusters),
            "broken": sum(state.health is not Health.GOOD for state in planned.resources),
            "admin": f"{planned.plan.admin.address}:{self._admin.port}",
        }
        # Not a log line: whoever starts us waits for this one, whatever the log level.
        line = json.dumps(facts) if self._options.log_format == "json" else "koguma ready"
        sys.stderr.write(line + "\n")  # in one piece: the log's thread writes there too
        sys.stderr.flush()

    # Reload

    async def _watch(self) -> None:
        sources = self._options.sources
        paths = [Path(path) for path in sources.resources]
        if sources.dataplane_file not in (None, "-"):
            paths.append(Path(str(sources.dataplane_file)))
        if paths:
            await watch_files(paths, self._reload_wanted.set, self._stopping)

    async def _reload_for_ever(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            try:
                await self._reload()
            except Exception:
                # A fault of ours. What runs goes on running, and the next change is tried again.
                self._reload_stats.failed += 1
                self._snapshot = None
                log.exception("reload failed", extra={"event": "reload_failed"})

    async def _reload(self) -> None:
        """Read and plan in a thread, so that traffic does not wait for YAML; apply here."""
        assert self._runtime is not None
        snapshot = await asyncio.to_thread(self._read)
        if snapshot.is_same_as(self._snapshot) and not self._renewal_due:
            return
        self._renewal_due = False
        self._snapshot = snapshot
        planned = await asyncio.to_thread(self._plan, snapshot)
        assert planned.plan is not None
        stats = self._reload_stats
        if self._options.strict and planned.has_errors:
            stats.rejected += 1
            self._say_rejected(planned, "the whole set is refused (--strict)")
            return
        applied = await self._runtime.apply(planned.plan)
        self._planned = planned
        self._expect_renewal()
        stats.generation += 1
        stats.success += 1
        self._say_reloaded(planned, applied)

    def _expect_renewal(self) -> None:
        """Plan again when the identity's certificate is due. Looked at often, since the machine may have slept."""
        plan = self._planned.plan if self._planned is not None else None
        due = plan.identity.renew_at if plan is not None and plan.identity is not None else None
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if due is None:
            return
        left_s = (due - wall_clock()).total_seconds()
        if left_s <= 0:
            self._renewal_due = True
            self._reload_wanted.set()
        wait_s = min(max(left_s, MIN_RENEWAL_WAIT_S), MAX_RENEWAL_WAIT_S)
        self._renewal = self._loop.call_later(wait_s, self._expect_renewal)

    def _say_reloaded(self, planned: Planned, applied: Applied) -> None:
        if planned.has_errors:
            self._reload_stats.rejected += 1
            self._say_rejected(planned, "what is wrong keeps its last good version, or is absent")
        else:
            self._report(planned.problems)
        for name, reason in applied.failed.items():
            log.error("%s: %s", name, reason, extra={"event": "listener_failed", "listener": name})
        logs.event(
            log,
            "reloaded",
            f"reloaded: {applied.added} added, {applied.changed} changed, {applied.removed} removed",
            added=applied.added,
            changed=applied.changed,
            removed=applied.removed,
            generation=self._reload_stats.generation,
        )

    def _say_rejected(self, planned: Planned, consequence: str) -> None:
        faults = [problem for problem in planned.problems if problem.is_error]
        self._report(planned.problems)
        logs.event(
            log,
            "rejected",
            f"{len(faults)} errors in the resources: {consequence}",
            level=logging.ERROR,
            problems=[problem.as_json() for problem in faults[:MAX_PROBLEMS_LOGGED]],
        )

    def _report(self, problems: Iterable[Problem]) -> None:
        """Log each problem once, until it goes away."""
        problems = frozenset(problems)
        for problem in sorted(problems - self._reported)[:MAX_PROBLEMS_LOGGED]:
            log.log(
                logging.ERROR if problem.is_error else logging.WARNING,
                "%s",
                problem.as_text(),
                extra={"event": "problem", "problem": problem.as_json()},
            )
        self._reported = problems

    # Admin

    def _admin_context(self, runtime: Runtime | Fleet) -> AdminContext:
        options = self._options
        context = AdminContext(
            runtime=runtime,
            state=self._server_state,
            resources=self._resources,
            reload=self._reload_stats,
            node_id=f"{runtime.plan.proxy.mesh}.{runtime.plan.proxy.name}",
            started_s=self._loop.time(),
            started_at=wall_clock(),
            actions=self,
            options={
                "dataplane_file": options.sources.dataplane_file,
                "resources": list(options.sources.resources),
                "strict": options.strict,
                "drain_time": f"{options.drain_time_s:g}s",
                "log_level": options.log_level,
            },
            concurrency=options.concurrency,
            utc_now=wall_clock,
        )
        if isinstance(runtime, Fleet):
            context.workers, context.refresh, context.memory = runtime.stats, runtime.refresh, runtime.memory
        return context

    def _server_state(self) -> str:
        if self._failing_health:
            return "DRAINING"
        if self._state == "LIVE" and isinstance(self._runtime, Fleet) and not self._runtime.is_serving:
            return "INITIALIZING"
        return self._state

    async def quit(self) -> None:
        self._stop()

    async def healthcheck(self, *, fail: bool) -> None:
        self._failing_health = fail

    async def set_levels(self, levels: Mapping[str, int]) -> None:
        logs.set_levels(levels)
        if isinstance(self._runtime, Fleet):
            await self._runtime.set_levels(levels)

    async def drain_listeners(self, *, inbound_only: bool, graceful: bool, skip_exit: bool) -> None:
        """``graceful``: connections have the drain time; ``skip_exit``: the ports stay open all the same."""
        assert self._runtime is not None
        if skip_exit:
            await self.healthcheck(fail=True)
        elif graceful:
            spawn(self._stop_listening_later(inbound_only), "drain listeners")
        else:
            await self._runtime.stop_listening(inbound_only)

    async def _stop_listening_later(self, inbound_only: bool) -> None:
        assert self._runtime is not None
        await asyncio.sleep(self._options.drain_time_s)
        await self._runtime.stop_listening(inbound_only)

    def _resources(self) -> list[dict[str, object]]:
        assert self._planned is not None
        return [self._resource_row(state) for state in self._planned.resources]

    def _resource_row(self, state: ResourceState) -> dict[str, object]:
        status: dict[str, object] = {"conditions": state.conditions()}
        runtime = self._runtime
        if state.cluster is not None and runtime is not None:
            cluster = runtime.clusters.get(state.cluster.name)
            status["endpoints"] = cluster.describe_endpoints() if cluster is not None else []
        return {
            "type": state.kind,
            "mesh": state.mesh,
            "name": state.name,
            "kri": state.kri,
            "file": state.file,
            "line": state.line,
            "problems": [problem.as_json() for problem in state.problems],
            "status": status,
        }

    # Stop

    def _hang_up(self) -> None:
        """SIGHUP: plan anew even where no file changed; certificates may have expired, the system's CA file moved."""
        self._snapshot = None
        self._reload_wanted.set()

    def _stop(self) -> None:
        if self._stopping.is_set():
            log.warning("second signal: leaving at once")
            if isinstance(self._runtime, Fleet):
                self._runtime.kill()
            os._exit(EXIT_OK)
        self._stopping.set()

    def _ignore_signals(self) -> None:
        """All is done: one that comes while the interpreter ends must not make a failure of it."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    async def _drain(self) -> None:
        assert self._runtime is not None
        self._state = "DRAINING"
        log.info("draining for at most %g s", self._options.drain_time_s, extra={"event": "draining"})
        await self._runtime.drain()
        log.info("drained", extra={"event": "drained"})

    async def _close(self) -> None:
        if self._runtime is not None:
            await self._runtime.close()
        if self._admin is not None:
            await self._admin.close()
