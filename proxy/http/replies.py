"""Answers that are ours: Envoy's status, flags and body for each outcome of an exchange.

The body never says more than Envoy's does. Why an endpoint could not be used is in the log and in ``/resources``, under
the request id that the answer carries.
"""

from __future__ import annotations

from email.utils import formatdate

from proxy.outcome import Outcome
from proxy.wire import Field
from proxy.wire.head import render_response

_BEFORE_HEADERS = b"upstream connect error or disconnect/reset before headers. reset reason: "

REPLIES: dict[Outcome, tuple[int, bytes]] = {
    Outcome.NO_CLUSTER: (503, b""),
    Outcome.NO_ENDPOINTS: (503, b"no healthy upstream"),
    Outcome.UPSTREAM_CONNECT_FAILED: (503, _BEFORE_HEADERS + b"remote connection failure"),
    Outcome.UPSTREAM_CONNECT_TIMEOUT: (503, _BEFORE_HEADERS + b"connection timeout"),
    Outcome.UPSTREAM_CLOSED: (503, _BEFORE_HEADERS + b"connection termination"),
    Outcome.UPSTREAM_TLS_FAILED: (503, _BEFORE_HEADERS + b"connection termination"),
    Outcome.UPSTREAM_PROTOCOL_ERROR: (502, _BEFORE_HEADERS + b"protocol error"),
    Outcome.OVERFLOW: (503, _BEFORE_HEADERS + b"overflow"),
    Outcome.FORBIDDEN: (403, b"RBAC: access denied"),
    Outcome.STREAM_IDLE: (504, b"stream timeout"),
}
"""(status, body) as Envoy gives them."""


def render_reply(status: int, body: bytes, *, request_id: bytes | None, close: bool, overloaded: bool = False) -> bytes:
    """A whole response."""
    fields: list[Field] = []
    if body:
        fields.append((b"content-type", b"text/plain"))
    if overloaded:
        fields.append((b"x-envoy-overloaded", b"true"))
    fields += [(b"date", formatdate(usegmt=True).encode("ascii")), (b"server", b"koguma")]
    if request_id is not None:
        fields.append((b"x-request-id", request_id))
    if close:
        fields.append((b"connection", b"close"))
    return render_response(status, fields, len(body)) + body
