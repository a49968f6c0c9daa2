"""MeshRetry: what is tried again, how often and when.

Kuma's ``pkg/plugins/policies/meshretry/api/v1alpha1``. Its violations have a step ``conf`` in their paths that no
document has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, ClassVar

from pydantic import Field

from config.document import Path
from config.policies.policy import SERVICE_KINDS, Conf, Policy, ToEntry
from config.policies.target_ref import TargetKind
from config.resources.duration import Duration
from config.resources.shape import Labels, Listed, Node, Omittable, Violation, choice, clip

HTTP_CONDITIONS = {
    "5xx": "5xx",
    "GatewayError": "gateway-error",
    "Reset": "reset",
    "Retriable4xx": "retriable-4xx",
    "ConnectFailure": "connect-failure",
    "EnvoyRatelimited": "envoy-ratelimited",
    "RefusedStream": "refused-stream",
    "Http3PostConnectFailure": "http3-post-connect-failure",
}
"""Items of ``http.retryOn``, and what Envoy calls them."""

METHOD_PREFIX = "HttpMethod"
METHODS = ("Connect", "Delete", "Get", "Head", "Options", "Patch", "Post", "Put", "Trace")

GRPC_CONDITIONS = {
    "Canceled": "cancelled",
    "DeadlineExceeded": "deadline-exceeded",
    "Internal": "internal",
    "ResourceExhausted": "resource-exhausted",
    "Unavailable": "unavailable",
}
"""Items of ``grpc.retryOn``, and what Envoy calls them."""

_STATUSES = {str(status.value) for status in HTTPStatus}


class Tcp(Node):
    max_connect_attempt: Omittable[int] = Field(None, description="Endpoints that are tried for one connection.")

    def rules(self) -> Iterator[Violation]:
        if self.max_connect_attempt is None:
            yield Violation((), "must not be empty")
        elif self.max_connect_attempt <= 0:
            yield Violation(("maxConnectAttempt",), "must be greater than 0")


class BackOff(Node):
    base_interval: Omittable[Duration] = Field(None, description="Before the first retry; 25ms where it is absent.")
    max_interval: Omittable[Duration] = Field(None, description="At most; ten times baseInterval where it is absent.")

    def rules(self) -> Iterator[Violation]:
        if not self.model_fields_set:
            yield Violation((), "must not be empty")
        for name, value in (("baseInterval", self.base_interval), ("maxInterval", self.max_interval)):
            if value is not None and value <= 0:
                yield Violation((name,), "must be greater than zero when defined")


class ResetFormat(StrEnum):
    SECONDS = "Seconds"
    UNIX_TIMESTAMP = "UnixTimestamp"


class ResetHeader(Node):
    name: str = Field(min_length=1, description="Its name.")
    format: Annotated[
        ResetFormat,
        choice(ResetFormat, "in body should be one of [Seconds UnixTimestamp]", ResetFormat.SECONDS, is_default=False),
    ] = Field(description="What its value counts.")


class RateLimitedBackOff(Node):
    reset_headers: Omittable[Listed[ResetHeader]] = Field(None, description="Headers that say when to come back.")
    max_interval: Omittable[Duration] = Field(None, description="At most; 300s where it is absent.")

    def rules(self) -> Iterator[Violation]:
        if self.max_interval is not None and self.max_interval <= 0:
            yield Violation(("maxInterval",), "must be defined and greater than zero")
        if self.reset_headers is None:
            yield Violation(("resetHeaders",), "must be defined")


class HeaderMatchType(StrEnum):
    EXACT = "Exact"
    PRESENT = "Present"
    REGULAR_EXPRESSION = "RegularExpression"
    ABSENT = "Absent"
    PREFIX = "Prefix"


class HeaderMatch(Node):
    name: str = Field(min_length=1, description="Its name.")
    type: Annotated[
        HeaderMatchType,
        choice(
            HeaderMatchType,
            f"in body should be one of [{' '.join(HeaderMatchType)}]",
            HeaderMatchType.EXACT,
        ),
    ] = Field(HeaderMatchType.EXACT, description="How value is compared.")
    value: Omittable[str] = Field(None, description="What to compare with.")


PREDICATES = ("OmitPreviousHosts", "OmitHostsWithTags", "OmitPreviousPriorities")


class Predicate(Node):
    predicate: str = Field(description="Which hosts are passed over.", json_schema_extra={"enum": list(PREDICATES)})
    tags: Omittable[Labels] = Field(None, description="For OmitHostsWithTags.")
    update_frequency: int = Field(2, description="For OmitPreviousPriorities.")


class Retries(Node):
    num_retries: Omittable[int] = Field(None, ge=0, description="How often; 1 where it is absent, 0 for never.")
    per_try_timeout: Omittable[Duration] = Field(None, description="For one attempt; the request's where absent.")
    back_off: Omittable[BackOff] = Field(None, description="How long to wait.")
    rate_limited_back_off: Omittable[RateLimitedBackOff] = Field(None, description="How long to wait when told so.")
    retry_on: Omittable[Listed[str]] = Field(None, description="What is tried again.")

    def shared_rules(self) -> Iterator[Violation]:
        if not self.model_fields_set - {"host_selection_max_attempts"}:
            yield Violation((), "must not be empty")
        if self.per_try_timeout is not None and self.per_try_timeout < 0:
            yield Violation(("perTryTimeout",), "must not be negative when defined")
        if self.back_off is not None:
            yield from (violation.under(("backOff",)) for violation in self.back_off.rules())
        if self.rate_limited_back_off is not None:
            found = self.rate_limited_back_off.rules()
            yield from (violation.under(("rateLimitedBackOff",)) for violation in found)

    def retry_on_rules(self, known: set[str]) -> Iterator[Violation]:
        for index, item in enumerate(self.retry_on or ()):
            if item not in known:
                yield Violation(("retryOn", index), f"unknown item '{clip(item)}'")


class HttpRetries(Retries):
    retriable_request_headers: Omittable[Listed[HeaderMatch]] = Field(None, description="Only requests with these.")
    retriable_response_headers: Omittable[Listed[HeaderMatch]] = Field(None, description="Responses with these, too.")
    host_selection: Omittable[Listed[Predicate]] = Field(None, description="Where to try again.")
    host_selection_max_attempts: Omittable[int] = Field(None, description="How often to look for such a host.")

    def rules(self) -> Iterator[Violation]:
        yield from self.shared_rules()
        yield from self.retry_on_rules({*HTTP_CONDITIONS, *(METHOD_PREFIX + method for method in METHODS), *_STATUSES})
        yield from _host_selection_rules(self.host_selection or ())


def _host_selection_rules(predicates: Sequence[Predicate]) -> Iterator[Violation]:
    priorities_before = False
    for index, one in enumerate(predicates):
        at: Path = ("hostSelection", index)
        if one.predicate not in PREDICATES:
            yield Violation((*at, "predicate"), f"unknown predicate type '{clip(one.predicate)}'")
        if one.predicate == "OmitHostsWithTags" and one.tags is None:
            yield Violation((*at, "tags"), "must be defined")
        if one.predicate == "OmitPreviousPriorities":
            if priorities_before:
                yield Violation((*at, "predicate"), "OmitPreviousPriorities must only be specified once")
            if one.update_frequency <= 0:
                yield Violation((*at, "updateFrequency"), "must be defined and greater than zero")
            priorities_before = True


class GrpcRetries(Retries):
    def rules(self) -> Iterator[Violation]:
        yield from self.shared_rules()
        yield from self.retry_on_rules(set(GRPC_CONDITIONS))


class RetryConf(Conf):
    tcp: Omittable[Tcp] = Field(None, description="For connections.")
    http: Omittable[HttpRetries] = Field(None, description="For requests.")
    grpc: Omittable[GrpcRetries] = Field(None, description="For calls.")

    def rules(self) -> Iterator[Violation]:
        if self.tcp is None and self.http is None and self.grpc is None:
            yield Violation((), "at least one of the 'tcp', 'http', 'grpc' must be specified")
        for name, part in (("tcp", self.tcp), ("http", self.http), ("grpc", self.grpc)):
            if part is not None:
                yield from (violation.under((name,)) for violation in part.rules())


class RetryTo(ToEntry):
    default: RetryConf = Field(RetryConf(), description="What is tried again.")


class MeshRetry(Policy):
    """What is tried again, how often and when."""

    kind: ClassVar[str] = "MeshRetry"
    short: ClassVar[str] = "mr"
    to_kinds: ClassVar[Sequence[TargetKind]] = (*SERVICE_KINDS, TargetKind.MESH_HTTP_ROUTE)
    conf_path: ClassVar[Path] = ("conf",)
    no_effect: ClassVar[Sequence[Path]] = (
        ("http", "rateLimitedBackOff"),
        ("http", "retriableRequestHeaders"),
        ("http", "retriableResponseHeaders"),
        ("http", "hostSelection"),
        ("http", "hostSelectionMaxAttempts"),
        ("grpc", "rateLimitedBackOff"),
    )

    to: Listed[RetryTo] = Field((), description="Retries of what the proxy sends.")

    @property
    def entries(self) -> Sequence[RetryTo]:
        return self.to

    def list_rules(self) -> Iterator[Violation]:
        if not self.to:
            yield Violation(("to",), "needs at least one item")
