"""However the bytes are cut the calls are the same, and any bytes give calls or Broken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.h2 import Broken, ErrorCode, FieldBlock
from tests.differential.depth import laws
from tests.wire.h2.h2_rig import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    GET,
    HEADERS,
    OK,
    PADDED,
    POST,
    WITH_PRIORITY,
    Heard,
    Rig,
    goaway,
    raw,
    rst_stream,
    settings,
    window_update,
)


class Answering(Heard):
    """Answers as soon as it can."""

    def on_end(self, trailers: Any) -> None:
        super().on_end(trailers)
        if not self.local_ended:
            self.send_head(FieldBlock(OK))
            self.send_data(b"answer" * 20_000, True)


frames = st.one_of(
    st.builds(lambda i, p, e: ("request", i, p, e), st.integers(0, 9), st.booleans(), st.booleans()),
    st.builds(
        lambda i, d, f: raw(DATA, f, i, d), st.integers(0, 9), st.binary(max_size=40), st.sampled_from([0, 1, 8, 9])
    ),
    st.builds(
        lambda k, f, i, d: raw(k, f, i, d),
        st.integers(0, 11),
        st.integers(0, 63),
        st.integers(0, 9),
        st.binary(max_size=12),
    ),
    st.builds(rst_stream, st.integers(0, 9)),
    st.builds(window_update, st.integers(0, 9), st.integers(0, 1 << 20)),
    st.builds(lambda size: settings({4: size}), st.integers(0, 1 << 20)),
    st.builds(goaway, st.integers(0, 9)),
)


def script(rig: Rig, steps: list[Any], role: str) -> bytes:
    """Frames as bytes; a ``request`` is HEADERS of a right message, in one frame or in pieces."""
    data = b""
    for step in steps:
        if isinstance(step, bytes):
            data += step
            continue
        _, stream_id, in_pieces, end = step
        block = rig.encoder.encode(GET if role == "server" and end else POST if role == "server" else OK)
        if in_pieces:
            data += raw(HEADERS, end | PADDED | WITH_PRIORITY, stream_id, b"\x03\0\0\0\0\x10" + block[:2] + bytes(3))
            data += raw(CONTINUATION, END_HEADERS, stream_id, block[2:])
        else:
            data += raw(HEADERS, END_HEADERS | end, stream_id, block)
    return data


def run(role: str, data: bytes, cuts: list[int], holds: str = "", large: bool = False) -> tuple[Any, ...]:
    """``holds``: behind each head, until the end of a read, or until all has come. ``large``: as large reads."""
    rig = Rig(role, stream=Answering if role == "server" else Heard)

    class Holding(Answering):
        def on_head(self, head: Any) -> None:
            super().on_head(head)
            rig.connection.hold()

    if holds:
        rig.stream_class = Holding
    if role == "client":
        for _ in range(3):
            rig.open()
    broken = None
    try:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if large:
                rig.connection.receive_large(memoryview(bytearray(data[start:end])))
            else:
                rig.feed(data[start:end])
            while rig.connection.is_on_hold and (holds == "each read" or end == len(data)):
                rig.feed(rig.connection.let_go())
    except Broken as caught:
        broken = caught.code, caught.detail, caught.over_budget
    sent = [(frame.kind, frame.flags, frame.stream_id, frame.payload) for frame in rig.sent()]
    return broken, [stream.calls for stream in rig.streams], sent, rig.goaways, rig.capacities


@pytest.mark.parametrize("role", ["server", "client"])
@laws(60)
@given(st.lists(frames, min_size=1, max_size=12), st.data())
def test_any_cut_gives_the_same_calls(role: str, steps: list[Any], data: st.DataObject) -> None:
    bytes_in = script(Rig(role), steps, role)
    whole = run(role, bytes_in, [])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(bytes_in)), max_size=12)))
    assert run(role, bytes_in, cuts) == whole
    assert run(role, bytes_in, list(range(1, len(bytes_in)))) == whole
    assert run(role, bytes_in, cuts, large=True) == whole


@pytest.mark.parametrize("holds", ["each read", "to the end"])
@laws(60)
@given(st.lists(frames, min_size=1, max_size=12), st.data())
def test_what_was_kept_on_hold_gives_the_same_calls(holds: str, steps: list[Any], data: st.DataObject) -> None:
    bytes_in = script(Rig("server"), steps, "server")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(bytes_in)), max_size=6)))
    whole = run("server", bytes_in, [])
    assert run("server", bytes_in, cuts, holds) == whole
    assert run("server", bytes_in, cuts, holds, large=True) == whole


def test_on_hold_nothing_more_is_heard() -> None:
    rig = Rig()
    first, second = rig.headers(1, GET), rig.headers(3, GET)
    rig.feed(first)
    rig.connection.hold()
    rig.feed(second[:5], second[5:] + raw(DATA, 0, 1, b"too much"))
    assert len(rig.streams) == 1
    assert rig.connection.is_on_hold
    rig.feed(rig.connection.let_go())
    assert len(rig.streams) == 2
    rig.connection.hold()
    rig.feed(rig.headers(5, GET))
    rig.connection.abandon()
    assert not rig.connection.is_on_hold
    assert rig.connection.let_go() == b"", "what was kept is gone"
    rig.feed(rig.headers(7, GET))
    assert len(rig.streams) == 2


@pytest.mark.parametrize("role", ["server", "client"])
@laws(120)
@given(st.binary(max_size=200))
def test_any_bytes_give_calls_or_broken(role: str, garbage: bytes) -> None:
    run(role, garbage, [])


@pytest.mark.parametrize("role", ["server", "client"])
@laws(60)
@given(st.lists(frames, min_size=1, max_size=8), st.data())
def test_any_change_of_right_bytes_gives_calls_or_broken(role: str, steps: list[Any], data: st.DataObject) -> None:
    bytes_in = bytearray(script(Rig(role), steps, role))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(bytes_in) - 1))
        bytes_in[at] = data.draw(st.integers(0, 255))
    run(role, bytes(bytes_in), [])


@pytest.mark.parametrize("role", ["server", "client"])
@laws(60)
@given(
    st.lists(
        st.one_of(frames, st.sampled_from(["reset", "pause", "resume", "hold", "let go", "end", "refill"])), max_size=15
    )
)
def test_when_all_is_over_nothing_is_held(role: str, steps: list[Any]) -> None:
    """Whatever happened, a connection whose streams are gone has no window held back, and no stream in its queues."""
    rig = Rig(role, stream=Answering if role == "server" else Heard)
    for _ in range(3 if role == "client" else 0):
        rig.open(end=False)
    connection = rig.connection
    try:
        for step in steps:
            open_ones = list(connection.streams.values())
            if step == "reset" and open_ones:
                open_ones[-1].reset(ErrorCode.CANCEL)
            elif step == "pause":
                for stream in open_ones:
                    stream.pause()
            elif step == "resume":
                for stream in open_ones:
                    stream.resume()
            elif step == "hold":
                connection.pause()
            elif step == "let go":
                connection.resume()
            elif step == "end" and open_ones and not open_ones[0].local_ended:
                open_ones[0].send_data(b"x", True)
            elif step == "refill":
                connection.refill()
            elif not isinstance(step, str):
                rig.feed(script(rig, [step], role))
    except Broken:
        connection.abandon()
    for stream in list(connection.streams.values()):
        stream.reset(ErrorCode.CANCEL)
    connection.resume()
    assert (connection._held, connection.streams, list(connection.ready)) == (0, {}, [])
    for heard in rig.streams:
        assert heard.closed or heard.id == 0
        assert heard.queued == 0
        assert heard.kinds.count("reset") <= 1
        assert "reset" not in heard.kinds[:-1]
        assert heard.kinds.count("end") <= 1
