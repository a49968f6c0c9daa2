"""MeshTimeout: how long a proxy waits for what.

Kuma's ``pkg/plugins/policies/meshtimeout/api/v1alpha1``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from config.policies.checks import not_negative, positive
from config.policies.inbound import FromEntry, InboundPolicy, RuleEntry
from config.policies.policy import SERVICE_KINDS, TOP_KINDS, Conf, ToEntry
from config.policies.target_ref import TargetKind
from config.resources.duration import Duration
from config.resources.shape import Listed, Node, Omittable, Violation


class HttpTimeouts(Node):
    request_timeout: Omittable[Duration] = Field(
        None, description="From the whole request to the whole response; 15s where a policy applies; 0 disables it."
    )
    stream_idle_timeout: Omittable[Duration] = Field(
        None, description="A request or response without progress; 30m where a policy applies; 0 disables it."
    )
    max_stream_duration: Omittable[Duration] = Field(None, description="A request and its response; 0 disables it.")
    max_connection_duration: Omittable[Duration] = Field(None, description="A connection's age; 0 disables it.")
    request_headers_timeout: Omittable[Duration] = Field(None, description="The head of a request; 0 disables it.")


class TimeoutConf(Conf):
    connection_timeout: Omittable[Duration] = Field(None, description="To connect; 5s where a policy applies.")
    idle_timeout: Omittable[Duration] = Field(
        None, description="A connection without a byte; 1h where a policy applies; 0 disables it."
    )
    http: Omittable[HttpTimeouts] = Field(None, description="For HTTP.")

    def rules(self) -> Iterator[Violation]:
        if self.connection_timeout is None and self.idle_timeout is None and self.http is None:
            yield Violation((), "at least one timeout should be configured")
            return
        yield from positive(("connectionTimeout",), self.connection_timeout)
        yield from not_negative(("idleTimeout",), self.idle_timeout)
        if self.http is not None:
            yield from (violation.under(("http",)) for violation in _http_rules(self.http))


def _http_rules(http: HttpTimeouts) -> Iterator[Violation]:
    if not http.model_fields_set - {"request_headers_timeout"}:
        yield Violation((), "at least one timeout in this section should be configured")
    yield from not_negative(("requestTimeout",), http.request_timeout)
    yield from not_negative(("streamIdleTimeout",), http.stream_idle_timeout)
    yield from not_negative(("maxStreamDuration",), http.max_stream_duration)
    yield from not_negative(("maxConnectionDuration",), http.max_connection_duration)
    yield from not_negative(("requestHeadersTimeout",), http.request_headers_timeout)


class TimeoutTo(ToEntry):
    default: TimeoutConf = Field(TimeoutConf(), description="The timeouts.")


class TimeoutFrom(FromEntry):
    default: TimeoutConf = Field(TimeoutConf(), description="The timeouts.")


class TimeoutRule(RuleEntry):
    default: TimeoutConf = Field(TimeoutConf(), description="The timeouts.")


class MeshTimeout(InboundPolicy):
    """How long a proxy waits for what."""

    kind: ClassVar[str] = "MeshTimeout"
    short: ClassVar[str] = "mt"
    top_kinds: ClassVar[Sequence[TargetKind]] = (*TOP_KINDS, TargetKind.MESH_HTTP_ROUTE)
    to_kinds: ClassVar[Sequence[TargetKind]] = (*SERVICE_KINDS, TargetKind.MESH_HTTP_ROUTE)

    to: Listed[TimeoutTo] = Field((), description="Timeouts of what the proxy sends.")
    from_: Listed[TimeoutFrom] = Field((), alias="from", description="Timeouts of what it receives (Kuma 2).")
    inbound_rules: Listed[TimeoutRule] = Field((), alias="rules", description="Timeouts of what it receives.")

    @property
    def entries(self) -> Sequence[TimeoutTo]:
        return self.to

    @property
    def from_entries(self) -> Sequence[TimeoutFrom]:
        return self.from_

    @property
    def rule_entries(self) -> Sequence[TimeoutRule]:
        return self.inbound_rules
