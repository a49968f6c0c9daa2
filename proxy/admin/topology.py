"""``/clusters`` and ``/listeners``: what runs, in Envoy's text and JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping

from config.plan import ClusterPlan, ListenerPlan
from proxy.admin.certs import endpoint_text
from proxy.admin.context import AdminContext, ClusterView, ListenerView, ProbeView
from proxy.admin.http import JSON, SLICE, TEXT, Refusal, Request, Response, json_objects
from proxy.balance import Endpoint

ENVOY_DEFAULT = 1024
ENVOY_DEFAULT_RETRIES = 3
"""There is no traffic of high priority here: its circuit breakers show what Envoy's stand at."""


def clusters(context: AdminContext, request: Request) -> Response:
    pattern = request.pattern()
    chosen = [cluster for name, cluster in context.runtime.clusters.items() if pattern is None or pattern.search(name)]
    if _is_json(request):
        return Response(_clusters_json(chosen), JSON)
    return Response(_clusters_text(chosen), TEXT)


def listeners(context: AdminContext, request: Request) -> Response:
    """Envoy's fields; a listener that has no socket of its own is marked by how connections come to it."""
    chosen = [listener for listener in context.runtime.listeners.values() if listener.listening]
    if not _is_json(request):
        return Response(_listeners_text(chosen), TEXT)
    return Response(_listeners_json(chosen, context.probes), JSON)


async def _listeners_text(chosen: list[ListenerView]) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(chosen), SLICE):
        lines = ("::".join((one.plan.name, _bound(one), *comes_by(one.plan))) for one in chosen[start : start + SLICE])
        yield "".join(f"{line}\n" for line in lines).encode()
        await asyncio.sleep(0)


async def _listeners_json(chosen: list[ListenerView], probes: Mapping[str, ProbeView]) -> AsyncGenerator[bytes, None]:
    if not chosen:
        yield b"{}\n"
        return
    yield b'{\n "listener_statuses": [\n'
    async for piece in json_objects((_listener_status(one, probes.get(one.plan.name)) for one in chosen), 2):
        yield piece
    yield b"\n ]\n}\n"


def _listener_status(listener: ListenerView, probe: ProbeView | None) -> dict[str, object]:
    plan = listener.plan
    status: dict[str, object] = {
        "name": plan.name,
        "local_address": _socket_address(str(plan.address), listener.port),
    }
    for by in comes_by(plan):
        status |= {"bind_to_port": False, "comes_by": by}
    return status | _probed(probe)


def _probed(probe: ProbeView | None) -> dict[str, object]:
    """Not Envoy's: what a service probe has found."""
    return {} if probe is None else {"service_probe": {"ready": probe.is_ready, "fault": probe.fault}}


def comes_by(plan: ListenerPlan) -> tuple[str, ...]:
    """How connections come to a listener without a socket: through the door of a zone egress, or redirected by the
    kernel; nothing for one that has a socket.
    """
    if plan.bind_to_port:
        return ()
    return (f"door {plan.door}",) if plan.door else ("redirect",)


def is_ejected(endpoint: Endpoint, now_s: float) -> bool:
    return endpoint.ejected_until > now_s


def _is_json(request: Request) -> bool:
    asked = request.query.get("format", "text")
    if asked not in ("text", "json"):
        raise Refusal(400, f"usage: {request.path}?format=(text|json)\n")
    return asked == "json"


def _bound(listener: ListenerView) -> str:
    return f"{listener.plan.bind.rpartition(':')[0]}:{listener.port}"


def _socket_address(address: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": address, "port_value": port}}


def _breakers(plan: ClusterPlan) -> Iterator[tuple[str, dict[str, int]]]:
    yield (
        "default",
        {
            "max_connections": plan.max_connections,
            "max_pending_requests": plan.max_pending_requests,
            "max_requests": plan.max_requests,
            "max_retries": plan.max_retries,
        },
    )
    yield (
        "high",
        {
            "max_connections": ENVOY_DEFAULT,
            "max_pending_requests": ENVOY_DEFAULT,
            "max_requests": ENVOY_DEFAULT,
            "max_retries": ENVOY_DEFAULT_RETRIES,
        },
    )


async def _clusters_text(chosen: list[ClusterView]) -> AsyncGenerator[bytes, None]:
    now_s = asyncio.get_running_loop().time()
    for start in range(0, len(chosen), SLICE):
        lines = (line for cluster in chosen[start : start + SLICE] for line in _cluster_lines(cluster, now_s))
        yield "".join(f"{line}\n" for line in lines).encode()
        await asyncio.sleep(0)


def _cluster_lines(cluster: ClusterView, now_s: float) -> Iterator[str]:
    plan = cluster.plan
    name = plan.name
    yield f"{name}::observability_name::{name}"
    for kind in ("success_rate", "local_origin_success_rate"):
        yield f"{name}::outlier::{kind}_average::-1"
        yield f"{name}::outlier::{kind}_ejection_threshold::-1"
    for priority, limits in _breakers(plan):
        for limit, value in limits.items():
            yield f"{name}::{priority}_priority::{limit}::{value}"
    yield f"{name}::added_via_api::false"
    for endpoint in cluster.balancer:
        host = f"{name}::{endpoint_text(endpoint)}"
        for stat, value in _host_stats(endpoint):
            yield f"{host}::{stat}::{value}"
        yield f"{host}::hostname::{endpoint.host or ''}"
        yield f"{host}::health_flags::{'/failed_outlier_check' if is_ejected(endpoint, now_s) else 'healthy'}"
        yield f"{host}::weight::1"
        yield f"{host}::region::"
        yield f"{host}::zone::"
        yield f"{host}::sub_zone::"
        yield f"{host}::canary::false"
        yield f"{host}::priority::{endpoint.priority}"
        yield f"{host}::success_rate::-1"
        yield f"{host}::local_origin_success_rate::-1"


def _host_stats(endpoint: Endpoint) -> Iterator[tuple[str, int]]:
    """A layer-4 relay has no requests: those stay at zero, as they do in Envoy. So do some that we do not count."""
    yield "cx_active", endpoint.cx_active
    yield "cx_connect_fail", endpoint.cx_connect_fail
    yield "cx_total", endpoint.cx_total
    yield "rq_active", endpoint.rq_active
    yield "rq_error", 0
    yield "rq_pending_active", 0
    yield "rq_success", 0
    yield "rq_timeout", 0
    yield "rq_total", endpoint.rq_total


async def _clusters_json(chosen: list[ClusterView]) -> AsyncGenerator[bytes, None]:
    now_s = asyncio.get_running_loop().time()
    if not chosen:
        yield b"{}\n"
        return
    yield b'{\n "cluster_statuses": [\n'
    async for piece in json_objects((_cluster_status(cluster, now_s) for cluster in chosen), 2):
        yield piece
    yield b"\n ]\n}\n"


def _cluster_status(cluster: ClusterView, now_s: float) -> dict[str, object]:
    """``envoy.admin.v3.ClusterStatus``; as in protobuf's JSON, what is zero is left out."""
    plan = cluster.plan
    thresholds = [({"priority": "HIGH"} if priority == "high" else {}) | limits for priority, limits in _breakers(plan)]
    hosts = [_host_status(endpoint, now_s) for endpoint in cluster.balancer]
    return (
        {"name": plan.name}
        | ({"host_statuses": hosts} if hosts else {})
        | {"circuit_breakers": {"thresholds": thresholds}, "observability_name": plan.name}
    )


def _host_status(endpoint: Endpoint, now_s: float) -> dict[str, object]:
    address = endpoint.address
    health: dict[str, object] = {"eds_health_status": "HEALTHY"}
    if is_ejected(endpoint, now_s):
        health = {"failed_outlier_check": True} | health
    status: dict[str, object] = {
        "address": {"pipe": {"path": address}} if isinstance(address, str) else _socket_address(*address),
        "stats": _host_stats_json(endpoint),
        "health_status": health,
        "weight": 1,
    }
    if endpoint.host:
        status["hostname"] = endpoint.host
    if endpoint.priority:
        status["priority"] = endpoint.priority
    return status | {"locality": {}}


def _host_stats_json(endpoint: Endpoint) -> list[dict[str, str]]:
    counters, gauges = [], []
    for name, value in _host_stats(endpoint):
        shown = {"value": str(value)} if value else {}
        if name.endswith("_active"):
            gauges.append({"type": "GAUGE"} | shown | {"name": name})
        else:
            counters.append(shown | {"name": name})
    return counters + gauges
