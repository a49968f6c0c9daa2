"""HTTP/1 heads: a complete block of bytes to a neutral head, and back.

How parsing works: one pattern holds the whole grammar of a head (RFC 9112 §3, §4 and §5, narrowed) and decides in one
call; one ``findall`` then cuts the fields apart, which is safe because the shape is known; one loop lowers the names
and sets aside the few fields that mean something to a proxy; these are judged. Nothing backtracks (the quantifiers are
possessive, and no capture lies inside one that repeats), so time is linear in the block.

A block that does not have the shape is read a second time, slowly, to say what is wrong with it. The answer is the
same however the bytes arrived: what is wrong with single bytes, or with sizes, is judged first and in the order of
position (:func:`refuse_early`), since a head that is still incomplete can be refused for these; then the start
line, then the field lines in order, then what the fields mean.

Rendering is checked with the grammar of parsing: what does not read back as the same lines is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NoReturn

from proxy.wire import CHUNKED, NONE, UNTIL_CLOSE, BadMessage, Field, Framing, Leniency, RequestHead, ResponseHead
from proxy.wire.fields import (
    AUTHORITY,
    FIELD_LINE,
    FIELDS,
    HOP_BY_HOP,
    TARGET,
    TOKEN,
    TOKENS,
    VALUE,
    asks_for_trailers,
    check_rendered,
    is_protected,
    list_members,
    parse_length,
    refuse_bytes,
    refuse_field_line,
    refuse_nominations,
    without,
)
from proxy.wire.limits import REQUEST_LIMITS, RESPONSE_LIMITS, Limits

_FIELD_SECTION = rb"(?:" + FIELD_LINE + rb")*+\r\n"
_REQUEST: Final = re.compile(rb"(" + TOKEN + rb"++) (" + TARGET + rb"++) HTTP/1\.([01])\r\n" + _FIELD_SECTION)
_RESPONSE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])( " + VALUE + rb"*+)?\r\n" + _FIELD_SECTION)
_ABSOLUTE: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+\-.]*+)://([^/?]*+)([^#]*+)")
_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
_STATUS_LINE_START: Final = re.compile(rb"HTTP/1\.[01] [1-9][0-9][0-9](?: |\Z)")

_HTTP_1_0: Final = (1, 0)
_HTTP_1_1: Final = (1, 1)

# The fields that are read here. All but Expect are left out of the head's ``fields``.
_OF_REQUESTS: Final = HOP_BY_HOP | {b"content-length", b"expect", b"host"}
_OF_RESPONSES: Final = HOP_BY_HOP | {b"content-length"}


def parse_request_head(block: bytes, limits: Limits = REQUEST_LIMITS) -> RequestHead:
    """A head from its first byte through the empty line. Raises :class:`BadMessage`."""
    shape = _REQUEST.fullmatch(block)
    if shape is None:
        _explain_request(block, limits)
    method, path, minor = shape.groups()
    line_bytes = shape.end(3)
    found = FIELDS.findall(block, line_bytes + 2)
    if line_bytes > limits.max_start_line_bytes or len(found) > limits.max_fields:
        _refuse_size(line_bytes, limits)
    if b" \r\n" in block or b"\t\r\n" in block:
        found = [(name, value.rstrip(b" \t")) for name, value in found]
    fields: list[Field] = []
    host = length = coding = connection = upgrade = None
    te_trailers = expects_continue = False
    for name, value in found:
        name = name.lower()
        if name not in _OF_REQUESTS:
            fields.append((name, value))
        elif name == b"host":
            if host is not None:
                # RFC 9112 §3.2: "MUST respond with a 400 ... more than one Host header field line".
                raise BadMessage(400, "http.invalid_authority", "more than one Host")
            host = value
        elif name == b"connection":
            connection = value if connection is None else connection + b"," + value
        elif name == b"content-length":
            length = parse_length(length, value)
        elif name == b"transfer-encoding":
            coding = value if coding is None else coding + b"," + value
        elif name == b"te":
            te_trailers = te_trailers or asks_for_trailers(value)
        elif name == b"upgrade":
            upgrade = value if upgrade is None else upgrade + b", " + value
        elif name == b"expect":
            if value.lower() == b"100-continue":
                expects_continue = True
            else:
                fields.append((name, value))

    if minor == b"1":
        version, keep_alive = _HTTP_1_1, True
        if host is None:
            raise BadMessage(400, "missing_host_header", "no Host")
    else:
        # RFC 9110 §10.1.1 and §7.8: Expect and Upgrade mean nothing in HTTP/1.0.
        version, keep_alive, expects_continue, upgrade = _HTTP_1_0, False, False, None
        host = host or b""
    if host and not AUTHORITY.fullmatch(host):
        raise BadMessage(400, "http.invalid_authority", "malformed Host")
    if path[0] != 0x2F or method == b"CONNECT":
        host, path = _other_target(method, host, path)

    body = NONE
    if coding is not None:
        _refuse_coding(coding, length, version)
        body = CHUNKED
    elif length is not None:
        body = length
    if connection is None:
        upgrade = None
    elif connection.lower() == b"keep-alive":
        keep_alive, upgrade = True, None
    else:
        options = list_members(connection)
        refuse_nominations(options)
        keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
        if b"upgrade" not in options:
            upgrade = None
        fields = without(fields, options)
    if expects_continue:
        expects_continue = body != NONE and body != 0
    return RequestHead(method, host, path, fields, body, version, keep_alive, expects_continue, upgrade, te_trailers)


def parse_response_head(block: bytes, request_method: bytes, limits: Limits = RESPONSE_LIMITS) -> ResponseHead:
    """As :func:`parse_request_head`. Of ``request_method`` only HEAD makes a difference: there is no body then."""
    shape = _RESPONSE.fullmatch(block)
    if shape is None:
        _explain_response(block, limits)
    line_bytes = block.index(b"\r\n")
    found = FIELDS.findall(block, line_bytes + 2)
    if line_bytes > limits.max_start_line_bytes or len(found) > limits.max_fields:
        _refuse_size(line_bytes, limits)
    if b" \r\n" in block or b"\t\r\n" in block:
        found = [(name, value.rstrip(b" \t")) for name, value in found]
    fields: list[Field] = []
    length = coding = connection = upgrade = None
    for name, value in found:
        name = name.lower()
        if name not in _OF_RESPONSES:
            fields.append((name, value))
        elif name == b"content-length":
            length = parse_length(length, value)
        elif name == b"connection":
            connection = value if connection is None else connection + b"," + value
        elif name == b"transfer-encoding":
            coding = value if coding is None else coding + b"," + value
        elif name == b"upgrade":
            upgrade = value if upgrade is None else upgrade + b", " + value

    minor, digits, reason = shape.groups()
    status = int(digits)
    version = _HTTP_1_1 if minor == b"1" else _HTTP_1_0
    keep_alive = minor == b"1"
    if connection is None:
        upgrade = None
    elif connection.lower() == b"keep-alive":
        keep_alive, upgrade = True, None
    else:
        options = list_members(connection)
        keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
        if b"upgrade" not in options:
            upgrade = None
        # RFC 9110 §7.6.1: removed, as in a request. What an origin must not remove stays: unlike a client it gains
        # nothing by trying, and some name Transfer-Encoding out of habit.
        fields = without(fields, [option for option in options if not is_protected(option)])

    if coding is not None:
        _refuse_coding(coding, length, version)
        body = CHUNKED
    elif length is not None:
        body = length
    else:
        body = UNTIL_CLOSE
    declared = body
    if status < 200 or status == 204:
        # RFC 9112 §6.1 and RFC 9110 §8.6: neither field may be here. A length of 0 is harmless and common.
        if coding is not None:
            raise BadMessage(502, "http1.transfer_encoding_not_allowed", f"Transfer-Encoding in a {status}")
        if length:
            raise BadMessage(502, "http1.content_length_not_allowed", f"Content-Length in a {status}")
        body = declared = NONE
    elif status == 304:
        body, declared = NONE, NONE if length is None else length
    elif request_method == b"HEAD":
        body = NONE
    elif body == UNTIL_CLOSE:
        keep_alive = False
    leniency = Leniency.MISSING_REASON if reason is None else None
    return ResponseHead(status, fields, body, declared, version, keep_alive, upgrade, leniency)


def refuse_early(block: bytes | bytearray, scanned: int, limits: Limits) -> None:
    """Raise for what is wrong with a head whatever may follow: bytes that no head has, and sizes.

    ``block`` starts with the head and may be incomplete; ``scanned`` bytes of it have been judged before. The fault
    at the lowest position is the one that is raised, so that it does not matter how the bytes were cut.
    """
    line_limit = limits.max_start_line_bytes + 2
    too_long = len(block) >= line_limit and block.find(b"\r\n", 0, line_limit) < 0
    end = line_limit if too_long else min(len(block), limits.max_head_bytes)
    refuse_bytes(block, max(scanned - 1, 0), end)
    if too_long:
        raise BadMessage(414, "http1.headers_too_large", f"start line over {limits.max_start_line_bytes} bytes")
    if len(block) > limits.max_head_bytes:
        raise BadMessage(431, "http1.headers_too_large", f"head over {limits.max_head_bytes} bytes")


def _refuse_size(line_bytes: int, limits: Limits) -> NoReturn:
    if line_bytes > limits.max_start_line_bytes:
        raise BadMessage(414, "http1.headers_too_large", f"start line over {limits.max_start_line_bytes} bytes")
    raise BadMessage(431, "http1.too_many_headers", f"more than {limits.max_fields} fields")


def _refuse_coding(coding: bytes, length: int | None, version: tuple[int, int]) -> None:
    """Raise unless Transfer-Encoding is ``chunked`` and nothing else speaks of the length."""
    if length is not None:
        # RFC 9112 §6.3: "ought to be handled as an error". Resolving it leaves the next hop to resolve it otherwise.
        raise BadMessage(400, "http1.content_length_and_chunked_not_allowed", "Content-Length with Transfer-Encoding")
    if version == _HTTP_1_0:
        # RFC 9112 §6.1: "MUST treat the message as if the framing is faulty".
        raise BadMessage(400, "http1.transfer_encoding_not_allowed", "Transfer-Encoding in HTTP/1.0")
    if coding.lower() == b"chunked":
        return
    codings = list_members(coding)
    if len(codings) > 1 and codings[-1] == b"chunked" and b"chunked" not in codings[:-1]:
        # RFC 9112 §6.1: "SHOULD respond with 501" to a coding that one does not understand.
        raise BadMessage(501, "http1.invalid_transfer_encoding", "transfer coding other than chunked")
    # RFC 9112 §6.3: "MUST respond with the 400" where chunked is not final; §7.1: and where it is applied twice.
    raise BadMessage(400, "http1.invalid_transfer_encoding", "Transfer-Encoding that is not one final chunked")


def _other_target(method: bytes, host: bytes, path: bytes) -> tuple[bytes, bytes]:
    """Authority and path of a target that is not in origin-form (RFC 9112 §3.2.2 to §3.2.4)."""
    if method == b"CONNECT":
        raise BadMessage(405, "http1.connect_rejected", "CONNECT")
    if path == b"*":
        if method != b"OPTIONS":
            raise BadMessage(400, "http1.invalid_url", "asterisk-form of a method other than OPTIONS")
        return host, path
    absolute = _ABSOLUTE.fullmatch(path)
    if absolute is None:
        raise BadMessage(400, "http1.invalid_url", "target in none of the forms of RFC 9112 section 3.2")
    scheme, authority, rest = absolute.groups()
    if scheme.lower() not in (b"http", b"https"):
        raise BadMessage(400, "http1.invalid_scheme", "target with a scheme other than http and https")
    # RFC 9112 §3.2.2: the target's authority replaces Host. RFC 9110 §4.2.1: it has a host.
    if not AUTHORITY.fullmatch(authority):
        raise BadMessage(400, "http.invalid_authority", "malformed authority of the target")
    if not rest:
        return authority, b"*" if method == b"OPTIONS" else b"/"
    return authority, rest if rest[0] == 0x2F else b"/" + rest


def _explain_request(block: bytes, limits: Limits) -> NoReturn:
    """Raise what is wrong with a block that has not the shape of a request head."""
    refuse_early(block, 0, limits)
    line, *lines = block.split(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3:
        # RFC 9112 §3: one SP between the parts; §2.2 would let leading empty lines pass.
        raise BadMessage(400, "http1.codec_error", "request line that is not method, target and version")
    method, target, version = parts
    if not TOKENS.fullmatch(method):
        raise BadMessage(400, "http1.codec_error", "method that is not a token")
    _refuse_version(version)
    if b"#" in target:
        raise BadMessage(400, "path_normalization_failed", "fragment in the target")
    _explain_lines(lines, "target with a character that none may have")


def _explain_response(block: bytes, limits: Limits) -> NoReturn:
    """Raise what is wrong with a block that has not the shape of a response head."""
    refuse_early(block, 0, limits)
    line, *lines = block.split(b"\r\n")
    _refuse_version(line.partition(b" ")[0])
    if _STATUS_LINE_START.match(line) is None:
        raise BadMessage(502, "http1.codec_error", "status line without a status of three digits from 100")
    _explain_lines(lines, "malformed status line")


def _refuse_version(version: bytes) -> None:
    if not _VERSION.fullmatch(version):
        raise BadMessage(400, "http1.codec_error", "start line without an HTTP version")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise BadMessage(505, "low_version", "HTTP version other than 1.0 and 1.1")


def _explain_lines(lines: list[bytes], otherwise: str) -> NoReturn:
    """Raise for the first field line that is none; if all are, the start line was wrong."""
    for line in lines[:-2]:
        refuse_field_line(line)
    raise BadMessage(400, "http1.codec_error", otherwise)


_PHRASES: Final = {
    100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints",
    200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information", 204: "No Content",
    205: "Reset Content", 206: "Partial Content", 207: "Multi-Status", 208: "Already Reported", 226: "IM Used",
    300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required", 408: "Request Timeout",
    409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Payload Too Large",
    414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed",
    421: "Misdirected Request", 422: "Unprocessable Entity", 423: "Locked", 424: "Failed Dependency",
    425: "Too Early", 426: "Upgrade Required", 428: "Precondition Required", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported", 506: "Variant Also Negotiates",
    507: "Insufficient Storage", 508: "Loop Detected", 510: "Not Extended", 511: "Network Authentication Required",
}  # fmt: skip
_STATUS_LINES: Final = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}".encode() for status in range(100, 1000)
}
_OWNED_IN_REQUESTS: Final = frozenset((b"content-length", b"host", b"transfer-encoding"))
_OWNED_IN_RESPONSES: Final = frozenset((b"content-length", b"transfer-encoding"))


def render_request(method: bytes, path: bytes, authority: bytes, fields: Sequence[Field], framing: Framing) -> bytes:
    """The bytes of a request head. ``fields``: lower-case names; Host and framing come from the other arguments.

    Fields about this connection (``connection``, ``upgrade``, ``te``) are the caller's to add. Raises ValueError for
    what would not be read back as it was given, which is a fault of ours.
    """
    names = [name for name, _ in fields]
    if not _OWNED_IN_REQUESTS.isdisjoint(names):
        raise ValueError("framing or Host among the fields")
    lines = [b"%b %b HTTP/1.1\r\nhost: %b" % (method, path, authority), *map(b": ".join, fields)]
    if framing >= 0:
        lines.append(b"content-length: %d" % framing)
    elif framing == CHUNKED:
        lines.append(b"transfer-encoding: chunked")
    elif framing != NONE:
        raise ValueError(f"framing {framing} in a request")
    block = b"\r\n".join(lines) + b"\r\n\r\n"
    check_rendered(block, names, len(lines) + 2)
    shape = _REQUEST.fullmatch(block)
    if shape is None or shape[1] != method or shape[2] != path or (authority and not AUTHORITY.fullmatch(authority)):
        raise ValueError("request head that would not be read back as it was given")
    if method == b"CONNECT" or (path[0] != 0x2F and (method, path) != (b"OPTIONS", b"*")):
        raise ValueError("target that is neither in origin-form nor the asterisk of OPTIONS")
    return block


def render_response(status: int, fields: Sequence[Field], framing: Framing) -> bytes:
    """As :func:`render_request`. ``framing`` is what the head declares, whether a body follows (GET) or not (HEAD).

    NONE is for 1xx, 204 and 304 only: elsewhere silence means UNTIL_CLOSE (whose ``connection: close`` is the
    caller's to add). The reason phrase is the standard one, ``Unknown`` where there is none, as Envoy writes it.
    """
    names = [name for name, _ in fields]
    if not _OWNED_IN_RESPONSES.isdisjoint(names):
        raise ValueError("framing among the fields")
    if status not in _STATUS_LINES:
        raise ValueError(f"status {status}")
    lines = [_STATUS_LINES[status], *map(b": ".join, fields)]
    bodiless = status < 200 or status == 204
    if framing >= 0 and not bodiless:
        lines.append(b"content-length: %d" % framing)
    elif framing == CHUNKED and not bodiless and status != 304:
        lines.append(b"transfer-encoding: chunked")
    elif framing != (NONE if bodiless or status == 304 else UNTIL_CLOSE):
        raise ValueError(f"framing {framing} in a response with status {status}")
    block = b"\r\n".join(lines) + b"\r\n\r\n"
    check_rendered(block, names, len(lines) + 1)
    if not _RESPONSE.fullmatch(block):
        raise ValueError("response head that would not be read back as it was given")
    return block
