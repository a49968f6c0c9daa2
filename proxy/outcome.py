"""Every way in which a proxied connection ends: its one name, Envoy's response flag, and who ended it.

The flags are Envoy's (``envoy-access-log`` "RESPONSE_FLAGS"); ``-`` where Envoy sets none.
"""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """``value`` is (word for logs, Envoy's flag)."""

    COMPLETED = ("completed", "-")
    DOWNSTREAM_CLOSED_EARLY = ("downstream_closed_before_upstream_connected", "DC")
    DOWNSTREAM_RESET = ("downstream_reset", "DC")
    UPSTREAM_RESET = ("upstream_reset", "UC")
    UPSTREAM_TLS_FAILED = ("upstream_tls_failed", "UC")
    UPSTREAM_CONNECT_FAILED = ("upstream_connect_failed", "UF")
    UPSTREAM_CONNECT_TIMEOUT = ("upstream_connect_timeout", "UF")
    UPSTREAM_STREAM_RESET = ("upstream_reset_the_stream", "UR")
    UPSTREAM_STREAM_REFUSED = ("upstream_refused_the_stream", "UR")
    UPSTREAM_CLOSED = ("upstream_closed_before_response", "UC")
    UPSTREAM_PROTOCOL_ERROR = ("upstream_protocol_error", "UPE")
    RESPONSE_CUT_SHORT = ("response_cut_short", "UPE")
    REQUEST_REFUSED = ("request_refused", "DPE")
    UPGRADE_REFUSED = ("upgrade_refused", "-")
    HEAD_TIMEOUT = ("request_header_timeout", "-")
    DOWNSTREAM_STREAM_RESET = ("downstream_reset_the_stream", "DR")
    REQUEST_TIMEOUT = ("request_timeout", "UT")
    MAX_STREAM_DURATION = ("max_stream_duration", "UMSDR")
    STREAM_IDLE = ("stream_idle_timeout", "SI")
    NO_ENDPOINTS = ("no_healthy_upstream", "UH")
    NO_CLUSTER = ("no_cluster", "NC")
    OVERFLOW = ("overflow", "UO")
    FORBIDDEN = ("access_forbidden", "UAEX")
    IDLE_TIMEOUT = ("idle_timeout", "-")
    DRAINED = ("drain_time_over", "-")
    UNTRUSTED = ("peer_no_longer_trusted", "-")
    REMOVED = ("endpoint_removed", "-")

    @property
    def word(self) -> str:
        return self.value[0]

    @property
    def flag(self) -> str:
        return self.value[1]
