"""A running service: its endpoints as they are now, and the way to get a connection to one of them.

Connecting goes through the endpoints that the balancer names, each at most once, until one is connected and, where
TLS is asked for, verified. The application notices nothing of the ones before: not a byte was sent to them. What went
wrong with each is kept on the endpoint as a verdict, for the log, ``/resources`` and ``koguma diagnose``.

An update keeps everything that is still true: endpoints that remain keep their counters, their ejections and their
place in the rotation; connections are never touched.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Protocol, TypeVar

from config.plan import ClusterPlan, DnsTarget, HashPolicyPlan, IpTarget, UnixTarget
from proxy.balance import Endpoint
from proxy.builds import Builds
from proxy.dial import Dialer
from proxy.dialled import ClusterConnection
from proxy.http.access_log import AccessLog
from proxy.http.deadlines import Deadlines
from proxy.http.exchange import Exchange
from proxy.http.h1_pool import Http1Pool
from proxy.http.h2_pool import Http2Pool
from proxy.http.h2_turns import Turns
from proxy.outcome import Outcome
from proxy.relay import Downstream, Upstream
from proxy.resolution import Address
from proxy.resolver import NameWatch, ResolverPool
from proxy.splicing import End, Source, Splices
from proxy.stats import ClusterStats
from proxy.strategies import balancer_for, is_balanced_alike
from proxy.throttle import Throttle
from tls.handshake import Refused
from tls.verdict import Cause, Phase, Verdict, classify, unresolved

TLS_FAULTS = frozenset(
    {
        Cause.NOT_TLS,
        Cause.PROTOCOL_VERSION,
        Cause.NO_SHARED_CIPHER,
        Cause.ALERT,
        Cause.CLIENT_CERTIFICATE_REQUIRED,
        Cause.CLIENT_CERTIFICATE_REJECTED,
        Cause.MALFORMED,
    }
)
"""Counted as ``ssl.connection_error``: TLS went wrong before anything could be verified."""

log = logging.getLogger("koguma.upstream")

C = TypeVar("C", bound=ClusterConnection)

IDLE_TICKS = 8  # an idle connection is ended between 8/8 and 9/8 of its timeout


@dataclass(frozen=True, slots=True)
class Services:
    """What all clusters and listeners of a process share. Made in the running event loop."""

    dialer: Dialer
    names: ResolverPool
    throttle: Throttle
    wall_clock: Callable[[], datetime]
    access_log: AccessLog | None = None
    chance: Random = field(default_factory=Random)
    builds: Builds = field(default_factory=Builds)
    turns: Turns = field(default_factory=Turns)
    splices: Splices = field(default_factory=Splices)

    def close(self) -> None:
        self.names.close()
        if self.access_log is not None:
            self.access_log.close()


class Cluster:
    """See the module. Create, then :meth:`start`; :meth:`close` when no listener uses it any more."""

    def __init__(self, plan: ClusterPlan, services: Services) -> None:
        self.plan = plan
        self.stats = ClusterStats()
        self.balancer = balancer_for(plan, services.chance)
        self.hash_policies = self._hash_policies()
        self.connections: set[ClusterConnection] = set()
        self.http = self._new_pool()
        self.chance = services.chance
        self.retries_active = 0
        self._set_deadlines()
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._watches: dict[str, NameWatch] = {}
        self._sweep: asyncio.TimerHandle | None = None

    # Life

    def start(self) -> None:
        self._watch_names()
        self._refresh_endpoints()
        self._schedule_sweep()

    def update(self, plan: ClusterPlan) -> None:
        before, self.plan = self.plan, plan
        if plan.speaks_http2 != before.speaks_http2:
            self.http.close()
            for endpoint in self.balancer:
                endpoint.idle.clear()
            self.http = self._new_pool()
        if _times_of_requests(plan) != _times_of_requests(before):
            self._set_deadlines()
        if is_balanced_alike(plan, before):
            self.balancer.follow(plan.ejection)
        else:
            self._services.builds.discard(self.balancer)
            self.balancer = balancer_for(plan, self.chance, tuple(self.balancer))
        self.hash_policies = self._hash_policies()
        self._watch_names()
        self._refresh_endpoints()
        self._schedule_sweep()

    def _hash_policies(self) -> tuple[HashPolicyPlan, ...]:
        """What of a request decides about its endpoint."""
        return self.plan.hash_policies if self.balancer.is_sticky else ()

    def _new_pool(self) -> Http1Pool | Http2Pool:
        return Http2Pool(self) if self.plan.speaks_http2 else Http1Pool(self)

    def _set_deadlines(self) -> None:
        """The requests of before keep theirs."""
        whole_s, try_s, stream_s = _times_of_requests(self.plan)
        self.deadlines = Deadlines(whole_s, Exchange.time_out) if whole_s else None
        self.try_deadlines = Deadlines(try_s, Exchange.try_timed_out) if try_s else None
        self.stream_deadlines = Deadlines(stream_s, Exchange.lasted_too_long) if stream_s else None

    def close(self) -> None:
        """Stop watching names and time. Relays that still run end by themselves or by their listener."""
        if self._sweep is not None:
            self._sweep.cancel()
        for name in tuple(self._watches):
            self._unwatch(name)
        self._services.builds.discard(self.balancer)
        self.http.close()

    # Endpoints

    def _watch_names(self) -> None:
        wanted = set(self.plan.dns_names)
        for name in self._watches.keys() - wanted:
            self._unwatch(name)
        for name in wanted - self._watches.keys():
            self._watches[name] = self._services.names.watch(name, self._names_changed)

    def _unwatch(self, name: str) -> None:
        del self._watches[name]
        self._services.names.unwatch(name, self._names_changed)

    def _names_changed(self, _addresses: Iterable[Address]) -> None:
        self._refresh_endpoints()

    def _refresh_endpoints(self) -> None:
        addresses = {name: watch.addresses for name, watch in self._watches.items()}
        self.balancer.update(resolved_endpoints(self.plan, addresses))
        self._services.builds.add(self.balancer)
        self.http.retire_outdated()

    @property
    def watches(self) -> Iterable[NameWatch]:
        return self._watches.values()

    async def _first_answers(self) -> None:
        """Wait for names that were never resolved: the first connection may come before the first answer."""
        for watch in tuple(self._watches.values()):
            await watch.ready.wait()

    def endpoint_for(self, exchange: Exchange) -> Endpoint | None:
        """Where to send ``exchange`` again: to another endpoint than those that did not do, if there is one."""
        return self.balancer.pick_other(self._now(), exchange.tried, exchange.key)

    # Connections

    async def connect(self, downstream: Downstream) -> Outcome | None:
        """Join ``downstream`` to an endpoint. ``None`` when joined, else why not."""
        if self.is_full:
            self.stats.upstream_cx_overflow += 1
            return Outcome.OVERFLOW
        result = await self.dial(lambda endpoint: Upstream(downstream, endpoint), downstream.destination)
        return result if isinstance(result, Outcome) else None

    @property
    def is_full(self) -> bool:
        """Whether there are as many connections as there may be; said once in a while."""
        plan = self.plan
        if self.stats.upstream_cx_active < plan.max_connections:
            return False
        if self._services.throttle.allows(f"overflow {plan.name}"):
            log.warning("%s: %d connections: there may be no more", plan.name, plan.max_connections)
        return True

    async def dial(
        self,
        make: Callable[[Endpoint], C],
        first: Endpoint | None = None,
        idle: Callable[[Endpoint], C | None] = lambda _endpoint: None,
    ) -> C | Outcome:
        """A new connection to some endpoint, ``first`` before others; or why there is none. ``idle``: one that exists,
        which does where another endpoint failed before. Else each try of a dead endpoint would leave one more behind.
        """
        plan, stats, balancer = self.plan, self.stats, self.balancer
        if not len(balancer):
            try:
                async with asyncio.timeout(plan.connect_timeout_s):
                    await self._first_answers()
            except TimeoutError:
                pass
        tried: list[Endpoint] = []
        timed_out = False
        while len(tried) < plan.max_connect_attempts:
            endpoint, first = first or balancer.pick(self._now(), tried), None
            if endpoint is None:
                break
            existing = idle(endpoint) if tried else None
            if existing is not None:
                return existing
            tried.append(endpoint)
            result = await self._attempt(endpoint, make(endpoint))
            if not isinstance(result, Verdict):
                return result
            timed_out = result.cause is Cause.TIMED_OUT
        if tried:
            if len(tried) == plan.max_connect_attempts:
                stats.upstream_cx_connect_attempts_exceeded += 1
            return Outcome.UPSTREAM_CONNECT_TIMEOUT if timed_out else Outcome.UPSTREAM_CONNECT_FAILED
        stats.upstream_cx_none_healthy += 1
        if self._services.throttle.allows(f"no endpoints {plan.name}"):
            log.warning("%s: no endpoints: %s", plan.name, self._why_empty())
        return Outcome.NO_ENDPOINTS

    def _why_empty(self) -> str:
        if not self.plan.endpoints:
            return self.plan.why_empty or "the resource lists none"
        return "; ".join(f"{watch.name}: {watch.last_error or 'no address yet'}" for watch in self.watches)

    async def _attempt(self, endpoint: Endpoint, connection: C) -> C | Verdict:
        plan, stats = self.plan, self.stats
        stats.upstream_cx_total += 1
        stats.upstream_cx_active += 1
        endpoint.cx_total += 1
        endpoint.cx_active += 1
        began_s = connection.opened_s = self._now()
        try:
            established = await self._services.dialer.open(endpoint, plan, connection)
        except (OSError, Refused) as exc:
            verdict = self._judge(exc, Phase.CONNECT)
            self._failed(endpoint, verdict)
            return verdict
        finally:
            if not connection.connected:  # else it was taken, and is accounted for when it is lost
                stats.upstream_cx_active -= 1
                endpoint.cx_active -= 1
        if established is not None:
            stats.ssl_handshake += 1
            stats.ssl_session_reused += established.resumed
            endpoint.peer = established.peer
        stats.upstream_cx_connect_ms.record((self._now() - began_s) * 1000)
        endpoint.last_verdict = None
        self.balancer.succeeded(endpoint, self._now())
        return connection

    def _failed(self, endpoint: Endpoint, verdict: Verdict) -> None:
        stats = self.stats
        stats.upstream_cx_connect_fail += 1
        endpoint.cx_connect_fail += 1
        match verdict.cause:
            case Cause.TIMED_OUT:
                stats.upstream_cx_connect_timeout += 1
            case Cause.NO_CERTIFICATE:
                stats.ssl_fail_verify_no_cert += 1
            case cause if cause.is_name_failure:
                stats.ssl_fail_verify_san += 1
            case cause if cause.is_chain_failure:
                stats.ssl_fail_verify_error += 1
            case cause if cause in TLS_FAULTS:
                stats.ssl_connection_error += 1
        self._note(endpoint, verdict)
        if self.balancer.failed(endpoint, self._now()):
            self._ejected(endpoint, "it keeps failing")

    def answered(self, endpoint: Endpoint, status: int) -> None:
        """Tell the balancer what became of a request, as :meth:`Balancer.answered` has it."""
        if self.balancer.answered(endpoint, status, self._now()):
            self._ejected(endpoint, "its responses are errors")

    def _ejected(self, endpoint: Endpoint, why: str) -> None:
        self.stats.lb_ejections_total += 1
        log.warning("%s: %s ejected for a while: %s", self.plan.name, endpoint, why)

    def _note(self, endpoint: Endpoint, verdict: Verdict) -> None:
        """Keep the verdict, and say it: once per endpoint and cause in a while."""
        endpoint.last_verdict = verdict
        if self._services.throttle.allows(f"{self.plan.name} {endpoint} {verdict.cause}"):
            log.warning(
                "%s: %s: %s",
                self.plan.name,
                endpoint,
                verdict.message,
                extra={
                    "event": "upstream_failed",
                    "cluster": self.plan.name,
                    "endpoint": str(endpoint),
                    "verdict": verdict.as_dict(),
                },
            )

    def closed(self, connection: ClusterConnection, outcome: Outcome | None) -> None:
        """Account for a connection that was lost. ``outcome``: of what it carried when it was lost, if anything."""
        stats, endpoint = self.stats, connection.endpoint
        self.connections.discard(connection)
        stats.upstream_cx_active -= 1
        stats.upstream_cx_destroy += 1
        stats.upstream_cx_rx_bytes_total += connection.received
        stats.upstream_cx_tx_bytes_total += connection.sent
        stats.upstream_cx_length_ms.record((self._now() - connection.opened_s) * 1000)
        if outcome in (Outcome.UPSTREAM_RESET, Outcome.UPSTREAM_TLS_FAILED) or connection.ended:
            stats.upstream_cx_destroy_remote += 1
        else:
            stats.upstream_cx_destroy_local += 1
        if outcome is Outcome.IDLE_TIMEOUT:
            stats.upstream_cx_idle_timeout += 1
        endpoint.cx_active -= 1
        if outcome is Outcome.UPSTREAM_TLS_FAILED and connection.failure is not None:
            # TLS 1.3: a server judges our certificate after the handshake is done for us.
            stats.ssl_connection_error += 1
            endpoint.explain = True
            self._note(endpoint, self._judge(connection.failure, Phase.ESTABLISHED))

    def _judge(self, exc: Exception, phase: Phase) -> Verdict:
        if isinstance(exc, Refused):
            return exc.verdict
        return classify(exc, phase, self.plan.tls, now=self._services.wall_clock())

    def splice(self, source: Source, sink: End, limit: int = sys.maxsize) -> bool:
        """As :meth:`Splices.begin`, for a connection of ours."""
        begins = self._services.splices.begin(source, sink, limit)
        self.stats.upstream_cx_spliced_total += begins
        return begins

    def byte_totals(self) -> tuple[int, int]:
        """(received, sent), living connections included."""
        received, sent = self.stats.upstream_cx_rx_bytes_total, self.stats.upstream_cx_tx_bytes_total
        for connection in self.connections:
            received += connection.received
            sent += connection.sent
        return received, sent

    def describe_endpoints(self) -> list[dict[str, object]]:
        return describe_endpoints(self.balancer, self.watches, self._now())

    # Idle connections

    def _schedule_sweep(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self.plan.idle_timeout_s:
            self._sweep = self._loop.call_later(self.plan.idle_timeout_s / IDLE_TICKS, self._end_idle_connections)

    def _end_idle_connections(self) -> None:
        for connection in tuple(self.connections):
            total = connection.received + connection.sent
            idleness = connection.idleness
            if total != idleness.total:
                idleness.total, idleness.ticks = total, 0
            else:
                idleness.ticks += 1
                if idleness.ticks >= IDLE_TICKS:
                    connection.idle_out()
        self._schedule_sweep()


def _times_of_requests(plan: ClusterPlan) -> tuple[float, float, float]:
    """(a request, an attempt, a stream). As in Envoy, an attempt has no time of its own that its request has not."""
    whole_s, retry = plan.request_timeout_s, plan.retry
    try_s = retry.per_try_timeout_s if retry is not None else 0.0
    return whole_s, 0.0 if whole_s and try_s >= whole_s else try_s, plan.max_stream_duration_s


def resolved_endpoints(plan: ClusterPlan, addresses: Mapping[str, Iterable[Address]]) -> Iterator[Endpoint]:
    """The endpoints of a plan, each name replaced by the addresses that it has now."""
    for endpoint in plan.endpoints:
        match endpoint.target:
            case IpTarget(address, port):
                text = str(address)
                yield Endpoint((text, port), text, False, endpoint.priority)
            case DnsTarget(name, port):
                for resolved in addresses.get(name, ()):
                    # An egress passes Host on as it is: its own name is none of the service's.
                    yield Endpoint((str(resolved), port), name, not plan.through_egress, endpoint.priority)
            case UnixTarget(path):
                yield Endpoint(path, None, False, endpoint.priority)


class Watched(Protocol):
    """What is said of a name: see :class:`~proxy.resolver.NameWatch`."""

    @property
    def name(self) -> str: ...
    @property
    def addresses(self) -> tuple[Address, ...]: ...
    @property
    def last_error(self) -> object | None: ...
    @property
    def update_attempt(self) -> int: ...
    @property
    def update_success(self) -> int: ...
    @property
    def update_failure(self) -> int: ...


def describe_endpoints(
    endpoints: Iterable[Endpoint], watches: Iterable[Watched], now_s: float
) -> list[dict[str, object]]:
    """For ``/resources``: where the service's connections go now, and why some do not."""
    rows: list[dict[str, object]] = []
    for endpoint in endpoints:
        verdict = endpoint.last_verdict
        rows.append(
            {
                "address": endpoint.where,
                "host": endpoint.host,
                "priority": endpoint.priority,
                "health": "ejected" if endpoint.ejected_until > now_s else "healthy",
                "connections": endpoint.cx_active,
                "lastVerdict": verdict.as_dict() if verdict is not None else None,
            }
        )
    for watch in watches:
        if not watch.addresses and watch.last_error is not None:
            verdict = unresolved(watch.name, str(watch.last_error))
            rows.append(
                {
                    "address": None,
                    "host": watch.name,
                    "priority": 0,
                    "health": "unresolved",
                    "connections": 0,
                    "lastVerdict": verdict.as_dict(),
                }
            )
    return rows
