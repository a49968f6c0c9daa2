"""RFC 9113 sections 3 and 4: the preface, the format of frames, field blocks."""

from __future__ import annotations

from tests.conformance import expect
from tests.conformance.fields import big_fields
from tests.kit.h2frames import (
    DEFAULT_FRAME_BYTES,
    PREFACE,
    Code,
    Frame,
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
    settings,
)

UNKNOWN_KIND = 0x16
UNDEFINED_FLAGS = 0x16
RESERVED_BIT = 1 << 31


def max_frame_bytes(peer: Frames) -> int:
    return peer.peer_settings.get(Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_BYTES)


# 3.4 HTTP/2 Connection Preface


def test_the_server_preface_comes_first(newcomer: Frames) -> None:
    newcomer.send(PREFACE, settings((Setting.INITIAL_WINDOW_SIZE, 65_535)))
    first = next(newcomer.events())
    assert isinstance(first, Frame)
    assert first.kind == Kind.SETTINGS
    assert not first.is_ack


def test_an_invalid_preface(newcomer: Frames) -> None:
    """What is answered, if anything, is HTTP/2: text of another protocol would be a frame that breaks off."""
    newcomer.send(b"INVALID CONNECTION PREFACE\r\n\r\n")
    expect.connection_error(newcomer, Code.PROTOCOL_ERROR)


# 4.1 Frame Format


def test_an_unknown_frame_type_is_ignored(peer: Frames) -> None:
    peer.send(frame(UNKNOWN_KIND, payload=bytes(8)), ping())
    expect.pong(peer, bytes(8))


def test_an_undefined_flag_is_ignored(peer: Frames) -> None:
    peer.send(frame(Kind.PING, UNDEFINED_FLAGS, payload=bytes(8)))
    expect.frame(peer, Kind.PING)


def test_the_reserved_bit_is_ignored(peer: Frames) -> None:
    peer.send(frame(Kind.PING, UNDEFINED_FLAGS, RESERVED_BIT, bytes(8)))
    expect.frame(peer, Kind.PING)


# 4.2 Frame Size


def test_a_data_frame_of_the_largest_size(peer: Frames) -> None:
    peer.send(peer.post(), data(1, b"x" * max_frame_bytes(peer), end=True))
    expect.response(peer, 1)


def test_a_data_frame_that_is_too_large(peer: Frames) -> None:
    peer.send(peer.post(), data(1, b"x" * (max_frame_bytes(peer) + 1), end=True))
    expect.stream_error(peer, Code.FRAME_SIZE_ERROR)


def test_a_headers_frame_that_is_too_large(peer: Frames) -> None:
    peer.send(peer.get(1, *big_fields(5)))
    expect.connection_error(peer, Code.FRAME_SIZE_ERROR)


# 4.3 Field Section Compression and Decompression


def test_a_field_block_that_breaks_off(peer: Frames) -> None:
    peer.send(headers(1, b"\x40"))
    expect.connection_error(peer, Code.COMPRESSION_ERROR)


def test_a_priority_frame_within_a_field_block(peer: Frames) -> None:
    peer.send(peer.get(end=False, end_headers=False), priority(1, dependency(0)))
    peer.send(continuation(1, peer.encode(big_fields(1))))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_a_headers_frame_within_a_field_block(peer: Frames) -> None:
    peer.send(peer.get(end=False, end_headers=False), peer.get(3))
    peer.send(continuation(1, peer.encode(big_fields(1))))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)
