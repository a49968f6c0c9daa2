"""``koguma inspect``: the plan, for people. What would listen where, lead to what, and be trusted why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from config.naming import ServiceStatus
from config.plan import Access, ClusterPlan, ListenerPlan, Plan
from config.planner import Planned, ResourceState
from config.vipstate import StateError
from proxy.exits import EXIT_CANNOT_START, EXIT_INVALID, EXIT_OK
from proxy.options import Sources, VirtualIps
from proxy.reading import read_all
from tls.policy import Origination


def inspect(sources: Sources, vips: VirtualIps, output: str) -> int:
    try:
        planned, _ = read_all(sources, partial=False, vips=vips)
    except StateError as exc:
        print(f"koguma: {exc}", file=sys.stderr)
        return EXIT_CANNOT_START
    problems = sorted(planned.problems)
    if output == "json":
        document = {
            "plan": plan_as_json(planned.plan) if planned.plan is not None else None,
            "resources": [_state_as_json(state) for state in planned.resources],
            "problems": [problem.as_json() for problem in problems],
        }
        json.dump(document, sys.stdout, indent=2)
        print()
    else:
        for line in _lines(planned):
            print(line)
        for problem in problems:
            print(problem.as_text(), file=sys.stderr)
    return EXIT_OK if planned.plan is not None else EXIT_INVALID


def _lines(planned: Planned) -> Iterator[str]:
    plan = planned.plan
    if plan is None:
        yield "no plan: there is no usable Dataplane"
        return
    proxy = plan.proxy
    yield f"dataplane {proxy.name} in mesh {proxy.mesh}, zone {proxy.zone}"
    yield f"admin     http://{plan.admin.address}:{plan.admin.port}/"
    statuses = {state.cluster.name: state.status for state in planned.resources if state.cluster is not None}
    for listener in plan.listeners.values():
        yield ""
        yield from _listener(listener, plan.clusters[listener.cluster])
        yield from _names(statuses.get(listener.cluster))
    used = {listener.cluster for listener in plan.listeners.values()}
    for state in planned.resources:
        if state.cluster is None and state.kind == "MeshExternalService":
            yield ""
            yield f"{state.kind} {state.name} ({state.file}:{state.line}) cannot run:"
            yield from (f"  {p.field}: {p.message}" for p in state.problems if p.is_error)
        elif state.cluster is not None and state.cluster.name not in used:
            yield ""
            yield f"{state.kind} {state.name} ({state.file}:{state.line}): no outbound of this Dataplane leads to it"
            yield from _cluster(state.cluster)
            yield from _names(state.status)


def _names(status: ServiceStatus | None) -> Iterator[str]:
    """The virtual IP and the hostnames of a service, and why it has some of them not."""
    if status is None:
        return
    if status.vips:
        yield f"  vip       {', '.join(map(str, status.vips))}"
    for one in status.generations:
        if one.hostname:
            yield f"  hostname  {one.hostname} (HostnameGenerator {one.generator})"
        else:
            yield f"  hostname  none of HostnameGenerator {one.generator}: {one.reason}: {one.message}"


def _listener(listener: ListenerPlan, cluster: ClusterPlan) -> Iterator[str]:
    yield f"{listener.direction} {listener.bind} -> {cluster.service} ({listener.protocol})"
    if listener.access is Access.FORBID:
        yield "  access    forbidden: Mesh.routing.defaultForbidMeshExternalServiceAccess"
    yield from _cluster(cluster)


def _cluster(cluster: ClusterPlan) -> Iterator[str]:
    yield f"  cluster   {cluster.name}"
    for endpoint in cluster.endpoints:
        priority = f", priority {endpoint.priority}" if endpoint.priority else ""
        yield f"  endpoint  {endpoint.target}{priority}"
    if not cluster.endpoints:
        yield "  endpoint  none: every connection will be refused"
    yield from _tls(cluster.tls)


def _tls(tls: Origination | None) -> Iterator[str]:
    if tls is None:
        yield "  tls       none: plaintext"
        return
    versions = f"{_version(tls.min_version.name)} to {_version(tls.max_version.name)}"
    alpn = f", ALPN {', '.join(tls.alpn)}" if tls.alpn else ""
    yield f"  tls       {versions}{alpn}{', renegotiation allowed' if tls.allow_renegotiation else ''}"
    yield f"  verify    {tls.mode}: chain {_chain(tls)}; name {_san_names(tls)}"
    yield f"  sni       {tls.server_name or 'the DNS name of each endpoint'}"
    if tls.client is not None:
        yield f"  client    certificate from {tls.client.source}"


def _version(name: str) -> str:
    return name.removeprefix("TLSv").replace("_", ".")


def _chain(tls: Origination) -> str:
    return f"against {tls.anchors.source}" if tls.mode.checks_chain and tls.anchors is not None else "NOT VERIFIED"


def _san_names(tls: Origination) -> str:
    if not tls.mode.checks_names:
        return "NOT VERIFIED"
    if tls.sans:
        return "any of " + ", ".join(str(san) for san in tls.sans)
    return tls.server_name or "of each endpoint's own host"


def plan_as_json(plan: Plan) -> dict[str, object]:
    return {
        "proxy": {"mesh": plan.proxy.mesh, "name": plan.proxy.name, "zone": plan.proxy.zone},
        "admin": {"address": plan.admin.address, "port": plan.admin.port},
        "listeners": [
            {
                "name": listener.name,
                "direction": listener.direction,
                "address": str(listener.address),
                "port": listener.port,
                "protocol": listener.protocol,
                "cluster": listener.cluster,
                "access": listener.access,
            }
            for listener in plan.listeners.values()
        ],
        "clusters": [cluster_as_json(cluster) for cluster in plan.clusters.values()],
        "names": [
            {"name": one.name, "addresses": [str(address) for address in one.addresses], "ttlSeconds": one.ttl_s}
            for one in plan.names.values()
        ],
    }


def cluster_as_json(cluster: ClusterPlan) -> dict[str, object]:
    tls = cluster.tls
    return {
        "name": cluster.name,
        "mesh": cluster.mesh,
        "service": cluster.service,
        "protocol": cluster.protocol,
        "endpoints": [{"target": str(e.target), "priority": e.priority} for e in cluster.endpoints],
        "connectTimeoutSeconds": cluster.connect_timeout_s,
        "idleTimeoutSeconds": cluster.idle_timeout_s,
        "tls": None
        if tls is None
        else {
            "mode": tls.mode,
            "minVersion": tls.min_version.name,
            "maxVersion": tls.max_version.name,
            "allowRenegotiation": tls.allow_renegotiation,
            "serverName": tls.server_name,
            "subjectAltNames": [{"type": san.type, "value": san.value} for san in tls.sans],
            "trust": tls.anchors.source if tls.anchors is not None else None,
            "clientCertificate": tls.client.source if tls.client is not None else None,
            "alpn": list(tls.alpn),
        },
    }


def _state_as_json(state: ResourceState) -> dict[str, object]:
    return {
        "type": state.kind,
        "mesh": state.mesh,
        "name": state.name,
        "kri": state.kri,
        "file": state.file,
        "line": state.line,
        "cluster": cluster_as_json(state.cluster) if state.cluster is not None else None,
        "status": (state.status.as_json() if state.status is not None else {}) | {"conditions": state.conditions()},
    }
