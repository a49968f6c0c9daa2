"""What a message's fields become on the way through, rendered.

The codec has already taken out what belonged to one connection. Here the rest happens. From requests: Envoy's control
headers are removed, which would steer a proxy behind the next hop, and the client certificate header, which only a
verified inbound may set, and does (``caller.py``); Host becomes the endpoint's DNS name, the old one stays in
``x-envoy-original-host``; ``x-forwarded-proto`` and ``x-request-id`` are added where missing. To responses:
``x-envoy-upstream-service-time``, and ``date`` where missing.

Heads repeat, and the codec gives identical ones as the same object; so what is rendered from a head is kept with it
(``memo``), bounded. Only the request id, the caller and the service time differ from one message to the next: they go
in between.
"""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache

from proxy.wire import CHUNKED, NONE, UNTIL_CLOSE, Field, Framing, RequestHead, ResponseHead
from proxy.wire.fields import list_members
from proxy.wire.h2 import FieldBlock, literal
from proxy.wire.head import render_request, render_response

CONTROL_HEADERS = frozenset(
    {
        b"x-envoy-downstream-service-cluster",
        b"x-envoy-downstream-service-node",
        b"x-envoy-expected-rq-timeout-ms",
        b"x-envoy-external-address",
        b"x-envoy-force-trace",
        b"x-envoy-hedge-on-per-try-timeout",
        b"x-envoy-internal",
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
"""What Envoy takes from internal clients only. Ours are all external: nothing tells us that one is not."""

_REMOVED_FROM_REQUESTS = CONTROL_HEADERS | {b"x-forwarded-client-cert", b"x-kuma-tags"}
"""The last is between the proxies of a Kuma 2 mesh: it says nothing to anybody else."""
_REPLACED_IN_RESPONSES = frozenset({b"x-envoy-upstream-service-time", b"keep-alive", b"proxy-connection"})

MAX_RENDERINGS = 16
"""Kept with one head: authorities of a request, service times of a response."""

_MARK = b"\x80koguma\x80"
"""Stands for what is not known yet while a head is rendered; no peer can send it as a whole value by chance, and if one
does, it is in a field that comes before ours."""


class RenderedRequest:
    """``before`` + request id + ``after``. ``request_id`` is the client's own, where it sent one. ``is_chunked``: how
    the body is framed.
    """

    __slots__ = ("after", "before", "is_chunked", "request_id")

    def __init__(self, before: bytes, after: bytes, request_id: bytes | None, is_chunked: bool) -> None:
        self.before = before
        self.after = after
        self.request_id = request_id
        self.is_chunked = is_chunked


def asks_for_upgrade(head: RequestHead) -> bool:
    """Whether the client asks for another protocol. ``h2c`` does not count, as in Envoy: it is HTTP all the same, and
    what goes through a tunnel is looked at by nobody.
    """
    return head.upgrade is not None and b"h2c" not in list_members(head.upgrade)


def request_id_of(head: RequestHead) -> bytes | None:
    """The client's own ``x-request-id``, if it sent one."""
    return next((value for name, value in head.fields if name == b"x-request-id" and value), None)


def rendered_request(head: RequestHead, authority: bytes | None, is_secure: bool = False) -> RenderedRequest:
    """``head`` as it goes to an endpoint. ``authority``: the endpoint's DNS name, which becomes Host; ``None`` keeps
    the client's (an IP address or a unix socket has no name). ``is_secure``: it came over mTLS.
    """
    memo = head.memo
    if memo is None:
        memo = head.memo = {}
    assert isinstance(memo, dict)
    key = (authority, True) if is_secure else authority
    found: RenderedRequest | None = memo.get(key)
    if found is None:
        if len(memo) >= MAX_RENDERINGS:
            memo.clear()
        found = memo[key] = _render_request(head, authority, is_secure)
    return found


def _request_fields(head: RequestHead, authority: bytes | None, is_secure: bool) -> list[Field]:
    """All but the request id, and the caller's."""
    fields: list[Field] = []
    has_proto = False
    for field in head.fields:
        name = field[0]
        if name in _REMOVED_FROM_REQUESTS or name == b"x-request-id":
            continue
        if name == b"x-forwarded-proto":
            has_proto = True
        fields.append(field)
    if head.te_trailers:
        fields.append((b"te", b"trailers"))
    if authority is not None and head.authority and authority != head.authority:
        fields.append((b"x-envoy-original-host", head.authority))
    if not has_proto:
        fields.append((b"x-forwarded-proto", b"https" if is_secure else b"http"))
    return fields


def _render_request(head: RequestHead, authority: bytes | None, is_secure: bool) -> RenderedRequest:
    fields = _request_fields(head, authority, is_secure)
    if asks_for_upgrade(head):
        assert head.upgrade is not None
        fields += [(b"connection", b"upgrade"), (b"upgrade", head.upgrade)]
    fields.append((b"x-request-id", _MARK))
    framing = CHUNKED if _announces_trailers(head) else head.body
    block = render_request(head.method, head.path, authority or head.authority, fields, framing)
    before, after = block.rsplit(_MARK, 1)
    return RenderedRequest(before, after, request_id_of(head), framing == CHUNKED)


def _announces_trailers(head: RequestHead | ResponseHead) -> bool:
    """Whether a message has a length and trailers, for which HTTP/1.1 has to forget the length (RFC 9112 §7.1.2)."""
    return head.version == (2, 0) and head.body > 0 and any(name == b"trailer" for name, _ in head.fields)


class RequestBlock:
    """The same for HTTP/2: the request id goes behind ``block``."""

    __slots__ = ("block", "request_id")

    def __init__(self, block: FieldBlock, request_id: bytes | None) -> None:
        self.block = block
        self.request_id = request_id


def request_block(head: RequestHead, authority: bytes | None, scheme: bytes, is_secure: bool = False) -> RequestBlock:
    """As :func:`rendered_request`, for an endpoint that speaks HTTP/2."""
    memo = head.memo
    if memo is None:
        memo = head.memo = {}
    assert isinstance(memo, dict)
    key = (authority, scheme, is_secure)
    found: RequestBlock | None = memo.get(key)
    if found is None:
        if len(memo) >= MAX_RENDERINGS:
            memo.clear()
        found = memo[key] = _request_block(head, authority, scheme, is_secure)
    return found


def _request_block(head: RequestHead, authority: bytes | None, scheme: bytes, is_secure: bool) -> RequestBlock:
    pseudo: list[Field] = [(b":method", head.method), (b":scheme", scheme), (b":path", head.path)]
    if authority or head.authority:
        pseudo.insert(2, (b":authority", authority or head.authority))
    fields = _request_fields(head, authority, is_secure)
    if head.body >= 0:
        fields.append((b"content-length", b"%d" % head.body))
    return RequestBlock(FieldBlock(pseudo + fields), request_id_of(head))


def request_id_field(request_id: bytes) -> bytes:
    """What goes behind a :class:`RequestBlock`."""
    return literal(b"x-request-id", request_id)


class ResponseBlock:
    """For HTTP/2: :func:`late_fields` go behind ``block``. ``is_dated``: the origin said when it was."""

    __slots__ = ("block", "is_dated")

    def __init__(self, block: FieldBlock, is_dated: bool) -> None:
        self.block = block
        self.is_dated = is_dated


def response_block(head: ResponseHead) -> ResponseBlock:
    """As :func:`rendered_response`, for a client that speaks HTTP/2."""
    memo = head.memo
    if memo is None:
        memo = head.memo = {}
    assert isinstance(memo, dict)
    found: ResponseBlock | None = memo.get(b"h2")
    if found is None:
        if len(memo) >= MAX_RENDERINGS:
            memo.clear()
        found = memo[b"h2"] = _response_block(head)
    return found


def _response_block(head: ResponseHead) -> ResponseBlock:
    fields: list[Field] = [(b":status", b"%d" % head.status)]
    fields += (field for field in head.fields if field[0] not in _REPLACED_IN_RESPONSES)
    is_empty_stream = head.version == (2, 0) and head.body == 0  # its end says it, and did all the way
    if head.declared >= 0 and head.status != 204 and not is_empty_stream:
        fields.append((b"content-length", b"%d" % head.declared))
    return ResponseBlock(FieldBlock(fields), _has_date(head))


def late_fields(is_dated: bool, service_time_ms: int) -> bytes:
    """What is different each time."""
    return _service_time(service_time_ms) if is_dated else _service_time(service_time_ms) + _date()


@lru_cache(maxsize=1024)
def _service_time(ms: int) -> bytes:
    return literal(b"x-envoy-upstream-service-time", b"%d" % ms)


def _date() -> bytes:
    return literal(b"date", formatdate(usegmt=True).encode("ascii"))


def rendered_response(head: ResponseHead, service_time_ms: int, http_1_0: bool, close: bool) -> tuple[bytes, Framing]:
    """``head`` as it goes to the client, and the framing of the body that follows for it. ``close``: this is the last
    response on the connection.
    """
    memo = head.memo
    if memo is None:
        memo = head.memo = {}
    assert isinstance(memo, dict)
    key = (service_time_ms, http_1_0, close)
    found: tuple[bytes, Framing] | None = memo.get(key)
    if found is None:
        if len(memo) >= MAX_RENDERINGS:
            memo.clear()
        found = _render_response(head, service_time_ms, http_1_0, close)
        if _has_date(head):  # else ours is in it, and is wrong a second later
            memo[key] = found
    return found


def _has_date(head: ResponseHead) -> bool:
    return any(name == b"date" for name, _ in head.fields)


def _render_response(head: ResponseHead, service_time_ms: int, http_1_0: bool, close: bool) -> tuple[bytes, Framing]:
    fields = [field for field in head.fields if field[0] not in _REPLACED_IN_RESPONSES]
    if not _has_date(head):
        fields.append((b"date", formatdate(usegmt=True).encode("ascii")))
    fields.append((b"x-envoy-upstream-service-time", b"%d" % service_time_ms))
    declared, body = head.declared, head.body
    if declared in (CHUNKED, UNTIL_CLOSE):
        # What has no length is sent in chunks, and to HTTP/1.0 until the connection closes.
        declared = UNTIL_CLOSE if http_1_0 else CHUNKED
    if _announces_trailers(head) and not http_1_0:
        declared = body = CHUNKED
    if body in (CHUNKED, UNTIL_CLOSE):
        body = declared
    if close or body == UNTIL_CLOSE:
        fields.append((b"connection", b"close"))
    elif http_1_0:
        fields.append((b"connection", b"keep-alive"))
    return render_response(head.status, fields, declared), body


def rendered_switch(head: ResponseHead) -> bytes:
    """A 101: from here on it is another protocol."""
    fields = [field for field in head.fields if field[0] not in _REPLACED_IN_RESPONSES]
    fields += [(b"connection", b"upgrade"), (b"upgrade", head.upgrade or b"")]
    return render_response(101, fields, NONE)
