"""Guarantee: no bytes of a client make an origin see another request than the client was taken to send, and no bytes of
an origin make a client see a response to another request than its own.

Every known shape of request smuggling, sent whole and byte by byte, in front of a request that must be seen where the
shape is legal and must not where it is not; read at an origin that keeps every byte and reads by the letter. Then the
same for responses.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence

import pytest

from tests.kit.origins import Conversation, Origin, always, by_connection, ok
from tests.kit.rawhttp import Wire
from tests.kit.witness import Witness, take
from tests.proxy.http_rig import HttpRig, wait_until_idle
from tests.proxy.rig import LoopThread

BEHIND = b"GET /behind HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nhost: a\r\n"
GET = b"GET /g HTTP/1.1\r\nhost: a\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"
TE = b"transfer-encoding"
CL = b"content-length"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def get(*lines: bytes) -> bytes:
    return GET + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def chunks(body: bytes) -> bytes:
    """A chunked request that goes on like this."""
    return post(b"transfer-encoding: chunked", body=body)


REFUSALS = (400, 405, 501, 505)

NOT_FORWARDED = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"http2-settings", b"x-a"}

HEAD_REFUSED = {
    # Two framings
    "CL.TE": post(b"content-length: 6", b"transfer-encoding: chunked", body=b"0\r\n\r\nG"),
    "TE.CL": post(b"transfer-encoding: chunked", b"content-length: 3", body=b"8\r\nSMUGGLED\r\n0\r\n\r\n"),
    "CL.TE in 1.0": b"POST / HTTP/1.0\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE in 1.0": b"POST / HTTP/1.0\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "CL 0 with TE": post(b"content-length: 0", b"transfer-encoding: chunked", body=LAST_CHUNK),
    "CL with an unknown TE": post(b"content-length: 0", b"transfer-encoding: x"),
    "CL with an empty TE": post(b"content-length: 0", b"transfer-encoding:"),
    # Transfer-Encoding that some take for chunked
    **{f"TE {value!r}": post(TE + value, body=LAST_CHUNK) for value in (
        b":", b": ", b": xchunked", b": chunkedx", b": chunk", b": chunked, chunked", b": chunked, identity",
        b": identity", b": chunked,", b": ,chunked,", b": chunked;q=1", b": chunked; a", b': "chunked"', b": 'chunked'",
        b": chunked chunked", b": chunked\x0b", b": \x0bchunked", b": chunked\x0c", b": chunked\x00", b": \x00chunked",
        b": \xa0chunked", b": chunked\xa0", b": \xe2\x80\x8bchunked", b": chun\tked", b": ch\xc5\xabnked",
        b": [chunked]",
        b": identity, chunked", b": gzip, chunked", b": x\r\ntransfer-encoding: chunked", b": deflate,chunked",
        b": gzip", b": trailers", b" : chunked", b"\t: chunked", b"\x00: chunked", b"\x0b: chunked", b"\r: chunked",
        b"\n: chunked", b"\r\n: chunked", b"=chunked", b" chunked", b";: chunked", b":chunked\r\n\tx", b":\r\n chunked",
        b": x\r\n\tchunked", b": chunked\rx: y", b": chunked\nx: y", b":\nchunked", b":\rchunked",
    )},
    "TE twice": post(b"transfer-encoding: chunked", b"transfer-encoding: chunked", body=LAST_CHUNK),
    "TE chunked then identity": post(b"transfer-encoding: chunked", b"transfer-encoding: identity", body=LAST_CHUNK),
    "TE chunked then cow": post(b"transfer-encoding: chunked", b"transfer-encoding: cow", body=LAST_CHUNK),
    "TE chunked then empty": post(b"transfer-encoding: chunked", b"transfer-encoding:", body=LAST_CHUNK),
    "TE in the first line, folded": b"POST / HTTP/1.1\r\n transfer-encoding: chunked\r\nhost: a\r\n\r\n" + LAST_CHUNK,
    "TE behind a bare LF": post(b"x: y\ntransfer-encoding: chunked", body=LAST_CHUNK),
    "TE behind a bare CR": post(b"x: y\rtransfer-encoding: chunked", body=LAST_CHUNK),
    "TE behind a NUL": post(b"x: y\x00transfer-encoding: chunked", body=LAST_CHUNK),
    "TE with a long s": post(b"tran\xc5\xbffer-encoding: chunked", body=LAST_CHUNK),
    # Content-Length that some read otherwise
    **{f"CL {value!r}": post(CL + value, body=b"abc") for value in (
        b":", b": ", b": +3", b": -3", b": 3, 3", b": 3,3", b": 3 3", b": 3;", b": 3.0", b": 0x3", b": 3e0", b": 0b11",
        b": 3_0", b": '3'", b': "3"', b": abc", b": \xef\xbc\x93", b": 3\x0b", b": \x0c3", b": 3\x00", b": \xb2",
        b": 18446744073709551619", b": 9999999999999999999999", b": 00000000000000000003", b" : 3", b"\t: 3",
        b":\r\n 3", b": 3\r\n 0", b": 3\r\n\t", b": 3\nx: y", b": 3\rx: y", b"\n: 3", b": 3,", b": ,3", b": 3, ",
    )},
    "CL twice, alike": post(b"content-length: 3", b"content-length: 3", body=b"abc"),
    "CL twice, unlike": post(b"content-length: 3", b"content-length: 0", body=b"abc"),
    "CL twice, other case": post(b"Content-Length: 3", b"content-length: 5", body=b"abc"),
    "CL and a bad CL": post(b"content-length: 3", b"content-length:", body=b"abc"),
    # Lines
    "bare LF": b"GET / HTTP/1.1\nhost: a\n\n",
    "LF in the end": b"GET / HTTP/1.1\r\nhost: a\r\n\n",
    "LF before the end": b"GET / HTTP/1.1\r\nhost: a\n\r\n",
    "CR CR LF": b"GET / HTTP/1.1\r\r\nhost: a\r\n\r\n",
    "CR LF CR": b"GET / HTTP/1.1\r\nhost: a\r\n\r" + BEHIND,
    "bare CR between lines": b"GET / HTTP/1.1\rhost: a\r\r",
    "empty line first": b"\r\n" + get(),
    "LF first": b"\n" + get(),
    "blank line first": b" \r\n" + get(),
    "folding": get(b"x: y", b" z"),
    "folding with a tab": get(b"x: y", b"\tz"),
    "folding of nothing": get(b"x: y", b" "),
    "a line without a colon": get(b"x"),
    "a second request line": get(b"GET /smuggled HTTP/1.1"),
    "no name": get(b": x"),
    "blank before the colon": get(b"x : y"),
    "blank within a name": get(b"x y: z"),
    "name in quotes": get(b'"x": y'),
    "name with a bracket": get(b"x[]: y"),
    "name with obs-text": get(b"x\xe9: y"),
    "name with a NUL": get(b"x\x00y: z"),
    "value with a NUL": get(b"x: \x00"),
    "value with DEL": get(b"x: \x7f"),
    "value with an escape": get(b"x: \x1b[0m"),
    # Request lines
    **{f"line {line!r}": line + b"\r\nhost: a\r\n\r\n" for line in (
        b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"GET\t/ HTTP/1.1",
        b"GET /\tHTTP/1.1", b"GET\x0b/ HTTP/1.1", b"GET / HTTP/1.1\x00", b"GET /", b"GET / ", b"GET", b"GET / HTTP",
        b"GET / HTTP/", b"GET / HTTP/1", b"GET / HTTP/1.", b"GET / HTTP/1.1.1", b"GET / HTTP/1.10", b"GET / HTTP/01.1",
        b"GET / http/1.1", b"GET / HTTP/1,1", b"GET / HTTP /1.1", b"GET / XTTP/1.1", b"GET / HTTP/-1.1",
        b"GET / HTTP/1.x",
        b"GET /a b HTTP/1.1", b"GET /a HTTP/1.1 HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET /\x00 HTTP/1.1",
        b"GET /\x7f HTTP/1.1", b"GET /# HTTP/1.1", b"GET  HTTP/1.1", b"G\xc3\x8bT / HTTP/1.1", b"GE(T / HTTP/1.1",
        b"GET a HTTP/1.1", b"GET a/b HTTP/1.1", b"GET @b/ HTTP/1.1", b"GET :80 HTTP/1.1", b"GET \\b HTTP/1.1",
        b"GET * HTTP/1.1", b"POST * HTTP/1.1", b"GET ?x HTTP/1.1", b"GET http:/a HTTP/1.1", b"GET http:///x HTTP/1.1",
        b"GET http://a@b/ HTTP/1.1", b"GET http://a b/ HTTP/1.1", b"GET http://a:b/ HTTP/1.1",
        b"GET http://a,b/ HTTP/1.1",
        b"GET http://a\\b/ HTTP/1.1", b"GET http://[::1/ HTTP/1.1", b"GET http://a/#b HTTP/1.1",
        b"GET ftp://a/ HTTP/1.1",
        b"GET file:///etc/x HTTP/1.1", b"GET a:80 HTTP/1.1", b"GET http://a%/ HTTP/1.1", b"GET http:a HTTP/1.1",
        b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET / HTTP/0.9", b"GET / HTTP/3.1", b"CONNECT a:80 HTTP/1.1",
        b"CONNECT / HTTP/1.1", b"CONNECT http://a/ HTTP/1.1",
    )},
    # Host
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "no Host, absolute": b"GET http://a/ HTTP/1.1\r\n\r\n",
    "Host twice": get(b"host: a"),
    "Host twice, unlike": get(b"Host: b"),
    "Host twice, absolute": b"GET http://a/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    **{f"Host {value!r}": b"GET / HTTP/1.1\r\nhost" + value + b"\r\n\r\n" for value in (
        b": a b", b": a,b", b": a@b", b": a/b", b": a?b", b": a#b", b": a\\b", b": http://a", b": a:b", b": a:80:80",
        b": a:-1", b": a:123456", b": [::1", b": [g]", b": ::1", b": <a>", b": a\x00", b" : a", b":\r\n a",
        b": a\r\n b",
        b": a\xe9", b': "a"', b": a%", b": a%zz", b": {a}", b": a|b", b": a^b", b": a`b",
    )},
    # Connection
    **{f"Connection {value!r}": get(b"connection: " + value, b"content-type: x") for value in (
        b"content-length", b"transfer-encoding", b"host", b"authorization", b"cookie", b"close, Host",
        b"x-forwarded-for",
        b"x-request-id", b"content-type", b"x-envoy-retry-on", b"a b", b'"close"', b"close;q=1", b"via", b"forwarded",
    )},
}  # fmt: skip


BODY_REFUSED = {
    f"chunk {body[:40]!r}": chunks(b"2\r\nok\r\n" + body)
    for body in (
        # sizes
        b"g\r\n", b"\r\n", b" 2\r\nxx\r\n", b"2 \r\nxx\r\n", b"\t2\r\nxx\r\n", b"2\t\r\nxx\r\n", b"+2\r\nxx\r\n",
        b"-2\r\nxx\r\n", b"0x2\r\nxx\r\n", b"0X2\r\nxx\r\n", b"2_0\r\nxx\r\n", b"2.0\r\nxx\r\n", b"2h\r\nxx\r\n",
        b"\xef\xbc\x92\r\nxx\r\n", b"2\x00\r\nxx\r\n", b"2\x0b\r\nxx\r\n", b"'2'\r\nxx\r\n",
        b"10000000000000002\r\nxx\r\n", b"00000000000000002\r\nxx\r\n", b"2,2\r\nxx\r\n", b"2 2\r\nxx\r\n",
        # ends of lines
        b"2\nxx\r\n", b"2\rxx\r\n", b"2\r\r\nxx\r\n", b"2\n\nxx\r\n", b"\n2\r\nxx\r\n", b"2\r\n\nxx\r\n",
        # data that is longer or shorter than it says, or ends otherwise
        b"2\r\nxxx\r\n", b"2\r\nx\r\n" + LAST_CHUNK, b"2\r\nxx" + LAST_CHUNK, b"2\r\nxx\n" + LAST_CHUNK,
        b"2\r\nxx\r" + LAST_CHUNK, b"2\r\nxxXX" + LAST_CHUNK, b"2\r\nxx\n\n" + LAST_CHUNK,
        b"2\r\nxx\r\r\n" + LAST_CHUNK,
        b"2\r\nxx\r\n\r\n" + LAST_CHUNK,
        # extensions (TERM.EXT, EXT.TERM and their kin)
        b"2;\r\nxx\r\n", b"2; \r\nxx\r\n", b"2 ;a\r\nxx\r\n", b"2;a \r\nxx\r\n", b"2; a\r\nxx\r\n", b"2;a =b\r\nxx\r\n",
        b"2;a= b\r\nxx\r\n", b"2;a=\r\nxx\r\n", b"2;=b\r\nxx\r\n", b"2;;a\r\nxx\r\n", b"2;a\nxx\r\n", b"2;a\rxx\r\n",
        b"2;\nxx\r\n", b"2;a=\"\nb\"\r\nxx\r\n", b"2;a=\"\r\nb\"\r\nxx\r\n", b"2;a=\"b\r\nxx\r\n",
        b"2;a='b c'\r\nxx\r\n",
        b"2;a\x00\r\nxx\r\n", b"2;a=\"\\\r\n\"\r\nxx\r\n", b"2;" + b"a" * 5000 + b"\r\nxx\r\n", b"2;a=b c\r\nxx\r\n",
        # the end
        b"0\n\n", b"0\r\n\n", b"0\n\r\n", b"0\r\r\n\r\n", b"0\r\n\r\r\n", b"-0\r\n\r\n", b"0 \r\n\r\n", b"0;\r\n\r\n",
        b"00000000000000000\r\n\r\n", b"0\r\n \r\n\r\n",
        # trailers
        b"0\r\ncontent-length: 3\r\n\r\n", b"0\r\ntransfer-encoding: chunked\r\n\r\n", b"0\r\nhost: b\r\n\r\n",
        b"0\r\nConnection: close\r\n\r\n", b"0\r\nauthorization: x\r\n\r\n", b"0\r\nx : y\r\n\r\n", b"0\r\nx: y\n\r\n",
        b"0\r\nx: y\r\n z\r\n\r\n", b"0\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n", b"0\r\nx: \x00\r\n\r\n",
        b"0\r\nx-forwarded-for: a\r\n\r\n", b"0\r\ncookie: a\r\n\r\n", b"0\r\nupgrade: a\r\n\r\n", b"0\r\nx\r\n\r\n",
    )
}  # fmt: skip


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
AS_LONG = b"content-length: %d" % len(SMUGGLED)
P, G, B = b"POST /p", b"GET /g", (b"GET /behind", b"")

PASSED: dict[str, tuple[bytes, Sequence[tuple[bytes, bytes]]]] = {
    "a request within a length": (post(AS_LONG, body=SMUGGLED), [(P, SMUGGLED), B]),
    "a request within a chunk":
        (chunks(b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n" + LAST_CHUNK), [(P, SMUGGLED), B]),
    "chunks within a length": (post(b"content-length: 5", body=LAST_CHUNK), [(P, LAST_CHUNK), B]),
    "CL.0: no length is no body": (post() + SMUGGLED, [(P, b""), (b"GET /smuggled", b""), B]),
    "length 0": (post(b"content-length: 0"), [(P, b""), B]),
    "length with zeros before": (post(b"content-length: 003", body=b"abc"), [(P, b"abc"), B]),
    "length with blanks around": (post(b"content-length: \t 3 \t", body=b"abc"), [(P, b"abc"), B]),
    "GET with a length": (get(b"content-length: 3") + b"abc", [(G, b"abc"), B]),
    "GET with chunks": (get(b"transfer-encoding: chunked") + b"3\r\nabc\r\n" + LAST_CHUNK, [(G, b"abc"), B]),
    "HEAD with a length": (b"HEAD /h HTTP/1.1\r\nhost: a\r\n" + AS_LONG + b"\r\n\r\n" + SMUGGLED,
                           [(b"HEAD /h", SMUGGLED), B]),
    "DELETE with a length": (b"DELETE /d HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc", [(b"DELETE /d",
    b"abc"), B]),
    "ChUnKeD": (post(b"Transfer-ENCODING: ChUnKeD", body=LAST_CHUNK), [(P, b""), B]),
    "chunked with blanks around": (post(b"transfer-encoding:\t chunked \t", body=LAST_CHUNK), [(P, b""), B]),
    "sizes with zeros before": (chunks(b"0000000000000002\r\nxx\r\n00\r\n\r\n"), [(P, b"xx"), B]),
    "extensions are dropped": (chunks(b'2;a;b=c;d="e \\" f"\r\nxx\r\n0;g\r\n\r\n'), [(P, b"xx"), B]),
    "a size in capitals": (chunks(b"A\r\n0123456789\r\n" + LAST_CHUNK), [(P, b"0123456789"), B]),
    "names that CGI takes for others": (post(b"transfer_encoding: chunked", b"content_length: 9"), [(P, b""), B]),
    "te is not transfer-encoding": (get(b"te: chunked"), [(G, b""), B]),
    "x-transfer-encoding": (post(b"x-transfer-encoding: chunked", b"x-content-length: 9"), [(P, b""), B]),
    "override of the method": (get(b"x-http-method-override: POST", b"x-method-override: PUT"), [(G, b""), B]),
    "h2c is not asked for": (get(b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABk"),
                             [(G, b""), B]),
    "h2c with a body": (post(b"connection: upgrade", b"upgrade: h2c", AS_LONG, body=SMUGGLED),
                        [(P, SMUGGLED), B]),
    "an upgrade that is not granted": (get(b"connection: upgrade", b"upgrade: websocket"), [(G, b""), B]),
    "expect without a body": (get(b"expect: 100-continue"), [(G, b""), B]),
    "expect with length 0": (post(b"expect: 100-continue", b"content-length: 0"), [(P, b""), B]),
    "expect with a body": (post(b"expect: 100-continue", AS_LONG, body=SMUGGLED), [(P, SMUGGLED), B]),
    "expect in capitals": (post(b"Expect: 100-CONTINUE", b"content-length: 3", body=b"abc"), [(P, b"abc"), B]),
    "expect twice": (post(b"expect: 100-continue", b"expect: 100-continue", b"content-length: 3", body=b"abc"),
                     [(P, b"abc"), B]),
    "expect of another kind": (post(b"expect: y 100-continue", AS_LONG, body=SMUGGLED), [(P, SMUGGLED), B]),
    "expect in a list": (post(b"expect: 100-continue, x", AS_LONG, body=SMUGGLED), [(P, SMUGGLED), B]),
    "absolute-form": (b"GET http://b/abs HTTP/1.1\r\nhost: a\r\n\r\n", [(b"GET /abs", b""), B]),
    "absolute-form without a path": (b"GET http://b?q HTTP/1.1\r\nhost: a\r\n\r\n", [(b"GET /?q", b""), B]),
    "two slashes are a path": (b"GET //b/abs HTTP/1.1\r\nhost: a\r\n\r\n", [(b"GET //b/abs", b""), B]),
    "escapes stay escapes": (b"GET /%0d%0aGET%20/%00/..%2f HTTP/1.1\r\nhost: a\r\n\r\n",
                             [(b"GET /%0d%0aGET%20/%00/..%2f", b""), B]),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", [(b"OPTIONS *", b""), B]),
    "a method of one's own": (b"get /g HTTP/1.1\r\nhost: a\r\n\r\n", [(b"get /g", b""), B]),
    "1.0 that keeps its connection": (b"GET /g HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", [(G, b""), B]),
    "connection takes a field away": (get(b"connection: x-a", b"x-a: b"), [(G, b""), B]),
    "proxy-connection": (get(b"proxy-connection: close"), [(G, b""), B]),
    "trailers": (chunks(b"0\r\nx-sum: 1\r\n\r\n"), [(P, b""), B]),
    "nothing behind a close": (get(b"connection: close"), [(G, b"")]),
    "nothing behind a close among others": (get(b"connection: keep-alive, Close"), [(G, b"")]),
    "nothing behind a 1.0": (b"GET /g HTTP/1.0\r\n\r\n", [(G, b"")]),
}  # fmt: skip


def send(wire: Wire, data: bytes, *, by_bytes: bool) -> None:
    """Until the proxy has heard enough."""
    wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for piece in (data[at : at + 1] for at in range(len(data))) if by_bytes else [data]:
            wire.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass


def statuses(received: bytes) -> list[int]:
    """Of the final responses: none of our bodies has a status line in it."""
    found = [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", received)]
    return [status for status in found if status >= 200]


@pytest.mark.parametrize("shape", HEAD_REFUSED.values(), ids=HEAD_REFUSED)
def test_not_a_byte_of_a_head_that_is_refused_arrives(one_loop: LoopThread, shape: bytes) -> None:
    with Witness() as witness, HttpRig(one_loop, [witness]) as rig:
        for by_bytes in (False, True):
            with Wire(rig.port) as wire:
                send(wire, shape + BEHIND, by_bytes=by_bytes)
                (status,) = statuses(wire.read_to_end())
                assert status in REFUSALS
        wait_until_idle(rig)
        assert witness.streams == []


@pytest.mark.parametrize("shape", BODY_REFUSED.values(), ids=BODY_REFUSED)
def test_a_body_that_is_refused_never_ends(one_loop: LoopThread, shape: bytes) -> None:
    """Its connection does, before the origin could take it for whole or read on."""
    with Witness() as witness, HttpRig(one_loop, [witness]) as rig:
        for by_bytes in (False, True):
            with Wire(rig.port) as wire:
                send(wire, shape + BEHIND, by_bytes=by_bytes)
                assert statuses(wire.read_to_end()) == [400]
        wait_until_idle(rig)
        assert (witness.requests, witness.faults) == ([], [])
        assert all(b"smuggled" not in stream and b"behind" not in stream for stream in witness.streams)


@pytest.mark.parametrize(("shape", "expected"), PASSED.values(), ids=PASSED)
def test_what_is_legal_arrives_as_what_it_was(
    one_loop: LoopThread, shape: bytes, expected: Sequence[tuple[bytes, bytes]]
) -> None:
    with Witness() as witness, HttpRig(one_loop, [witness]) as rig:
        for by_bytes in (False, True):
            witness.requests.clear()
            with Wire(rig.port) as wire:
                send(wire, shape + BEHIND, by_bytes=by_bytes)
                wire.half_close()
                assert statuses(wire.read_to_end()) == [200] * len(expected)
            wait_until_idle(rig)
            assert witness.faults == []
            assert sorted(witness.lines) == sorted(expected)
            names = {name for request in witness.requests for name, _ in request.fields}
            assert not names & NOT_FORWARDED - ({b"connection"} if b"websocket" in shape else set())


def test_absolute_form_takes_the_hosts_place(one_loop: LoopThread) -> None:
    with Witness() as witness, HttpRig(one_loop, [witness]) as rig, Wire(rig.port) as wire:
        wire.ask(b"GET http://target.test:81/ HTTP/1.1\r\nhost: field.test\r\n\r\n")
    assert witness.requests[0].values(b"host") == [b"target.test:81"]


# An origin that answers before it has read (0.CL, CL.0, pause-based), and the connection behind it


@pytest.mark.parametrize(
    "framing", [b"content-length: 99\r\n\r\nhalf", b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
def test_the_rest_of_a_body_that_was_answered_early_is_no_request(one_loop: LoopThread, framing: bytes) -> None:
    """The origin answers at the head. What the client sends then is the rest of the body or nothing, but no request;
    and the next request does not come behind half a body.
    """
    streams: list[bytes] = []

    def early(one: Conversation) -> None:
        while b"\r\n\r\n" not in one.reader.rest:
            if not one.reader.more():
                return
        one.send(ok(b"early"))
        while one.reader.more():
            pass
        streams.append(bytes(one.reader.rest))

    with Origin(early) as origin, HttpRig(one_loop, [origin]) as rig:
        with Wire(rig.port) as wire:
            wire.send(POST + framing)
            assert wire.response().body == b"early"
            send(wire, SMUGGLED * 3, by_bytes=False)
            wire.read_to_end()
        with Wire(rig.port) as victim:
            assert victim.get("/victim").body == b"early"
        wait_until_idle(rig)
    assert sorted(stream.partition(b" HTTP")[0] for stream in streams) == [b"GET /victim", b"POST /p"]
    assert all(found is None or found[1] == len(stream) for stream in streams for found in [take(stream, 0)])


# Responses


EVIL = ok(b"evil")
OK = b"HTTP/1.1 200 OK\r\n"

RESPONSES_REFUSED = {
    "CL.TE": OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "CL twice, alike": OK + b"content-length: 0\r\ncontent-length: 0\r\n\r\n",
    "CL twice, unlike": OK + b"content-length: 0\r\ncontent-length: 39\r\n\r\n",
    **{f"CL {value!r}": OK + b"content-length" + value + b"\r\n\r\n" for value in (
        b": 0, 0", b": +0", b": -1", b": 0x0", b":", b": 0;", b" : 0", b":\r\n 0", b": 0\n", b": 0\rx",
        b": \xef\xbc\x90",
    )},
    **{f"TE {value!r}": OK + b"transfer-encoding" + value + b"\r\n\r\n0\r\n\r\n" for value in (
        b":", b": xchunked", b": chunked, chunked", b": chunked, identity", b": identity", b": gzip, chunked",
        b": gzip", b" : chunked", b":\r\n chunked", b": chunked\x0b", b": chunked\nx: y", b": chunked;",
    )},
    "TE in 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "LF": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "LF in a value": OK + b"location: /\nset-cookie: evil\r\ncontent-length: 0\r\n\r\n",
    "CR in a value": OK + b"location: /\rset-cookie: evil\r\ncontent-length: 0\r\n\r\n",
    "NUL in a value": OK + b"location: /\x00\r\ncontent-length: 0\r\n\r\n",
    "folding": OK + b"a: b\r\n c\r\ncontent-length: 0\r\n\r\n",
    "folding first": OK + b" content-length: 4\r\ncontent-length: 0\r\n\r\n",
    "blank before the colon": OK + b"a : b\r\ncontent-length: 0\r\n\r\n",
    "no colon": OK + b"evil\r\ncontent-length: 0\r\n\r\n",
    "a status line within": OK + b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "empty line first": b"\r\n" + ok(b""),
    **{f"line {line!r}": line + b"\r\ncontent-length: 0\r\n\r\n" for line in (
        b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 20", b"HTTP/1.1 2000 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 000 OK",
        b"HTTP/1.1 2xx OK", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 +20 OK",
        b"HTTP/2 200 OK", b"HTTP/2.0 200 OK", b"HTTP/0.9 200 OK", b"http/1.1 200 OK", b"ICY 200 OK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200\x00OK", b"HTTP/1.1 200 O\x00K", b"GET / HTTP/1.1",
    )},
    "204 with a length": b"HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nevil",
    "204 with chunks": b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
    "100 with a length": b"HTTP/1.1 100 Continue\r\ncontent-length: 4\r\n\r\nevil" + ok(b""),
    "100 with chunks": b"HTTP/1.1 100 Continue\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + ok(b""),
    "103 with a length": b"HTTP/1.1 103 Early Hints\r\ncontent-length: 4\r\n\r\nevil" + ok(b""),
    "101 that was not asked for":
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" + EVIL,
    "100 without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 99 + ok(b""),
}  # fmt: skip


GOOD = ok(b"good")

RESPONSES_WITH_MORE = {
    "two responses": (GOOD + EVIL, b"good"),
    "a byte too much": (GOOD + b"x", b"good"),
    "CRLF too much": (GOOD + b"\r\n", b"good"),
    "an interim behind": (GOOD + b"HTTP/1.1 100 Continue\r\n\r\n", b"good"),
    "behind chunks": (OK + b"transfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n" + EVIL, b"good"),
    "behind length 0": (ok(b"") + EVIL, b""),
    "behind 204": (b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL, b""),
    "behind 304": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nevil", b""),
    "behind 304 with chunks":
        (b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", b""),
    "behind an interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + GOOD + EVIL, b"good"),
}  # fmt: skip


@pytest.mark.parametrize("answer", RESPONSES_REFUSED.values(), ids=RESPONSES_REFUSED)
def test_a_response_that_can_be_read_in_two_ways_is_refused(one_loop: LoopThread, answer: bytes) -> None:
    def evil(one: Conversation) -> None:
        if one.request() is not None:
            one.send(answer)
            one.read_to_end()

    with (
        Origin(by_connection(evil, always(GOOD))) as origin,
        HttpRig(one_loop, [origin]) as rig,
        Wire(rig.port) as wire,
        Wire(rig.port) as other,
    ):
        response = wire.get()
        assert response.status == 502
        assert b"evil" not in response.head + response.body
        assert [one.get().body for one in (other, wire)] == [b"good"] * 2
        assert origin.connections == 2


@pytest.mark.parametrize(("answer", "body"), RESPONSES_WITH_MORE.values(), ids=RESPONSES_WITH_MORE)
def test_what_is_behind_a_response_is_nobodys(one_loop: LoopThread, answer: bytes, body: bytes) -> None:
    def generous(one: Conversation) -> None:
        if one.request() is not None:
            one.send(answer)
            one.read_to_end()

    with (
        Origin(by_connection(generous, always(GOOD))) as origin,
        HttpRig(one_loop, [origin]) as rig,
        Wire(rig.port) as wire,
        Wire(rig.port) as other,
    ):
        assert wire.get().body == body
        assert [one.get().body for one in (other, wire)] == [b"good"] * 2
        assert origin.connections == 2


def test_the_body_of_a_response_to_head_is_nobodys(one_loop: LoopThread) -> None:
    def talkative(one: Conversation) -> None:
        if one.request() is not None:
            one.send(ok(EVIL))
            one.read_to_end()

    with Origin(by_connection(talkative, always(GOOD))) as origin, HttpRig(one_loop, [origin]) as rig:
        with Wire(rig.port) as wire:
            assert wire.get(method="HEAD")["content-length"] == str(len(EVIL))
            assert wire.get().body == b"good"
        assert origin.connections == 2


def test_a_response_until_the_end_is_never_two(one_loop: LoopThread) -> None:
    def until_end(one: Conversation) -> None:
        if one.request() is not None:
            one.send(OK + b"\r\n" + EVIL)

    with Origin(by_connection(until_end, always(GOOD))) as origin, HttpRig(one_loop, [origin]) as rig:
        with Wire(rig.port) as wire:
            assert wire.get().body == EVIL, "all of it is the body"
            assert wire.get().body == b"good"
        assert origin.connections == 2


@pytest.mark.parametrize("answer", [ok(b"no"), ok(b"no", status="426 Upgrade Required")], ids=["200", "426"])
def test_bytes_behind_an_upgrade_are_a_tunnels_only_once_there_is_one(one_loop: LoopThread, answer: bytes) -> None:
    upgrade = get(b"connection: upgrade", b"upgrade: websocket")
    with Origin(always(answer)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(upgrade + b"GET /evil : HTTP/1.1\r\n\r\n")
        wire.half_close()
        assert statuses(wire.read_to_end()) == [int(answer[9:12]), 400]
        assert [request.start_line for request in origin.requests] == ["GET /g HTTP/1.1"]
