"""Frames (RFC 9113 §4 and §6): their numbers, and those that are made from numbers alone."""

from __future__ import annotations

from struct import Struct
from typing import Final

from proxy.wire.h2.codes import ErrorCode

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113 §3.4)."""

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

HEAD_BYTES: Final = 9
FRAME_BYTES: Final = 16 * 1024
"""The largest payload: the one that everybody takes (RFC 9113 §6.5.2), and that we take and make."""
LARGEST_FRAME_BYTES: Final = (1 << 24) - 1
LARGEST_WINDOW: Final = (1 << 31) - 1
FIRST_WINDOW: Final = 65_535
"""Of a connection, and of a stream before SETTINGS (RFC 9113 §6.9.2)."""
LARGEST_ID: Final = (1 << 31) - 1

_HEAD: Final = Struct(">HBBBL")
unpack_head: Final = _HEAD.unpack_from
"""Length (high 16 bits, low 8), type, flags, stream with the reserved bit."""
pack_head: Final = _HEAD.pack
unpack_long: Final = Struct(">L").unpack_from
_SETTING: Final = Struct(">HL")
_HEAD_AND_LONG: Final = Struct(">HBBBLL")
_GOAWAY: Final = Struct(">HBBBLLL")

SETTINGS_ACK: Final = pack_head(0, 0, SETTINGS, ACK, 0)


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    length = len(payload)
    return pack_head(length >> 8, length & 0xFF, kind, flags, stream_id) + payload


def headers_frames(stream_id: int, block: bytes, end: bool) -> bytes:
    """A block that is too large for one frame (RFC 9113 §4.3)."""
    frames = [frame(HEADERS, end, stream_id, block[:FRAME_BYTES])]
    for at in range(FRAME_BYTES, len(block), FRAME_BYTES):
        flags = END_HEADERS if at + FRAME_BYTES >= len(block) else 0
        frames.append(frame(CONTINUATION, flags, stream_id, block[at : at + FRAME_BYTES]))
    return b"".join(frames)


def settings_frame(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join([_SETTING.pack(*setting) for setting in values.items()]))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """In order, as RFC 9113 §6.5.3 asks for."""
    return list(_SETTING.iter_unpack(payload))


def ping_frame(opaque: bytes, ack: bool) -> bytes:
    return pack_head(0, 8, PING, ack, 0) + opaque


def window_update_frame(stream_id: int, increment: int) -> bytes:
    return _HEAD_AND_LONG.pack(0, 4, WINDOW_UPDATE, 0, stream_id, increment)


def rst_stream_frame(stream_id: int, code: ErrorCode) -> bytes:
    return _HEAD_AND_LONG.pack(0, 4, RST_STREAM, 0, stream_id, code)


def goaway_frame(last_id: int, code: ErrorCode) -> bytes:
    return _GOAWAY.pack(0, 8, GOAWAY, 0, 0, last_id, code)
