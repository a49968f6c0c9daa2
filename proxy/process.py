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
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from config import trustfiles, vipstate
from config.created_trust import CreatedTrust
from config.issuers import IdentityFiles
from config.load import DataplaneLoader, Loaded, Loader
from config.plan import DnsTarget, Plan
from config.planner import Health, Planned, Planner, ResourceState, Settings
from config.problems import Problem
from config.vips import Lease
from proxy import logs
from proxy.admin.context import AdminContext, ListenerView
from proxy.admin.server import AdminServer
from proxy.assembly import Settings as TrafficSettings
from proxy.assembly import assemble
from proxy.clock import wall_clock
from proxy.collector import undisturbed
from proxy.exits import EXIT_CANNOT_START, EXIT_INVALID, EXIT_OK
from proxy.extensions.host import ExtensionHost
from proxy.extensions.registry import Registry
from proxy.files import watch_files
from proxy.options import RunOptions
from proxy.probes import Probes
from proxy.reading import read_dataplane, read_leases, standard_input, wall_clock_s
from proxy.resolution import show
from proxy.runtime import Applied, Runtime
from proxy.sockets import StartError
from proxy.spire import SpireAgent, agent_address
from proxy.stats import DnsStats, ReloadStats
from proxy.tasks import spawn
from proxy.throttle import Throttle

if TYPE_CHECKING:
    from proxy.dns.server import DnsServer
    from proxy.lookup import Resolver
    from proxy.workers.supervisor import Fleet

log = logging.getLogger("koguma.process")

MIN_RENEWAL_WAIT_S = 1.0
MAX_RENEWAL_WAIT_S = 60.0
MAX_PROBLEMS_LOGGED = 200
MAX_LISTENERS_LOGGED = 100


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that was read at one moment."""

    resources: Loaded
    dataplane: Loaded
    supplies: tuple[int, ...] = ()
    """The versions of what comes from elsewhere: extensions, the agent that issues identities, an identity's files."""

    def is_same_as(self, other: Snapshot | None) -> bool:
        """Whether nothing was read that was not read before. Documents of unchanged files are the same objects."""
        return (
            other is not None
            and self.supplies == other.supplies
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
        self._loader = Loader(wall_clock_s)
        self._planner: Planner
        self._reload_stats = ReloadStats()
        self._planned: Planned | None = None
        self._runtime: Runtime | Fleet | None = None
        self._fleet: Fleet | None = None
        """The same, where traffic is carried by workers."""
        self._admin: AdminServer | None = None
        self._dns_stats = DnsStats()
        self._dns: DnsServer | None = None
        self._throttle = Throttle(self._loop.time)
        self._extensions = ExtensionHost(
            Registry(), lambda: self._reload_wanted.set(), lambda: self._resolver.nameservers()
        )
        self._probes = Probes()
        self._agent = SpireAgent(agent_address(os.environ), lambda: self._reload_wanted.set())
        identity = options.sources.identity
        self._identity_files = IdentityFiles(identity) if identity is not None else None
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._dataplane_loader = DataplaneLoader()
        self._stdin = standard_input(options.sources)
        self._reported: frozenset[Problem] = frozenset()
        self._said_unrestricted = False
        self._snapshot: Snapshot | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._renewal_due = False
        self._failing_health = False
        self._state = "INITIALIZING"

    async def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        try:
            self._planner = self._new_planner()
        except StartError as exc:
            print(f"koguma: {exc}", file=sys.stderr)
            return EXIT_CANNOT_START
        try:
            with undisturbed():
                snapshot = self._snapshot = self._read()
                planned = self._plan(snapshot)
                if planned.agent_timeout_s is not None:
                    self._agent.apply(True)
                    await self._agent.answer(planned.agent_timeout_s)
                    snapshot = self._snapshot = self._read()
                    planned = self._plan(snapshot)
                if planned.plan is None or (self._options.strict and planned.has_errors):
                    for problem in planned.problems:
                        print(problem.as_text(), file=sys.stderr)
                    await self._close()
                    return EXIT_INVALID
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

    def _new_planner(self) -> Planner:
        """Raises :class:`StartError`."""
        options = self._options
        settings = Settings(
            os.environ,
            options.admin_address,
            options.admin_port,
            vips=options.vips.listen,
            pools=options.vips.pools,
            leases=self._read_leases(),
            extensions=self._extensions,
            agent=self._agent,
            identity_files=self._identity_files,
            is_egress=options.proxy_type == "egress",
            identity_dir=options.vips.identity_dir,
            drain_untrusted=options.drain_untrusted,
        )
        return Planner(settings)

    def _read_leases(self) -> tuple[Lease, ...]:
        """Those of the last run. A damaged file is kept aside: most addresses are derived anew as they were."""
        directory = self._options.vips.state_dir
        if directory is None:
            return ()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                return read_leases(self._options.vips)
            except vipstate.DamagedError as exc:
                kept = vipstate.set_aside(directory)
                log.error(
                    "%s; it is kept as %s, and VIPs are derived anew", exc, kept, extra={"event": "state_damaged"}
                )
                return ()
        except OSError as exc:
            raise StartError(f"cannot create the state directory {directory}: {exc.strerror}") from exc
        except vipstate.StateError as exc:
            raise StartError(str(exc)) from exc

    def _keep_leases(self) -> None:
        """Write down who has which virtual IP, before anybody is told. Raises :class:`~config.vipstate.StateError`."""
        directory, ledger = self._options.vips.state_dir, self._planner.vips
        if directory is not None and ledger.changed:
            vipstate.save(directory, ledger.leases)
            ledger.changed = False

    def _keep_trusts(self, planned: Planned) -> None:
        """Write down what other zones need to trust this one."""
        directory = self._options.vips.state_dir
        if directory is None:
            return
        try:
            for path in trustfiles.write(directory, planned.created_trusts):
                log.info("%s has the trust of this zone, for others", path, extra={"event": "trust_written"})
        except OSError as exc:
            log.error("the trust of this zone cannot be written: %s", exc, extra={"event": "state_not_written"})

    def _read(self) -> Snapshot:
        sources = self._options.sources
        supplies = [self._extensions.version, self._agent.version]  # first: what comes meanwhile is planned once more
        if self._identity_files is not None:
            self._identity_files.refresh()
            supplies.append(self._identity_files.version)
        return Snapshot(
            self._loader.load(sources.resources),
            read_dataplane(sources, self._dataplane_loader, self._stdin),
            tuple(supplies),
        )

    def _plan(self, snapshot: Snapshot) -> Planned:
        planned = self._planner.plan(snapshot.resources, snapshot.dataplane, wall_clock())
        if planned.plan is not None:
            self._load_dns(planned.plan)
        return planned

    def _load_dns(self, plan: Plan) -> None:
        """Many have no names to resolve or to serve, and do without these 2 MiB. They are loaded here, since that takes
        50 ms, and a reload plans in a thread.
        """
        if self._serves_names(plan):
            import_module("proxy.dns.server")
        elif self._options.concurrency == 1 and "proxy.lookup" not in sys.modules and _has_names(plan):
            import_module("proxy.lookup")

    def _serves_names(self, plan: Plan) -> bool:
        enabled = self._options.dns.enabled
        return bool(plan.names) if enabled is None else enabled

    async def _start(self, planned: Planned) -> None:
        assert planned.plan is not None
        runtime = self._runtime = self._new_runtime(planned.plan)
        self._report(planned.problems)
        try:
            self._keep_leases()
        except vipstate.StateError as exc:
            raise StartError(str(exc)) from exc
        self._keep_trusts(planned)
        applied = await runtime.apply(planned.plan)
        if applied.failed:
            raise StartError(_first_few(list(applied.failed.values())))
        await self._serve_names(planned.plan)
        self._extensions.apply(planned.extended)
        self._probes.apply(planned.plan.listeners.values())
        self._planned = planned
        self._expect_renewal()
        self._admin = AdminServer(self._admin_context(runtime))
        await self._admin.start(planned.plan.admin.address, planned.plan.admin.port)
        self._state = "LIVE"
        self._reload_stats.generation = 1
        self._say_ready(planned)
        self._say_unrestricted(planned.plan)

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
        from proxy.workers.supervisor import Fleet  # here: most have one worker, which is this process

        self._fleet = Fleet(settings, options.concurrency, options.log_level, options.log_format)
        return self._fleet

    @cached_property
    def _resolver(self) -> Resolver:
        names = self._options.names
        from proxy.lookup import Resolver  # here: see _load_dns

        return Resolver(names.upstreams or None, names.hosts_file, self._loop.time)

    async def _serve_names(self, plan: Plan) -> None:
        """Give the DNS server the names of the plan; start it once it is wanted. Raises :class:`StartError`."""
        options = self._options.dns
        if self._dns is None and not self._serves_names(plan):
            return
        from proxy.dns.records import Records  # here, since it is loaded by now: see _load_dns
        from proxy.dns.server import DnsServer

        if self._dns is None:
            server = DnsServer(self._resolver, self._dns_stats, self._throttle)
            await server.start(options.address, options.port, self._options.names.upstreams)
            self._dns = server
        self._dns.records = Records(plan.names)

    def _say_ready(self, planned: Planned) -> None:
        assert self._runtime is not None
        assert self._admin is not None
        assert planned.plan is not None
        listeners: Mapping[str, ListenerView] = self._runtime.listeners
        for name, listener in list(listeners.items())[:MAX_LISTENERS_LOGGED]:
            log.info("%s listens on %s for %s", name, listener.plan.bind, listener.plan.cluster)
        if len(listeners) > MAX_LISTENERS_LOGGED:
            log.info("and %d more: see /listeners", len(listeners) - MAX_LISTENERS_LOGGED)
        facts = {
            "event": "ready",
            "listeners": len(self._runtime.listeners),
            "services": len(planned.plan.clusters),
            "broken": sum(state.health is not Health.GOOD for state in planned.resources),
            "admin": f"{planned.plan.admin.address}:{self._admin.port}",
            "dns": show(self._dns.own) if self._dns is not None else None,
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
        if sources.identity is not None:
            paths += sources.identity.all
        if paths:
            await watch_files(paths, self._reload_wanted.set, self._stopping)

    async def _reload_for_ever(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            try:
                with undisturbed():
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
        try:
            await asyncio.to_thread(self._keep_leases)
        except vipstate.StateError as exc:
            log.error("%s: VIPs given since may move at the next start", exc, extra={"event": "state_not_written"})
        await asyncio.to_thread(self._keep_trusts, planned)
        applied = await self._runtime.apply(planned.plan)
        try:
            await self._serve_names(planned.plan)
        except StartError as exc:
            log.error("the DNS server does not run: %s", exc, extra={"event": "dns_failed"})
        self._extensions.apply(planned.extended)
        self._agent.apply(planned.agent_timeout_s is not None)
        self._probes.apply(planned.plan.listeners.values())
        self._planned = planned
        self._expect_renewal()
        stats.generation += 1
        stats.success += 1
        self._say_reloaded(planned, applied)
        self._say_unrestricted(planned.plan)

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
        for name, reason in islice(applied.failed.items(), MAX_LISTENERS_LOGGED):
            log.error("%s: %s", name, reason, extra={"event": "listener_failed", "listener": name})
        if (more := len(applied.failed) - MAX_LISTENERS_LOGGED) > 0:
            log.error("and %d more listeners that do not run", more, extra={"event": "listeners_failed", "more": more})
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

    def _say_unrestricted(self, plan: Plan) -> None:
        """That nobody restricts who may come in: once, until somebody has."""
        inbounds = [one for one in plan.listeners.values() if one.acceptance is not None]
        is_unrestricted = any(one.permissions is None for one in inbounds)
        if is_unrestricted and not self._said_unrestricted:
            log.warning(
                "there is no MeshTrafficPermission: every verified peer may use the inbounds",
                extra={"event": "inbounds_unrestricted"},
            )
        self._said_unrestricted = is_unrestricted

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
            dns=self._dns_stats,
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
            probes=self._probes.by_listener,
        )
        if self._fleet is not None:
            fleet = self._fleet
            context.workers, context.refresh, context.memory = fleet.stats, fleet.refresh, fleet.memory
        return context

    def _server_state(self) -> str:
        if self._failing_health:
            return "DRAINING"
        if self._state == "LIVE" and self._fleet is not None and not self._fleet.is_serving:
            return "INITIALIZING"
        return self._state

    async def quit(self) -> None:
        self._stop()

    async def healthcheck(self, *, fail: bool) -> None:
        self._failing_health = fail

    async def set_levels(self, levels: Mapping[str, int]) -> None:
        logs.set_levels(levels)
        if self._fleet is not None:
            await self._fleet.set_levels(levels)

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
        rows = [self._resource_row(state) for state in self._planned.resources]
        return rows + list(map(_created_row, self._planned.created_trusts))

    def _resource_row(self, state: ResourceState) -> dict[str, object]:
        status = state.status.as_json() if state.status is not None else {}
        status["conditions"] = state.conditions()
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
        """SIGHUP: read and plan anew even where no file changed; certificates may have expired, the system's CA file
        moved, a file system may not tell the time of a change.
        """
        self._loader.distrust()
        self._snapshot = None
        self._reload_wanted.set()

    def _stop(self) -> None:
        if self._stopping.is_set():
            log.warning("second signal: leaving at once")
            if self._fleet is not None:
                self._fleet.kill()
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
        self._extensions.close()
        self._agent.close()
        self._probes.close()
        if self._admin is not None:
            await self._admin.close()
        if self._dns is not None:
            await self._dns.close()


def _has_names(plan: Plan) -> bool:
    """Whether an endpoint has a name, that is to be resolved."""
    return any(
        isinstance(endpoint.target, DnsTarget) for cluster in plan.clusters.values() for endpoint in cluster.endpoints
    )


def _created_row(created: CreatedTrust) -> dict[str, object]:
    """A MeshTrust that is in no file of its own: its content is shown, to be copied."""
    return {
        "type": "MeshTrust",
        "mesh": created.mesh,
        "name": created.name,
        "kri": created.kri,
        "file": created.file,
        "line": created.line,
        "problems": [],
        "spec": created.spec,
        "status": {
            "conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted", "message": f"created by {created.origin}"}
            ]
        },
    }


def _first_few(failures: list[str], shown: int = 3) -> str:
    """One line, however many services share a port that is taken."""
    more = len(failures) - shown
    return "; ".join(failures[:shown]) + (f"; and {more} more" if more > 0 else "")
