"""Strategies: messages that are right, nearly right, and wrong in the ways that smuggling needs."""

from __future__ import annotations

from hypothesis import strategies as st

METHODS = [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"TRACE", b"CONNECT", b"get", b"FOO-BAR"]
TARGETS = [
    b"/", b"/a?b=c", b"/%41%zz", b"//x/../y", b"*", b"http://b.example/p?q", b"HTTP://b:81", b"https://b?x", b"/a#f",
    b"/{|}\\^`\"<>[]", b"foo", b"http://u@b/", b"a:80", b"/\xc3\xa9", b"?x", b"ftp://b/",
]  # fmt: skip
VERSIONS = [b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.10", b""]
STATUS_LINES = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 201 ", b"HTTP/1.1 202", b"HTTP/1.0 200 OK",
    b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 404 N\xf6t", b"HTTP/1.1 999 x",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", b"HTTP/1.1 103 H\r\nlink: x\r\n\r\nHTTP/1.1 200 OK",
    b"HTTP/1.1 099 x", b"HTTP/1.1 20 x", b"HTTP/1.1  200 x", b"HTTP/1.2 200 OK", b"HTTP/1.1 600 x",
]  # fmt: skip
HARMLESS = [
    b"a: b", b"X-Y:z", b"x-e:", b"x-e: ", b"Accept:  text/html \t", b"x-tab: a\tb", b"x-high: \xff\x80", b"Cookie: a=b",
    b"x-forwarded-for: 10.0.0.1", b"set-cookie: a", b"set-cookie: b", b"!#$%&'*+-.^_`|~: odd",
]  # fmt: skip
MEANT = [
    b"Connection: close", b"Connection: keep-alive", b"connection: x-y, te", b"Connection: upgrade",
    b"Upgrade: websocket", b"TE: trailers, deflate", b"Keep-Alive: timeout=5", b"Expect: 100-continue", b"Expect: x",
    b"Proxy-Connection: close", b"Connection: host", b"Connection: ,", b"Trailer: x",
]  # fmt: skip
FRAMING = [
    b"Content-Length: 3", b"Content-Length: 3", b"Content-Length: 0", b"Content-Length: 003", b"content-length: +3",
    b"Content-Length: 0x3", b"Content-Length: 3, 3", b"Content-Length:", b"Content-Length: 1 0", b"Content-Length: 3 ",
    b"Content-Length: " + b"9" * 20, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked",
    b"transfer-encoding: CHUNKED ", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding:", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding : chunked",
    b"Transfer_Encoding: chunked", b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: chunked;a=b",
    b" Transfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked", b"X: y\nContent-Length: 3",
]  # fmt: skip
HOSTS = [b"Host: a.example"] * 8 + [
    b"Host: [::1]:80", b"host:", b"Host: a,b", b"Host: u@a", b"Host: a b", b"Host: a/b", b"Host: a\r\nHost: a",
    b"x: no host",
]  # fmt: skip
CHUNKED_BODIES = [
    b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n", b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"003\r\nabc\r\n000\r\n\r\n",
    b"A\r\n0123456789\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0;z\r\n\r\n", b'3;x="y;\\"z"\r\nabc\r\n0\r\n\r\n',
    b"3\r\nabc\r\n0\r\nx-t: 1\r\ny:\r\n\r\n", b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n", b"3 \r\nabc\r\n0\r\n\r\n",
    b"3 ;x\r\nabc\r\n0\r\n\r\n", b"+3\r\nabc\r\n0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n",
    b"3\r\nabcX\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n", b"\r\nabc\r\n0\r\n\r\n", b"3;x=\ny\r\nabc\r\n0\r\n\r\n",
    b"ffffffffffffffff1\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\n0\r\n x: y\r\n\r\n", b"3\r\nabc\r\n0\r\nx\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\n", b"3_0\r\nabc\r\n0\r\n\r\n", b"3;;\r\nabc\r\n0\r\n\r\n", b'3;a="b\r\nabc\r\n0\r\n\r\n',
]  # fmt: skip
TAILS = [b"", b"", b"GET /next HTTP/1.1\r\nHost: n\r\n\r\n", b"\r\n", b"x", b"0\r\n\r\n"]

# What turns a right message into a wrong one.
_BITS = st.sampled_from([
    b"\r", b"\n", b"\r\n", b"\t", b" ", b":", b";", b",", b"\x00", b"\x0b", b"\x7f", b"\x80", b"\xa0", b"0", b"#", b"/",
    b"*", b"@", b"%", b'"', b"\\", b"chunked", b"\r\n\r\n", b"\r\n ", b"_", b"-", b"+", b"f", b"G",
])  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """None to three of: a bit inserted, bytes deleted, a bit in place of a byte."""
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3]))):
        at = draw(st.integers(0, len(data)))
        bit = draw(_BITS)
        removed = draw(st.sampled_from([0, 0, 1, 2]))
        data = data[:at] + draw(st.sampled_from([bit, bit, b""])) + data[at + removed :]
    return data


@st.composite
def _body_and_tail(draw: st.DrawFn, chunked: bool) -> bytes:
    body = draw(st.sampled_from(CHUNKED_BODIES if chunked else [b"", b"abc", b"abc", b"abcd"]))
    return body + draw(st.sampled_from(TAILS))


@st.composite
def _fields(draw: st.DrawFn) -> list[bytes]:
    lines = draw(st.lists(st.sampled_from(HARMLESS), max_size=4))
    lines += draw(st.lists(st.sampled_from(MEANT), max_size=2))
    lines += draw(st.lists(st.sampled_from(FRAMING), max_size=draw(st.sampled_from([1, 1, 1, 2]))))
    return draw(st.permutations(lines))


@st.composite
def _about_the_body(draw: st.DrawFn, start: bytes) -> bytes:
    """A head that is right, so that everything turns on the body."""
    chunked = draw(st.sampled_from([True, True, False]))
    head = start + (b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 3") + b"\r\n\r\n"
    return head + draw(_body_and_tail(chunked).flatmap(mutated))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    if draw(st.sampled_from([True, False, False])):
        return draw(_about_the_body(b"POST / HTTP/1.1\r\nHost: a\r\n"))
    line = b" ".join(
        (
            draw(st.sampled_from(METHODS[:3] * 4 + METHODS)),
            draw(st.sampled_from(TARGETS[:3] * 8 + TARGETS)),
            draw(st.sampled_from(VERSIONS)),
        )
    )
    lines = [line, draw(st.sampled_from(HOSTS)), *draw(_fields())]
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    return draw(mutated(head + draw(_body_and_tail(b"chunked" in head.lower()))))


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    if draw(st.sampled_from([True, False, False])):
        return draw(_about_the_body(b"HTTP/1.1 200 OK\r\n"))
    head = b"\r\n".join([draw(st.sampled_from(STATUS_LINES)), *draw(_fields())]) + b"\r\n\r\n"
    return draw(mutated(head + draw(_body_and_tail(b"chunked" in head.lower()))))
