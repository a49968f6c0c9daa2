"""Answers that are ours: Envoy's status, flags and body for each outcome of an exchange.

The body never says more than Envoy's does. Why an endpoint could not be used is in the log and in ``/resources``, under
the request id that the answer carries. Who speaks gRPC is answered in gRPC: HTTP status 200, and the status of the call
in the head of a response without a body ("Trailers-Only" in gRPC's own description of its protocol over HTTP/2).
"""

from __future__ import annotations

from email.utils import formatdate
from urllib.parse import quote_from_bytes

from proxy.outcome import Outcome
from proxy.wire import Field, RequestHead
from proxy.wire.head import render_response

_BEFORE_HEADERS = b"upstream connect error or disconnect/reset before headers. reset reason: "

REPLIES: dict[Outcome, tuple[int, bytes]] = {
    Outcome.NO_CLUSTER: (503, b""),
    Outcome.NO_ENDPOINTS: (503, b"no healthy upstream"),
    Outcome.UPSTREAM_CONNECT_FAILED: (503, _BEFORE_HEADERS + b"remote connection failure"),
    Outcome.UPSTREAM_CONNECT_TIMEOUT: (503, _BEFORE_HEADERS + b"connection timeout"),
    Outcome.UPSTREAM_CLOSED: (503, _BEFORE_HEADERS + b"connection termination"),
    Outcome.UPSTREAM_STREAM_RESET: (503, _BEFORE_HEADERS + b"remote reset"),
    Outcome.UPSTREAM_STREAM_REFUSED: (503, _BEFORE_HEADERS + b"remote refused stream reset"),
    Outcome.UPSTREAM_TLS_FAILED: (503, _BEFORE_HEADERS + b"connection termination"),
    Outcome.UPSTREAM_PROTOCOL_ERROR: (502, _BEFORE_HEADERS + b"protocol error"),
    Outcome.OVERFLOW: (503, _BEFORE_HEADERS + b"overflow"),
    Outcome.FORBIDDEN: (403, b"RBAC: access denied"),
    Outcome.UPGRADE_REFUSED: (403, b""),
    Outcome.REQUEST_TIMEOUT: (504, b"upstream request timeout"),
    Outcome.MAX_STREAM_DURATION: (504, b"upstream max stream duration reached"),
    Outcome.STREAM_IDLE: (504, b"stream timeout"),
}
"""(status, body) as Envoy gives them."""

RETRIED = {
    outcome: body.replace(b"reset reason", b"retried and the latest reset reason")
    for outcome, (_, body) in REPLIES.items()
}
"""The bodies after a retry."""

_GRPC_STATUSES = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
"""gRPC's own mapping of HTTP statuses, which Envoy follows; any other is 2 (UNKNOWN)."""

_GRPC_MESSAGE_SAFE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def is_grpc(head: RequestHead) -> bool:
    """Whether the client speaks gRPC: ``content-type: application/grpc``, with or without a subtype."""
    for name, value in head.fields:
        if name == b"content-type":
            return value == b"application/grpc" or value.startswith((b"application/grpc+", b"application/grpc;"))
    return False


def grpc_status_of(status: int) -> bytes:
    return b"%d" % _GRPC_STATUSES.get(status, 2)


def reply_fields(has_body: bool, request_id: bytes | None, *, overloaded: bool = False) -> list[Field]:
    fields: list[Field] = []
    if has_body:
        fields.append((b"content-type", b"text/plain"))
    if overloaded:
        fields.append((b"x-envoy-overloaded", b"true"))
    fields += [(b"date", _date()), (b"server", b"koguma")]
    if request_id is not None:
        fields.append((b"x-request-id", request_id))
    return fields


def grpc_reply(status: int, message: bytes, request_id: bytes, *, overloaded: bool = False) -> list[Field]:
    """The fields of a response with HTTP status 200 and no body that says ``status`` in gRPC's terms."""
    fields: list[Field] = [(b"content-type", b"application/grpc"), (b"grpc-status", grpc_status_of(status))]
    if message:
        fields.append((b"grpc-message", quote_from_bytes(message, safe=_GRPC_MESSAGE_SAFE).encode("ascii")))
    return [*fields, *reply_fields(False, request_id, overloaded=overloaded)]


def _date() -> bytes:
    return formatdate(usegmt=True).encode("ascii")


def render_reply(status: int, fields: list[Field], body: bytes, *, close: bool, without_body: bool = False) -> bytes:
    """A whole response of HTTP/1.1. ``without_body``: the head alone, which HEAD asks for."""
    if close:
        fields = [*fields, (b"connection", b"close")]
    head = render_response(status, fields, len(body))
    return head if without_body else head + body
