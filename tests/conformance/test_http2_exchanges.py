"""RFC 9113 sections 7 and 8: error codes, and HTTP messages that are malformed."""

from __future__ import annotations

import pytest

from tests.conformance import expect
from tests.kit.h2frames import Code, Frames, data, goaway, headers, ping, push_promise, rst_stream

UNKNOWN_CODE = 0xFF

Field = tuple[str, str]


# 7 Error Codes


def test_goaway_with_an_unknown_code(peer: Frames) -> None:
    peer.send(goaway(0, UNKNOWN_CODE), ping(b"opaque 8"))
    expect.pong_or_end(peer, b"opaque 8")


def test_rst_stream_with_an_unknown_code(peer: Frames) -> None:
    peer.send(peer.post(), rst_stream(1, UNKNOWN_CODE), ping())
    expect.pong(peer, bytes(8))


# 8.1 HTTP Message Framing


def test_trailers_without_the_end_of_the_stream(peer: Frames) -> None:
    peer.send(peer.post(), data(1, b"test"))
    peer.send(headers(1, peer.encode([("x-test", "ok")]), end=False))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


# 8.2 HTTP Fields, 8.3 HTTP Control Data


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([("X-TEST", "ok")], id="8.2.1 a name in upper case"),
        pytest.param([(":test", "ok")], id="8.3 an unknown pseudo-header field"),
        pytest.param([(":status", "200")], id="8.3 a pseudo-header field of responses"),
        pytest.param([("connection", "keep-alive")], id="8.2.2 a connection-specific field"),
        pytest.param([("trailers", "test"), ("te", "trailers, deflate")], id="8.2.2 te beyond trailers"),
        pytest.param([(":method", "GET")], id="8.3.1 a second method"),
        pytest.param([(":scheme", "http")], id="8.3.1 a second scheme"),
        pytest.param([(":path", "/")], id="8.3.1 a second path"),
    ],
)
def test_a_request_with_a_wrong_field(peer: Frames, more: list[Field]) -> None:
    peer.send(peer.get(1, *more))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("name", [":method", ":scheme", ":path"])
def test_a_request_without_a_pseudo_header_field(peer: Frames, name: str) -> None:
    peer.send(headers(1, peer.encode([field for field in peer.request() if field[0] != name])))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


def test_an_empty_path(peer: Frames) -> None:
    peer.send(headers(1, peer.encode(peer.request(path=""))))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


def test_a_pseudo_header_field_after_a_regular_one(peer: Frames) -> None:
    peer.send(headers(1, peer.encode([("x-test", "ok"), *peer.request()])))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


def test_a_pseudo_header_field_in_trailers(peer: Frames) -> None:
    peer.send(peer.post(), data(1, b"test"))
    peer.send(headers(1, peer.encode([(":method", "POST")])))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


# 8.1.1 Malformed Messages


@pytest.mark.parametrize("frames", [pytest.param(1, id="one frame"), pytest.param(2, id="two frames")])
def test_a_content_length_that_is_not_the_length_of_the_content(peer: Frames, frames: int) -> None:
    peer.send(peer.post(1, ("content-length", "1")))
    peer.send(*(data(1, b"test", end=number == frames - 1) for number in range(frames)))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


# 8.4 Server Push


def test_a_client_cannot_push(peer: Frames) -> None:
    peer.send(push_promise(1, 3, peer.encode(peer.request())))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)
