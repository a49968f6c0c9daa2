"""RFC 9113 section 5: streams, their states, errors, and extensions."""

from __future__ import annotations

import pytest

from tests.conformance import expect
from tests.conformance.fields import big_fields
from tests.conformance.targets import Target
from tests.kit.h2frames import (
    Code,
    Frames,
    Kind,
    Setting,
    continuation,
    data,
    dependency,
    frame,
    headers,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)

UNKNOWN_KIND = 0x16


# 5.1 Stream States: idle


@pytest.mark.parametrize(
    "unexpected",
    [
        pytest.param(data(1, b"test", end=True), id="DATA"),
        pytest.param(rst_stream(1), id="RST_STREAM"),
        pytest.param(window_update(1, 100), id="WINDOW_UPDATE"),
    ],
)
def test_idle(peer: Frames, unexpected: bytes) -> None:
    peer.send(unexpected)
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_idle_continuation(peer: Frames) -> None:
    peer.send(continuation(1, peer.encode(peer.request())))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


# 5.1 Stream States: half-closed (remote)


def test_half_closed_data(peer: Frames) -> None:
    peer.send(peer.get(), data(1, b"test", end=True))
    expect.stream_error(peer, Code.STREAM_CLOSED)


def test_half_closed_headers(peer: Frames) -> None:
    peer.send(peer.get(), peer.get())
    expect.stream_error(peer, Code.STREAM_CLOSED)


def test_half_closed_continuation(peer: Frames) -> None:
    block = peer.encode(peer.request())
    peer.send(headers(1, block), continuation(1, block))
    expect.stream_error(peer, Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


# 5.1 Stream States: closed, by RST_STREAM


def test_reset_data(peer: Frames) -> None:
    peer.send(peer.get(end=False), rst_stream(1), data(1, b"test", end=True))
    expect.stream_error(peer, Code.STREAM_CLOSED)


def test_reset_headers(peer: Frames) -> None:
    peer.send(peer.get(end=False), rst_stream(1), peer.get())
    expect.stream_error(peer, Code.STREAM_CLOSED)


def test_reset_continuation(peer: Frames) -> None:
    peer.send(peer.get(end=False), rst_stream(1), continuation(1, peer.encode(big_fields(1))))
    expect.stream_error(peer, Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


# 5.1 Stream States: closed, by END_STREAM both ways


def test_closed_data(peer: Frames) -> None:
    peer.send(peer.get())
    expect.end_of_stream(peer)
    peer.send(data(1, b"test", end=True))
    expect.stream_error(peer, Code.STREAM_CLOSED)


def test_closed_headers(peer: Frames) -> None:
    block = peer.encode(peer.request())
    peer.send(headers(1, block))
    expect.end_of_stream(peer)
    peer.send(headers(1, block))
    expect.connection_error(peer, Code.STREAM_CLOSED)


def test_closed_continuation(peer: Frames) -> None:
    peer.send(peer.get())
    expect.end_of_stream(peer)
    peer.send(continuation(1, peer.encode(big_fields(1))))
    expect.connection_error(peer, Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


# 5.1.1 Stream Identifiers


def test_an_even_stream_identifier(peer: Frames) -> None:
    peer.send(peer.get(2))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_a_stream_identifier_lower_than_one_before(peer: Frames, target: Target) -> None:
    """Those in between have gone from idle to closed, which makes STREAM_CLOSED as right as PROTOCOL_ERROR."""
    if target is Target.NGHTTPD:
        pytest.xfail("nghttp2 does not remember which streams there were, and ignores the frame")
    peer.send(peer.get(5), peer.get(3))
    expect.connection_error(peer, Code.PROTOCOL_ERROR, Code.STREAM_CLOSED)


# 5.1.2 Stream Concurrency


def test_more_streams_than_the_server_allows(peer: Frames) -> None:
    most = peer.peer_settings.get(Setting.MAX_CONCURRENT_STREAMS)
    if most is None:
        pytest.skip("the server sets no limit")
    peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
    block = peer.encode(peer.request())
    peer.send(*(headers(1 + 2 * number, block) for number in range(most + 1)))
    expect.stream_error(peer, Code.PROTOCOL_ERROR, Code.REFUSED_STREAM)


# RFC 7540, 5.3.1 Stream Dependencies


def test_headers_that_depend_on_their_own_stream(peer: Frames) -> None:
    peer.send(headers(1, peer.encode(peer.request()), priority=dependency(1)))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


def test_a_priority_frame_that_depends_on_its_own_stream(peer: Frames) -> None:
    peer.send(priority(1, dependency(1)))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


# 5.4.1 Connection Error Handling


def test_the_connection_is_closed_after_goaway(peer: Frames) -> None:
    peer.send(frame(Kind.PING, 0, 3, bytes(8)))
    expect.end_of_connection(peer)


# 5.5 Extending HTTP/2


def test_an_extension_frame_is_ignored(peer: Frames) -> None:
    peer.send(frame(UNKNOWN_KIND, payload=bytes(8)), ping())
    expect.pong(peer, bytes(8))


def test_an_extension_frame_within_a_field_block(peer: Frames) -> None:
    peer.send(peer.get(end_headers=False), frame(UNKNOWN_KIND, payload=bytes(8)))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)
