"""From the terms of a service to the fields of its plan.

A field that no policy sets stays what it is without policies, but for MeshTimeout: where one applies, Kuma's defaults
for its absent fields replace Envoy's (``pkg/plugins/policies/core/defaults/consts.go``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from config.plan import EjectionPlan, HashPolicyPlan, HashSource, LoadBalancer, Protocol, RetryPlan
from config.policies.selection import Terms
from config.resources.meshcircuitbreaker import CircuitBreakerConf, Consecutive, OutlierDetection
from config.resources.meshloadbalancingstrategy import (
    MAX_RING_SIZE,
    HashPolicy,
    LoadBalancerConf,
    LoadBalancingConf,
)
from config.resources.meshretry import (
    GRPC_CONDITIONS,
    HTTP_CONDITIONS,
    METHOD_PREFIX,
    HttpRetries,
    Retries,
    RetryConf,
)
from config.resources.meshtimeout import HttpTimeouts, TimeoutConf

CONNECT_TIMEOUT_S = 5.0
IDLE_TIMEOUT_S = 3600.0
REQUEST_TIMEOUT_S = 15.0
STREAM_IDLE_TIMEOUT_S = 1800.0

CONSECUTIVE_FAILURES = 5
FIRST_EJECTION_S = 30.0
LONGEST_EJECTION_S = 300.0
EJECTED_PERCENT = 10
MIN_RING_SIZE = 1024
RETRY_HTTP = frozenset(["gateway-error", "connect-failure", "refused-stream"])
RETRY_GRPC = frozenset(
    [
        "cancelled",
        "connect-failure",
        "gateway-error",
        "refused-stream",
        "reset",
        "resource-exhausted",
        "unavailable",
    ]
)
BY_STATUS = "retriable-status-codes"
BACK_OFF_FACTOR = 10


def fields_of(terms: Terms, protocol: Protocol) -> dict[str, Any]:
    """Of a plan, for any service of this protocol."""
    fields: dict[str, Any] = {}
    for conf in terms.confs.values():
        match conf:
            case TimeoutConf():
                fields |= _timeouts(conf)
            case CircuitBreakerConf():
                fields |= _limits(conf)
            case RetryConf():
                fields |= _retries(conf, protocol)
            case LoadBalancingConf():
                fields |= _balancing(conf)
    return fields


def _timeouts(conf: TimeoutConf) -> dict[str, Any]:
    http = conf.http if conf.http is not None else HttpTimeouts()
    return {
        "connect_timeout_s": _or(conf.connection_timeout, CONNECT_TIMEOUT_S),
        "idle_timeout_s": _or(conf.idle_timeout, IDLE_TIMEOUT_S),
        "request_timeout_s": _or(http.request_timeout, REQUEST_TIMEOUT_S),
        "stream_idle_timeout_s": _or(http.stream_idle_timeout, STREAM_IDLE_TIMEOUT_S),
        "max_stream_duration_s": _or(http.max_stream_duration, 0.0),
        "max_connection_duration_s": _or(http.max_connection_duration, 0.0),
    }


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _limits(conf: CircuitBreakerConf) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    limits = conf.connection_limits
    if limits is not None:
        given = {
            "max_connections": limits.max_connections,
            "max_pending_requests": limits.max_pending_requests,
            "max_requests": limits.max_requests,
            "max_retries": limits.max_retries,
        }
        fields |= {name: value for name, value in given.items() if value is not None}
    if conf.outlier_detection is not None:
        fields["ejection"] = _ejection(conf.outlier_detection)
    return fields


def _ejection(outliers: OutlierDetection) -> EjectionPlan:
    """Failures to connect count as 503, as in Envoy, which both detectors of errors see; or, where Kuma splits them, by
    themselves.
    """
    detectors = outliers.detectors
    if outliers.disabled or detectors is None:
        return EjectionPlan(failures=0)
    errors, gateway = _count(detectors.total_failures), _count(detectors.gateway_failures)
    failures = min(filter(None, (errors, gateway)), default=0)
    if outliers.split_external_and_local_errors:
        failures = _count(detectors.local_origin_failures)
    first_s = _or(outliers.base_ejection_time, FIRST_EJECTION_S)
    percent = outliers.max_ejection_percent
    return EjectionPlan(
        failures=failures,
        server_errors=errors,
        gateway_errors=gateway,
        first_s=first_s,
        longest_s=max(first_s, LONGEST_EJECTION_S),
        max_percent=EJECTED_PERCENT if percent is None else percent,
    )


def _count(detector: Consecutive | None) -> int:
    """0 for one that is off."""
    if detector is None:
        return 0
    return detector.consecutive if detector.consecutive is not None else CONSECUTIVE_FAILURES


def _retries(conf: RetryConf, protocol: Protocol) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if conf.tcp is not None and protocol is Protocol.TCP:
        fields["max_connect_attempts"] = conf.tcp.max_connect_attempt
    retries: Retries | None = None
    if protocol is Protocol.GRPC:
        retries = conf.grpc
    elif protocol in (Protocol.HTTP, Protocol.HTTP2):
        retries = conf.http
    if retries is not None:
        fields["retry"] = _retry_plan(retries, is_grpc=protocol is Protocol.GRPC)
    return fields


def _retry_plan(retries: Retries, *, is_grpc: bool) -> RetryPlan | None:
    """``None`` for no retries. Methods and statuses leave the default conditions in place, as in Kuma. Where only
    requests with certain headers may be sent again, none is: to ignore the restriction would be the worse mistake.
    """
    count = retries.num_retries if retries.num_retries is not None else RetryPlan().retries
    if count == 0 or (isinstance(retries, HttpRetries) and retries.retriable_request_headers):
        return None
    items = retries.retry_on or ()
    names = GRPC_CONDITIONS if is_grpc else HTTP_CONDITIONS
    conditions = frozenset(names[item] for item in items if item in names)
    conditions = conditions or (RETRY_GRPC if is_grpc else RETRY_HTTP)
    statuses = frozenset(int(item) for item in items if item.isdecimal())
    if statuses:
        conditions |= {BY_STATUS}
    base_s, max_s = RetryPlan().back_off_base_s, None
    if retries.back_off is not None:
        base_s, max_s = _or(retries.back_off.base_interval, base_s), retries.back_off.max_interval
    return RetryPlan(
        retries=count,
        per_try_timeout_s=_or(retries.per_try_timeout, 0.0),
        back_off_base_s=base_s,
        back_off_max_s=_or(max_s, base_s * BACK_OFF_FACTOR),
        retry_on=conditions,
        statuses=statuses,
        methods=frozenset(item.removeprefix(METHOD_PREFIX).upper() for item in items if item.startswith(METHOD_PREFIX)),
    )


def _balancing(conf: LoadBalancingConf) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    balancer = conf.load_balancer
    if balancer is not None:
        fields["load_balancer"] = balancer.type
        if balancer.least_request is not None:
            fields["least_request_choices"] = balancer.least_request.choice_count
        ring, maglev = balancer.ring_hash, balancer.maglev
        if ring is not None:
            fields["ring_sizes"] = ring.min_ring_size or MIN_RING_SIZE, ring.max_ring_size or MAX_RING_SIZE
        if maglev is not None and maglev.table_size is not None:
            fields["maglev_table_size"] = maglev.table_size
    policies = conf.hash_policies
    if policies is None:
        policies = _nested_hash_policies(balancer) if balancer is not None else ()
    if policies:
        fields["hash_policies"] = tuple(_hash_policy(policy) for policy in policies)
    return fields


def _nested_hash_policies(balancer: LoadBalancerConf) -> tuple[HashPolicy, ...]:
    if balancer.type is LoadBalancer.RING_HASH and balancer.ring_hash is not None:
        return balancer.ring_hash.hash_policies
    if balancer.type is LoadBalancer.MAGLEV and balancer.maglev is not None:
        return balancer.maglev.hash_policies
    return ()


def _hash_policy(policy: HashPolicy) -> HashPolicyPlan:
    plan = HashPolicyPlan(policy.source, terminal=bool(policy.terminal))
    if policy.header is not None and policy.source is HashSource.HEADER:
        return replace(plan, name=policy.header.name)
    if policy.cookie is not None and policy.source is HashSource.COOKIE:
        cookie = policy.cookie
        return replace(plan, name=cookie.name, cookie_ttl_s=cookie.ttl, cookie_path=cookie.path or "")
    if policy.query_parameter is not None and policy.source is HashSource.QUERY_PARAMETER:
        return replace(plan, name=policy.query_parameter.name)
    if policy.filter_state is not None and policy.source is HashSource.FILTER_STATE:
        return replace(plan, name=policy.filter_state.key)
    return plan
