"""RFC 9113 §5.1: every state of a stream, and every frame in it.

The table is the RFC's, written down again: what the peer of a stream may send in a state, and what becomes of it
otherwise. Both roles, and every pair.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.wire.h2 import Broken, ErrorCode, FieldBlock
from tests.wire.h2.h2_rig import (
    DATA,
    END_STREAM,
    GET,
    GET_BLOCK,
    GOAWAY,
    OK,
    POST,
    PRIORITY,
    RST_STREAM,
    Heard,
    Rig,
    raw,
    rst_stream,
    window_update,
)

OK_HEAD = FieldBlock(OK)
TRAILERS = [(b"x-trailer", b"1")]

# Where the stream of interest is number 3, and what comes before and after it is 1 and 5.
ID = 3


def _server(then: Callable[[Rig, Heard], None], end: bool = False) -> Rig:
    rig = Rig()
    rig.request(1, POST, end=False)
    stream = rig.request(ID, POST, end=end)
    then(rig, stream)
    rig.request(5, POST, end=False)
    rig.sent()
    return rig


def _client(then: Callable[[Rig, Heard], None], end: bool = True) -> Rig:
    rig = Rig("client")
    rig.open(end=False)
    stream = rig.open(end=end)
    then(rig, stream)
    rig.open(end=False)
    rig.sent()
    return rig


def _nothing(rig: Rig, stream: Heard) -> None:
    pass


def _idle_server() -> Rig:
    rig = Rig()
    rig.request(1, POST, end=False)
    rig.sent()
    return rig


def _idle_client() -> Rig:
    rig = Rig("client")
    rig.open(end=False)
    rig.sent()
    return rig


def _skipped() -> Rig:
    rig = Rig()
    rig.request(1, POST, end=False)
    rig.request(5, POST, end=False)
    rig.sent()
    return rig


STATES: dict[str, Callable[[], Rig]] = {
    "server idle": _idle_server,
    "server skipped": _skipped,
    "server open": lambda: _server(_nothing),
    "server half-closed (local)": lambda: _server(lambda rig, stream: stream.send_head(OK_HEAD, end=True)),
    "server half-closed (remote)": lambda: _server(_nothing, end=True),
    "server closed, ended": lambda: _server(lambda rig, stream: stream.send_head(OK_HEAD, end=True), end=True),
    "server closed, we reset": lambda: _server(lambda rig, stream: stream.reset(ErrorCode.CANCEL)),
    "server closed, peer reset": lambda: _server(lambda rig, stream: rig.feed(rst_stream(ID))),
    "client idle": _idle_client,
    "client open": lambda: _client(_nothing, end=False),
    "client open, head came": lambda: _client(lambda rig, stream: rig.feed(rig.headers(ID, OK, end=False)), end=False),
    "client half-closed (local)": lambda: _client(_nothing),
    "client half-closed (remote)": lambda: _client(lambda rig, stream: rig.feed(rig.headers(ID, OK)), end=False),
    "client closed, ended": lambda: _client(lambda rig, stream: rig.feed(rig.headers(ID, OK))),
    "client closed, we reset": lambda: _client(lambda rig, stream: stream.reset(ErrorCode.CANCEL)),
    "client closed, peer reset": lambda: _client(lambda rig, stream: rig.feed(rst_stream(ID))),
}

FRAMES: dict[str, Callable[[Rig], bytes]] = {
    "DATA": lambda rig: raw(DATA, 0, ID, b"x"),
    "DATA, END_STREAM": lambda rig: raw(DATA, END_STREAM, ID, b"x"),
    "head": lambda rig: rig.headers(ID, GET if rig.connection._new_stream else OK, end=False),
    "trailers": lambda rig: rig.headers(ID, TRAILERS),
    "RST_STREAM": lambda rig: rst_stream(ID),
    "WINDOW_UPDATE": lambda rig: window_update(ID, 5),
    "PRIORITY": lambda rig: raw(PRIORITY, 0, ID, b"\0\0\0\1\x10"),
}

HEARD = "heard"
IGNORED = "ignored"
STREAM_PROTOCOL_ERROR = "stream PROTOCOL_ERROR"
STREAM_CLOSED = "stream STREAM_CLOSED"
PROTOCOL_ERROR = "connection PROTOCOL_ERROR"
CLOSED = "connection STREAM_CLOSED"

# In the order of FRAMES.
TABLE: dict[str, list[str]] = {
    "server idle":
        [PROTOCOL_ERROR, PROTOCOL_ERROR, HEARD, STREAM_PROTOCOL_ERROR, PROTOCOL_ERROR, PROTOCOL_ERROR, IGNORED],
    "server skipped": [PROTOCOL_ERROR, PROTOCOL_ERROR, PROTOCOL_ERROR, PROTOCOL_ERROR, IGNORED, IGNORED, IGNORED],
    "server open": [HEARD, HEARD, STREAM_PROTOCOL_ERROR, HEARD, HEARD, IGNORED, IGNORED],
    "server half-closed (local)": [HEARD, HEARD, STREAM_PROTOCOL_ERROR, HEARD, HEARD, IGNORED, IGNORED],
    "server half-closed (remote)": [*4 * [STREAM_CLOSED], HEARD, IGNORED, IGNORED],
    "server closed, ended": [CLOSED, CLOSED, CLOSED, CLOSED, IGNORED, IGNORED, IGNORED],
    "server closed, we reset": 7 * [IGNORED],
    "server closed, peer reset": [*4 * [STREAM_CLOSED], IGNORED, IGNORED, IGNORED],
    "client idle": [*6 * [PROTOCOL_ERROR], IGNORED],
    "client open":
        [STREAM_PROTOCOL_ERROR, STREAM_PROTOCOL_ERROR, HEARD, STREAM_PROTOCOL_ERROR, HEARD, IGNORED, IGNORED],
    "client open, head came": [HEARD, HEARD, STREAM_PROTOCOL_ERROR, HEARD, HEARD, IGNORED, IGNORED],
    "client half-closed (local)":
        [STREAM_PROTOCOL_ERROR, STREAM_PROTOCOL_ERROR, HEARD, STREAM_PROTOCOL_ERROR, HEARD, IGNORED, IGNORED],
    "client half-closed (remote)": [*4 * [STREAM_CLOSED], HEARD, IGNORED, IGNORED],
    "client closed, ended": [CLOSED, CLOSED, CLOSED, CLOSED, IGNORED, IGNORED, IGNORED],
    "client closed, we reset": 7 * [IGNORED],
    "client closed, peer reset": [*4 * [STREAM_CLOSED], IGNORED, IGNORED, IGNORED],
}  # fmt: skip


def outcome(rig: Rig, frame: bytes) -> str:
    before = sum(len(stream.calls) for stream in rig.streams)
    try:
        rig.feed(frame)
    except Broken as broken:
        assert rig.sent()[-1].kind == GOAWAY
        return f"connection {broken.code.name}"
    resets = [sent for sent in rig.sent() if sent.kind == RST_STREAM]
    heard = sum(len(stream.calls) for stream in rig.streams) - before
    if resets:
        (reset,) = resets
        assert reset.stream_id == ID
        return f"stream {ErrorCode(reset.number).name}"
    return HEARD if heard else IGNORED


def test_the_table_is_complete() -> None:
    assert list(TABLE) == list(STATES)
    assert {len(row) for row in TABLE.values()} == {len(FRAMES)}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("state", STATES)
def test_every_frame_in_every_state(state: str, frame: str) -> None:
    rig = STATES[state]()
    expected = TABLE[state][list(FRAMES).index(frame)]
    assert outcome(rig, FRAMES[frame](rig)) == expected
    if not expected.startswith("connection"):  # the neighbours live on
        assert rig.connection.streams[1].calls[1:] == []
        if 5 in rig.connection.streams:
            assert not rig.connection.streams[5].closed


SENDING: dict[str, Callable[[Heard], None]] = {
    "head": lambda stream: stream.send_head(OK_HEAD),
    "head, end": lambda stream: stream.send_head(OK_HEAD, end=True),
    "data": lambda stream: stream.send_data(b"x"),
    "data, end": lambda stream: stream.send_data(b"x", True),
    "end": lambda stream: stream.send_data(b"", True),
    "trailers": lambda stream: stream.send_trailers(TRAILERS),
    "no trailers": lambda stream: stream.send_trailers([]),
}


@pytest.mark.parametrize("what", SENDING)
@pytest.mark.parametrize("end", [False, True])
def test_sending_ends_our_side_once(what: str, end: bool) -> None:
    rig = Rig()
    stream = rig.request(1, POST, end=end)
    SENDING[what](stream)
    ends = what not in ("head", "data")
    assert stream.local_ended == ends
    assert stream.closed == (1 not in rig.connection.streams) == (ends and end)
    assert [bool(frame.flags & END_STREAM) for frame in rig.sent()] == [ends]
    if ends and not end:
        for again in SENDING.values():
            with pytest.raises(RuntimeError):
                again(stream)
    elif ends:
        for again in SENDING.values():
            again(stream)
        assert rig.sent() == []


@pytest.mark.parametrize("what", [what for what in SENDING if what not in ("head", "data")])
def test_the_end_behind_what_is_queued(what: str) -> None:
    rig = Rig()
    stream = rig.request(1)
    stream.send_data(bytes(70_000))
    assert stream.queued == 70_000 - 65_535 // 16_384 * 16_384 - 65_535 % 16_384
    if what == "head, end":
        return
    SENDING[what](stream)
    assert stream.local_ended
    assert not stream.closed
    with pytest.raises(RuntimeError):
        stream.send_data(b"more")
    rig.feed(window_update(0, 1 << 20), window_update(1, 1 << 20))
    frames = rig.sent()
    assert frames[-1].flags & END_STREAM
    assert sum(len(frame.payload) for frame in frames if frame.kind == DATA) == 70_000 + (what == "data, end")
    assert stream.closed
    assert stream.kinds[-1] == "drained"


def test_a_client_half_closes_either_side_first() -> None:
    rig = Rig("client")
    first, second = rig.open(end=False), rig.open(end=False)
    rig.feed(rig.headers(1, OK))
    assert first.remote_ended
    assert not first.closed
    first.send_data(b"x", True)
    assert first.closed
    second.send_trailers(TRAILERS)
    assert not second.closed
    rig.feed(rig.headers(3, OK))
    assert second.closed
    assert rig.capacities == 2


def test_resets_are_remembered_and_the_oldest_forgotten() -> None:
    rig = Rig("client", ours=None, peer_settings={3: 5000})
    for _ in range(1500):
        rig.open(GET_BLOCK).reset(ErrorCode.CANCEL)
    last = rig.open(GET_BLOCK)
    rig.feed(rig.headers(last.id, OK))
    for stream_id in (1, 951, 953, 2999):  # forgotten or not, what is under way breaks nothing
        rig.feed(rig.headers(stream_id, OK, end=False), raw(DATA, END_STREAM, stream_id, b"late"))
    assert len(rig.connection._past.resets) == 1024
    assert rig.broken_by(raw(DATA, 0, last.id, b"x")).code is ErrorCode.STREAM_CLOSED


def test_skipped_streams_are_remembered_and_bounded() -> None:
    rig = Rig()
    for number in range(40):
        rig.request(1 + 6 * number)
    assert len(rig.connection._past.skips) == 16
    assert rig.broken_by(rig.headers(1 + 6 * 38 + 2, GET)).code is ErrorCode.PROTOCOL_ERROR
