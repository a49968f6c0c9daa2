"""What a message's fields become on the way through: removed, rewritten, added, and rendered.

A request that is forwarded is rendered once per (head, authority) and kept with the head, which the codec shares
between identical requests: what differs from one request to the next, the request id, goes in between. Framing is
always written anew from what the codec understood, never copied.

Removed from requests: what belongs to one connection (RFC 9110 §7.6.1: Connection and whatever it names, Keep-Alive,
Proxy-Connection, Transfer-Encoding, Upgrade unless it is one, TE but for ``trailers``, HTTP2-Settings), Expect, which we
answer, the client certificate header, which only a verified inbound may set, and Envoy's control headers, which only an
internal client may send. Added: ``x-forwarded-proto`` and ``x-request-id`` where missing.
"""

from __future__ import annotations

from email.utils import formatdate

from proxy.wire.fields import connection_names
from proxy.wire.head import RequestHead, ResponseHead
from proxy.wire.reasons import REASONS

Field = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
        b"te",
        b"http2-settings",
        b"content-length",  # framing: written anew
    }
)

EXTERNAL_ONLY = frozenset(
    {
        b"x-envoy-internal",
        b"x-envoy-external-address",
        b"x-envoy-downstream-service-cluster",
        b"x-envoy-downstream-service-node",
        b"x-envoy-expected-rq-timeout-ms",
        b"x-envoy-force-trace",
        b"x-envoy-hedge-on-per-try-timeout",
        b"x-envoy-ip-tags",
        b"x-envoy-max-retries",
        b"x-envoy-original-host",
        b"x-envoy-original-path",
        b"x-envoy-retriable-header-names",
        b"x-envoy-retriable-status-codes",
        b"x-envoy-retry-grpc-on",
        b"x-envoy-retry-on",
        b"x-envoy-upstream-alt-stat-name",
        b"x-envoy-upstream-rq-per-try-timeout-ms",
        b"x-envoy-upstream-rq-timeout-alt-response",
        b"x-envoy-upstream-rq-timeout-ms",
        b"x-envoy-upstream-stream-duration-ms",
    }
)
"""Control headers of Envoy's router: a client outside must not steer the proxy behind the next hop with them."""

_NOT_FORWARDED = HOP_BY_HOP | EXTERNAL_ONLY | {b"expect", b"x-forwarded-client-cert"}
_REQUEST_ID = b"x-request-id"
_FORWARDED_PROTO = b"x-forwarded-proto"
_SERVICE_TIME = b"x-envoy-upstream-service-time"


class ForwardedRequest:
    """A rendered request head: ``before`` + request id + ``after``. ``request_id`` is the client's own, if it sent one."""

    __slots__ = ("after", "before", "request_id")

    def __init__(self, before: bytes, after: bytes, request_id: bytes | None) -> None:
        self.before = before
        self.after = after
        self.request_id = request_id


def forwarded_request(head: RequestHead, authority: bytes | None, scheme: bytes) -> ForwardedRequest:
    """``head`` as it goes to an endpoint. ``authority``: the endpoint's DNS name, which becomes Host (Envoy's
    ``auto_host_rewrite``); ``None`` keeps the client's.
    """
    known = head.memo
    if known is None:
        known = head.memo = {}
    found: ForwardedRequest | None = known.get((authority, scheme))
    if found is None:
        if len(known) >= 16:
            known.clear()
        found = known[authority, scheme] = _render_request(head, authority, scheme)
    return found


def _render_request(head: RequestHead, authority: bytes | None, scheme: bytes) -> ForwardedRequest:
    nominated = connection_names(head.fields)
    host = head.authority if authority is None else authority
    lines = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (head.method, head.path, host)]
    request_id: bytes | None = None
    has_proto = False
    for name, value in head.fields:
        if name in _NOT_FORWARDED or name in nominated:
            continue
        if name == _REQUEST_ID and request_id is None:
            request_id = value
            continue
        if name == _FORWARDED_PROTO:
            has_proto = True
        lines.append(b"%b: %b\r\n" % (name, value))
    if head.te_trailers:
        lines.append(b"te: trailers\r\n")
    if head.upgrade is not None:
        lines.append(b"connection: upgrade\r\nupgrade: %b\r\n" % head.upgrade)
    if authority is not None and authority != head.authority:
        lines.append(b"x-envoy-original-host: %b\r\n" % head.authority)
    if not has_proto:
        lines.append(b"x-forwarded-proto: %b\r\n" % scheme)
    lines.append(_framing(head.body))
    lines.append(b"x-request-id: ")
    return ForwardedRequest(b"".join(lines), b"\r\n\r\n", request_id)
