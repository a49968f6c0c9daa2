"""Bodies: chunks decoded and refused, their limits, trailers, and the encoder."""

from __future__ import annotations

import dataclasses

import pytest

from proxy.wire import Field
from proxy.wire.body import chunk, last_chunk
from proxy.wire.limits import REQUEST_LIMITS, Limits
from tests.wire.recorder import read_requests, read_responses

POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
REPLY = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITS = dataclasses.replace(
    REQUEST_LIMITS, max_chunk_line_bytes=32, max_chunk_extensions=2, max_trailer_bytes=20, max_fields=3
)


def both_ways(body: bytes, limits: Limits = REQUEST_LIMITS) -> list[tuple[object, ...]]:
    """What a request with this body gives behind its head: whole and byte by byte, and as a response too."""
    calls = read_requests([POST + body], limits).calls[1:]
    assert read_requests([bytes([byte]) for byte in POST + body], limits).calls[1:] == calls
    reply = read_responses([REPLY + body], [b"GET"], limits).calls[1:]
    assert reply == [("bad", 502, call[2]) if call[0] == "bad" else call for call in calls]
    assert read_responses([bytes([byte]) for byte in REPLY + body], [b"GET"], limits).calls[1:] == reply
    return calls


@pytest.mark.parametrize(
    ("body", "data", "trailers"),
    [
        (b"0\r\n\r\n", b"", None),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc", None),
        (b"1\r\na\r\n2\r\nbc\r\n000\r\n\r\n", b"abc", None),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, None),
        (b"0000000000000003\r\n\r\n\n\r\n0\r\n\r\n", b"\r\n\n", None),
        (b"3;a\r\nabc\r\n0;b=c;d\r\n\r\n", b"abc", None),
        (b'3;a="b;\\"\t\xff"\r\nabc\r\n0\r\n\r\n', b"abc", None),
        (b"3\r\nabc\r\n0\r\nX-A:  b \r\ngrpc-status: 0\r\n\r\n", b"abc", [(b"x-a", b"b"), (b"grpc-status", b"0")]),
        (b"0\r\ncontent-digest: x\r\n\r\n", b"", [(b"content-digest", b"x")]),
    ],
)
def test_chunks(body: bytes, data: bytes, trailers: list[Field] | None) -> None:
    assert both_ways(body) == [*([("data", data)] if data else []), ("end", trailers)]


@pytest.mark.parametrize(
    "body",
    [
        # The size.
        b"\r\n", b"g\r\n", b"+3\r\nabc\r\n", b"-3\r\n", b"0x3\r\nabc\r\n", b"3_0\r\n", b" 3\r\nabc\r\n",
        b"3 \r\nabc\r\n",
        b"\t3\r\n", b"3\t\r\n", b"3\nabc\r\n", b"3\r\rabc", b"3\rabc\n", b"00000000000000003\r\n", b"\xb2\r\n",
        b"3\x00\r\n", b"3,3\r\n",
        # Extensions.
        b"3;\r\n", b"3;;\r\n", b"3;a=\r\n", b"3 ;a\r\n", b"3; a\r\n", b"3;a =b\r\n", b'3;a="b\r\n',
        b"3;a=\x00\r\n", b"3;a\nb\r\n",
        b"3;a\rb\r\n", b'3;a="\n"\r\n', b"3;\xe9\r\n", b'3;a="b"c\r\n', b'3;a="\x7f"\r\n',
        # What follows the data.
        b"3\r\nabcX\r\n", b"3\r\nabc\n", b"3\r\nabc\r\r", b"3\r\nabc0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n",
        # Trailers.
        b"0\r\na\r\n\r\n", b"0\r\n a: b\r\n\r\n", b"0\r\na : b\r\n\r\n", b"0\r\na: b\r\n c\r\n\r\n",
        b"0\r\na: b\n\r\n", b"0\r\n\n",
        b"0\r\n\rX", b"0\r\na: b\rc\r\n\r\n", b"0\r\n: b\r\n\r\n",
        *[b"0\r\n" + name + b": 1\r\n\r\n" for name in (
            b"Content-Length", b"Transfer-Encoding", b"Host", b"Authorization", b"Cookie", b"Set-Cookie",
            b"Content-Type",
            b"Content-Encoding", b"Content-Range", b"Trailer", b"Connection", b"TE", b"X-Forwarded-For",
            b"Cache-Control", b"Expect",
        )],
    ],
)  # fmt: skip
def test_refused_chunks(body: bytes) -> None:
    *before, bad = both_ways(body)
    assert bad == ("bad", 400, "http1.codec_error")
    assert all(call[0] == "data" for call in before)


def test_control_characters_in_trailers() -> None:
    assert both_ways(b"0\r\na: \x00\r\n\r\n") == [("bad", 400, "http1.invalid_characters")]


def test_limits_of_chunks() -> None:
    line = b"3;" + b"x" * 28
    assert both_ways(line + b"\r\nabc\r\n0\r\n\r\n", LIMITS)[-1] == ("end", None)
    for longer in (line + b"x\r\nabc", line + b"x" * 50):
        assert both_ways(longer, LIMITS) == [("bad", 400, "http1.codec_error")]
    assert both_ways(b"3;a;b\r\nabc\r\n0\r\n\r\n", LIMITS)[-1] == ("end", None)
    assert both_ways(b'3;a;b="\\";c";d\r\n', LIMITS) == [("bad", 400, "http1.codec_error")]
    assert both_ways(b'3;a;b="\\";c;d"\r\nabc\r\n0\r\n\r\n', LIMITS)[-1] == ("end", None)


def test_limits_of_trailers() -> None:
    assert both_ways(b"0\r\nx: " + b"y" * 13 + b"\r\n\r\n", LIMITS) == [("end", [(b"x", b"y" * 13)])]
    for longer in (b"0\r\nx: " + b"y" * 14 + b"\r\n\r\n", b"0\r\nx: " + b"y" * 40):
        assert both_ways(longer, LIMITS) == [("bad", 431, "http1.headers_too_large")]
    assert both_ways(b"0\r\na:\r\nb:\r\nc:\r\n\r\n", LIMITS)[-1][0] == "end"
    assert both_ways(b"0\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n", LIMITS) == [("bad", 431, "http1.too_many_headers")]


def test_default_limits_of_chunks() -> None:
    assert both_ways(b"3;" + b"x" * 4092 + b"\r\nabc\r\n0\r\n\r\n")[-1] == ("end", None)
    assert both_ways(b"3;" + b"x" * 4093 + b"\r\n") == [("bad", 400, "http1.codec_error")]
    assert both_ways(b"0\r\nx: " + b"y" * (8192 - 7) + b"\r\n\r\n")[-1][0] == "end"
    assert both_ways(b"0\r\nx: " + b"y" * (8192 - 6) + b"\r\n\r\n") == [("bad", 431, "http1.headers_too_large")]


def test_data_is_not_copied_when_a_read_is_all_data() -> None:
    data = b"x" * 100
    sink = read_requests([POST + b"c8\r\n", data, data, b"\r\n0\r\n\r\n"])
    assert sink.pieces[0] is data
    assert sink.pieces[1] is data


def test_encoder() -> None:
    assert chunk(b"abc") == (b"3\r\n", b"abc", b"\r\n")
    assert chunk(b"x" * 255)[0] == b"ff\r\n"
    assert last_chunk() == b"0\r\n\r\n"
    assert last_chunk([(b"a", b"b"), (b"c", b"")]) == b"0\r\na: b\r\nc: \r\n\r\n"
    with pytest.raises(ValueError, match="empty"):
        chunk(b"")


@pytest.mark.parametrize(
    "field",
    [(b"a", b"b\r\n"), (b"a", b"\r\n"), (b"A", b"b"), (b"a", b"\x00"), (b"", b"b"), (b"a:", b"b"), (b"host", b"x"),
    (b"te", b"x")],
)  # fmt: skip
def test_trailers_that_are_not_rendered(field: Field) -> None:
    with pytest.raises(ValueError, match=r"read back|may not"):
        last_chunk([field])
