"""Heads: what is accepted and what it says, what is refused and with which status and code, each limit."""

from __future__ import annotations

import dataclasses

import pytest

from proxy.wire import CHUNKED, NONE, UNTIL_CLOSE, BadMessage, Field, Framing, Leniency
from proxy.wire.head import parse_request_head, parse_response_head, render_request, render_response
from proxy.wire.limits import REQUEST_LIMITS, RESPONSE_LIMITS
from tests.wire.recorder import read_requests, read_responses

LIMITS = dataclasses.replace(REQUEST_LIMITS, max_head_bytes=200, max_start_line_bytes=40, max_fields=3)


def get(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    return b"\r\n".join([start, *([host] if host else []), *lines]) + b"\r\n\r\n"


def ok(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([start, *lines]) + b"\r\n\r\n"


def test_everything_a_request_says() -> None:
    head = parse_request_head(
        get(
            b"X-A:  b c \t",
            b"Cookie: k=v",
            b"Connection: Upgrade, X-Gone , te",
            b"Upgrade: websocket",
            b"TE: deflate, Trailers",
            b"X-Gone: 1",
            b"Keep-Alive: 5",
            b"HTTP2-Settings: x",
            b"Proxy-Connection: close",
            b"Expect: 100-Continue",
            b"Content-Length: 003",
            b"x-empty:",
            b"x-tab: a\tb",
            b"x-high: \xff",
            start=b"POST /p?q=%zz HTTP/1.1",
            host=b"hOst: A.example:8080",
        )
    )
    assert (head.method, head.authority, head.path) == (b"POST", b"A.example:8080", b"/p?q=%zz")
    assert head.fields == [
        (b"x-a", b"b c"),
        (b"cookie", b"k=v"),
        (b"x-empty", b""),
        (b"x-tab", b"a\tb"),
        (b"x-high", b"\xff"),
    ]
    assert (head.body, head.version, head.keep_alive, head.expects_continue) == (3, (1, 1), True, True)
    assert (head.upgrade, head.te_trailers, head.memo) == (b"websocket", True, None)


@pytest.mark.parametrize(
    ("start", "host", "authority", "path"),
    [
        (b"GET / HTTP/1.1", b"Host:", b"", b"/"),
        (b"GET / HTTP/1.1", b"Host: [::1]:80", b"[::1]:80", b"/"),
        (b"GET / HTTP/1.1", b"Host: a_b-c.d~", b"a_b-c.d~", b"/"),
        (b"GET / HTTP/1.1", b"Host: a:", b"a:", b"/"),
        (b"get //x/../y HTTP/1.1", b"Host: a", b"a", b"//x/../y"),
        (b"OPTIONS * HTTP/1.1", b"Host: a", b"a", b"*"),
        (b"GET http://b HTTP/1.1", b"Host: a", b"b", b"/"),
        (b"GET HTTPS://b:1/x?y HTTP/1.1", b"Host: a", b"b:1", b"/x?y"),
        (b"GET http://b?y HTTP/1.1", b"Host: a", b"b", b"/?y"),
        (b"OPTIONS http://b HTTP/1.1", b"Host: a", b"b", b"*"),
        (b"GET / HTTP/1.0", b"", b"", b"/"),
        (b"GET / HTTP/1.0", b"Host: a", b"a", b"/"),
        (b"!#$%&'*+-.^_`|~ /{|}\\^`\"<>[] HTTP/1.1", b"Host: a", b"a", b'/{|}\\^`"<>[]'),
    ],
)
def test_targets(start: bytes, host: bytes, authority: bytes, path: bytes) -> None:
    head = parse_request_head(get(start=start, host=host))
    assert (head.authority, head.path) == (authority, path)


@pytest.mark.parametrize(
    ("version", "lines", "keep_alive"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"Connection: close"], False),
        (b"1.1", [b"Connection: keep-alive, CLOSE"], False),
        (b"1.1", [b"Connection: x", b"Connection: close"], False),
        (b"1.1", [b"Connection: ,, closed"], True),
        (b"1.0", [], False),
        (b"1.0", [b"Connection: Keep-Alive"], True),
        (b"1.0", [b"Connection: keep-alive, x"], True),
        (b"1.0", [b"Connection: keep-alive, close"], False),
    ],
)
def test_keep_alive(version: bytes, lines: list[bytes], keep_alive: bool) -> None:
    assert parse_request_head(get(*lines, start=b"GET / HTTP/" + version)).keep_alive is keep_alive
    response = parse_response_head(ok(*lines, b"Content-Length: 0", start=b"HTTP/" + version + b" 200 OK"), b"GET")
    assert response.keep_alive is keep_alive


@pytest.mark.parametrize(
    ("lines", "start", "expects"),
    [
        ([b"Expect: 100-continue", b"Content-Length: 1"], b"POST / HTTP/1.1", True),
        ([b"Expect: 100-continue", b"Transfer-Encoding: chunked"], b"POST / HTTP/1.1", True),
        ([b"Expect: 100-continue", b"Content-Length: 0"], b"POST / HTTP/1.1", False),
        ([b"Expect: 100-continue"], b"GET / HTTP/1.1", False),
        ([b"Expect: 100-continue", b"Content-Length: 1"], b"POST / HTTP/1.0", False),
    ],
)
def test_expect_is_consumed(lines: list[bytes], start: bytes, expects: bool) -> None:
    head = parse_request_head(get(*lines, start=start))
    assert head.expects_continue is expects
    assert head.fields == []


def test_other_expectations_pass() -> None:
    assert parse_request_head(get(b"Expect: x")).fields == [(b"expect", b"x")]


def test_upgrade_counts_only_where_connection_names_it() -> None:
    assert parse_request_head(get(b"Upgrade: h2c")).upgrade is None
    assert parse_request_head(get(b"Upgrade: h2c", b"Connection: keep-alive")).upgrade is None
    assert parse_request_head(get(b"Upgrade: h2c", b"Connection: x")).upgrade is None
    assert parse_request_head(get(b"Upgrade: a", b"Upgrade: b", b"Connection: upgrade")).upgrade == b"a, b"
    assert parse_request_head(get(b"Upgrade: a", b"Connection: upgrade", start=b"GET / HTTP/1.0")).upgrade is None


CODEC = "http1.codec_error"
BAD_LINES: list[tuple[int, str, list[bytes]]] = [
    # RFC 9112 §6: framing.
    (400, "http1.content_length_and_chunked_not_allowed", [b"Content-Length: 3", b"Transfer-Encoding: chunked"]),
    (400, "http1.content_length_and_chunked_not_allowed", [b"Transfer-Encoding: chunked", b"Content-Length: 3"]),
    (400, "http1.content_length_and_chunked_not_allowed", [b"Transfer-Encoding: x", b"Content-Length: 0"]),
    *[
        (400, CODEC, [b"Content-Length: " + value])
        for value in (b"", b"+3", b"-3", b"0x3", b"3, 3", b"3,3", b"1 0", b"3;", b"3.0", b"1_0", b"\xb2", b"9" * 20)
    ],
    (400, CODEC, [b"Content-Length: 3", b"Content-Length: 3"]),
    (400, CODEC, [b"Content-Length: 3", b"Content-Length: 4"]),
    (501, "http1.invalid_transfer_encoding", [b"Transfer-Encoding: gzip, chunked"]),
    (501, "http1.invalid_transfer_encoding", [b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"]),
    *[
        (400, "http1.invalid_transfer_encoding", [b"Transfer-Encoding: " + value])
        for value in (b"", b"gzip", b"identity", b"xchunked", b"chunked, chunked", b"chunked, gzip", b"chunked;a=b",
                      b"chunked,", b",chunked", b'"chunked"', b"chunked\xa0", b"\xefchunked", b"chun ked")
    ],
    (400, "http1.invalid_transfer_encoding", [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"]),
    (400, "http1.invalid_transfer_encoding", [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"]),
    # §5: field lines.
    *[
        (400, CODEC, [line])
        for line in (b"a : b", b"a\t: b", b" a: b", b"\ta: b", b": b", b"a", b"a b: c", b"(a): b", b"\xe9: b",
                     b":path: /",
                     b"a: b\r\n c", b"a: b\r\n\tc", b"a: b\rc", b"a: b\nc: d", b"a: b\r\r", b"a:\r b",
                     b"Transfer-Encoding : chunked",
                     b"a\rb: c", b"a: b\n", b"a,b: c", b"a@b: c")
    ],
    *[
        (400, "http1.invalid_characters", [b"a: b" + bytes([byte]) + b"c"])
        for byte in (*range(9), 11, 12, *range(14, 32), 127)
    ],
    (400, "http1.invalid_characters", [b"a\x00: b"]),
    (400, "http1.invalid_characters", [b"Transfer-Encoding:\x0bchunked"]),
]  # fmt: skip
BAD_REQUESTS: list[tuple[int, str, bytes]] = [
    *[(status, code, get(*lines, start=b"POST / HTTP/1.1")) for status, code, lines in BAD_LINES],
    (400, "http1.transfer_encoding_not_allowed", get(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0")),
    # RFC 9112 §3.2 and RFC 9110 §7.2: Host.
    (400, "missing_host_header", get(host=b"")),
    (400, "missing_host_header", get(start=b"GET http://a/ HTTP/1.1", host=b"")),
    (400, "http.invalid_authority", get(b"Host: a")),
    (400, "http.invalid_authority", get(b"Host: b")),
    (400, "http.invalid_authority", get(b"Host: a", start=b"GET / HTTP/1.0")),
    (400, "http.invalid_authority", get(b"Host: b", start=b"GET http://a/ HTTP/1.1")),
    *[
        (400, "http.invalid_authority", get(host=b"Host: " + host))
        for host in (b"a b", b"a/b", b"a,b", b"u@a", b"a:b", b"a:1:2", b":80", b"[::1", b"::1", b"a?b", b"a#b",
                     b"a\\b",
                     b"\xe9", b"a%", b"a:123456", b"http://a", b"a\tb", b"a<b", b"[v1.a]")
    ],
    (400, "http.invalid_authority", get(host=b"Host: u@b", start=b"GET http://a/ HTTP/1.1")),
    *[
        (400, "http.invalid_authority", get(start=b"GET " + target + b" HTTP/1.1"))
        for target in (b"http://u@b/", b"http://u:p@b/", b"http:///", b"http://:80/", b"http://b,c/", b"http://b\\c/")
    ],
    # RFC 9112 §3: the request line.
    *[
        (400, CODEC, get(start=start))
        for start in (b"", b"GET", b"GET /", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b" GET / HTTP/1.1",
                      b"GET / HTTP/1.1 ",
                      b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b"GET / HTTP/1.1\t", b"GET /a b HTTP/1.1",
                      b"G(T / HTTP/1.1",
                      b"GET / http/1.1", b"GET / HTTP/1.10", b"GET / HTTP/11", b"GET / HTTP/1", b"GET / HTTP 1.1",
                      b"GET: / HTTP/1.1",
                      b"\xe9 / HTTP/1.1", b"GET /\xc3\xa9 HTTP/1.1", b"GET / XTTP/1.1", b"GET / HTTP/1.\xb2",
                      b"\r\nGET / HTTP/1.1", b"\nGET / HTTP/1.1", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\n folded")
    ],
    (400, "http1.invalid_characters", get(start=b"GET /\x00 HTTP/1.1")),
    (400, "http1.invalid_characters", get(start=b"GE\x7fT / HTTP/1.1")),
    (400, "path_normalization_failed", get(start=b"GET /a#b HTTP/1.1")),
    (400, "path_normalization_failed", get(start=b"GET http://a/#b HTTP/1.1")),
    *[
        (400, "http1.invalid_url", get(start=start + b" HTTP/1.1"))
        for start in (b"GET *", b"GET foo", b"GET ?a", b"GET a:80", b"OPTIONS **", b"GET http:/a", b"GET http:a",
                      b"GET %2f", b"GET ://a")
    ],
    (400, "http1.invalid_scheme", get(start=b"GET ftp://a/ HTTP/1.1")),
    (405, "http1.connect_rejected", get(start=b"CONNECT a:80 HTTP/1.1")),
    (405, "http1.connect_rejected", get(start=b"CONNECT / HTTP/1.1")),
    *[
        (505, "low_version", get(start=b"GET / HTTP/" + version))
        for version in (b"0.9", b"1.2", b"2.0", b"3.0", b"0.0")
    ],
    (505, "low_version", b"PRI * HTTP/2.0\r\n\r\n"),
    # RFC 9110 §7.6.1: what Connection may not take away.
    *[
        (400, "http1.connection_header_rejected", get(b"Connection: close, " + name))
        for name in (b"host", b"Cookie", b"authorization", b"X-Forwarded-For", b"x-forwarded-proto", b":path",
                     b"content-length",
                     b"transfer-encoding", b"a b", b"x-envoy-internal", b"forwarded")
    ],
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "block"), BAD_REQUESTS, ids=[repr(bad[2])[:70] for bad in BAD_REQUESTS])
def test_refused_requests(status: int, code: str, block: bytes) -> None:
    with pytest.raises(BadMessage) as bad:
        parse_request_head(block)
    assert (bad.value.status, bad.value.code) == (status, code)
    # From the wire, in one piece and byte by byte: refused without a call, with the same words.
    for pieces in ([block], [bytes([byte]) for byte in block]):
        assert read_requests(pieces).calls == [("bad", status, code)]


@pytest.mark.parametrize(("lines"), [lines for _, _, lines in BAD_LINES], ids=lambda lines: repr(lines)[:70])
def test_refused_responses(lines: list[bytes]) -> None:
    block = ok(*lines)
    for pieces in ([block], [bytes([byte]) for byte in block]):
        (call,) = read_responses(pieces, [b"GET"]).calls
        assert call[:2] == ("bad", 502)


def test_messages_never_repeat_values() -> None:
    for _, _, block in BAD_REQUESTS:
        with pytest.raises(BadMessage) as bad:
            parse_request_head(block.replace(b"\r\n\r\n", b"\r\nCookie: s3cret\r\n\r\n"))
        assert "s3cret" not in str(bad.value)


def test_limits_of_a_head() -> None:
    def refusal(block: bytes) -> tuple[int, str] | None:
        for pieces in ([block], [bytes([byte]) for byte in block]):
            calls = read_requests(pieces, LIMITS).calls
            refused = calls[-1][1:] if calls[-1][0] == "bad" else None
        return refused  # type: ignore[return-value]

    def padded(size: int, start: bytes = b"GET / HTTP/1.1") -> bytes:
        return get(b"x: " + b"y" * (size - len(get(b"x: ", start=start))), start=start)

    assert refusal(padded(200)) is None
    assert refusal(padded(201)) == (431, "http1.headers_too_large")
    assert refusal(get(b"a: 1", b"b: 2")) is None
    assert refusal(get(b"a: 1", b"b: 2", b"c: 3")) == (431, "http1.too_many_headers")
    line = b"GET /" + b"x" * 26 + b" HTTP/1.1"
    assert len(line) == 40
    assert refusal(get(start=line)) is None
    assert refusal(get(start=line.replace(b"/", b"/x", 1))) == (414, "http1.headers_too_large")
    assert refusal(b"x" * 43) == (414, "http1.headers_too_large")
    # What is wrong at the lower position is what counts.
    assert refusal(padded(201).replace(b"yy", b"y\x00", 1)) == (400, "http1.invalid_characters")


def test_limits_of_a_response_head() -> None:
    def last(block: bytes) -> object:
        calls = read_responses([block], [b"GET"], LIMITS).calls
        assert read_responses([bytes([byte]) for byte in block], [b"GET"], LIMITS).calls == calls
        return calls[-1]

    assert last(ok(b"a: 1", b"b: 2", b"c: 3"))[0] == "head"  # type: ignore[index]
    assert last(ok(b"a: 1", b"b: 2", b"c: 3", b"d: 4")) == ("bad", 502, "http1.too_many_headers")
    assert last(ok(start=b"HTTP/1.1 200 " + b"x" * 27))[0] == "head"  # type: ignore[index]
    assert last(ok(start=b"HTTP/1.1 200 " + b"x" * 28)) == ("bad", 502, "http1.headers_too_large")
    assert last(ok(b"x: " + b"y" * 200)) == ("bad", 502, "http1.headers_too_large")


def test_default_limits() -> None:
    assert parse_request_head(get(*[b"a: b"] * 99)).fields == [(b"a", b"b")] * 99
    with pytest.raises(BadMessage) as bad:
        parse_request_head(get(*[b"a: b"] * 100))
    assert bad.value.status == 431
    size = len(get(b"x: "))
    assert "head" in read_requests([get(b"x: " + b"y" * (60 * 1024 - size))]).kinds
    assert read_requests([get(b"x: " + b"y" * (60 * 1024 - size + 1))]).calls == [
        ("bad", 431, "http1.headers_too_large")
    ]
    assert RESPONSE_LIMITS.max_head_bytes == 80 * 1024


@pytest.mark.parametrize(
    ("block", "method", "status", "body", "declared"),
    [
        (ok(b"Content-Length: 3"), b"GET", 200, 3, 3),
        (ok(b"Transfer-Encoding: Chunked"), b"GET", 200, CHUNKED, CHUNKED),
        (ok(), b"GET", 200, UNTIL_CLOSE, UNTIL_CLOSE),
        (ok(b"Content-Length: 3"), b"HEAD", 200, NONE, 3),
        (ok(b"Transfer-Encoding: chunked"), b"HEAD", 200, NONE, CHUNKED),
        (ok(), b"HEAD", 200, NONE, UNTIL_CLOSE),
        (ok(b"Content-Length: 3", start=b"HTTP/1.1 304 x"), b"GET", 304, NONE, 3),
        (ok(start=b"HTTP/1.1 304 x"), b"GET", 304, NONE, NONE),
        (ok(b"Content-Length: 0", start=b"HTTP/1.1 204 x"), b"GET", 204, NONE, NONE),
        (ok(start=b"HTTP/1.1 204 x"), b"HEAD", 204, NONE, NONE),
        (ok(start=b"HTTP/1.1 101 x"), b"GET", 101, NONE, NONE),
        (ok(start=b"HTTP/1.1 100 x"), b"GET", 100, NONE, NONE),
        (ok(b"Content-Length: 1", start=b"HTTP/1.1 999 x"), b"GET", 999, 1, 1),
        (ok(b"Content-Length: 1", start=b"HTTP/1.1 600 "), b"GET", 600, 1, 1),
    ],
)
def test_framing_of_responses(block: bytes, method: bytes, status: int, body: Framing, declared: Framing) -> None:
    head = parse_response_head(block, method)
    assert (head.status, head.body, head.declared, head.fields, head.leniency) == (status, body, declared, [], None)
    assert head.keep_alive is (body != UNTIL_CLOSE)


def test_everything_a_response_says() -> None:
    head = parse_response_head(
        ok(b"Set-Cookie: a", b"Connection: upgrade, x-gone, set-cookie", b"Upgrade: websocket", b"set-cookie:b\t",
           b"X-Gone: 1",
           b"Keep-Alive: 5", b"Trailer: x", start=b"HTTP/1.1 101 \xe9\tx"), b"GET")  # fmt: skip
    assert head.fields == [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"trailer", b"x")]
    assert (head.status, head.upgrade, head.version) == (101, b"websocket", (1, 1))


def test_a_missing_reason_is_a_counted_leniency() -> None:
    assert parse_response_head(ok(start=b"HTTP/1.1 200"), b"GET").leniency is Leniency.MISSING_REASON
    assert parse_response_head(ok(start=b"HTTP/1.1 200 "), b"GET").leniency is None


@pytest.mark.parametrize(
    "block",
    [
        ok(b"Content-Length: 1", start=b"HTTP/1.1 204 x"),
        ok(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 204 x"),
        ok(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 103 x"),
        ok(b"Content-Length: 1", start=b"HTTP/1.1 101 x"),
        ok(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 x"),
        *[
            ok(start=start)
            for start in (
                b"HTTP/1.1 099 x", b"HTTP/1.1 1000 x", b"HTTP/1.1 20 x", b"HTTP/1.1 +20 x", b"HTTP/1.1  200 x",
                b"HTTP/1.1\t200 x",
                b"HTTP/1.1 200\tx", b"HTTP/1.2 200 x", b"HTTP/2.0 200 x", b"http/1.1 200 x", b"ICY 200 OK",
                b" HTTP/1.1 200 x",
                b"\r\nHTTP/1.1 200 x", b"HTTP/1.1", b"", b"HTTP/1.1 200 \x00", b"HTTP/1.1 200 a\rb",
                b"GET / HTTP/1.1",
            )
        ],
    ],
)  # fmt: skip
def test_refused_status_lines_and_framing(block: bytes) -> None:
    for pieces in ([block], [bytes([byte]) for byte in block]):
        (call,) = read_responses(pieces, [b"GET"]).calls
        assert call[:2] == ("bad", 502)


def test_rendering() -> None:
    fields = [(b"a", b"b"), (b"c", b"")]
    start = b"POST /p HTTP/1.1\r\nhost: h\r\na: b\r\nc: \r\n"
    assert render_request(b"POST", b"/p", b"h", fields, 3) == start + b"content-length: 3\r\n\r\n"
    assert render_request(b"POST", b"/p", b"h", fields, CHUNKED) == start + b"transfer-encoding: chunked\r\n\r\n"
    assert render_request(b"POST", b"/p", b"h", fields, NONE) == start + b"\r\n"
    assert render_request(b"OPTIONS", b"*", b"", [], NONE) == b"OPTIONS * HTTP/1.1\r\nhost: \r\n\r\n"
    assert render_response(200, fields, 3) == b"HTTP/1.1 200 OK\r\na: b\r\nc: \r\ncontent-length: 3\r\n\r\n"
    assert render_response(200, [], CHUNKED) == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert render_response(200, [], UNTIL_CLOSE) == b"HTTP/1.1 200 OK\r\n\r\n"
    assert render_response(204, [], NONE) == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert render_response(304, [], 5) == b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"
    assert render_response(999, [], 0) == b"HTTP/1.1 999 Unknown\r\ncontent-length: 0\r\n\r\n"


BAD_FIELDS: list[Field] = [
    (b"a", b"b\r\nc: d"), (b"a", b"b\nc"), (b"a", b"b\rc"), (b"a", b"\x00"), (b"a: b", b"c"), (b"A", b"b"), (b"",
    b"b"),
    (b"a,b", b"c"), (b"a b", b"c"), (b"a\r\nb", b"c"), (b"content-length", b"1"), (b"transfer-encoding", b"chunked"),
]  # fmt: skip


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_fields_that_are_not_rendered(field: Field) -> None:
    with pytest.raises(ValueError, match=r"read back|framing"):
        render_request(b"GET", b"/", b"h", [(b"x", b"y"), field], NONE)
    with pytest.raises(ValueError, match=r"read back|framing"):
        render_response(200, [(b"x", b"y"), field], 0)


@pytest.mark.parametrize(
    ("method", "path", "authority", "framing"),
    [
        (b"GET /x", b"/", b"h", NONE), (b"GET", b"/ HTTP/1.1\r\nx: y", b"h", NONE), (b"GET", b"/a b", b"h", NONE),
        (b"GET", b"/", b"h\r\nx: y", NONE), (b"GET", b"/", b"a b", NONE), (b"GET", b"/", b"u@h", NONE), (b"GET",
        b"", b"h", NONE),
        (b"GET", b"*", b"h", NONE), (b"GET", b"x", b"h", NONE), (b"CONNECT", b"/", b"h", NONE), (b"", b"/", b"h",
        NONE),
        (b"GET", b"/#", b"h", NONE), (b"GET", b"/", b"h", UNTIL_CLOSE), (b"GET", b"/", b"h", -4),
    ],
)  # fmt: skip
def test_requests_that_are_not_rendered(method: bytes, path: bytes, authority: bytes, framing: Framing) -> None:
    with pytest.raises(ValueError, match=r"read back|target|until|framing"):
        render_request(method, path, authority, [], framing)


def test_host_is_not_a_field() -> None:
    with pytest.raises(ValueError, match="Host"):
        render_request(b"GET", b"/", b"h", [(b"host", b"x")], NONE)


@pytest.mark.parametrize(
    ("status", "framing"),
    [
        (99, 0),
        (1000, 0),
        (200, NONE),
        (204, 0),
        (204, CHUNKED),
        (101, 0),
        (304, CHUNKED),
        (304, UNTIL_CLOSE),
        (200, -4),
    ],
)
def test_responses_that_are_not_rendered(status: int, framing: Framing) -> None:
    with pytest.raises(ValueError, match="status"):
        render_response(status, [], framing)
