"""The frames that carry no part of a message (RFC 9113 §6.3 to §6.9), received: SETTINGS, PING, GOAWAY, WINDOW_UPDATE,
RST_STREAM, PRIORITY and PUSH_PROMISE. One function for each, of a :class:`Connection`, the frame's stream, its flags
and its payload, which is whole; ``CONTROL_FRAMES`` says which.

They check what the section says about the frame, spend the allowance that the peer has for it, and do what it asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proxy.wire.h2.codes import ErrorCode, known_code
from proxy.wire.h2.frames import (
    ACK,
    ENABLE_PUSH,
    FRAME_BYTES,
    GOAWAY,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME_BYTES,
    LARGEST_ID,
    LARGEST_WINDOW,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    ping_frame,
    read_settings,
    unpack_long,
)
from proxy.wire.h2.turns import make_ready, pump

if TYPE_CHECKING:
    from proxy.wire.h2.connection import Connection

FAREWELL: Final = b"farewell"
"""The PING behind a first GOAWAY: when it comes back, whatever the peer had sent before it saw that has arrived."""


def _receive_priority(connection: Connection, stream_id: int, flags: int, payload: bytes) -> None:
    """RFC 9113 §6.3: checked and ignored."""
    if not stream_id:
        connection._break(ErrorCode.PROTOCOL_ERROR, "PRIORITY without a stream")
    connection._spend(connection._ignored, "PRIORITY frames")
    if len(payload) != 5:
        connection._fail_or_break(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY that is not 5 bytes long")
    elif unpack_long(payload)[0] & LARGEST_ID == stream_id:
        connection._fail_or_break(stream_id, ErrorCode.PROTOCOL_ERROR, "stream that depends on itself")


def _receive_rst_stream(connection: Connection, stream_id: int, flags: int, payload: bytes) -> None:
    if len(payload) != 4:
        connection._break(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM that is not 4 bytes long")  # RFC 9113 §6.4
    stream = connection.streams.get(stream_id)
    if stream is None:
        connection._refuse_stray(stream_id, RST_STREAM)
        return
    if stream_id >= connection._aged_id:  # who waited for a while has a reason
        connection._spend_reset()
    code = known_code(unpack_long(payload)[0])
    connection._drop(stream, by_us=False)
    stream.on_reset(code, code is ErrorCode.REFUSED_STREAM)
    connection._stream_over()


def _receive_settings(connection: Connection, stream_id: int, flags: int, payload: bytes) -> None:
    if stream_id:
        connection._break(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")  # RFC 9113 §6.5
    connection._spend(connection._settings_frames, "SETTINGS frames")
    if flags & ACK:
        if payload:
            connection._break(ErrorCode.FRAME_SIZE_ERROR, "acknowledgement of SETTINGS with a payload")
        return
    if len(payload) % 6:
        connection._break(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS that is not a multiple of 6 bytes long")
    values = dict(_checked_settings(connection, payload))  # the last of each holds; the first streams see none of it
    if HEADER_TABLE_SIZE in values:
        connection.encoder.resize(values[HEADER_TABLE_SIZE])
    if INITIAL_WINDOW_SIZE in values:
        _change_stream_windows(connection, values[INITIAL_WINDOW_SIZE])
    connection._answer(SETTINGS_ACK)
    is_first, connection.settled = not connection.settled, True
    if connection._new_stream is None:
        before = connection.max_streams
        ours = connection._settings.max_concurrent_streams
        if MAX_CONCURRENT_STREAMS in values:
            connection.max_streams = min(values[MAX_CONCURRENT_STREAMS], ours)
        elif is_first:
            connection.max_streams = ours
        if connection.max_streams > before:
            connection.handler.on_capacity()
    pump(connection)


def _checked_settings(connection: Connection, payload: bytes) -> list[tuple[int, int]]:
    """RFC 9113 §6.5.2; unknown ones may have any value."""
    settings = read_settings(payload)
    for setting, value in settings:
        if setting == INITIAL_WINDOW_SIZE:
            if value > LARGEST_WINDOW:
                connection._break(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE above 2^31-1")
        elif setting == MAX_FRAME_SIZE:
            if not FRAME_BYTES <= value <= LARGEST_FRAME_BYTES:
                connection._break(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
        elif setting == ENABLE_PUSH and value > (connection._new_stream is not None):
            connection._break(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH out of range")  # a server's may only be 0
    return settings


def _change_stream_windows(connection: Connection, window: int) -> None:
    """RFC 9113 §6.9.2: those of open streams move along, maybe below 0."""
    delta = window - connection._peer_stream_window
    connection._peer_stream_window = window
    for stream in connection.streams.values():
        stream._window += delta
        if stream._window > LARGEST_WINDOW:
            connection._break(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE that takes a window above 2^31-1")
        if stream.queued:
            make_ready(connection, stream)


def _receive_push_promise(connection: Connection, stream_id: int, flags: int, payload: bytes) -> None:
    # RFC 9113 §8.4: a client does not push, and to us nobody may (ENABLE_PUSH is 0 from the first frame on).
    connection._break(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE")


def _receive_ping(connection: Connection, stream_id: int, flags: int, payload: bytes) -> None:
    if stream_id:
        connection._break(ErrorCode.PROTOCOL_ERROR, "PING of a stream")  # RFC 9113 §6.7
    if len(payload) != 8:
        connection._break(ErrorCode.FRAME_SIZE_ERROR, "PING that is not 8 bytes long")
    connection._spend(connection._pings, "PING frames")
    if not flags & ACK:
        connection._answer(ping_frame(payload, ack=True))
    elif payload == FAREWELL and connection.draining:
        connection.go_away()


def _receive_goaway(connection: Connection, stream_id: int, flags: int, payload: bytes) -> None:
    if stream_id:
        connection._break(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")  # RFC 9113 §6.8
    if len(payload) < 8:
        connection._break(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY that is less than 8 bytes long")
    if connection._new_stream is not None:  # a client says that it takes no pushes, of which there are none
        connection._spend(connection._ignored, "GOAWAY frames")
        return
    last_id = unpack_long(payload)[0] & LARGEST_ID
    if not connection.draining:
        connection.draining = True
        connection.handler.on_goaway()
    else:
        connection._spend(connection._ignored, "GOAWAY frames")
    unprocessed = [stream for stream in connection.streams.values() if stream.id > last_id]
    for stream in unprocessed:
        if not stream.closed:
            connection._drop(stream, by_us=False)
            stream.on_reset(ErrorCode.REFUSED_STREAM, True)
            connection._stream_over()


def _receive_window_update(connection: Connection, stream_id: int, flags: int, payload: bytes) -> None:
    if len(payload) != 4:
        connection._break(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE that is not 4 bytes long")  # RFC 9113 §6.9
    connection._spend(connection._windows, "WINDOW_UPDATE frames")
    increment = unpack_long(payload)[0] & LARGEST_WINDOW
    if not stream_id:
        if not increment:
            connection._break(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        connection.send_window += increment
        if connection.send_window > LARGEST_WINDOW:
            connection._break(ErrorCode.FLOW_CONTROL_ERROR, "window above 2^31-1")  # RFC 9113 §6.9.1
        pump(connection)
        return
    stream = connection.streams.get(stream_id)
    if stream is None:
        connection._refuse_stray(stream_id, WINDOW_UPDATE)
    elif not increment:
        connection._fail(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
    elif stream._window + increment > LARGEST_WINDOW:
        connection._fail(stream, ErrorCode.FLOW_CONTROL_ERROR, "window above 2^31-1")
    else:
        stream._window += increment
        if stream.queued:
            make_ready(connection, stream)
            pump(connection)


CONTROL_FRAMES: Final[dict[int, Callable[[Connection, int, int, bytes], None]]] = {
    PRIORITY: _receive_priority,
    RST_STREAM: _receive_rst_stream,
    SETTINGS: _receive_settings,
    PUSH_PROMISE: _receive_push_promise,
    PING: _receive_ping,
    GOAWAY: _receive_goaway,
    WINDOW_UPDATE: _receive_window_update,
}
