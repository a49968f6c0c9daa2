"""RFC 9113 section 6: each type of frame, and what is wrong with one."""

from __future__ import annotations

import pytest

from tests.conformance import expect
from tests.conformance.fields import big_fields
from tests.kit.h2frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW_BYTES,
    PADDED,
    Code,
    Frames,
    Kind,
    Setting,
    continuation,
    data,
    dependency,
    frame,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)


def window(size_bytes: int) -> bytes:
    return settings((Setting.INITIAL_WINDOW_SIZE, size_bytes))


# 6.1 DATA


def test_data_on_stream_zero(peer: Frames) -> None:
    peer.send(data(0, b"test", end=True))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_data_on_a_stream_that_is_not_open(peer: Frames) -> None:
    peer.send(peer.post(end=True), data(1, b"test", end=True))
    expect.stream_error(peer, Code.STREAM_CLOSED)


def test_data_with_more_padding_than_payload(peer: Frames) -> None:
    peer.send(peer.post(1, ("content-length", "4")), frame(Kind.DATA, END_STREAM | PADDED, 1, b"\x06Test"))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


# 6.2 HEADERS


def test_headers_without_their_end_and_a_priority_frame(peer: Frames) -> None:
    peer.send(peer.get(end=False, end_headers=False), priority(1, dependency(0)))
    peer.send(continuation(1, peer.encode(big_fields(1))))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_headers_without_their_end_and_others(peer: Frames) -> None:
    peer.send(peer.get(end=False, end_headers=False), peer.get(3))
    peer.send(continuation(1, peer.encode(big_fields(1))))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_headers_on_stream_zero(peer: Frames) -> None:
    peer.send(peer.get(0))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_headers_with_more_padding_than_payload(peer: Frames) -> None:
    block = peer.encode(peer.request())
    too_much = bytes([len(block) + 2])
    peer.send(frame(Kind.HEADERS, END_STREAM | END_HEADERS | PADDED, 1, too_much + block))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


# 6.3 PRIORITY


def test_priority_on_stream_zero(peer: Frames) -> None:
    peer.send(priority(0, dependency(0)))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_priority_of_four_bytes(peer: Frames) -> None:
    peer.send(peer.get(), priority(1, b"\x80\x00\x00\x01"))
    expect.stream_error(peer, Code.FRAME_SIZE_ERROR)


# 6.4 RST_STREAM


def test_rst_stream_on_stream_zero(peer: Frames) -> None:
    peer.send(rst_stream(0))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_rst_stream_on_an_idle_stream(peer: Frames) -> None:
    peer.send(rst_stream(1))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_rst_stream_of_three_bytes(peer: Frames) -> None:
    peer.send(peer.get(), frame(Kind.RST_STREAM, 0, 1, bytes(3)))
    expect.stream_error(peer, Code.FRAME_SIZE_ERROR)


# 6.5 SETTINGS


def test_settings_acknowledged_with_a_payload(peer: Frames) -> None:
    peer.send(frame(Kind.SETTINGS, ACK, payload=b"\x00"))
    expect.connection_error(peer, Code.FRAME_SIZE_ERROR)


def test_settings_on_a_stream(peer: Frames) -> None:
    peer.send(frame(Kind.SETTINGS, 0, 1, bytes.fromhex("000300000064")))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_settings_of_three_bytes(peer: Frames) -> None:
    peer.send(frame(Kind.SETTINGS, payload=b"\x00\x03\x00"))
    expect.connection_error(peer, Code.FRAME_SIZE_ERROR)


# 6.5.2 Defined Settings


@pytest.mark.parametrize(
    ("number", "value", "code"),
    [
        pytest.param(Setting.ENABLE_PUSH, 2, Code.PROTOCOL_ERROR, id="ENABLE_PUSH neither 0 nor 1"),
        pytest.param(
            Setting.INITIAL_WINDOW_SIZE,
            MAX_WINDOW_BYTES + 1,
            Code.FLOW_CONTROL_ERROR,
            id="INITIAL_WINDOW_SIZE above the maximum",
        ),
        pytest.param(Setting.MAX_FRAME_SIZE, 16_383, Code.PROTOCOL_ERROR, id="MAX_FRAME_SIZE below the minimum"),
        pytest.param(Setting.MAX_FRAME_SIZE, 2**24, Code.PROTOCOL_ERROR, id="MAX_FRAME_SIZE above the maximum"),
    ],
)
def test_a_setting_with_an_invalid_value(peer: Frames, number: int, value: int, code: Code) -> None:
    peer.send(settings((number, value)))
    expect.connection_error(peer, code)


def test_an_unknown_setting_is_ignored(peer: Frames) -> None:
    peer.send(settings((0xFF, 1)), ping())
    expect.pong(peer, bytes(8))


# 6.5.3 Settings Synchronization


def test_settings_take_effect_in_the_order_in_which_they_come(peer: Frames) -> None:
    peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 100), (Setting.INITIAL_WINDOW_SIZE, 1)))
    expect.settings_ack(peer)
    peer.send(peer.get())
    assert len(expect.frame(peer, Kind.DATA).payload) == 1


def test_settings_are_acknowledged(peer: Frames) -> None:
    peer.send(settings((Setting.ENABLE_PUSH, 0)))
    expect.settings_ack(peer)


# 6.7 PING


def test_ping_is_answered(peer: Frames) -> None:
    peer.send(ping(b"opaque 8"))
    expect.pong(peer, b"opaque 8")


def test_an_answer_to_a_ping_is_not_answered(peer: Frames) -> None:
    peer.send(ping(b"unwanted", ack=True), ping(b"opaque 8"))
    expect.pong(peer, b"opaque 8")


def test_ping_on_a_stream(peer: Frames) -> None:
    peer.send(frame(Kind.PING, 0, 1, bytes(8)))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_ping_of_six_bytes(peer: Frames) -> None:
    peer.send(ping(bytes(6)))
    expect.connection_error(peer, Code.FRAME_SIZE_ERROR)


# 6.8 GOAWAY


def test_goaway_on_a_stream(peer: Frames) -> None:
    peer.send(frame(Kind.GOAWAY, 0, 1, bytes(8)))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


# 6.9 WINDOW_UPDATE


def test_a_window_update_of_nothing_on_the_connection(peer: Frames) -> None:
    peer.send(window_update(0, 0))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_a_window_update_of_nothing_on_a_stream(peer: Frames) -> None:
    peer.send(peer.get(end=False), window_update(1, 0))
    expect.stream_error(peer, Code.PROTOCOL_ERROR)


def test_a_window_update_of_three_bytes(peer: Frames) -> None:
    peer.send(frame(Kind.WINDOW_UPDATE, payload=b"\x00\x00\x01"))
    expect.connection_error(peer, Code.FRAME_SIZE_ERROR)


# 6.9.1 The Flow-Control Window


def test_no_more_is_sent_than_the_window_allows(peer: Frames) -> None:
    peer.send(window(1))
    expect.settings_ack(peer)
    peer.send(peer.get())
    assert len(expect.frame(peer, Kind.DATA).payload) == 1


def test_the_window_of_the_connection_above_the_maximum(peer: Frames) -> None:
    peer.send(window_update(0, MAX_WINDOW_BYTES), window_update(0, MAX_WINDOW_BYTES))
    assert expect.frame(peer, Kind.GOAWAY).code == Code.FLOW_CONTROL_ERROR


def test_the_window_of_a_stream_above_the_maximum(peer: Frames) -> None:
    peer.send(peer.get(end=False), window_update(1, MAX_WINDOW_BYTES), window_update(1, MAX_WINDOW_BYTES))
    reset = expect.frame(peer, Kind.RST_STREAM)
    assert (reset.stream_id, reset.code) == (1, Code.FLOW_CONTROL_ERROR)


# 6.9.2 Initial Flow-Control Window Size


def test_a_changed_initial_window_changes_the_windows_of_streams(peer: Frames) -> None:
    peer.send(window(0))
    expect.settings_ack(peer)
    peer.send(peer.get(), window(1))
    assert len(expect.frame(peer, Kind.DATA).payload) == 1


def test_a_window_below_zero_is_kept_account_of(peer: Frames) -> None:
    peer.send(window(3))
    expect.settings_ack(peer)
    peer.send(peer.get())
    expect.frame(peer, Kind.DATA)
    peer.send(window(2))
    expect.settings_ack(peer)
    peer.send(window_update(1, 2))
    assert len(expect.frame(peer, Kind.DATA).payload) == 1


def test_an_initial_window_above_the_maximum(peer: Frames) -> None:
    peer.send(window(MAX_WINDOW_BYTES + 1))
    expect.connection_error(peer, Code.FLOW_CONTROL_ERROR)


# 6.10 CONTINUATION


def test_several_continuations(peer: Frames) -> None:
    peer.send(peer.get(end_headers=False))
    peer.send(continuation(1, peer.encode(big_fields(1)), end_headers=False))
    peer.send(continuation(1, peer.encode(big_fields(1))))
    expect.response(peer, 1)


def test_continuation_and_then_another_frame(peer: Frames) -> None:
    peer.send(peer.post(end_headers=False))
    peer.send(continuation(1, peer.encode(big_fields(1)), end_headers=False), data(1, b"test", end=True))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_continuation_on_stream_zero(peer: Frames) -> None:
    peer.send(peer.get(end_headers=False), continuation(0, peer.encode(big_fields(1))))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_continuation_after_complete_headers(peer: Frames) -> None:
    peer.send(peer.get(), continuation(1, peer.encode(big_fields(1))))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_continuation_after_the_last_one(peer: Frames) -> None:
    peer.send(peer.get(end_headers=False), continuation(1, peer.encode(big_fields(1))))
    peer.send(continuation(1, peer.encode(big_fields(1))))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)


def test_continuation_after_data(peer: Frames) -> None:
    peer.send(peer.post(end_headers=False), data(1, b"test", end=True))
    peer.send(continuation(1, peer.encode(big_fields(1)), end_headers=False))
    peer.send(continuation(0, peer.encode(big_fields(1))))
    expect.connection_error(peer, Code.PROTOCOL_ERROR)
