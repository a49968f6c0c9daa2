"""``koguma inspect``: the plan, for people. What would listen where, lead to what, and be trusted why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from config.document import format_path
from config.naming import ServiceStatus
from config.plan import (
    Access,
    ClusterPlan,
    Direction,
    EjectionPlan,
    ListenerPlan,
    LoadBalancer,
    Plan,
    Protocol,
    RetryPlan,
)
from config.planner import Planned, ResourceState
from config.policies.selection import NO_TERMS, Setting, Terms
from config.resources.duration import format_duration
from config.vipstate import StateError
from proxy.exits import EXIT_CANNOT_START, EXIT_INVALID, EXIT_OK
from proxy.options import Sources, VirtualIps
from proxy.reading import read_all
from tls.permissions import Permissions
from tls.policy import Origination


def inspect(sources: Sources, output: str, vips: VirtualIps | None = None) -> int:
    try:
        planned = read_all(sources, partial=False, vips=vips)
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
        yield "no plan: there is no usable Dataplane or ZoneEgress"
        return
    proxy = plan.proxy
    where = f"in mesh {proxy.mesh}" if proxy.mesh else "for all meshes"
    yield f"{'dataplane' if proxy.mesh else 'egress   '} {proxy.name} {where}, zone {proxy.zone}"
    yield f"admin     http://{plan.admin.address}:{plan.admin.port}/"
    if plan.identity is not None:
        yield f"identity  {plan.identity.id}" + ("" if plan.identity.not_after else ", without a certificate")
    for bundle in plan.trust.by_domain.values():
        yield f"trusts    {bundle.domain}: {len(bundle.anchors)} CA certificates, from {', '.join(bundle.sources)}"
    terms = {state.cluster.name: state.terms for state in planned.resources if state.cluster is not None}
    statuses = {state.cluster.name: state.status for state in planned.resources if state.cluster is not None}
    for listener in plan.listeners.values():
        yield ""
        if listener.original_dst:
            yield from _redirect(listener)
            continue
        if listener.is_door:
            yield from _door(listener, plan)
            continue
        yield from _listener(listener, plan.clusters[listener.cluster], terms.get(listener.cluster, NO_TERMS))
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
            yield from _cluster(state.cluster, state.terms)
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


def _redirect(listener: ListenerPlan) -> Iterator[str]:
    rest = "pass through" if listener.cluster else "are closed"
    what = "inbound" if listener.direction is Direction.INBOUND else "service"
    yield f"{listener.direction} {listener.bind} <- connections that the kernel redirects; those to no {what} {rest}"


def _door(door: ListenerPlan, plan: Plan) -> Iterator[str]:
    behind = sum(listener.door == door.name for listener in plan.listeners.values())
    yield f"zone egress {door.bind} -> {behind} services, each by its server names"


def _listener(listener: ListenerPlan, cluster: ClusterPlan, terms: Terms) -> Iterator[str]:
    how = f"{listener.direction} {listener.bind}" if not listener.door else f"egress {listener.bind}"
    yield f"{how} -> {cluster.service} ({listener.protocol})"
    if listener.server_names:
        yield f"  asked for {', '.join(listener.server_names)}"
    if listener.access is Access.FORBID:
        yield "  access    forbidden: Mesh.routing.defaultForbidMeshExternalServiceAccess"
    if listener.acceptance is not None:
        yield f"  mTLS      {listener.acceptance.mode}"
        yield f"  permits   {_permitted(listener.permissions)}"
    if listener.probe is not None:
        yield f"  probe     {listener.probe.target} every {listener.probe.interval_s:g} s"
    yield from _cluster(cluster, terms)


def _permitted(permissions: Permissions | None) -> str:
    if permissions is None:
        return "every verified peer: there is no MeshTrafficPermission"
    lists = (
        ("allow", permissions.allow), ("shadow deny", permissions.shadow_deny), ("deny", permissions.deny)
    )  # fmt: skip
    said = [f"{name} {match}" for name, matches in lists for match in matches]
    return "; ".join(said) if said else "nobody: no MeshTrafficPermission allows anybody"


def _cluster(cluster: ClusterPlan, terms: Terms) -> Iterator[str]:
    yield f"  cluster   {cluster.name}"
    for endpoint in cluster.endpoints:
        priority = f", priority {endpoint.priority}" if endpoint.priority else ""
        yield f"  endpoint  {endpoint.target}{priority}"
    if cluster.source is not None:
        yield f"  from      {cluster.source}"
    if cluster.through_egress:
        yield "  leaves    through the zone egress, which originates TLS to the service where the resource asks for it"
    elif cluster.tls is not None:
        yield "  leaves    directly: TLS to the service is originated here"
    if cluster.why_empty:
        yield f"  closed    {cluster.why_empty}"
    if not cluster.endpoints:
        yield "  endpoint  none: every connection will be refused"
    yield from _tls(cluster.tls)
    yield f"  timeouts  {', '.join(_timeouts(cluster))}"
    yield f"  limits    {', '.join(_limits(cluster))}"
    if cluster.retry is not None:
        yield f"  retries   {_retries(cluster.retry)}"
    if cluster.load_balancer is not LoadBalancer.ROUND_ROBIN:
        by = ", ".join(f"{one.source} {one.name}".rstrip() for one in cluster.hash_policies)
        yield f"  balancing {cluster.load_balancer}{' by ' if by else ''}{by}"
    for setting in terms.settings:
        policy = setting.entry.document
        where = f"{policy.kind}/{policy.name} ({policy.file}:{setting.entry.line_of(setting.path)})"
        yield f"  policy    {format_path(setting.path)}: {_value(setting)}, from {where}"


def _timeouts(cluster: ClusterPlan) -> Iterator[str]:
    yield f"connect {_time(cluster.connect_timeout_s)}"
    yield f"idle {_time(cluster.idle_timeout_s)}"
    if cluster.protocol is not Protocol.TCP:
        yield f"request {_time(cluster.request_timeout_s)}"
        yield f"stream idle {_time(cluster.stream_idle_timeout_s)}"
        yield f"stream {_time(cluster.max_stream_duration_s)}"
        yield f"connection {_time(cluster.max_connection_duration_s)}"


def _limits(cluster: ClusterPlan) -> Iterator[str]:
    yield f"{cluster.max_connections} connections"
    yield f"{cluster.max_connect_attempts} attempts to connect"
    yield f"{cluster.ejection.failures or 'no'} failures to eject"
    if cluster.protocol is not Protocol.TCP:
        yield f"{cluster.max_pending_requests} pending requests"
        yield f"{cluster.max_requests} requests"
        yield f"{cluster.max_retries} retries at a time"
        if cluster.ejection.server_errors:
            yield f"{cluster.ejection.server_errors} errors to eject"
        if cluster.ejection.gateway_errors:
            yield f"{cluster.ejection.gateway_errors} gateway errors to eject"


def _retries(retry: RetryPlan) -> str:
    text = f"{retry.retries} on {', '.join(sorted(retry.retry_on))}"
    if retry.statuses:
        text += f" ({', '.join(map(str, sorted(retry.statuses)))})"
    if retry.methods:
        text += f", for {', '.join(sorted(retry.methods))}"
    text += f"; per try {_time(retry.per_try_timeout_s)}"
    return f"{text}, back-off {format_duration(retry.back_off_base_s)} to {format_duration(retry.back_off_max_s)}"


def _time(seconds: float) -> str:
    return format_duration(seconds) if seconds else "none"


def _value(setting: Setting) -> str:
    """As a document would have it: every number with a fraction is a time, but for these."""
    value = setting.value
    if isinstance(value, float) and setting.path[-1] not in ("standardDeviationFactor", "healthyPanicThreshold"):
        return format_duration(value)
    if isinstance(value, tuple):
        named = all(isinstance(item, str) for item in value)
        return ", ".join(map(str, value)) if named else f"{len(value)} items"
    return str(value).lower() if isinstance(value, bool) else str(value)


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
        "identity": None if plan.identity is None else plan.identity.id,
        "trust": {name: len(bundle.anchors) for name, bundle in plan.trust.by_domain.items()},
        "listeners": [
            {
                "name": listener.name,
                "direction": listener.direction,
                "address": str(listener.address),
                "port": listener.port,
                "protocol": listener.protocol,
                "cluster": listener.cluster,
                "access": listener.access,
                "requestHeadersTimeoutSeconds": listener.request_headers_timeout_s,
                "mtls": None if listener.acceptance is None else str(listener.acceptance.mode),
                "permissions": None if listener.permissions is None else _permitted(listener.permissions),
                "serverNames": list(listener.server_names),
                "serviceProbe": None if listener.probe is None else str(listener.probe.target),
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
        "requestTimeoutSeconds": cluster.request_timeout_s,
        "streamIdleTimeoutSeconds": cluster.stream_idle_timeout_s,
        "maxStreamDurationSeconds": cluster.max_stream_duration_s,
        "maxConnectionDurationSeconds": cluster.max_connection_duration_s,
        "maxConnections": cluster.max_connections,
        "maxPendingRequests": cluster.max_pending_requests,
        "maxRequests": cluster.max_requests,
        "maxRetries": cluster.max_retries,
        "maxConnectAttempts": cluster.max_connect_attempts,
        "ejection": _ejection_as_json(cluster.ejection),
        "retry": _retry_as_json(cluster.retry) if cluster.retry is not None else None,
        "loadBalancer": cluster.load_balancer,
        "throughEgress": cluster.through_egress,
        "whyEmpty": cluster.why_empty or None,
        "hashPolicies": [{"type": one.source, "name": one.name} for one in cluster.hash_policies],
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


def _ejection_as_json(rules: EjectionPlan) -> dict[str, object]:
    return {
        "failures": rules.failures,
        "serverErrors": rules.server_errors,
        "gatewayErrors": rules.gateway_errors,
        "firstSeconds": rules.first_s,
        "longestSeconds": rules.longest_s,
        "maxPercent": rules.max_percent,
    }


def _retry_as_json(retry: RetryPlan) -> dict[str, object]:
    return {
        "retries": retry.retries,
        "perTryTimeoutSeconds": retry.per_try_timeout_s,
        "backOffBaseSeconds": retry.back_off_base_s,
        "backOffMaxSeconds": retry.back_off_max_s,
        "retryOn": sorted(retry.retry_on),
        "statuses": sorted(retry.statuses),
        "methods": sorted(retry.methods),
    }


def _setting_as_json(setting: Setting) -> dict[str, object]:
    policy = setting.entry.document
    return {
        "type": policy.kind,
        "name": policy.name,
        "file": policy.file,
        "line": setting.entry.line_of(setting.path),
        "field": format_path(setting.path),
        "value": _value(setting),
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
        "policies": [_setting_as_json(setting) for setting in state.terms.settings],
        "status": (state.status.as_json() if state.status is not None else {}) | {"conditions": state.conditions()},
    }
