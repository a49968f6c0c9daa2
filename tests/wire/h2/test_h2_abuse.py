"""One test per attack: what ends the connection, how much it takes, and that honest use of the same is served."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from proxy.wire.h2 import REQUEST_LIMITS, Broken, ErrorCode, FieldBlock, Settings
from proxy.wire.h2.budget import Allowance
from tests.wire.h2.h2_rig import (
    CONTINUATION,
    DATA,
    END_STREAM,
    GET,
    HEADERS,
    OK,
    PADDED,
    PING,
    POST,
    PRIORITY,
    SETTINGS,
    Rig,
    goaway,
    raw,
    rst_stream,
    settings,
    window_update,
)

OK_HEAD = FieldBlock(OK)
CALM = ErrorCode.ENHANCE_YOUR_CALM


def endured(rig: Rig, frames: Iterator[bytes], limit: int = 20_000) -> int:
    """How many of the frames it took until the connection was broken for want of calm."""
    for count, frame in enumerate(frames):
        assert count < limit, "never"
        try:
            rig.feed(frame)
        except Broken as broken:
            return count if broken.over_budget and broken.code is CALM else -1
        rig.connection.take()
        rig.told = False
    raise AssertionError("never")


def forever(frame: bytes) -> Iterator[bytes]:
    while True:
        yield frame


def opened(rig: Rig, then: Callable[[int], bytes], fields: list[tuple[bytes, bytes]] = GET) -> Iterator[bytes]:
    stream_id = 1
    while True:
        yield rig.headers(stream_id, fields, end=False) + then(stream_id)
        stream_id += 2


class TestResets:
    def test_rapid_reset(self) -> None:
        rig = Rig()
        assert endured(rig, opened(rig, rst_stream)) == REQUEST_LIMITS.reset_allowance

    def test_streams_that_were_waited_for_may_be_reset(self) -> None:
        rig = Rig()
        ids = range(1, 2 * 1000, 2)
        rig.feed(b"".join(rig.headers(stream_id, GET, end=True) for stream_id in ids))
        rig.connection.refill()
        rig.feed(b"".join(map(rst_stream, ids)))
        assert not rig.connection.streams
        assert not rig.connection.closed

    def test_made_you_reset_by_window_updates(self) -> None:
        rig = Rig()
        assert endured(rig, opened(rig, lambda number: window_update(number, 0))) == REQUEST_LIMITS.reset_allowance

    def test_made_you_reset_by_an_overflowing_window(self) -> None:
        rig = Rig()
        frames = opened(rig, lambda number: window_update(number, (1 << 31) - 1))
        assert endured(rig, frames) == REQUEST_LIMITS.reset_allowance

    def test_made_you_reset_behind_the_end(self) -> None:
        rig = Rig()
        frames = opened(rig, lambda number: raw(DATA, END_STREAM, number) + raw(DATA, 0, number, b"x"))
        assert endured(rig, frames) == REQUEST_LIMITS.reset_allowance

    def test_malformed_requests(self) -> None:
        rig = Rig()
        frames = opened(rig, lambda number: b"", [*GET, (b"connection", b"close")])
        assert endured(rig, frames) == REQUEST_LIMITS.reset_allowance

    def test_more_streams_than_allowed(self) -> None:
        rig = Rig(ours=Settings(max_concurrent_streams=10))
        assert endured(rig, opened(rig, lambda number: b"")) == REQUEST_LIMITS.reset_allowance + 10

    def test_frames_for_a_stream_that_the_client_reset(self) -> None:
        rig = Rig()
        rig.feed(rig.headers(1, POST, end=False), rst_stream(1))
        rig.feed(raw(DATA, 0, 1, b"x") * 3000)
        assert [frame.number for frame in rig.sent()] == [ErrorCode.STREAM_CLOSED]  # it is told so once

    def test_every_completed_stream_pays_for_one(self) -> None:
        rig = Rig()
        for number in range(5000):
            stream = rig.request(1 + 4 * number)
            stream.send_head(OK_HEAD, end=True)
            rig.feed(rig.headers(3 + 4 * number, GET), rst_stream(3 + 4 * number))
            rig.sent()

    def test_a_long_good_life_is_no_licence(self) -> None:
        rig = Rig()
        for number in range(3000):
            rig.request(1 + 2 * number).send_head(OK_HEAD, end=True)
        frames = (rig.headers(6001 + 2 * number, GET) + rst_stream(6001 + 2 * number) for number in range(20_000))
        assert endured(rig, frames) == REQUEST_LIMITS.reset_allowance

    def test_time_pays_too(self) -> None:
        rig = Rig()
        frames = opened(rig, rst_stream)
        for _ in range(40):
            for _ in range(50):
                rig.feed(next(frames))
            rig.connection.refill()

    def test_a_server_may_reset(self) -> None:
        rig = Rig("client")
        for number in range(3000):
            rig.open()
            rig.feed(rst_stream(1 + 2 * number))
            rig.sent()


class TestFloods:
    def test_settings(self) -> None:
        assert endured(Rig(), forever(settings({3: 1}))) == REQUEST_LIMITS.settings_allowance - 1  # the first was spent

    def test_acknowledgements(self) -> None:
        assert endured(Rig(), forever(raw(SETTINGS, 1))) == REQUEST_LIMITS.settings_allowance - 1

    def test_settings_of_many_values_cost_no_more(self) -> None:
        """Each changes the windows of all streams; only the last counts."""
        rig = Rig()
        for number in range(100):
            rig.request(1 + 2 * number, POST, end=False)
        values = b"".join(struct.pack(">HI", 4, 65_535 + number) for number in range(2000))
        rig.feed(raw(SETTINGS, 0, 0, values))
        assert rig.streams[0]._window == 65_535 + 1999

    def test_ping(self) -> None:
        assert endured(Rig(), forever(raw(PING, 0, 0, bytes(8)))) == REQUEST_LIMITS.ping_allowance

    def test_a_ping_for_each_piece_of_data_is_fine(self) -> None:
        rig = Rig()
        rig.request(1, POST, end=False)
        for _ in range(3000):
            rig.feed(raw(DATA, 0, 1, b"x"), raw(PING, 0, 0, bytes(8)))
            rig.sent()

    @pytest.mark.parametrize("frame", [raw(DATA, 0, 1), raw(DATA, PADDED, 1, b"\x05" + bytes(5))])
    def test_empty_data(self, frame: bytes) -> None:
        rig = Rig()
        rig.request(1, POST, end=False)
        assert endured(rig, forever(frame)) == REQUEST_LIMITS.empty_allowance

    def test_empty_continuations(self) -> None:
        rig = Rig()
        frames = iter([raw(HEADERS, 0, 1), *[raw(CONTINUATION, 0, 1)] * 1000])
        assert endured(rig, frames) == REQUEST_LIMITS.max_continuations + 1

    def test_empty_blocks(self) -> None:
        rig = Rig()
        get = rig.encoder.encode([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b"host", b"a")])
        numbers = range(1, 100_000, 2)
        frames = (raw(HEADERS, 0, n) + raw(CONTINUATION, 0, n) + raw(CONTINUATION, 4, n, get) for n in numbers)
        assert endured(rig, frames) < 200

    def test_continuations(self) -> None:
        rig = Rig()
        frames = iter([raw(HEADERS, 0, 1, b"\x82"), *[raw(CONTINUATION, 0, 1, b"\x00\x01a\x01b")] * 1000])
        assert endured(rig, frames) == REQUEST_LIMITS.max_continuations + 1

    def test_window_updates(self) -> None:
        rig = Rig()
        rig.request(1, POST, end=False)
        assert endured(rig, forever(window_update(1, 1))) == REQUEST_LIMITS.window_allowance
        assert endured(Rig(), forever(window_update(0, 1))) == REQUEST_LIMITS.window_allowance

    def test_two_window_updates_for_each_frame_are_fine(self) -> None:
        rig = Rig()
        stream = rig.request()
        for _ in range(3000):
            stream.send_data(bytes(100))
            rig.feed(window_update(0, 100), window_update(1, 100))
            rig.sent()

    def test_priority(self) -> None:
        assert endured(Rig(), forever(raw(PRIORITY, 0, 5, bytes(5)))) == REQUEST_LIMITS.ignored_allowance

    def test_unknown_frames(self) -> None:
        assert endured(Rig(), forever(raw(0x42))) == REQUEST_LIMITS.ignored_allowance

    def test_frames_for_closed_streams(self) -> None:
        rig = Rig()
        rig.request().send_head(OK_HEAD, end=True)
        assert endured(rig, forever(rst_stream(1))) <= REQUEST_LIMITS.ignored_allowance + 4

    @pytest.mark.parametrize("role", ["server", "client"])
    def test_goaway(self, role: str) -> None:
        assert endured(Rig(role), forever(goaway(0))) <= REQUEST_LIMITS.ignored_allowance + 1

    def test_time_refills_every_allowance(self) -> None:
        rig = Rig()
        flood = raw(PING, 0, 0, bytes(8)) + raw(0x42) + raw(DATA, 0, 1) + window_update(0, 1)
        rig.request(1, POST, end=False)
        for _ in range(100):
            for _ in range(12):
                rig.feed(flood)
            rig.feed(settings())
            rig.connection.refill()
            rig.sent()


class TestWhatIsHeld:
    def test_answers_that_are_not_read(self) -> None:
        rig = Rig()
        rig.connection.pause()
        stream = rig.request(1, POST, end=False)
        both = raw(DATA, 0, 1, b"x") + raw(PING, 0, 0, bytes(8))  # the one pays for the other
        for _ in range(REQUEST_LIMITS.max_unsent_answers):
            rig.feed(both)
        with pytest.raises(Broken) as caught:
            rig.feed(both)
        assert caught.value.over_budget
        assert len(b"".join(rig.connection.out)) < 20_000
        assert stream.kinds == ["head", "data"]

    def test_reading_again_forgives(self) -> None:
        rig = Rig()
        rig.request(1, POST, end=False)
        for _ in range(4):
            rig.connection.pause()
            for _ in range(900):
                rig.feed(raw(DATA, 0, 1, b"x"), raw(PING, 0, 0, bytes(8)))
            rig.connection.resume()
            rig.sent()

    def test_a_block_is_gathered_up_to_its_limit(self) -> None:
        rig = Rig()
        frames = iter([raw(HEADERS, 0, 1, bytes(16_384)), *[raw(CONTINUATION, 0, 1, bytes(16_384))] * 9])
        assert endured(rig, frames) == 4
        assert len(rig.connection._gathered) <= 5 * 16_384

    def test_hpack_bomb(self) -> None:
        rig = Rig()
        entry = b"\x40\x01x" + b"\x7f\x81\x1e" + b"v" * 3968
        rig.feed(raw(HEADERS, 5, 1, b"\x82\x86\x84\x01\x01a" + entry))
        assert rig.broken_by(raw(HEADERS, 5, 3, b"\x82\x86\x84\x01\x01a" + b"\xbe" * 65)).code is CALM

    def test_a_list_over_the_limit_is_refused_and_the_connection_lives(self) -> None:
        rig = Rig()
        entry = b"\x40\x01x" + b"\x7f\x81\x1e" + b"v" * 3968
        rig.feed(raw(HEADERS, 5, 1, b"\x82\x86\x84\x01\x01a" + entry))
        rig.feed(raw(HEADERS, 5, 3, b"\x82\x86\x84\x01\x01a" + b"\xbe" * 20))
        assert rig.streams[1].calls[0] == ("refused", 431, "http2.headers_too_large")
        assert rig.request(5).kinds == ["head", "end"]

    def test_many_names_of_length_0(self) -> None:
        rig = Rig()
        rig.feed(raw(HEADERS, 5, 1, b"\x82\x86\x84\x01\x01a" + b"\x00\x00\x00" * 90))
        assert rig.connection.malformed == 1
        rig.feed(raw(HEADERS, 5, 3, b"\x82\x86\x84\x01\x01a" + b"\x00\x00\x00" * 390))
        assert rig.streams[0].calls[0] == ("refused", 431, "http2.too_many_headers")
        assert rig.broken_by(raw(HEADERS, 5, 5, b"\x82\x86\x84\x01\x01a" + b"\x00\x00\x00" * 5000)).code is CALM

    def test_interim_responses(self) -> None:
        rig = Rig("client")
        stream, other = rig.open(), rig.open()
        for _ in range(17):
            rig.feed(rig.headers(1, [(b":status", b"103")], end=False))
        assert stream.kinds == ["head"] * 16 + ["reset"]
        assert stream.fault == "too many interim responses"
        rig.feed(rig.headers(3, OK))
        assert other.kinds == ["head", "end"]

    def test_a_window_that_never_opens_is_seen(self) -> None:
        rig = Rig(peer_settings={4: 0})
        stream = rig.request()
        assert not stream.stalled
        stream.send_data(b"x" * 1000)
        assert stream.stalled
        assert stream.queued == 1000
        rig.feed(window_update(1, 1000))
        assert not stream.stalled

    def test_a_million_streams_leave_nothing(self) -> None:
        """A thousand of each kind; what is remembered of them is bounded by names of their own."""
        rig = Rig()
        for number in range(0, 6000, 6):
            rig.request(1 + number).send_head(OK_HEAD, end=True)
            rig.request(3 + number, POST, end=False).reset(ErrorCode.CANCEL)
            rig.sent()
        connection = rig.connection
        assert connection.streams == {}
        assert len(connection._past.resets) <= 1024
        assert len(connection._past.skips) <= 16
        assert len(connection.encoder.remembered) <= 128


class TestAllowance:
    def test_spends_earns_and_is_never_more_than_full(self) -> None:
        allowance = Allowance(10, 2)
        assert all(allowance.spend(0) for _ in range(10))
        assert not allowance.spend(0)
        assert allowance.spend(1)  # earned two, one of which was owed
        assert not allowance.spend(1)
        assert allowance.spend(1000)
        assert allowance.left == 9

    def test_time_earns_a_quarter(self) -> None:
        allowance = Allowance(16, 0)
        for _ in range(16):
            allowance.spend(0)
        allowance.refill()
        assert allowance.left == 5
        for _ in range(20):
            allowance.refill()
        assert allowance.left == 16
