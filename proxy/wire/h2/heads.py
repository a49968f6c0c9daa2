"""Field lists to heads and trailers (RFC 9113 §8.1 to §8.3).

One pattern holds the grammar of a whole list: pseudo-fields first, names in lower case, values without control
characters and blanks around them, and none of the fields that RFC 9113 §8.2.2 forbids. One loop sets aside what means
something to a proxy, which is then judged, by the rules of ``proxy.wire.fields`` where HTTP/1 has them too.

Lists repeat even where blocks do not (the dynamic table moves, ``:path`` is a literal each time). So a list is the key
to the head that it made, in tables for the whole process, as in ``h1.py``: this is what makes heads shared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeVar

from proxy.wire import CHUNKED, NONE, BadMessage, Field, Framing, RequestHead, ResponseHead
from proxy.wire.fields import AUTHORITY, TARGET, TOKENS, parse_length, refuse_trailers
from proxy.wire.h2.compress import PLAIN_FIELD_LINE

HEADS_REMEMBERED: Final = 1024
LARGEST_REMEMBERED_BYTES: Final = 4096

_LIST: Final = re.compile(rb"(?::[a-z]++\n[^\n]*+\n)*+(?:" + PLAIN_FIELD_LINE + rb")*+")
_PATH: Final = re.compile(rb"/" + TARGET + rb"*+|\*")
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+")  # RFC 3986 §3.1
_STATUS: Final = re.compile(rb"[1-9][0-9][0-9]")
_VERSION: Final = (2, 0)

_OF_REQUESTS: Final = frozenset((b"content-length", b"cookie", b"expect", b"host", b"http2-settings", b"te"))

_requests: tuple[dict[tuple[Field, ...], RequestHead], ...] = ({}, {})
_responses: tuple[dict[tuple[Field, ...], ResponseHead], ...] = ({}, {}, {}, {})

Head = TypeVar("Head", RequestHead, ResponseHead)


class Malformed(Exception):
    """RFC 9113 §8.1.1: the stream's error, PROTOCOL_ERROR. Says what was wrong and never repeats a value."""


def forget_heads() -> None:
    """Start afresh, for those who count or measure. Connections that exist keep what they remember of their own."""
    for requests in _requests:
        requests.clear()
    for responses in _responses:
        responses.clear()


def request_head(fields: Sequence[Field], ended: bool, size: int) -> RequestHead:
    """``ended``: END_STREAM came with it. ``size``: the list's. Raises Malformed; BadMessage for what
    HTTP/2 allows and we do not serve.
    """
    key = tuple(fields)
    table = _requests[ended]
    head = table.get(key)
    if head is None:
        head = _judge_request(key, ended)
        _remember(table, key, head, size)
    return head


def response_head(fields: Sequence[Field], ended: bool, head_was_asked: bool, size: int) -> ResponseHead:
    """As :func:`request_head`."""
    key = tuple(fields)
    table = _responses[ended + 2 * head_was_asked]
    head = table.get(key)
    if head is None:
        head = _judge_response(key, ended, head_was_asked)
        _remember(table, key, head, size)
    return head


def request_trailers(fields: list[Field]) -> list[Field]:
    """Raises Malformed."""
    _refuse_pseudo_fields(fields)
    try:
        refuse_trailers(fields)
    except BadMessage as bad:
        raise Malformed(bad.detail) from None
    return fields


def response_trailers(fields: list[Field]) -> list[Field]:
    """Raises Malformed. gRPC lets applications name their trailers as they like: these are not refused for a name that
    HTTP/1 has no use for in trailers, but for what HTTP/2 forbids.
    """
    _refuse_pseudo_fields(fields)
    return fields


def _refuse_pseudo_fields(fields: Sequence[Field]) -> None:
    _refuse_shape(fields)
    if fields and fields[0][0].startswith(b":"):
        raise Malformed("pseudo-field in trailers")  # RFC 9113 §8.1


def _remember(table: dict[tuple[Field, ...], Head], key: tuple[Field, ...], head: Head, size: int) -> None:
    if size <= LARGEST_REMEMBERED_BYTES:
        if len(table) >= HEADS_REMEMBERED:
            table.clear()
        table[key] = head


def _refuse_shape(fields: Sequence[Field]) -> None:
    lines = b"".join([b"%b\n%b\n" % field for field in fields])
    if lines.count(b"\n") != 2 * len(fields) or not _LIST.fullmatch(lines):
        # RFC 9113 §8.2.1, §8.2.2 and §8.3. Other control characters than NUL, CR and LF: RFC 9110 §5.5, as in HTTP/1.
        raise Malformed("field that is malformed, misplaced or about the connection")


def _judge_request(fields: tuple[Field, ...], ended: bool) -> RequestHead:
    _refuse_shape(fields)
    kept: list[Field] = []
    pseudo: dict[bytes, bytes] = {}
    host = length = None
    cookie_at = -1
    te_trailers = expects_continue = False
    for field in fields:
        name, value = field
        if name[0] == 0x3A:
            if name in pseudo:
                raise Malformed("pseudo-field that is repeated")  # RFC 9113 §8.3
            pseudo[name] = value
        elif name not in _OF_REQUESTS:
            kept.append(field)
        elif name == b"content-length":
            length = _length(length, value)
        elif name == b"cookie":
            if cookie_at < 0:
                cookie_at = len(kept)
                kept.append(field)
            else:  # RFC 9113 §8.2.3: crumbs are joined before they go where there is no HTTP/2
                kept[cookie_at] = (b"cookie", kept[cookie_at][1] + b"; " + value)
        elif name == b"host":
            if host is not None:
                raise Malformed("more than one host")
            host = value
        elif name == b"te":
            if value.lower() != b"trailers":
                raise Malformed("te other than trailers")  # RFC 9113 §8.2.2
            te_trailers = True
        elif name == b"expect":
            if value.lower() == b"100-continue":
                expects_continue = True
            else:
                kept.append(field)

    body: Framing
    if length is not None:
        if ended and length:
            raise Malformed("content-length of a body that does not come")  # RFC 9113 §8.1.1
        body = length
    else:
        body = NONE if ended else CHUNKED
    method = pseudo.pop(b":method", b"")
    authority = pseudo.pop(b":authority", None)
    if not TOKENS.fullmatch(method):
        raise Malformed("no method, or one that is not a token")
    if method == b"CONNECT":
        # RFC 9113 §8.5: nothing but an authority. RFC 8441 is not on offer, so that :protocol is unknown here.
        if pseudo or not authority or not AUTHORITY.fullmatch(authority):
            raise Malformed("malformed CONNECT")
        return RequestHead(method, authority, b"", kept, body, _VERSION, te_trailers=te_trailers)
    if not _SCHEME.fullmatch(pseudo.pop(b":scheme", b"")):
        raise Malformed("no scheme, or a malformed one")
    path = pseudo.pop(b":path", b"")
    if not _PATH.fullmatch(path) or (path == b"*" and method != b"OPTIONS"):
        raise Malformed("no path, or a malformed one")  # RFC 9113 §8.3.1
    if pseudo:
        raise Malformed("unknown pseudo-field")  # RFC 9113 §8.3
    if authority is None:
        authority = host  # RFC 9113 §8.3.1: where both are, :authority replaces host
        if authority is None:
            raise BadMessage(400, "missing_host_header", "neither :authority nor host")
    if authority and not AUTHORITY.fullmatch(authority):
        raise Malformed("malformed authority")
    return RequestHead(
        method,
        authority,
        path,
        kept,
        body,
        _VERSION,
        expects_continue=expects_continue and not ended and body != 0,
        te_trailers=te_trailers,
    )


def _judge_response(fields: tuple[Field, ...], ended: bool, head_was_asked: bool) -> ResponseHead:
    _refuse_shape(fields)
    if not fields or fields[0][0] != b":status" or not _STATUS.fullmatch(fields[0][1]):
        raise Malformed("response that does not begin with a status of three digits")  # RFC 9113 §8.3.2
    status = int(fields[0][1])
    kept: list[Field] = []
    length = None
    for field in fields[1:]:
        name, value = field
        if name[0] == 0x3A:
            raise Malformed("pseudo-field other than one status")
        if name == b"content-length":
            length = _length(length, value)
        elif name != b"te":
            kept.append(field)
    body: Framing
    if status < 200 or status == 204:
        if status == 101 or (status < 200 and ended):
            raise Malformed("interim response that switches protocols or ends the stream")  # RFC 9113 §8.1 and §8.6
        if length:
            raise Malformed(f"content-length in a {status}")  # RFC 9110 §8.6; 0 is harmless, as in HTTP/1
        body = declared = NONE
    elif status == 304:
        body, declared = NONE, NONE if length is None else length
    elif head_was_asked:
        body, declared = NONE, CHUNKED if length is None else length
    elif length is None:
        body = declared = 0 if ended else CHUNKED
    elif ended and length:
        raise Malformed("content-length of a body that does not come")  # RFC 9113 §8.1.1
    else:
        body = declared = length
    return ResponseHead(status, kept, body, declared, _VERSION)


def _length(before: int | None, value: bytes) -> int:
    try:
        return parse_length(before, value)
    except BadMessage as bad:
        raise Malformed(bad.detail) from None
