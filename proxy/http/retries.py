"""When a request is sent again because a policy says so: the decisions, the wait, and the places that retries share.

    fails, or is answered  -> covers_failure, covers_response    is that what the policy means?
                           -> may_go_on                          retries left, and a place among those of the service
                           -> wait, then the exchange leases another connection
    ends                   -> release                             the place is free again

As in Envoy (``source/common/router/retry_state_impl.cc``): a response that is overloaded is never asked for again,
``5xx`` and ``gateway-error`` mean failures of the connection too, and a gRPC status counts in a head only. The n-th
wait is random between 0 and (2**n - 1) times the base: clients that failed together do not come back together. A place
(``max_retries`` for a service) is held from the decision until the next one, or the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from config.plan import RetryPlan
from proxy.outcome import Outcome
from proxy.wire import RequestHead, ResponseHead

if TYPE_CHECKING:
    from proxy.cluster import Cluster

_GRPC_CONDITIONS = {
    b"1": "cancelled",
    b"4": "deadline-exceeded",
    b"8": "resource-exhausted",
    b"13": "internal",
    b"14": "unavailable",
}
"""Envoy's names of gRPC statuses."""

_ON_ANY_FAILURE = frozenset({"reset", "5xx", "gateway-error"})
_ON_FAILURE = {
    Outcome.UPSTREAM_CONNECT_FAILED: _ON_ANY_FAILURE | {"connect-failure"},
    Outcome.UPSTREAM_CONNECT_TIMEOUT: _ON_ANY_FAILURE | {"connect-failure"},
    Outcome.UPSTREAM_STREAM_REFUSED: _ON_ANY_FAILURE | {"refused-stream"},
    Outcome.UPSTREAM_STREAM_RESET: _ON_ANY_FAILURE,
    Outcome.UPSTREAM_CLOSED: _ON_ANY_FAILURE,
    Outcome.UPSTREAM_TLS_FAILED: _ON_ANY_FAILURE,
    Outcome.UPSTREAM_PROTOCOL_ERROR: _ON_ANY_FAILURE,
    Outcome.REQUEST_TIMEOUT: _ON_ANY_FAILURE,
    Outcome.MAX_STREAM_DURATION: _ON_ANY_FAILURE,
}
"""The conditions that cover each failure. What is missing, such as an overflow, is never tried again."""

LIMIT_EXCEEDED = "URX"
OVERFLOW = "UO"


class Retry:
    """One request's. ``flag``: Envoy's, once a retry was wanted and could not be; ``count``: retries so far."""

    __slots__ = ("_cluster", "_has_place", "_plan", "_timer", "count", "flag")

    def __init__(self, cluster: Cluster, plan: RetryPlan) -> None:
        self._cluster = cluster
        self._plan = plan
        self._timer: asyncio.TimerHandle | None = None
        self._has_place = False
        self.count = 0
        self.flag = ""

    def covers_failure(self, outcome: Outcome) -> bool:
        return not self._plan.retry_on.isdisjoint(_ON_FAILURE.get(outcome, frozenset()))

    def covers_response(self, head: ResponseHead) -> bool:
        on, status, fields = self._plan.retry_on, head.status, dict(head.fields)
        if b"x-envoy-overloaded" in fields:
            return False
        if b"x-envoy-ratelimited" in fields:
            return "envoy-ratelimited" in on
        return (
            ("5xx" in on and status >= 500)
            or ("gateway-error" in on and 502 <= status <= 504)
            or ("retriable-4xx" in on and status == 409)
            or status in self._plan.statuses
            or _GRPC_CONDITIONS.get(fields.get(b"grpc-status", b"")) in on
        )

    def may_go_on(self) -> bool:
        """Whether there is another try. Then a place is taken, and :meth:`wait` follows."""
        stats = self._cluster.stats
        self.release()
        if self.count >= self._plan.retries:
            stats.upstream_rq_retry_limit_exceeded += 1
            self.flag = LIMIT_EXCEEDED
            return False
        if self._cluster.retries_active >= self._cluster.plan.max_retries:
            stats.upstream_rq_retry_overflow += 1
            self.flag = OVERFLOW
            return False
        self._cluster.retries_active += 1
        self._has_place = True
        self.count += 1
        stats.upstream_rq_retry += 1
        stats.upstream_rq_retry_backoff_exponential += 1
        return True

    def wait(self, again: Callable[[], None]) -> None:
        plan = self._plan
        most_s = min(plan.back_off_max_s, (2.0 ** min(self.count, 32) - 1.0) * plan.back_off_base_s)
        delay_s = self._cluster.chance.random() * most_s
        self._timer = asyncio.get_running_loop().call_later(delay_s, again)

    def settled(self) -> None:
        """A response that is not asked for again has come."""
        if self.count and not self.flag:
            self._cluster.stats.upstream_rq_retry_success += 1
        self.release()

    def release(self) -> None:
        """Give the place back, and wait no longer."""
        if self._has_place:
            self._has_place = False
            self._cluster.retries_active -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def retry_for(cluster: Cluster, plan: RetryPlan, head: RequestHead) -> Retry | None:
    """``None`` where the policy is not for such requests."""
    if plan.methods and head.method.decode("latin-1") not in plan.methods:
        return None
    return Retry(cluster, plan)
