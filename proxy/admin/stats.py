"""``/stats``: every counter, gauge and histogram under Envoy's name, as text or JSON.

The numbers are read once into tables (one for each kind of thing, a row for each thing, a few hundred rows between two
turns of the event loop), then written. What a table holds comes from ``proxy.stats``, so a stat that is added there
appears here and in Prometheus by itself; only sums that are no plain slot are named in this file.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from config.plan import Protocol
from proxy.admin import certs
from proxy.admin.context import AdminContext, ClusterView, ListenerView
from proxy.admin.http import JSON, SLICE, TEXT, Refusal, Request, Response
from proxy.stats import Histogram, Stats
from tls.policy import Mode
from tls.spiffe import SCHEME

T = TypeVar("T")

TCP_STATS = ("downstream_cx_total", "downstream_cx_rx_bytes_total", "downstream_cx_tx_bytes_total", "idle_timeout")
"""What Envoy's TCP proxy filter counts, under ``tcp.<prefix>.``; all else of a listener is ``listener.<address>.``."""
ALSO_LISTENER = ("downstream_cx_total",)

ROUTE_STATS = ("rbac.allowed", "rbac.denied", "rbac.shadow_denied", "access_denied")

CLASSED = re.compile(r"(?P<stat>\w+_rq)_(?:(?P<status>\d\d\d)|(?P<class>\d)xx)")
"""Envoy's tags ``envoy_response_code`` and ``envoy_response_code_class``."""

QUANTILES = (0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100)
STATES = {"LIVE": 0, "DRAINING": 1, "PRE_INITIALIZING": 2, "INITIALIZING": 3}
TYPES = ("All", "Counters", "Gauges", "Histograms", "TextReadouts")

_NO_QUANTILES = ",".join(['{"cumulative":null,"interval":null}'] * len(QUANTILES))

_NOT_IN_CLUSTER = re.compile(r"[^a-zA-Z_\-0-9]")
_NOT_IN_ADDRESS = re.compile(r"[^a-zA-Z_\-0-9.]")


@dataclass(slots=True)
class Row:
    """The numbers of one thing. ``name`` is the value of its label; empty where there is only one such thing."""

    name: str
    counters: dict[str, int] = field(default_factory=dict)
    classed: dict[str, int] = field(default_factory=dict)
    """Counters by status or class of status (``upstream_rq_200``, ``upstream_rq_2xx``), which some rows have."""
    gauges: dict[str, int] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)


@dataclass(slots=True)
class Table:
    """All things of one kind. ``label`` is Envoy's tag for their name, ``namespace`` the first word in Prometheus."""

    prefix: str
    label: str | None
    rows: list[Row]
    namespace: str = "envoy"

    def scope(self, row: Row) -> str:
        """``cluster.<name>.``, or ``server.``."""
        return f"{self.prefix}.{row.name}." if self.label else f"{self.prefix}."


@dataclass(frozen=True, slots=True)
class Selection:
    """Which stats were asked for: ``filter``, ``usedonly`` and ``type``."""

    pattern: re.Pattern[str] | None = None
    used_only: bool = False
    type: str = "All"

    @classmethod
    def parse(cls, request: Request) -> Selection:
        kind = request.query.get("type", "All")
        if kind not in TYPES:
            raise Refusal(400, "invalid &type= param\n")
        return cls(request.pattern(), request.flag("usedonly"), kind)

    def wants(self, kind: str) -> bool:
        return self.type in ("All", kind)

    def takes(self, name: str, is_used: bool) -> bool:
        return (is_used or not self.used_only) and (self.pattern is None or bool(self.pattern.search(name)))


def view(context: AdminContext, request: Request) -> Response:
    selection = Selection.parse(request)
    match request.query.get("format", "text"):
        case "text":
            return Response(_as_text(context, selection), TEXT)
        case "json":
            return Response(_as_json(context, selection), JSON)
        case _:
            raise Refusal(400, "usage: /stats?format=(json|prometheus|text)\n\n")


def cluster_stat_name(name: str) -> str:
    """Kuma's ``alt_stat_name`` (pkg/util/xds/metric_sanitizer.go)."""
    return _NOT_IN_CLUSTER.sub("_", name)


def listener_stat_name(listener: ListenerView) -> str:
    return _NOT_IN_ADDRESS.sub("_", f"{listener.plan.bind.rpartition(':')[0]}_{listener.port}")


async def read(context: AdminContext) -> list[Table]:
    """Every number, as of about now."""
    runtime = context.runtime
    now_s = asyncio.get_running_loop().time()
    clusters = [row async for row in _rows(runtime.clusters.values(), lambda one: [_cluster(one, now_s)])]
    listeners = _summed([row async for row in _rows(runtime.listeners.values(), lambda one: [_listener(one)])])
    relayed = [one for one in runtime.listeners.values() if one.plan.protocol is Protocol.TCP]
    spoken = [one for one in runtime.listeners.values() if one.plan.protocol is not Protocol.TCP]
    streams = [row async for row in _rows(relayed, lambda one: [_tcp(one)])]
    requests = [row async for row in _rows(spoken, lambda one: [_http(one)])]
    for rows in (clusters, listeners, streams, requests):
        rows.sort(key=lambda row: f"{row.name}.")
    return [
        Table("cluster", "envoy_cluster_name", clusters),
        Table("cluster_manager", None, [Row("", gauges={"active_clusters": len(runtime.clusters)})]),
        Table("http", "envoy_http_conn_manager_prefix", requests),
        Table("koguma", None, [_koguma(context)], "koguma"),
        Table("listener", "envoy_listener_address", listeners),
        Table("listener_manager", None, [_listener_manager(context)]),
        Table("server", None, [await _server(context, now_s)]),
        Table("tcp", "envoy_tcp_prefix", streams),
        Table("peer", "koguma_peer", _peers(runtime.listeners.values()), "koguma"),
    ]


async def _rows(things: Iterable[T], read_one: Callable[[T], Iterable[Row]]) -> AsyncIterator[Row]:
    for number, thing in enumerate(tuple(things), start=1):
        for row in read_one(thing):
            yield row
        if number % SLICE == 0:
            await asyncio.sleep(0)


def _row(name: str, stats: Stats) -> Row:
    row = Row(name, gauges=dict(stats.gauged()), histograms=dict(stats.observed()))
    for stat, value in stats.counted():
        (row.classed if CLASSED.fullmatch(stat) else row.counters)[stat] = value
    return row


def _cluster(cluster: ClusterView, now_s: float) -> Row:
    row = _row(cluster_stat_name(cluster.plan.name), cluster.stats)
    received, sent = cluster.byte_totals()
    row.counters |= {"upstream_cx_rx_bytes_total": received, "upstream_cx_tx_bytes_total": sent}
    row.counters |= {"update_attempt": 0, "update_success": 0, "update_failure": 0}
    for watch in cluster.watches:
        row.counters["update_attempt"] += watch.update_attempt
        row.counters["update_success"] += watch.update_success
        row.counters["update_failure"] += watch.update_failure
    left = cluster.plan.max_connections - cluster.stats.upstream_cx_active
    row.gauges |= {
        "membership_total": len(cluster.balancer),
        "membership_healthy": cluster.balancer.healthy_count(now_s),
        "circuit_breakers.default.cx_open": int(left <= 0),
        "circuit_breakers.default.remaining_cx": max(0, left),
    }
    return row


def _listener(listener: ListenerView) -> Row:
    row = _row(listener_stat_name(listener), listener.stats)
    row.counters = {
        name: value for name, value in row.counters.items() if name not in TCP_STATS or name in ALSO_LISTENER
    }
    return row


def _summed(rows: Iterable[Row]) -> list[Row]:
    """One row for each name: the services behind a zone egress share an address."""
    found: dict[str, Row] = {}
    for row in rows:
        sums = found.setdefault(row.name, row)
        if sums is row:
            continue
        for mine, its in ((sums.counters, row.counters), (sums.gauges, row.gauges)):
            for name, value in its.items():
                mine[name] = mine.get(name, 0) + value
        for name, histogram in row.histograms.items():
            if histogram.count:
                total = Histogram()  # the one that is there is a listener's own
                total.add(sums.histograms[name])
                total.add(histogram)
                sums.histograms[name] = total
    return list(found.values())


def _peers(listeners: Iterable[ListenerView]) -> list[Row]:
    """A row for each client of a zone egress."""
    found: dict[str, Row] = {}
    for listener in listeners:
        for (identity, counter), value in listener.stats.peers.items():
            name = _NOT_IN_ADDRESS.sub("_", identity.removeprefix(SCHEME))
            counters = found.setdefault(name, Row(name)).counters
            counters[counter] = counters.get(counter, 0) + value
    return sorted(found.values(), key=lambda row: f"{row.name}.")


def _tcp(listener: ListenerView) -> Row:
    counters = {name: value for name, value in listener.stats.counted() if name in TCP_STATS}
    received, sent = listener.byte_totals()
    counters |= {"downstream_cx_rx_bytes_total": received, "downstream_cx_tx_bytes_total": sent}
    counters |= _rbac(listener)
    return Row(cluster_stat_name(listener.plan.name), counters)


def _http(listener: ListenerView) -> Row:
    row = _row(cluster_stat_name(listener.plan.name), listener.http)
    counters = row.counters
    counters["downstream_rq_http1_total"] = counters["downstream_rq_total"] - counters["downstream_rq_http2_total"]
    below = listener.stats
    received, sent = listener.byte_totals()
    row.counters |= {
        "downstream_cx_total": below.downstream_cx_total,
        "downstream_cx_destroy": below.downstream_cx_destroy,
        "downstream_cx_rx_bytes_total": received,
        "downstream_cx_tx_bytes_total": sent,
    }
    row.gauges["downstream_cx_active"] = below.downstream_cx_active
    row.counters |= _rbac(listener)
    return row


def _rbac(listener: ListenerView) -> dict[str, int]:
    """Of one service behind a zone egress, what ``listener.<address>.`` has of all of them together."""
    if not listener.plan.door:
        return {}
    return {name: value for name, value in listener.stats.counted() if name in ROUTE_STATS}


def _koguma(context: AdminContext) -> Row:
    reload, dns, plan = context.reload, context.dns, context.runtime.plan
    unverified = sum(
        cluster.plan.tls is not None and cluster.plan.tls.mode is not Mode.SECURED
        for cluster in context.runtime.clusters.values()
    )
    workers = context.workers
    crashed, running = (workers.crashed, workers.running) if workers is not None else (0, 1)
    gauges = {name: value for name, value in reload.gauged() if name != "generation"}
    return Row(
        "",
        {f"reload.{name}": value for name, value in reload.counted()}
        | {f"dns.{name}": value for name, value in dns.counted()}
        | {"workers.crashed": crashed},
        gauges={f"reload.{name}": value for name, value in gauges.items()}
        | {f"dns.{name}": value for name, value in dns.gauged()}
        | {
            "generation": reload.generation,
            "unverified_services": unverified,
            "workers.running": running,
            "trust.domains": len(plan.trust.by_domain),
            "trust.generation": max(plan.trust_generations.values(), default=0),
        },
        histograms={f"dns.{name}": histogram for name, histogram in dns.observed()},
    )


def _listener_manager(context: AdminContext) -> Row:
    runtime = context.runtime
    listening = sum(one.listening and one.plan.bind_to_port for one in runtime.listeners.values())
    return Row(
        "",
        {"listener_create_failure": len(runtime.failed)},
        gauges={"total_listeners_active": listening},
    )


async def _server(context: AdminContext, now_s: float) -> Row:
    state, memory = context.state(), context.memory()
    gauges = {
        "live": int(state == "LIVE"),
        "state": STATES[state],
        "uptime": int(now_s - context.started_s),
        "concurrency": context.concurrency,
        "days_until_first_cert_expiring": await certs.days_until_first_expiry(context),
        "total_connections": context.runtime.limit.active,
        "memory_allocated": memory.allocated,
        "memory_heap_size": memory.heap,
        "memory_physical_size": memory.physical,
    }
    return Row("", gauges=gauges)


def _plain(tables: list[Table], selection: Selection) -> Iterator[list[tuple[str, int]]]:
    """Counters and gauges under their full names, sorted, a few hundred things at a time."""
    for table in tables:
        for start in range(0, len(table.rows), SLICE):
            found: list[tuple[str, int]] = []
            for row in table.rows[start : start + SLICE]:
                scope = table.scope(row)
                values: dict[str, int] = {}
                if selection.wants("Counters"):
                    values |= row.counters | row.classed
                if selection.wants("Gauges"):
                    values |= row.gauges
                found += [
                    (scope + name, values[name])
                    for name in sorted(values)
                    if selection.takes(scope + name, values[name] != 0)
                ]
            yield found


def _observed(tables: list[Table], selection: Selection) -> Iterator[list[tuple[str, Histogram]]]:
    """Histograms likewise."""
    if not selection.wants("Histograms"):
        return
    for table in tables:
        for start in range(0, len(table.rows), SLICE):
            found = []
            for row in table.rows[start : start + SLICE]:
                scope = table.scope(row)
                for name in sorted(row.histograms):
                    histogram = row.histograms[name]
                    if selection.takes(scope + name, not selection.used_only or histogram.count > 0):
                        found.append((scope + name, histogram))
            yield found


async def _as_text(context: AdminContext, selection: Selection) -> AsyncGenerator[bytes, None]:
    tables = await read(context)
    for values in _plain(tables, selection):
        yield "".join(f"{name}: {value}\n" for name, value in values).encode()
        await asyncio.sleep(0)
    for histograms in _observed(tables, selection):
        yield "".join(f"{name}: {_summary(histogram)}\n" for name, histogram in histograms).encode()
        await asyncio.sleep(0)


def _summary(histogram: Histogram) -> str:
    """``P0(interval,cumulative) ...``. We keep no interval: both are of all time."""
    if not histogram.count:
        return "No recorded values"
    values = ((q, f"{histogram.quantile(q / 100):.10g}") for q in QUANTILES)
    return " ".join(f"P{q:g}({value},{value})" for q, value in values)


async def _as_json(context: AdminContext, selection: Selection) -> AsyncGenerator[bytes, None]:
    tables = await read(context)
    yield b'{"stats":['
    comma = ""
    for values in _plain(tables, selection):
        # A full name is made of letters, digits and "_-." alone: there is nothing to escape.
        rows = ",".join([f'{{"name":"{name}","value":{value}}}' for name, value in values])
        if rows:
            yield f"{comma}{rows}".encode()
            comma = ","
        await asyncio.sleep(0)
    if selection.wants("Histograms"):
        quantiles = ",".join(f"{q:g}" for q in QUANTILES)
        yield f'{comma}{{"histograms":{{"supported_quantiles":[{quantiles}],"computed_quantiles":['.encode()
        comma = ""
        for histograms in _observed(tables, selection):
            rows = ",".join([f'{{"name":"{name}","values":[{_quantiles(one)}]}}' for name, one in histograms])
            if rows:
                yield f"{comma}{rows}".encode()
                comma = ","
            await asyncio.sleep(0)
        yield b"]}}"
    yield b"]}"


def _quantiles(histogram: Histogram) -> str:
    if not histogram.count:
        return _NO_QUANTILES
    values = (f"{histogram.quantile(q / 100):.10g}" for q in QUANTILES)
    return ",".join(f'{{"cumulative":{value},"interval":{value}}}' for value in values)
