"""What every HTTP/2 server must accept, section by section of RFC 9113 and RFC 7541."""

from __future__ import annotations

import pytest

from tests.conformance import expect
from tests.kit.h2frames import (
    PREFACE,
    Code,
    Frame,
    Frames,
    Kind,
    Setting,
    continuation,
    data,
    dependency,
    goaway,
    headers,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)

NO_WINDOW = settings((Setting.INITIAL_WINDOW_SIZE, 0))
ROOT = dependency(0)


# 3.4 HTTP/2 Connection Preface


def test_the_first_frame_is_the_settings_of_the_server(newcomer: Frames) -> None:
    newcomer.send(PREFACE, settings((Setting.INITIAL_WINDOW_SIZE, 65_535)))
    first = next(newcomer.events())
    assert isinstance(first, Frame)
    assert first.kind == Kind.SETTINGS
    assert not first.is_ack


# 5.1 Stream States


def test_priority_on_an_idle_stream(peer: Frames) -> None:
    peer.send(priority(1, ROOT), ping())
    expect.pong(peer, bytes(8))


def test_window_update_on_a_half_closed_stream(peer: Frames) -> None:
    peer.send(NO_WINDOW, peer.get(), window_update(1, 1))
    expect.frame(peer, Kind.DATA)


def test_priority_on_a_half_closed_stream(peer: Frames) -> None:
    peer.send(NO_WINDOW, peer.get(), priority(1, ROOT), window_update(1, 1))
    expect.frame(peer, Kind.DATA)


def test_rst_stream_on_a_half_closed_stream(peer: Frames) -> None:
    peer.send(peer.get(), rst_stream(1), ping())
    expect.pong(peer, bytes(8))


def test_priority_on_a_closed_stream(peer: Frames) -> None:
    peer.send(peer.get())
    expect.end_of_stream(peer)
    peer.send(priority(1, ROOT), ping())
    expect.pong(peer, bytes(8))


# 6.1 DATA


def test_a_data_frame(peer: Frames) -> None:
    peer.send(peer.post(), data(1, b"test", end=True))
    expect.response(peer, 1)


def test_several_data_frames(peer: Frames) -> None:
    peer.send(peer.post(), data(1, b"test"), data(1, b"test", end=True))
    expect.response(peer, 1)


def test_data_with_padding(peer: Frames) -> None:
    peer.send(peer.post(), data(1, b"test", end=True, padding=bytes(5)))
    expect.response(peer, 1)


# 6.2 HEADERS


def test_a_headers_frame(peer: Frames) -> None:
    peer.send(peer.get())
    expect.response(peer, 1)


def test_headers_with_padding(peer: Frames) -> None:
    peer.send(headers(1, peer.encode(peer.request()), pad_bytes=8))
    expect.response(peer, 1)


def test_headers_with_priority(peer: Frames) -> None:
    peer.send(headers(1, peer.encode(peer.request()), priority=ROOT))
    expect.response(peer, 1)


# 6.3 PRIORITY


@pytest.mark.parametrize(
    ("stream_id", "fields"),
    [
        pytest.param(1, dependency(0, weight=0), id="weight 1"),
        pytest.param(1, dependency(0, weight=255), id="weight 256"),
        pytest.param(3, dependency(1, weight=0), id="on another stream"),
        pytest.param(1, dependency(0, exclusive=True, weight=0), id="exclusive"),
        pytest.param(3, dependency(0), id="of a higher idle stream"),
    ],
)
def test_priority_before_the_request(peer: Frames, stream_id: int, fields: bytes) -> None:
    peer.send(priority(stream_id, fields), peer.get())
    expect.response(peer, 1)


# 6.4 RST_STREAM


def test_rst_stream_on_an_open_stream(peer: Frames) -> None:
    peer.send(peer.get(end=False), rst_stream(1), ping())
    expect.pong(peer, bytes(8))


# 6.5 SETTINGS


def test_every_setting_is_acknowledged(peer: Frames) -> None:
    peer.send(
        settings(
            (Setting.HEADER_TABLE_SIZE, 4096),
            (Setting.ENABLE_PUSH, 1),
            (Setting.MAX_CONCURRENT_STREAMS, 100),
            (Setting.INITIAL_WINDOW_SIZE, 65_535),
            (Setting.MAX_FRAME_SIZE, 16_384),
            (Setting.MAX_HEADER_LIST_SIZE, 100),
        )
    )
    expect.settings_ack(peer)


# 6.7 PING


def test_ping(peer: Frames) -> None:
    peer.send(ping(b"opaque 8"))
    expect.pong(peer, b"opaque 8")


# 6.8 GOAWAY


def test_goaway(peer: Frames) -> None:
    peer.send(goaway(0, Code.NO_ERROR, b"debug data"), ping(b"opaque 8"))
    expect.pong_or_end(peer, b"opaque 8")


# 6.9 WINDOW_UPDATE


def test_window_update_on_the_connection(peer: Frames) -> None:
    peer.send(window_update(0, 1), ping())
    expect.pong(peer, bytes(8))


def test_window_update_on_a_stream(peer: Frames) -> None:
    peer.send(peer.get(), window_update(1, 1))
    expect.response(peer, 1)


# 6.10 CONTINUATION


@pytest.mark.parametrize("cuts", [pytest.param((5,), id="one"), pytest.param((5, 10), id="two")])
def test_continuation(peer: Frames, cuts: tuple[int, ...]) -> None:
    block = peer.encode(peer.request())
    first, *rest = (block[start:end] for start, end in zip((0, *cuts), (*cuts, None), strict=True))
    peer.send(headers(1, first, end_headers=False))
    for part in rest:
        peer.send(continuation(1, part, end_headers=part is rest[-1]))
    expect.response(peer, 1)


# 8.1 HTTP Message Framing


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_request_without_a_body(peer: Frames, method: str) -> None:
    peer.send(headers(1, peer.encode(peer.request(method=method))))
    expect.response(peer, 1)


def test_a_request_with_a_body(peer: Frames) -> None:
    peer.send(peer.post(), data(1, b"test", end=True))
    expect.response(peer, 1)


def test_a_request_with_trailers(peer: Frames) -> None:
    peer.send(peer.post(1, ("trailer", "x-test")), data(1, b"test"))
    peer.send(headers(1, peer.encode([("x-test", "ok")])))
    expect.response(peer, 1)


# RFC 7541, 6 Binary Format


@pytest.mark.parametrize(
    "representation",
    [
        pytest.param("ba", id="indexed"),
        pytest.param("40 0a757365722d6167656e74 06683273706563", id="with indexing, a known name"),
        pytest.param("40 87b505b161cc5a93 849c48aca4", id="with indexing, a known name, Huffman"),
        pytest.param("40 06782d74657374 06683273706563", id="with indexing, a new name"),
        pytest.param("40 85f2b24a84ff 849c48aca4", id="with indexing, a new name, Huffman"),
        pytest.param("00 0a757365722d6167656e74 06683273706563", id="without indexing, a known name"),
        pytest.param("00 87b505b161cc5a93 849c48aca4", id="without indexing, a known name, Huffman"),
        pytest.param("00 06782d74657374 06683273706563", id="without indexing, a new name"),
        pytest.param("00 85f2b24a84ff 849c48aca4", id="without indexing, a new name, Huffman"),
        pytest.param("10 0a757365722d6167656e74 06683273706563", id="never indexed, a known name"),
        pytest.param("10 87b505b161cc5a93 849c48aca4", id="never indexed, a known name, Huffman"),
        pytest.param("10 06782d74657374 06683273706563", id="never indexed, a new name"),
        pytest.param("10 85f2b24a84ff 849c48aca4", id="never indexed, a new name, Huffman"),
    ],
)
def test_a_field_representation(peer: Frames, representation: str) -> None:
    peer.send(headers(1, peer.encode(peer.request()) + bytes.fromhex(representation)))
    expect.response(peer, 1)


@pytest.mark.parametrize(
    "updates", [pytest.param("20", id="to nothing"), pytest.param("20 3fe11f", id="to nothing, then to 4096")]
)
def test_a_dynamic_table_size_update(peer: Frames, updates: str) -> None:
    peer.send(headers(1, bytes.fromhex(updates) + peer.encode(peer.request())))
    expect.response(peer, 1)
