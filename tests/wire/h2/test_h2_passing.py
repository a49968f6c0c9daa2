"""DATA that passes straight through is what it would have been by way of the streams: the same frames to either peer,
the same windows, the same faults. And it costs next to nothing.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import Field
from proxy.wire.h2 import Broken, ErrorCode, FieldBlock, Settings
from tests.differential.depth import laws
from tests.wire.h2.h2_rig import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    OK,
    PADDED,
    Frame,
    Heard,
    Rig,
    raw,
    settings,
    window_update,
)
from tests.wire.test_wire_cost import calls

OUR_WINDOWS = Settings(stream_window_bytes=70_000, connection_window_bytes=150_000)
"""Of the client's role here: small, so that both are used up."""


class Up(Heard):
    """The upstream half of a proxy. ``passed``: bytes that it was only told of."""

    def __init__(self, down: Heard, passes: bool) -> None:
        super().__init__()
        self.down = down
        self.passes = passes
        self.passed = 0

    def on_head(self, head: Any) -> None:
        self.down.send_head(FieldBlock([(b":status", b"%d" % head.status)]), b"", False)
        if self.passes:
            self.onward = self.down

    def on_data(self, data: bytes) -> None:
        self.down.send_data(data, self.remote_ended)

    def on_passed(self, size: int) -> None:
        self.passed += size

    def on_end(self, trailers: list[Field] | None) -> None:
        if not self.down.local_ended:
            self.down.send_trailers(trailers or ())

    def on_reset(self, code: ErrorCode, unprocessed: bool) -> None:
        self.calls.append(("reset", code))
        self.down.reset(ErrorCode.INTERNAL_ERROR)


class Proxy:
    """Two clients with two streams each, and an origin's connection with all four. Numbers differ on purpose."""

    def __init__(self, passes: bool, window: int = 1 << 24) -> None:
        self.downs = [Rig("server", peer_settings={4: window}) for _ in range(2)]
        self.up = Rig("client", OUR_WINDOWS)
        self.streams: list[Up] = []
        for down in self.downs:
            down.feed(window_update(0, window))
            for stream_id in (1, 3):
                stream = Up(down.request(stream_id), passes)
                self.up.connection.open(stream, b"GET", FieldBlock([(b":method", b"GET")]), b"", True)
                self.streams.append(stream)
        self.sent()

    def read(self, data: bytes) -> None:
        self.up.connection.receive_large(memoryview(bytearray(data)))

    def sent(self) -> list[list[Frame]]:
        return [self.up.sent(), *(down.sent() for down in self.downs)]

    def answer(self) -> None:
        """A head for each, without a length."""
        for stream in self.streams:
            self.read(raw(HEADERS, END_HEADERS, stream.id, self.up.encoder.encode(OK)))
        self.sent()


data_frames = st.builds(
    lambda stream, size, flags: raw(DATA, flags, stream, bytes([stream]) * size),
    st.sampled_from([1, 3, 5, 7, 1, 3, 5, 7, 9]),
    st.one_of(st.integers(0, 60), st.integers(2000, 16_384)),
    st.sampled_from([0, 0, 0, 0, 0, 0, END_STREAM, PADDED]),
)
deeds = st.one_of(
    st.lists(data_frames, max_size=8).map(lambda frames: ("read", b"".join(frames))),
    st.builds(lambda to, size: ("window", to, size), st.integers(0, 3), st.integers(1, 40_000)),
    st.builds(lambda to: ("pause", to), st.integers(0, 1)),
    st.builds(lambda to: ("resume", to), st.integers(0, 1)),
    st.builds(lambda to: ("hold back", to), st.integers(0, 3)),
    st.builds(lambda to: ("let come", to), st.integers(0, 3)),
    st.builds(lambda to: ("reset", to), st.integers(0, 3)),
    st.builds(lambda to: ("length", to), st.integers(0, 3)),
)


def play(passes: bool, window: int, script: list[Any], cuts: list[int]) -> tuple[Any, ...]:
    proxy = Proxy(passes, window)
    proxy.answer()
    broken = None
    seen: list[Any] = []
    try:
        for deed, *what in script:
            if deed == "read":
                (data,) = what
                ends = sorted({cut % len(data) for cut in cuts}) if data else []
                for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
                    proxy.read(data[start:end])
                seen.append(proxy.sent())
                continue
            number = what[0]
            stream, down = (
                proxy.streams[number],
                proxy.downs[number // 2 if deed in ("window", "reset") else number % 2],
            )
            if deed == "window":
                down.feed(window_update(0, what[1]), window_update(stream.down.id, what[1]))
            elif deed == "pause":
                down.connection.pause()
            elif deed == "resume":
                down.connection.resume()
            elif deed == "hold back":
                stream.pause()
            elif deed == "let come":
                stream.resume()
            elif deed == "length":
                stream._left = 20_000
            else:
                stream.down.reset(ErrorCode.CANCEL)
            seen.append(proxy.sent())
    except Broken as caught:
        broken = caught.code, caught.detail
    seen.append(proxy.sent())
    streams = [
        (s.closed, s.fault, s._used, s._left, s.down.closed, s.down.queued, s.down._window) for s in proxy.streams
    ]
    connections = [
        (c._used, c._held, c.send_window, c.useful) for c in (r.connection for r in (proxy.up, *proxy.downs))
    ]
    return broken, seen, streams, connections


@laws(150)
@given(
    st.sampled_from([100, 20_000, 1 << 24]), st.lists(deeds, max_size=12), st.lists(st.integers(0, 1 << 20), max_size=4)
)
def test_both_ways_are_one(window: int, script: list[Any], cuts: list[int]) -> None:
    assert play(True, window, script, cuts) == play(False, window, script, cuts)


def test_whole_frames_pass_and_nobody_is_asked() -> None:
    proxy = Proxy(passes=True)
    proxy.answer()
    frames = [raw(DATA, 0, stream_id, bytes([stream_id]) * 5000) for stream_id in (1, 1, 3, 5, 7, 7, 1)]
    proxy.read(b"".join(frames))
    assert [stream.passed for stream in proxy.streams] == [15_000, 5000, 5000, 10_000]
    _, first, second = proxy.sent()
    assert [(frame.stream_id, frame.payload[:1]) for frame in first] == [
        (1, b"\x01"), (1, b"\x01"), (3, b"\x03"), (1, b"\x01"),
    ]  # fmt: skip
    assert [(frame.stream_id, frame.payload[:1]) for frame in second] == [(1, b"\x05"), (3, b"\x07"), (3, b"\x07")]


def test_what_is_passed_is_a_copy() -> None:
    """The buffer is somebody else's at once."""
    proxy = Proxy(passes=True)
    proxy.answer()
    buffer = bytearray(raw(DATA, 0, 1, b"mine" * 1000))
    proxy.up.connection.receive_large(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    _, (frame,), _ = proxy.sent()
    assert frame.payload == b"mine" * 1000


def test_the_cost_of_a_frame() -> None:
    """Two calls of C, to read its head and to put the number in."""
    proxy = Proxy(passes=True)
    proxy.answer()
    data = memoryview(bytearray(raw(DATA, 0, 1, bytes(100)) * 300))
    python, c = calls(lambda: proxy.up.connection.receive_large(data))
    assert python <= 10
    assert c <= 2 * 300 + 20


def test_settings_that_close_a_window_send_it_the_other_way() -> None:
    proxy = Proxy(passes=True)
    proxy.answer()
    proxy.downs[0].feed(settings({4: 0}))
    proxy.sent()
    proxy.read(raw(DATA, 0, 1, b"late"))
    assert proxy.streams[0].passed == 0
    assert proxy.streams[0].down.queued == 4
    assert proxy.sent()[1] == []
