"""Counters as plain integers.

Whatever counts, counts by ``stats.upstream_cx_total += 1`` on a slotted object: no lock, no dict, no string.
Names, sums and text exist only while someone asks (``proxy.admin``). Each class lists its fields with the names that
Envoy gives them, so that a stat is added by adding one line.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

# Envoy's default histogram buckets (upper bounds, milliseconds).
BUCKETS_MS = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000,
    300_000, 600_000, 1_800_000, 3_600_000,
)  # fmt: skip

_NO_COUNTS = (0,) * (len(BUCKETS_MS) + 1)


class Histogram:
    """Counts per bucket plus a sum; milliseconds in, nothing kept per sample. Buckets exist from the first sample on:
    of ten thousand services most are idle.
    """

    __slots__ = ("_counts", "sum_ms")

    def __init__(self) -> None:
        self._counts: list[int] | None = None
        self.sum_ms = 0.0

    def record(self, value_ms: float) -> None:
        counts = self._counts
        if counts is None:
            counts = self._counts = [0] * (len(BUCKETS_MS) + 1)
        counts[bisect_left(BUCKETS_MS, value_ms)] += 1
        self.sum_ms += value_ms

    @property
    def counts(self) -> Sequence[int]:
        return self._counts if self._counts is not None else _NO_COUNTS

    @property
    def count(self) -> int:
        return sum(self._counts) if self._counts is not None else 0

    def add(self, other: Histogram) -> None:
        """Hold the samples of both."""
        self._counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum_ms += other.sum_ms

    def quantile(self, q: float) -> float:
        """The value below which the share ``q`` of the samples lies, interpolated inside its bucket; NaN if empty."""
        total = self.count
        if not total:
            return float("nan")
        rank, seen = q * total, 0
        lower = 0.0
        for bound, count in zip(BUCKETS_MS, self.counts, strict=False):
            if count and seen + count >= rank:
                return lower + (bound - lower) * max(0.0, rank - seen) / count
            seen += count
            lower = bound
        return float(BUCKETS_MS[-1])


class Stats:
    """Base: every slot is a counter, gauge or :class:`Histogram`, or counters by a key; see the class attributes of the
    subclasses. Pickled as what is not zero: most things of many are idle.
    """

    __slots__ = ()
    counters: tuple[str, ...] = ()
    gauges: tuple[str, ...] = ()
    histograms: tuple[str, ...] = ()
    _numbers: tuple[str, ...] = ()
    _measures: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        cls._numbers = tuple(map(_slot, cls.counters + cls.gauges))
        cls._measures = tuple(map(_slot, cls.histograms))

    def __init__(self) -> None:
        for slot in self._numbers:
            setattr(self, slot, 0)
        for slot in self._measures:
            setattr(self, slot, Histogram())

    @classmethod
    def _slots(cls) -> tuple[str, ...]:
        return tuple(cls.__slots__)

    def numbers(self) -> tuple[int, ...]:
        """All counters and gauges, to tell whether one has changed."""
        return tuple([getattr(self, _slot(name)) for name in self.counters + self.gauges])

    def counted(self) -> Iterator[tuple[str, int]]:
        """(Envoy's stat name, value) of the counters."""
        return ((name, getattr(self, _slot(name))) for name in self.counters)

    def reset_counters(self) -> None:
        for name in self.counters:
            setattr(self, _slot(name), 0)

    def add(self, other: Stats) -> None:
        """Become the sum of both, which are of one class."""
        for slot in self._slots():
            mine, its = getattr(self, slot), getattr(other, slot)
            if isinstance(mine, Histogram):
                mine.add(its)
            elif isinstance(mine, dict):
                mine.update({key: mine.get(key, 0) + count for key, count in its.items()})
            else:
                setattr(self, slot, mine + its)

    def clear_gauges(self) -> None:
        """What was under way no longer is; what was counted stays."""
        for name in self.gauges:
            setattr(self, _slot(name), 0)

    def __getstate__(self) -> dict[str, object]:
        values = ((slot, getattr(self, slot)) for slot in self._slots())
        return {slot: value for slot, value in values if (any(value.counts) if isinstance(value, Histogram) else value)}

    def __setstate__(self, state: dict[str, object]) -> None:
        type(self).__init__(self)
        for slot, value in state.items():
            setattr(self, slot, value)

    def gauged(self) -> Iterator[tuple[str, int]]:
        return ((name, getattr(self, _slot(name))) for name in self.gauges)

    def observed(self) -> Iterator[tuple[str, Histogram]]:
        return ((name, getattr(self, _slot(name))) for name in self.histograms)


def _slot(name: str) -> str:
    return name.replace(".", "_")


class ClusterStats(Stats):
    """``cluster.<name>.*``. Byte totals hold connections that ended; the living ones are added by the cluster."""

    counters = (
        "upstream_cx_total",
        "upstream_cx_connect_fail",
        "upstream_cx_connect_timeout",
        "upstream_cx_connect_attempts_exceeded",
        "upstream_cx_overflow",
        "upstream_cx_none_healthy",
        "upstream_cx_idle_timeout",
        "upstream_cx_destroy",
        "upstream_cx_destroy_local",
        "upstream_cx_destroy_remote",
        "upstream_cx_rx_bytes_total",
        "upstream_cx_tx_bytes_total",
        "ssl.handshake",
        "ssl.session_reused",
        "ssl.connection_error",
        "ssl.fail_verify_error",
        "ssl.fail_verify_san",
        "ssl.fail_verify_no_cert",
        "update_attempt",
        "update_success",
        "update_failure",
        "lb_healthy_panic",
        "lb_ejections_total",
        "upstream_cx_http1_total",
        "upstream_cx_protocol_error",
        "upstream_rq_total",
        "upstream_rq_completed",
        "upstream_rq_cancelled",
        "upstream_rq_pending_total",
        "upstream_rq_pending_overflow",
        "upstream_rq_pending_failure_eject",
        "upstream_rq_retry",
        "upstream_rq_retry_success",
        "upstream_rq_retry_overflow",
        "upstream_rq_retry_limit_exceeded",
        "upstream_rq_retry_backoff_exponential",
        "retry_or_shadow_abandoned",
        "upstream_rq_per_try_timeout",
        "upstream_rq_max_duration_reached",
        "upstream_cx_max_duration_reached",
        "upstream_rq_rx_reset",
        "upstream_rq_tx_reset",
        "upstream_rq_timeout",
        "upstream_rq_active_overflow",
        "upstream_cx_http2_total",
        "upstream_cx_close_notify",
        "upstream_cx_spliced_total",
    )
    gauges = ("upstream_cx_active", "upstream_rq_active", "upstream_rq_pending_active")
    histograms = ("upstream_cx_connect_ms", "upstream_cx_length_ms", "upstream_rq_time")
    __slots__ = (*(_slot(name) for name in counters + gauges + histograms), "codes", "grpc_codes")

    codes: dict[int, int]
    """Responses by status; ``upstream_rq_200`` and ``upstream_rq_2xx`` exist once there was one."""
    grpc_codes: dict[int, int]
    """Calls by gRPC status (0 to 16); ``grpc.0``, ``grpc.success`` and so on exist once there was one."""

    upstream_cx_total: int
    upstream_cx_connect_fail: int
    upstream_cx_connect_timeout: int
    upstream_cx_connect_attempts_exceeded: int
    upstream_cx_overflow: int
    upstream_cx_none_healthy: int
    upstream_cx_idle_timeout: int
    upstream_cx_destroy: int
    upstream_cx_destroy_local: int
    upstream_cx_destroy_remote: int
    upstream_cx_rx_bytes_total: int
    upstream_cx_tx_bytes_total: int
    ssl_handshake: int
    ssl_session_reused: int
    ssl_connection_error: int
    ssl_fail_verify_error: int
    ssl_fail_verify_san: int
    ssl_fail_verify_no_cert: int
    update_attempt: int
    update_success: int
    update_failure: int
    lb_healthy_panic: int
    lb_ejections_total: int
    upstream_cx_http1_total: int
    upstream_cx_protocol_error: int
    upstream_rq_total: int
    upstream_rq_completed: int
    upstream_rq_cancelled: int
    upstream_rq_pending_total: int
    upstream_rq_pending_overflow: int
    upstream_rq_pending_failure_eject: int
    upstream_rq_retry: int
    upstream_rq_retry_success: int
    upstream_rq_retry_overflow: int
    upstream_rq_retry_limit_exceeded: int
    upstream_rq_retry_backoff_exponential: int
    retry_or_shadow_abandoned: int
    upstream_rq_per_try_timeout: int
    upstream_rq_max_duration_reached: int
    upstream_cx_max_duration_reached: int
    upstream_rq_rx_reset: int
    upstream_rq_tx_reset: int
    upstream_rq_timeout: int
    upstream_rq_active_overflow: int
    upstream_cx_http2_total: int
    upstream_cx_close_notify: int
    upstream_cx_spliced_total: int
    """Times that the kernel has taken over a direction of a connection."""
    upstream_cx_active: int
    upstream_rq_active: int
    upstream_rq_pending_active: int
    upstream_cx_connect_ms: Histogram
    upstream_cx_length_ms: Histogram
    upstream_rq_time: Histogram

    def __init__(self) -> None:
        super().__init__()
        self.codes = {}
        self.grpc_codes = {}

    def count_grpc(self, status: bytes) -> None:
        """Account for a call that ended with ``grpc-status: status``; what gRPC does not know counts as 2 (UNKNOWN)."""
        code = int(status) if len(status) <= 2 and status.isdigit() and int(status) <= 16 else 2
        self.grpc_codes[code] = self.grpc_codes.get(code, 0) + 1

    def reset_counters(self) -> None:
        super().reset_counters()
        self.codes.clear()
        self.grpc_codes.clear()

    def counted(self) -> Iterator[tuple[str, int]]:
        yield from super().counted()
        classes: dict[int, int] = {}
        for status, count in sorted(self.codes.items()):
            yield f"upstream_rq_{status}", count
            classes[status // 100] = classes.get(status // 100, 0) + count
        for number, count in classes.items():
            yield f"upstream_rq_{number}xx", count
        if self.grpc_codes:
            total = 0
            for code, count in sorted(self.grpc_codes.items()):
                yield f"grpc.{code}", count
                total += count
            success = self.grpc_codes.get(0, 0)
            yield "grpc.success", success
            yield "grpc.failure", total - success
            yield "grpc.total", total


class ListenerStats(Stats):
    """``listener.<address>.*`` and ``tcp.<prefix>.*``: the downstream side of one listener."""

    counters = (
        "downstream_cx_total",
        "downstream_cx_destroy",
        "downstream_cx_overflow",
        "downstream_cx_rx_bytes_total",
        "downstream_cx_tx_bytes_total",
        "access_denied",
        "idle_timeout",
        "rbac.allowed",
        "rbac.denied",
        "rbac.shadow_denied",
        "ssl.handshake",
        "ssl.session_reused",
        "ssl.connection_error",
        "ssl.fail_verify_error",
        "ssl.fail_verify_no_cert",
        "no_filter_chain_match",
        "downstream_pre_cx_timeout",
        "tls_inspector.sni_found",
        "tls_inspector.sni_not_found",
        "tls_inspector.tls_not_found",
        "tls_inspector.client_hello_too_large",
        "tls_inspector.client_hello_malformed",
    )
    gauges = ("downstream_cx_active",)
    histograms = ("downstream_cx_length_ms",)
    __slots__ = (*(_slot(name) for name in counters + gauges + histograms), "peers")

    peers: dict[tuple[str, str], int]
    """At the door of a zone egress: by (SPIFFE ID, counter); see :mod:`proxy.peer_counts`."""

    downstream_cx_total: int
    downstream_cx_destroy: int
    downstream_cx_overflow: int
    downstream_cx_rx_bytes_total: int
    downstream_cx_tx_bytes_total: int
    access_denied: int
    idle_timeout: int
    rbac_allowed: int
    rbac_denied: int
    rbac_shadow_denied: int
    ssl_handshake: int
    ssl_session_reused: int
    ssl_connection_error: int
    ssl_fail_verify_error: int
    ssl_fail_verify_no_cert: int
    no_filter_chain_match: int
    downstream_pre_cx_timeout: int
    tls_inspector_sni_found: int
    tls_inspector_sni_not_found: int
    tls_inspector_tls_not_found: int
    tls_inspector_client_hello_too_large: int
    tls_inspector_client_hello_malformed: int
    downstream_cx_active: int
    downstream_cx_length_ms: Histogram

    def __init__(self) -> None:
        super().__init__()
        self.peers = {}

    def numbers(self) -> tuple[int, ...]:
        return super().numbers() if not self.peers else (*super().numbers(), *self.peers.values())

    def reset_counters(self) -> None:
        super().reset_counters()
        self.peers.clear()


class HttpStats(Stats):
    """``http.<prefix>.*``: the requests of one listener."""

    counters = (
        "downstream_rq_total",
        "downstream_rq_http1_total",
        "downstream_rq_completed",
        "downstream_rq_1xx",
        "downstream_rq_2xx",
        "downstream_rq_3xx",
        "downstream_rq_4xx",
        "downstream_rq_5xx",
        "downstream_rq_rx_reset",
        "downstream_rq_tx_reset",
        "downstream_rq_idle_timeout",
        "downstream_rq_header_timeout",
        "downstream_rq_response_before_rq_complete",
        "downstream_cx_http1_total",
        "downstream_rq_http2_total",
        "downstream_cx_http2_total",
        "downstream_cx_protocol_error",
        "downstream_cx_idle_timeout",
        "downstream_cx_upgrades_total",
        "no_cluster",
    )
    gauges = ("downstream_rq_active", "downstream_cx_upgrades_active")
    histograms = ("downstream_rq_time",)
    __slots__ = tuple(_slot(name) for name in counters + gauges + histograms)

    downstream_rq_total: int
    downstream_rq_http1_total: int
    downstream_rq_completed: int
    downstream_rq_1xx: int
    downstream_rq_2xx: int
    downstream_rq_3xx: int
    downstream_rq_4xx: int
    downstream_rq_5xx: int
    downstream_rq_rx_reset: int
    downstream_rq_tx_reset: int
    downstream_rq_idle_timeout: int
    downstream_rq_header_timeout: int
    downstream_rq_response_before_rq_complete: int
    downstream_cx_http1_total: int
    downstream_rq_http2_total: int
    downstream_cx_http2_total: int
    downstream_cx_protocol_error: int
    downstream_cx_idle_timeout: int
    downstream_cx_upgrades_total: int
    no_cluster: int
    downstream_rq_active: int
    downstream_cx_upgrades_active: int
    downstream_rq_time: Histogram


class ReloadStats(Stats):
    """``koguma.reload.*``: what became of changed files."""

    counters = ("success", "rejected", "failed")
    gauges = ("generation",)
    __slots__ = tuple(_slot(name) for name in counters + gauges)

    success: int
    rejected: int
    failed: int
    generation: int


class WorkerStats(Stats):
    """``koguma.workers.*``: the processes that carry traffic."""

    counters = ("crashed",)
    gauges = ("running",)
    __slots__ = tuple(_slot(name) for name in counters + gauges)

    crashed: int
    """How often one ended that should not have."""
    running: int


class DnsStats(Stats):
    """``koguma.dns.*``: the questions at our port, and those that we asked."""

    counters = (
        "udp_queries",
        "tcp_queries",
        "answered",
        "forwarded",
        "cache_hits",
        "refused",
        "ignored",
        "truncated",
        "overflow",
        "tcp_overflow",
        "upstream_queries",
        "upstream_failures",
        "upstream_unanswered",
    )
    gauges = ("names", "forwarding", "cached", "tcp_active")
    histograms = ("upstream_ms",)
    __slots__ = tuple(_slot(name) for name in counters + gauges + histograms)

    udp_queries: int
    tcp_queries: int
    answered: int
    """Questions for our own names."""
    forwarded: int
    """The others; ``cache_hits`` of them were answered from the cache."""
    cache_hits: int
    refused: int
    """Questions that got an error: malformed, or of a kind that is not answered."""
    ignored: int
    truncated: int
    overflow: int
    """Questions that got SERVFAIL since too many are being forwarded."""
    tcp_overflow: int
    upstream_queries: int
    upstream_failures: int
    upstream_unanswered: int
    """Questions that no resolver answered."""
    names: int
    forwarding: int
    cached: int
    tcp_active: int
    upstream_ms: Histogram
