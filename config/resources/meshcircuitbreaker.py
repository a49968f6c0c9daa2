"""MeshCircuitBreaker: how much of a service may be in use at once, and when an endpoint is left out.

Kuma's ``pkg/plugins/policies/meshcircuitbreaker/api/v1alpha1``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from config.document import Path
from config.policies.checks import percentage, positive
from config.policies.inbound import FromEntry, InboundPolicy, RuleEntry
from config.policies.policy import Conf, ToEntry
from config.resources.duration import Duration
from config.resources.numbers import Decimal
from config.resources.shape import Listed, Node, Omittable, Violation

DETECTORS = ("totalFailures", "gatewayFailures", "localOriginFailures", "successRate", "failurePercentage")


class ConnectionLimits(Node):
    max_connections: Omittable[int] = Field(None, description="Connections to the service; 1024 where it is absent.")
    max_connection_pools: Omittable[int] = Field(None, description="Connection pools; no limit where it is absent.")
    max_pending_requests: Omittable[int] = Field(
        None, description="Requests that wait for a connection; 1024 where it is absent."
    )
    max_retries: Omittable[int] = Field(None, description="Retries that are under way; 3 where it is absent.")
    max_requests: Omittable[int] = Field(None, description="Requests that are under way; 1024 where it is absent.")

    def rules(self) -> Iterator[Violation]:
        yield from positive(("maxConnections",), self.max_connections)
        yield from positive(("maxConnectionPools",), self.max_connection_pools)
        yield from positive(("maxPendingRequests",), self.max_pending_requests)
        yield from positive(("maxRetries",), self.max_retries)
        yield from positive(("maxRequests",), self.max_requests)


class Consecutive(Node):
    consecutive: Omittable[int] = Field(None, description="How many in a row; 5 where it is absent.")

    def rules(self) -> Iterator[Violation]:
        yield from positive(("consecutive",), self.consecutive)


class SuccessRate(Node):
    minimum_hosts: Omittable[int] = Field(None, description="Endpoints it takes; 5 where it is absent.")
    request_volume: Omittable[int] = Field(None, description="Requests it takes; 100 where it is absent.")
    standard_deviation_factor: Omittable[Decimal] = Field(
        None, description="How far below the mean an outlier is; 1.9 where it is absent."
    )

    def rules(self) -> Iterator[Violation]:
        yield from positive(("minimumHosts",), self.minimum_hosts)
        yield from positive(("requestVolume",), self.request_volume)
        if self.standard_deviation_factor is not None and self.standard_deviation_factor <= 0:
            yield Violation(("standardDeviationFactor",), "must be greater than 0")


class FailurePercentage(Node):
    minimum_hosts: Omittable[int] = Field(None, description="Endpoints it takes; 5 where it is absent.")
    request_volume: Omittable[int] = Field(None, description="Requests it takes; 50 where it is absent.")
    threshold: Omittable[int] = Field(None, description="Percentage of failures; 85 where it is absent.")

    def rules(self) -> Iterator[Violation]:
        yield from positive(("minimumHosts",), self.minimum_hosts)
        yield from positive(("requestVolume",), self.request_volume)
        yield from percentage(("threshold",), self.threshold)


class Detectors(Node):
    """A detector that is absent is off; one that is present and empty has its defaults."""

    total_failures: Omittable[Consecutive] = Field(None, description="Failures of any kind.")
    gateway_failures: Omittable[Consecutive] = Field(None, description="502, 503 and 504.")
    local_origin_failures: Omittable[Consecutive] = Field(None, description="Failures to connect, timeouts, resets.")
    success_rate: Omittable[SuccessRate] = Field(None, description="A success rate below that of the others.")
    failure_percentage: Omittable[FailurePercentage] = Field(None, description="A rate of failures.")

    def rules(self) -> Iterator[Violation]:
        if not self.model_fields_set:
            yield Violation((), f"must have at least one defined: {', '.join(DETECTORS)}")
        found = (
            self.total_failures,
            self.gateway_failures,
            self.local_origin_failures,
            self.success_rate,
            self.failure_percentage,
        )
        for name, detector in zip(DETECTORS, found, strict=True):
            if detector is not None:
                yield from (violation.under((name,)) for violation in detector.rules())


class OutlierDetection(Node):
    disabled: Omittable[bool] = Field(None, description="No endpoint is left out.")
    interval: Omittable[Duration] = Field(None, description="Between two looks; 10s where it is absent.")
    base_ejection_time: Omittable[Duration] = Field(
        None, description="How long an endpoint is left out at first; 30s where it is absent."
    )
    max_ejection_percent: Omittable[int] = Field(None, description="Of the endpoints; 10 where it is absent.")
    split_external_and_local_errors: Omittable[bool] = Field(
        None, description="Whether failures to connect are counted by themselves."
    )
    detectors: Omittable[Detectors] = Field(None, description="What is looked for.")
    healthy_panic_threshold: Omittable[Decimal] = Field(
        None, description="Percentage of healthy endpoints below which all are used; 50 where it is absent."
    )

    def rules(self) -> Iterator[Violation]:
        yield from positive(("interval",), self.interval)
        yield from positive(("baseEjectionTime",), self.base_ejection_time)
        yield from percentage(("maxEjectionPercent",), self.max_ejection_percent)
        if self.detectors is None:
            yield Violation(("detectors",), "must be defined")
        else:
            yield from (violation.under(("detectors",)) for violation in self.detectors.rules())
        if self.healthy_panic_threshold is not None and not 0 <= self.healthy_panic_threshold <= 100:
            yield Violation(("healthyPanicThreshold",), "must be in inclusive range [0.0, 100.0]")


class CircuitBreakerConf(Conf):
    connection_limits: Omittable[ConnectionLimits] = Field(None, description="How much may be in use at once.")
    outlier_detection: Omittable[OutlierDetection] = Field(None, description="When an endpoint is left out.")

    def rules(self) -> Iterator[Violation]:
        if self.connection_limits is None and self.outlier_detection is None:
            yield Violation((), "at least one of: 'connectionLimits' or 'outlierDetection' should be configured")
        if self.connection_limits is not None:
            yield from (violation.under(("connectionLimits",)) for violation in self.connection_limits.rules())
        if self.outlier_detection is not None:
            yield from (violation.under(("outlierDetection",)) for violation in self.outlier_detection.rules())


class CircuitBreakerTo(ToEntry):
    default: CircuitBreakerConf = Field(CircuitBreakerConf(), description="The limits.")


class CircuitBreakerFrom(FromEntry):
    default: CircuitBreakerConf = Field(CircuitBreakerConf(), description="The limits.")


class CircuitBreakerRule(RuleEntry):
    default: CircuitBreakerConf = Field(CircuitBreakerConf(), description="The limits.")


class MeshCircuitBreaker(InboundPolicy):
    """How much of a service may be in use at once, and when an endpoint is left out."""

    kind: ClassVar[str] = "MeshCircuitBreaker"
    short: ClassVar[str] = "mcb"
    rules_shown_as: ClassVar[str] = "from"
    no_effect: ClassVar[Sequence[Path]] = (
        ("connectionLimits", "maxConnectionPools"),
        ("outlierDetection", "interval"),
        ("outlierDetection", "detectors", "successRate"),
        ("outlierDetection", "detectors", "failurePercentage"),
        ("outlierDetection", "healthyPanicThreshold"),
    )

    to: Listed[CircuitBreakerTo] = Field((), description="Limits of what the proxy sends.")
    from_: Listed[CircuitBreakerFrom] = Field((), alias="from", description="Limits of what it receives (Kuma 2).")
    inbound_rules: Listed[CircuitBreakerRule] = Field((), alias="rules", description="Limits of what it receives.")

    @property
    def entries(self) -> Sequence[CircuitBreakerTo]:
        return self.to

    @property
    def from_entries(self) -> Sequence[CircuitBreakerFrom]:
        return self.from_

    @property
    def rule_entries(self) -> Sequence[CircuitBreakerRule]:
        return self.inbound_rules
