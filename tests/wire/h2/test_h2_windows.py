"""RFC 9113 §5.2 and §6.9, as laws: the sum of what is sent is never above what was granted, whoever is blocked wakes,
those who wait take turns, and what a paused stream can be sent is bounded.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.h2 import ErrorCode, FieldBlock, Settings
from tests.differential.depth import laws
from tests.wire.h2.h2_rig import (
    DATA,
    END_STREAM,
    OK,
    PADDED,
    POST,
    RST_STREAM,
    WINDOW_UPDATE,
    Frame,
    Rig,
    raw,
    settings,
    window_update,
)

OK_HEAD = FieldBlock(OK)
FIRST = 65_535


def data_of(frames: list[Frame], stream_id: int | None = None) -> bytes:
    return b"".join(f.payload for f in frames if f.kind == DATA and stream_id in (None, f.stream_id))


class TestSending:
    def test_no_more_than_was_granted(self) -> None:
        rig = Rig()
        stream = rig.request()
        stream.send_data(bytes(100_000), True)
        assert len(data_of(rig.sent())) == FIRST
        assert stream.stalled
        rig.feed(window_update(1, 10))
        assert rig.sent() == []  # the connection's window is used up too
        rig.feed(window_update(0, 7))
        assert len(data_of(rig.sent())) == 7
        rig.feed(window_update(0, 1 << 20))
        assert len(data_of(rig.sent())) == 3
        rig.feed(window_update(1, 1 << 20))
        frames = rig.sent()
        assert len(data_of(frames)) == 100_000 - FIRST - 10
        assert frames[-1].flags == END_STREAM
        assert not stream.stalled
        assert stream.kinds == ["head", "end", "drained"]

    def test_what_was_sent_is_what_arrives(self) -> None:
        rig = Rig()
        stream = rig.request()
        pieces = [bytes((number,)) * (number * 997) for number in range(60)]
        for piece in pieces:
            stream.send_data(piece)
        arrived = data_of(rig.sent())
        for _ in range(200):
            rig.feed(window_update(0, 9_999), window_update(1, 9_999))
            arrived += data_of(rig.sent())
        assert arrived == b"".join(pieces)

    def test_frames_are_at_most_16_kib(self) -> None:
        rig = Rig(peer_settings={4: 1 << 20, 5: 1 << 20})
        rig.feed(window_update(0, 1 << 20))
        rig.request().send_data(bytes(100_000))
        assert [len(frame.payload) for frame in rig.sent()] == [16_384] * 6 + [100_000 % 16_384]

    def test_one_blocked_stream_blocks_no_other(self) -> None:
        rig = Rig()
        rig.feed(window_update(0, 1 << 20))
        blocked, free = rig.request(1), rig.request(3)
        blocked.send_data(bytes(70_000))
        free.send_data(b"x")
        assert data_of(rig.sent(), 3) == b"x"

    def test_those_who_wait_take_turns(self) -> None:
        rig = Rig(peer_settings={4: 1 << 20})
        streams = [rig.request(number) for number in (1, 3, 5)]
        streams[0].send_data(bytes(FIRST))
        rig.sent()
        for stream in streams:
            stream.send_data(bytes(50_000))
        rig.feed(window_update(0, 6 * 16_384))
        assert [frame.stream_id for frame in rig.sent()] == [1, 3, 5, 1, 3, 5]
        newcomer = rig.request(7)
        rig.feed(window_update(0, 16_384))
        newcomer.send_data(b"late")
        rig.feed(window_update(0, 1 << 20))
        order = [frame.stream_id for frame in rig.sent()]
        assert order[:5] == [1, 3, 5, 1, 7]

    def test_nobody_overtakes_while_one_is_ready(self) -> None:
        rig = Rig()
        first, second = rig.request(1), rig.request(3)
        rig.connection.pause()
        first.send_data(b"first")
        second.send_data(b"second")
        assert (first.queued, second.queued) == (5, 6)
        assert not first.stalled  # it is the transport that it waits for
        assert rig.sent() == []
        rig.connection.resume()
        assert [frame.stream_id for frame in rig.sent()] == [1, 3]

    def test_heads_and_trailers_pass_a_paused_transport_in_order(self) -> None:
        rig = Rig()
        stream, other = rig.request(1), rig.request(3)
        rig.connection.pause()
        stream.send_head(OK_HEAD)
        stream.send_data(b"x")
        stream.send_trailers([(b"a", b"b")])
        other.send_head(OK_HEAD, end=True)
        assert [(frame.kind, frame.stream_id) for frame in rig.sent()] == [(1, 1), (1, 3)]
        rig.connection.resume()
        assert [(frame.kind, frame.flags) for frame in rig.sent()] == [(DATA, 0), (1, 5)]

    def test_settings_move_open_windows_below_zero_and_back(self) -> None:
        rig = Rig()
        rig.feed(window_update(0, 1 << 20))
        stream = rig.request()
        stream.send_data(bytes(60_000))
        rig.sent()
        rig.feed(settings({4: 10_000}))
        rig.sent()
        stream.send_data(bytes(10))
        assert stream.stalled
        rig.feed(window_update(1, 50_000))
        assert rig.sent() == []
        rig.feed(window_update(1, 4))
        assert len(data_of(rig.sent())) == 4
        rig.feed(settings({4: 10_006}))
        assert len(data_of(rig.sent())) == 6

    def test_an_empty_end_needs_no_window(self) -> None:
        rig = Rig(peer_settings={4: 0})
        stream = rig.request()
        stream.send_data(b"", True)
        assert rig.sent()[0].flags == END_STREAM
        assert stream.closed

    def test_empty_data_is_nothing(self) -> None:
        rig = Rig()
        rig.request().send_data(b"")
        assert rig.sent() == []

    def test_a_stream_that_is_reset_while_it_waits(self) -> None:
        rig = Rig()
        first, second = rig.request(1), rig.request(3)
        first.send_data(bytes(FIRST))
        for stream in (first, second):
            stream.send_data(b"waits")
        rig.sent()
        first.reset(ErrorCode.CANCEL)
        assert first.queued == 0
        rig.feed(window_update(0, 100))
        assert data_of(rig.sent()) == b"waits"

    def test_sending_from_within_on_drained(self) -> None:
        rig = Rig()
        stream = rig.request()
        stream.send_data(bytes(70_000))
        drained = type(stream).on_drained

        class Goes(type(stream)):  # type: ignore[misc]
            def on_drained(self) -> None:
                drained(self)
                if not self.local_ended:
                    self.send_data(b"more", True)

        stream.__class__ = Goes
        rig.sent()
        rig.feed(window_update(1, 1 << 20), window_update(0, 1 << 20))
        frames = rig.sent()
        assert data_of(frames).endswith(b"more")
        assert frames[-1].flags == END_STREAM
        assert stream.closed

    def test_a_fault_of_ours_in_on_drained_stops_nobody_else(self) -> None:
        rig = Rig()
        stream, other = rig.request(1), rig.request(3)

        class Faulty(type(stream)):  # type: ignore[misc]
            def on_drained(self) -> None:
                raise LookupError

        stream.__class__ = Faulty
        rig.connection.pause()
        stream.send_data(b"x")
        other.send_data(b"y")
        with pytest.raises(LookupError):
            rig.connection.resume()
        rig.feed(window_update(0, 1))
        assert data_of(rig.sent()) == b"xy"

    @laws(60)
    @given(st.data())
    def test_the_sum_of_what_is_sent_is_never_above_what_was_granted(self, data: st.DataObject) -> None:
        initial = data.draw(st.integers(0, 40_000))
        rig = Rig(peer_settings={4: initial})
        granted = {0: FIRST, 1: initial, 3: initial, 5: initial}
        sent = dict.fromkeys(granted, 0)
        wanted = {1: b"", 3: b"", 5: b""}
        arrived = {1: b"", 3: b"", 5: b""}
        streams = {number: rig.request(number) for number in (1, 3, 5)}
        step = st.tuples(
            st.sampled_from(["send", "window", "settings", "pause", "resume"]),
            st.sampled_from([0, 1, 3, 5]),
            st.integers(1, 60_000),
        )

        def account() -> None:
            for frame in rig.sent():
                if frame.kind == DATA:
                    arrived[frame.stream_id] += frame.payload
                    sent[frame.stream_id] += len(frame.payload)
                    sent[0] += len(frame.payload)
                    assert sent[frame.stream_id] <= granted[frame.stream_id]  # of a window below 0 nothing is sent
                    assert sent[0] <= granted[0]

        for what, number, amount in data.draw(st.lists(step, max_size=25)):
            if what == "send" and number:
                piece = bytes((number,)) * amount
                wanted[number] += piece
                streams[number].send_data(piece)
            elif what == "window":
                granted[number] += amount
                rig.feed(window_update(number, amount))
            elif what == "settings":
                for stream_id in (1, 3, 5):
                    granted[stream_id] += amount - initial
                initial = amount
                rig.feed(settings({4: amount}))
            elif what == "pause":
                rig.connection.pause()
            else:
                rig.connection.resume()
            account()
        rig.connection.resume()
        for number in granted:
            rig.feed(window_update(number, 1_000_000_000))
            granted[number] += 1_000_000_000
        account()
        for number, stream in streams.items():
            assert arrived[number] == wanted[number]
            assert stream.queued == 0


class TestReceiving:
    SMALL = Settings(stream_window_bytes=70_000, connection_window_bytes=100_000)

    def test_a_stream_is_granted_more_at_half_and_the_connection_at_a_quarter(self) -> None:
        rig = Rig(ours=self.SMALL)
        rig.request(fields=POST, end=False)
        rig.feed(raw(DATA, 0, 1, bytes(16_000)), raw(DATA, 0, 1, bytes(8_999)))
        assert rig.sent() == []
        rig.feed(raw(DATA, 0, 1, b"x"))
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(0, 25_000)]
        rig.feed(raw(DATA, 0, 1, bytes(9_999)))
        assert rig.sent() == []
        rig.feed(raw(DATA, 0, 1, b"x"))
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(1, 35_000)]

    def test_padding_counts(self) -> None:
        rig = Rig(ours=self.SMALL)
        rig.request(fields=POST, end=False)
        for _ in range(140):
            rig.feed(raw(DATA, PADDED, 1, b"\xf9" + bytes(250)))
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(0, 100 * 251), (1, 140 * 251)]

    def test_the_last_frame_earns_its_stream_nothing(self) -> None:
        rig = Rig(ours=self.SMALL)
        rig.request(fields=POST, end=False)
        rig.feed(raw(DATA, 0, 1, bytes(16_000)) * 2, raw(DATA, END_STREAM, 1, bytes(16_000)))
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(0, 32_000)]

    def test_more_than_the_stream_lets_in(self) -> None:
        rig = Rig(ours=Settings(stream_window_bytes=70_000))
        stream = rig.request(fields=POST, end=False)
        stream.pause()
        rig.feed(raw(DATA, 0, 1, bytes(14_000)) * 5)
        assert rig.sent() == []
        rig.feed(raw(DATA, 0, 1, b"x"))
        assert stream.was_reset is ErrorCode.FLOW_CONTROL_ERROR
        assert len(stream.body) == 70_000
        assert [frame.kind for frame in rig.sent()] == [RST_STREAM]

    def test_more_than_the_connection_lets_in(self) -> None:
        rig = Rig(ours=self.SMALL)
        for number in (1, 3):
            rig.request(number, POST, end=False).pause()
            rig.feed(raw(DATA, 0, number, bytes(10_000)) * 5)
        assert rig.broken_by(raw(DATA, 0, 3, b"x")).code is ErrorCode.FLOW_CONTROL_ERROR

    def test_a_paused_stream_earns_nothing_until_it_goes_on(self) -> None:
        rig = Rig(ours=self.SMALL)
        paused, other = rig.request(1, POST, end=False), rig.request(3, POST, end=False)
        rig.feed(raw(DATA, 0, 1, bytes(10_000)))
        paused.pause()
        rig.feed(raw(DATA, 0, 1, bytes(10_000)) * 5)
        assert rig.sent() == []
        rig.feed(raw(DATA, 0, 3, bytes(2_500)))  # with what came before the pause, a quarter of what is not held
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(0, 12_500)]
        rig.feed(raw(DATA, 0, 3, bytes(10_000)) * 3, raw(DATA, 0, 3, bytes(7_500)))
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(0, 20_000), (0, 17_500), (3, 40_000)]
        assert not other.closed
        paused.resume()
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(0, 50_000), (1, 60_000)]
        paused.resume()
        assert rig.sent() == []
        rig.feed(raw(DATA, 0, 1, bytes(10_000)) * 4)
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(0, 30_000), (1, 40_000)]

    def test_going_on_behind_the_end(self) -> None:
        rig = Rig(ours=self.SMALL)
        stream = rig.request(1, POST, end=False)
        stream.pause()
        rig.feed(raw(DATA, 0, 1, bytes(10_000)) * 5, raw(DATA, END_STREAM, 1, bytes(10_000)))
        stream.resume()
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(0, 60_000)]

    @pytest.mark.parametrize("how", ["reset", "peer", "end"])
    def test_a_paused_stream_that_is_over_gives_back_what_it_held(self, how: str) -> None:
        rig = Rig(ours=self.SMALL)
        stream = rig.request(1, POST, end=False)
        stream.pause()
        rig.feed(raw(DATA, 0, 1, bytes(10_000)) * 6)
        if how == "reset":
            stream.reset(ErrorCode.CANCEL)
        elif how == "peer":
            rig.feed(raw(RST_STREAM, 0, 1, bytes(4)))
        else:
            rig.feed(raw(DATA, END_STREAM, 1))
            stream.send_head(OK_HEAD, end=True)
        updates = [(frame.stream_id, frame.number) for frame in rig.sent() if frame.kind == WINDOW_UPDATE]
        assert updates == [(0, 60_000)]
        assert rig.connection._held == 0

    def test_a_connection_is_clogged_while_half_of_its_window_is_held(self) -> None:
        rig = Rig("client", ours=self.SMALL)
        streams = [rig.open(), rig.open()]
        for stream in streams:
            rig.feed(rig.headers(stream.id, [(b":status", b"200")], end=False))
            stream.pause()
        rig.feed(raw(DATA, 0, 1, bytes(10_000)) * 4)
        assert not rig.connection.is_clogged
        rig.feed(raw(DATA, 0, 3, bytes(10_000)))
        assert rig.connection.is_clogged
        assert rig.capacities == 0
        streams[1].resume()
        assert not rig.connection.is_clogged
        assert rig.capacities == 1
        streams[0].resume()
        assert rig.capacities == 1  # it was not clogged before

    def test_what_is_not_held_is_given_back_however_little(self) -> None:
        rig = Rig(ours=self.SMALL)
        rig.request(1, POST, end=False).pause()
        rig.request(3, POST, end=False).pause()
        rig.request(5, POST, end=False)
        rig.feed(raw(DATA, 0, 1, bytes(10_000)) * 5, raw(DATA, 0, 3, bytes(10_000)) * 4)
        for _ in range(20):
            rig.feed(raw(DATA, 0, 5, bytes(5_000)))
            assert (0, 5_000) in [(frame.stream_id, frame.number) for frame in rig.sent()]

    def test_data_for_a_stream_that_was_reset_counts_for_the_connection(self) -> None:
        rig = Rig(ours=self.SMALL)
        rig.request(1, POST, end=False).reset(ErrorCode.NO_ERROR)
        rig.sent()
        frame = raw(DATA, PADDED, 1, b"\x09" + bytes(9_999))
        rig.feed(frame * 4, frame[:50])
        rig.feed(frame[50:])
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(0, 30_000)]
        rig.feed(frame)
        assert [(frame.stream_id, frame.number) for frame in rig.sent()] == [(0, 30_000)]

    @laws(40)
    @given(
        st.lists(
            st.tuples(st.sampled_from([1, 3]), st.sampled_from(["data", "pause", "resume"]), st.integers(1, 16_384))
        )
    )
    def test_a_peer_that_keeps_to_its_windows_is_never_refused_and_never_starves(
        self, steps: list[tuple[int, str, int]]
    ) -> None:
        rig = Rig(ours=self.SMALL)
        windows = {0: 100_000, 1: 70_000, 3: 70_000}
        streams = {number: rig.request(number, POST, end=False) for number in (1, 3)}
        for number, what, amount in steps:
            if what == "data":
                amount = min(amount, windows[0], windows[number])
                if amount:
                    rig.feed(raw(DATA, 0, number, bytes(amount)))
                    windows[0] -= amount
                    windows[number] -= amount
            elif what == "pause":
                streams[number].pause()
            else:
                streams[number].resume()
            for frame in rig.sent():
                assert frame.kind == WINDOW_UPDATE
                windows[frame.stream_id] += frame.number
        for stream in streams.values():
            stream.resume()
        for frame in rig.sent():
            windows[frame.stream_id] += frame.number
        assert 50_000 < windows[0] <= 100_000
        assert all(35_000 < windows[number] <= 70_000 for number in (1, 3))
