"""RFC 9113 §3 to §7, section by section: frames, and what they do to a stream and to the connection."""

from __future__ import annotations

import struct

import pytest

from proxy.wire.h2 import SERVER_SETTINGS, Broken, ErrorCode, FieldBlock, H2Limits, Settings
from tests.wire.h2.h2_rig import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    OK,
    PADDED,
    PING,
    POST,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Heard,
    Rig,
    cut,
    goaway,
    raw,
    rst_stream,
    settings,
    window_update,
)

PROTOCOL_ERROR = ErrorCode.PROTOCOL_ERROR
FRAME_SIZE_ERROR = ErrorCode.FRAME_SIZE_ERROR
FLOW_CONTROL_ERROR = ErrorCode.FLOW_CONTROL_ERROR

OK_HEAD = FieldBlock(OK)
SERVED = FieldBlock([*OK, (b"server", b"somebody"), (b"x-same", b"always")])


def bare(role: str) -> Rig:
    """Nothing has been received yet."""
    rig = Rig.__new__(Rig)
    rig.streams = []
    rig.goaways = rig.capacities = 0
    rig.told = False
    rig.stream_class = Heard
    full = Rig(role)
    rig.encoder, rig.decoder = full.encoder, full.decoder
    rig.connection = type(full.connection)(
        rig,
        rig._new_stream if role == "server" else None,
        SERVER_SETTINGS,
        H2Limits(),
    )
    return rig


def only_reset(rig: Rig, stream_id: int, code: ErrorCode) -> None:
    """The stream was reset, and the connection lives."""
    assert [(frame.kind, frame.stream_id, frame.number) for frame in rig.sent()] == [(RST_STREAM, stream_id, code)]
    rig.feed(raw(PING, 0, 0, b"12345678"))
    assert [frame.kind for frame in rig.sent()] == [PING]


class TestPreface3_4:
    def test_the_client_says_it_first_and_then_settings(self) -> None:
        rig = bare("client")
        rig.connection.start()
        said = b"".join(rig.connection.take())
        assert said.startswith(PREFACE)
        first, window = cut(said[len(PREFACE) :])
        values = dict(struct.iter_unpack(">HI", first.payload))
        assert (first.kind, first.flags, first.stream_id) == (SETTINGS, 0, 0)
        assert values == {2: 0, 4: SERVER_SETTINGS.stream_window_bytes, 6: 61_440}
        assert (window.kind, window.number) == (WINDOW_UPDATE, SERVER_SETTINGS.connection_window_bytes - 65_535)

    def test_the_server_says_settings(self) -> None:
        values = dict(struct.iter_unpack(">HI", cut(Rig().greeting)[0].payload))
        assert values == {3: 1024, 4: 1 << 20, 6: 61_440}

    def test_in_pieces(self) -> None:
        rig = bare("server")
        for octet in PREFACE + settings() + rig.headers(1, GET):
            rig.feed(bytes((octet,)))
        assert rig.streams[0].kinds == ["head", "end"]

    @pytest.mark.parametrize("wrong", [b"GET / HTTP/1.1\r\n\r\n", PREFACE[:-1] + b"x", b"\0"])
    def test_another_one(self, wrong: bytes) -> None:
        assert bare("server").broken_by(wrong).code is PROTOCOL_ERROR

    @pytest.mark.parametrize("role", ["server", "client"])
    @pytest.mark.parametrize("first", [raw(PING, 0, 0, bytes(8)), raw(SETTINGS, ACK), raw(HEADERS, 5, 1, b"\x82")])
    def test_first_frame_that_is_not_settings(self, role: str, first: bytes) -> None:
        rig = bare(role)
        assert rig.broken_by((PREFACE if role == "server" else b"") + first).code is PROTOCOL_ERROR

    def test_http_1_from_a_server(self) -> None:
        assert bare("client").broken_by(b"HTTP/1.1 400 Bad Request\r\n\r\n").code is PROTOCOL_ERROR

    def test_no_window_update_where_the_window_is_the_default(self) -> None:
        rig = Rig(ours=Settings(stream_window_bytes=65_535, connection_window_bytes=65_535))
        assert [frame.kind for frame in cut(rig.greeting)] == [SETTINGS]

    @pytest.mark.parametrize("window", [65_534, 1 << 31])
    def test_settings_that_cannot_be(self, window: int) -> None:
        with pytest.raises(ValueError, match="a window of"):
            Settings(stream_window_bytes=window)
        with pytest.raises(ValueError, match="a window of"):
            Settings(connection_window_bytes=window)


class TestFrameFormat4_1:
    def test_unknown_type_is_ignored(self) -> None:
        rig = Rig()
        rig.feed(raw(0x77, 0xFF, 1, b"anything"), raw(0x10, 0, 0, b"u=1"))
        assert rig.sent() == []
        assert rig.request().kinds == ["head", "end"]

    def test_undefined_flags_are_ignored(self) -> None:
        rig = Rig()
        rig.feed(raw(PING, 0xFE, 0, b"12345678"))
        assert [(frame.kind, frame.flags) for frame in rig.sent()] == [(PING, ACK)]
        rig.feed(rig.headers(1, GET, extra_flags=0xD2))
        assert rig.streams[0].kinds == ["head", "end"]

    def test_the_reserved_bit_is_ignored(self) -> None:
        rig = Rig()
        rig.feed(rig.headers(1 | 1 << 31, GET, end=False), raw(DATA, END_STREAM, 1 | 1 << 31, b"x"))
        assert rig.streams[0].kinds == ["head", "data", "end"]
        rig.feed(raw(PING, 0, 1 << 31, b"12345678"))
        assert [frame.kind for frame in rig.sent()] == [PING]


class TestFrameSize4_2:
    def test_the_largest(self) -> None:
        rig = Rig()
        stream = rig.request(fields=POST, end=False)
        rig.feed(raw(DATA, 0, 1, bytes(16_384)))
        assert len(stream.body) == 16_384

    @pytest.mark.parametrize("kind", [DATA, HEADERS, SETTINGS, 0x77])
    def test_one_more(self, kind: int) -> None:
        rig = Rig()
        rig.request(fields=POST, end=False)
        assert rig.broken_by(raw(kind, 0, 1, b"", length=16_385)).code is FRAME_SIZE_ERROR

    @pytest.mark.parametrize(
        "frame",
        [
            raw(DATA, PADDED, 1),
            raw(HEADERS, END_HEADERS | PADDED, 3),
            raw(HEADERS, END_HEADERS | WITH_PRIORITY, 3, bytes(4)),
            raw(HEADERS, END_HEADERS | WITH_PRIORITY | PADDED, 3, bytes(5)),
            raw(RST_STREAM, 0, 1, bytes(3)),
            raw(RST_STREAM, 0, 1, bytes(5)),
            raw(SETTINGS, 0, 0, bytes(5)),
            raw(SETTINGS, ACK, 0, bytes(6)),
            raw(PING, 0, 0, bytes(7)),
            raw(PING, 0, 0, bytes(9)),
            raw(GOAWAY, 0, 0, bytes(7)),
            raw(WINDOW_UPDATE, 0, 0, bytes(3)),
            raw(WINDOW_UPDATE, 0, 1, bytes(5)),
        ],
    )
    def test_too_small_or_not_the_size_that_it_has(self, frame: bytes) -> None:
        rig = Rig()
        rig.request(fields=POST, end=False)
        assert rig.broken_by(frame).code is FRAME_SIZE_ERROR


class TestFieldBlocks4_3:
    def test_in_continuations(self) -> None:
        rig = Rig()
        block = rig.encoder.encode(GET)
        rig.feed(raw(HEADERS, END_STREAM, 1, block[:1]), raw(CONTINUATION, 0, 1, block[1:3]), raw(CONTINUATION, 0, 1))
        assert rig.streams == []
        rig.feed(raw(CONTINUATION, END_HEADERS, 1, block[3:]))
        assert rig.streams[0].kinds == ["head", "end"]

    @pytest.mark.parametrize(
        "between", [raw(PING, 0, 0, bytes(8)), raw(DATA, 0, 1, b"x"), raw(0x77), raw(HEADERS, 4, 1)]
    )
    def test_anything_in_between(self, between: bytes) -> None:
        rig = Rig()
        assert rig.broken_by(raw(HEADERS, 0, 1, b"\x82"), between).code is PROTOCOL_ERROR

    def test_continuation_of_another_stream(self) -> None:
        assert Rig().broken_by(raw(HEADERS, 0, 1, b"\x82"), raw(CONTINUATION, 4, 3)).code is PROTOCOL_ERROR

    @pytest.mark.parametrize(
        "block", [b"\xff\xff\xff\xff\xff\xff\x00", b"\x80", b"\xc0", b"\x40\x05ab", b"\x3f\xff\x7f", b"\x40"]
    )
    def test_what_cannot_be_decompressed(self, block: bytes) -> None:
        assert Rig().broken_by(raw(HEADERS, 5, 1, block)).code is ErrorCode.COMPRESSION_ERROR

    def test_a_block_for_nobody_is_decompressed_all_the_same(self) -> None:
        rig = Rig()
        rig.feed(rig.headers(1, [(b":method", b"get"), (b"X", b"first")]))  # malformed
        rig.feed(
            rig.headers(3, [*GET, (b"x-new", b"in the table")]), rig.headers(5, [*GET, (b"x-new", b"in the table")])
        )
        assert [stream.heads[0].fields for stream in rig.streams] == [[(b"x-new", b"in the table")]] * 2

    def test_a_large_block_of_ours_is_split(self) -> None:
        rig = Rig()
        stream = rig.request()
        fields = [*OK, *((b"x-%d" % index, b"y" * 900) for index in range(40))]
        stream.send_head(FieldBlock(fields), end=True)
        frames = rig.sent()
        assert [(frame.kind, frame.flags) for frame in frames] == [
            (HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, END_HEADERS),
        ]  # fmt: skip
        frames[0].payload = b"".join(frame.payload for frame in frames)
        assert rig.fields_of(frames[0]) == fields


class TestStreamIdentifiers5_1_1:
    def test_even(self) -> None:
        rig = Rig()
        assert rig.broken_by(rig.headers(2, GET)).code is PROTOCOL_ERROR

    def test_below_the_latest_one(self) -> None:
        rig = Rig()
        rig.request(5)
        assert rig.broken_by(rig.headers(3, GET)).code is PROTOCOL_ERROR

    def test_skipping_is_allowed(self) -> None:
        rig = Rig()
        for stream_id in (1, 7, 9, 1001):
            assert rig.request(stream_id).id == stream_id

    def test_zero(self) -> None:
        rig = Rig()
        for kind in (DATA, PRIORITY, CONTINUATION):
            assert Rig().broken_by(raw(kind, 0, 0, bytes(5))).code is PROTOCOL_ERROR
        assert Rig().broken_by(rst_stream(0)).code is PROTOCOL_ERROR
        assert rig.broken_by(rig.headers(0, GET)).code is PROTOCOL_ERROR

    @pytest.mark.parametrize("frame", [raw(SETTINGS, 0, 1), raw(PING, 0, 1, bytes(8)), raw(GOAWAY, 0, 1, bytes(8))])
    def test_a_stream_where_none_belongs(self, frame: bytes) -> None:
        assert Rig().broken_by(frame).code is PROTOCOL_ERROR

    def test_ours_are_odd_and_rise(self) -> None:
        rig = Rig("client")
        assert [rig.open().id for _ in range(3)] == [1, 3, 5]

    def test_when_ours_run_out(self) -> None:
        rig = Rig("client")
        rig.connection._next_id = (1 << 31) - 1
        assert rig.connection.can_open
        assert rig.open().id == (1 << 31) - 1
        assert not rig.connection.can_open
        with pytest.raises(RuntimeError):
            rig.open()

    def test_a_stream_of_the_server(self) -> None:
        rig = Rig("client")
        rig.open()
        assert rig.broken_by(rig.headers(2, OK)).code is PROTOCOL_ERROR

    def test_a_stream_that_the_client_has_not_opened(self) -> None:
        rig = Rig("client")
        rig.open()
        assert rig.broken_by(rig.headers(3, OK)).code is PROTOCOL_ERROR


class TestConcurrency5_1_2:
    def test_one_too_many_is_refused(self) -> None:
        rig = Rig(ours=Settings(max_concurrent_streams=2))
        first = rig.request(1)
        rig.request(3)
        rig.feed(rig.headers(5, POST, end=False))
        only_reset(rig, 5, ErrorCode.REFUSED_STREAM)
        assert len(rig.streams) == 2
        rig.feed(raw(DATA, END_STREAM, 5, b"on its way"))
        first.reset(ErrorCode.CANCEL)
        rig.request(7)
        assert len(rig.streams) == 3

    def test_what_the_server_allows(self) -> None:
        rig = Rig("client", peer_settings={3: 2})
        first = rig.open()
        rig.open()
        assert not rig.connection.can_open
        with pytest.raises(RuntimeError):
            rig.open()
        rig.feed(rig.headers(first.id, OK))
        assert rig.connection.can_open
        assert rig.capacities == 1
        rig.open()
        rig.feed(settings({3: 3}))
        assert rig.capacities == 2
        assert rig.connection.can_open
        rig.feed(settings({3: 0}))
        assert rig.capacities == 2
        assert not rig.connection.can_open

    def test_what_we_allow_ourselves(self) -> None:
        rig = Rig("client", ours=Settings(max_concurrent_streams=3), peer_settings={3: 100})
        for _ in range(3):
            rig.open()
        assert not rig.connection.can_open

    def test_before_and_without_the_servers_word(self) -> None:
        rig = bare("client")
        for _ in range(100):
            rig.open()
        assert not rig.connection.can_open
        rig.feed(settings())
        assert rig.connection.can_open
        assert rig.capacities == 1

    def test_a_server_opens_none(self) -> None:
        rig = Rig()
        assert not rig.connection.can_open
        with pytest.raises(RuntimeError):
            rig.open()


class TestPriority5_3:
    def test_is_ignored(self) -> None:
        rig = Rig()
        rig.feed(raw(PRIORITY, 0, 5, b"\0\0\0\3\x10"))
        block = rig.encoder.encode(GET)
        rig.feed(raw(HEADERS, 5 | WITH_PRIORITY, 5, b"\x80\0\0\1\xff" + block))
        rig.feed(raw(PRIORITY, 0, 1, b"\0\0\0\3\x10"))
        assert rig.streams[0].kinds == ["head", "end"]
        assert rig.sent() == []

    def test_size(self) -> None:
        rig = Rig()
        stream = rig.request(fields=POST, end=False)
        rig.feed(raw(PRIORITY, 0, 1, bytes(4)))
        only_reset(rig, 1, FRAME_SIZE_ERROR)
        assert stream.was_reset is FRAME_SIZE_ERROR
        assert Rig().broken_by(raw(PRIORITY, 0, 1, bytes(6))).code is FRAME_SIZE_ERROR

    def test_on_itself(self) -> None:
        rig = Rig()
        block = rig.encoder.encode(GET)
        rig.feed(raw(HEADERS, 5 | WITH_PRIORITY, 1, b"\0\0\0\1\x10" + block))
        only_reset(rig, 1, PROTOCOL_ERROR)
        assert rig.streams == []
        rig.request(3, POST, end=False)
        rig.feed(raw(PRIORITY, 0, 3, b"\x80\0\0\3\x10"))
        only_reset(rig, 3, PROTOCOL_ERROR)
        rig.request(5, POST, end=False)
        rig.feed(raw(HEADERS, 5 | WITH_PRIORITY, 5, b"\0\0\0\5\x10" + rig.encoder.encode([(b"x", b"y")])))
        only_reset(rig, 5, PROTOCOL_ERROR)
        assert Rig().broken_by(raw(PRIORITY, 0, 2, b"\0\0\0\2\x10")).code is PROTOCOL_ERROR


class TestErrors5_4:
    def test_the_goaway_says_what_was_processed(self) -> None:
        rig = Rig()
        rig.request(1)
        rig.request(7)
        with pytest.raises(Broken, match="PROTOCOL_ERROR: CONTINUATION that continues nothing"):
            rig.feed(raw(CONTINUATION, 4, 7))
        assert rig.sent()[0].payload == struct.pack(">II", 7, PROTOCOL_ERROR)

    def test_a_lost_connection_resets_every_stream_once(self) -> None:
        rig = Rig()
        first, second = rig.request(1), rig.request(3)
        first.send_head(OK_HEAD)
        first.send_data(bytes(70_000))
        rig.connection.abandon()
        rig.connection.abandon()
        assert first.calls[-1] == second.calls[-1] == ("reset", ErrorCode.INTERNAL_ERROR, False)
        assert first.kinds.count("reset") == 1
        assert (first.queued, rig.connection.streams, first.closed) == (0, {}, True)
        first.send_data(b"ignored", True)
        first.send_trailers([(b"a", b"b")])
        first.send_head(OK_HEAD)
        first.reset(ErrorCode.CANCEL)
        first.resume()

    def test_abandoned_while_frames_are_read(self) -> None:
        class Abandoning(Heard):
            def on_data(self, data: bytes) -> None:
                super().on_data(data)
                rig.connection.abandon()

        rig = Rig(stream=Abandoning)
        rig.feed(
            rig.headers(1, POST, end=False), raw(DATA, 0, 1, b"x") + raw(DATA, END_STREAM, 1, b"y") + raw(PING)[:5]
        )
        assert rig.streams[0].kinds == ["head", "data", "reset"]
        assert rig.sent() == []


class TestData6_1:
    def test_padding(self) -> None:
        rig = Rig()
        stream = rig.request(fields=POST, end=False)
        rig.feed(raw(DATA, PADDED, 1, b"\x05hello" + bytes(5)), raw(DATA, PADDED | END_STREAM, 1, b"\x00!"))
        assert (stream.kinds, stream.body) == (["head", "data", "end"], b"hello!")

    def test_nothing_but_padding(self) -> None:
        rig = Rig()
        stream = rig.request(fields=POST, end=False)
        rig.feed(raw(DATA, PADDED, 1, b"\xff" + bytes(255)), raw(DATA, PADDED | END_STREAM, 1, b"\x02\0\0"))
        assert stream.kinds == ["head", "end"]

    @pytest.mark.parametrize("payload", [b"\x01", b"\x06hello", b"\xff"])
    def test_more_padding_than_frame(self, payload: bytes) -> None:
        rig = Rig()
        rig.request(fields=POST, end=False)
        assert rig.broken_by(raw(DATA, PADDED, 1, payload)).code is PROTOCOL_ERROR

    def test_is_heard_before_the_frame_is_whole(self) -> None:
        rig = Rig()
        stream = rig.request(fields=POST, end=False)
        frame = raw(DATA, PADDED | END_STREAM, 1, b"\x02hello\0\0")
        rig.feed(frame[:12])
        assert stream.body == b"he"
        rig.feed(frame[12:15])
        assert stream.kinds == ["head", "data", "end"]
        rig.feed(frame[15:] + raw(PING, 0, 0, bytes(8)))
        assert rig.sent()[-1].kind == PING

    def test_end_is_known_while_the_last_piece_is_heard(self) -> None:
        class Looking(Heard):
            def on_data(self, data: bytes) -> None:
                super().on_data(data)
                self.calls.append(("ended", self.remote_ended))

        rig = Rig(stream=Looking)
        stream = rig.request(fields=POST, end=False)
        rig.feed(raw(DATA, 0, 1, b"a"), raw(DATA, END_STREAM, 1, b"b"))
        assert stream.calls[1:] == [("data", b"a"), ("ended", False), ("data", b"b"), ("ended", True), ("end", None)]


class TestHeaders6_2:
    def test_padding_and_priority(self) -> None:
        rig = Rig()
        payload = b"\x03" + b"\0\0\0\0\x10" + rig.encoder.encode(GET) + bytes(3)
        rig.feed(raw(HEADERS, 5 | PADDED | WITH_PRIORITY, 1, payload))
        assert rig.streams[0].kinds == ["head", "end"]

    def test_more_padding_than_frame(self) -> None:
        assert Rig().broken_by(raw(HEADERS, 5 | PADDED, 1, b"\x05\x82\x86")).code is PROTOCOL_ERROR


class TestRstStream6_4:
    @pytest.mark.parametrize(
        ("number", "code"), [(8, ErrorCode.CANCEL), (0, ErrorCode.NO_ERROR), (999, ErrorCode.INTERNAL_ERROR)]
    )
    def test_is_heard(self, number: int, code: ErrorCode) -> None:
        rig = Rig()
        stream = rig.request()
        rig.feed(rst_stream(1, number))
        assert stream.calls[-1] == ("reset", code, False)
        assert rig.sent() == []
        stream.send_head(OK_HEAD, end=True)
        assert rig.sent() == []

    def test_refused_means_unprocessed(self) -> None:
        rig = Rig("client")
        stream = rig.open()
        rig.feed(rst_stream(1, ErrorCode.REFUSED_STREAM))
        assert stream.calls == [("reset", ErrorCode.REFUSED_STREAM, True)]
        assert rig.capacities == 1

    def test_behind_a_response(self) -> None:
        rig = Rig("client")
        stream = rig.open(end=False)
        rig.feed(rig.headers(1, OK), rst_stream(1, 0))
        assert stream.kinds == ["head", "end", "reset"]

    def test_idle(self) -> None:
        assert Rig().broken_by(rst_stream(1)).code is PROTOCOL_ERROR

    def test_what_we_reset_is_heard_no_more(self) -> None:
        rig = Rig()
        stream = rig.request(fields=POST, end=False)
        stream.reset(ErrorCode.NO_ERROR)
        only_reset(rig, 1, ErrorCode.NO_ERROR)
        rig.feed(raw(DATA, 0, 1, b"x"), rig.headers(1, [(b"a", b"b")]), rst_stream(1), window_update(1, 5))
        assert stream.kinds == ["head"]
        assert rig.sent() == []

    def test_reset_while_its_last_piece_is_heard(self) -> None:
        class Resetting(Heard):
            def on_data(self, data: bytes) -> None:
                super().on_data(data)
                self.reset(ErrorCode.CANCEL)

        rig = Rig("client", stream=Resetting)
        first, second = rig.open(), rig.open(end=False)
        for stream in (first, second):
            rig.feed(rig.headers(stream.id, OK, end=False), raw(DATA, END_STREAM, stream.id, b"x"))
            assert stream.kinds == ["head", "data"]
        assert [frame.stream_id for frame in rig.sent() if frame.kind == RST_STREAM] == [3]  # the other was complete

    def test_answered_while_its_head_is_heard(self) -> None:
        class Answering(Heard):
            def on_head(self, head: object) -> None:
                super().on_head(head)
                self.send_head(OK_HEAD, end=True)

        rig = Rig(stream=Answering)
        assert rig.request().kinds == ["head", "end"]
        assert rig.connection.streams == {}


class TestSettings6_5:
    def test_are_acknowledged_each(self) -> None:
        rig = Rig()
        rig.feed(settings(), settings({1: 100, 5: 20_000}), raw(SETTINGS, ACK))
        assert [(frame.kind, frame.flags, frame.payload) for frame in rig.sent()] == [(SETTINGS, ACK, b"")] * 2

    @pytest.mark.parametrize(
        ("setting", "value", "code"),
        [
            (2, 2, PROTOCOL_ERROR),
            (4, 1 << 31, FLOW_CONTROL_ERROR),
            (5, 16_383, PROTOCOL_ERROR),
            (5, 1 << 24, PROTOCOL_ERROR),
        ],
    )
    def test_out_of_range(self, setting: int, value: int, code: ErrorCode) -> None:
        assert Rig().broken_by(settings({setting: value})).code is code

    def test_a_server_that_would_push(self) -> None:
        assert Rig("client").broken_by(settings({2: 1})).code is PROTOCOL_ERROR
        Rig("client").feed(settings({2: 0}))
        Rig().feed(settings({2: 1}))

    def test_unknown_ones_are_ignored(self) -> None:
        rig = Rig()
        rig.feed(settings({0x4242: 1 << 31, 8: 7, 0: 0}))
        assert [frame.flags for frame in rig.sent()] == [ACK]

    def test_of_one_that_comes_twice_the_last_counts(self) -> None:
        rig = Rig("client")
        rig.feed(raw(SETTINGS, 0, 0, struct.pack(">HIHI", 3, 0, 3, 7)))
        for _ in range(7):
            rig.open()
        assert not rig.connection.can_open

    def test_table_size(self) -> None:
        rig = Rig(peer_settings={1: 0})
        rig.decoder.max_allowed_table_size = 0
        for stream_id in (1, 3, 5):
            rig.request(stream_id).send_head(SERVED, end=True)
            assert rig.fields_of(rig.sent()[0]) == list(SERVED.fields)
        assert rig.decoder.header_table.dynamic_entries == type(rig.decoder.header_table.dynamic_entries)()


class TestPush6_6:
    @pytest.mark.parametrize("role", ["server", "client"])
    def test_is_refused(self, role: str) -> None:
        rig = Rig(role)
        rig.request() if role == "server" else rig.open()
        assert rig.broken_by(raw(PUSH_PROMISE, 4, 1, b"\0\0\0\2\x82")).code is PROTOCOL_ERROR


class TestPing6_7:
    def test_comes_back(self) -> None:
        rig = Rig("client")
        rig.feed(raw(PING, 0, 0, b"abcdefgh"), raw(PING, ACK, 0, b"ijklmnop"))
        assert [(frame.flags, frame.payload) for frame in rig.sent()] == [(ACK, b"abcdefgh")]


class TestGoaway6_8:
    def test_the_server_goes_in_two_steps(self) -> None:
        rig = Rig()
        first = rig.request(1)
        rig.connection.go_away()
        advance, ping = rig.sent()
        assert (advance.kind, advance.payload) == (GOAWAY, struct.pack(">II", (1 << 31) - 1, 0))
        assert rig.connection.draining
        second = rig.request(3)  # was under way
        rig.feed(raw(PING, ACK, 0, b"somebody"), raw(PING, ACK, 0, ping.payload))
        (final,) = rig.sent()
        assert (final.kind, final.payload) == (GOAWAY, struct.pack(">II", 3, 0))
        rig.feed(rig.headers(5, [*POST, (b"x", b"y")], end=False), raw(DATA, END_STREAM, 5, b"x"))
        assert len(rig.streams) == 2
        assert rig.sent() == []
        for stream in (first, second):
            assert rig.capacities == (stream is second)
            stream.send_head(OK_HEAD, end=True)
        assert rig.capacities == 2
        assert rig.connection.streams == {}

    def test_the_second_call_is_the_second_step(self) -> None:
        rig = Rig()
        for _ in range(3):
            rig.connection.go_away()
        assert [frame.payload[:4] for frame in rig.sent() if frame.kind == GOAWAY] == [b"\x7f\xff\xff\xff", bytes(4)]

    def test_with_an_error_there_is_one_step(self) -> None:
        rig = Rig()
        rig.request(1)
        rig.connection.go_away(ErrorCode.ENHANCE_YOUR_CALM)
        assert [frame.payload for frame in rig.sent()] == [struct.pack(">II", 1, ErrorCode.ENHANCE_YOUR_CALM)]

    def test_the_client_goes(self) -> None:
        rig = Rig("client")
        stream = rig.open()
        rig.sent()
        rig.connection.go_away()
        assert [frame.payload for frame in rig.sent()] == [bytes(8)]
        assert not rig.connection.can_open
        rig.feed(rig.headers(1, OK))
        assert stream.kinds == ["head", "end"]

    def test_the_clients_streams_beyond_the_last_are_unprocessed(self) -> None:
        rig = Rig("client")
        first, second, third = rig.open(), rig.open(), rig.open()
        rig.feed(goaway((1 << 31) - 1))
        assert (rig.goaways, rig.connection.draining, rig.connection.can_open) == (1, True, False)
        assert first.calls == second.calls == []
        rig.feed(goaway(3))
        assert third.calls == [("reset", ErrorCode.REFUSED_STREAM, True)]
        assert rig.goaways == 1
        rig.feed(rig.headers(1, OK), rig.headers(3, OK))
        assert first.kinds == second.kinds == ["head", "end"]
        assert rig.capacities == 3

    def test_a_stream_that_is_reset_by_another_ones_end(self) -> None:
        class Chain(Heard):
            def on_reset(self, code: ErrorCode, unprocessed: bool) -> None:
                super().on_reset(code, unprocessed)
                for other in rig.streams:
                    other.reset(ErrorCode.CANCEL)

        rig = Rig("client", stream=Chain)
        rig.open()
        rig.open()
        rig.feed(goaway(0))
        assert [stream.kinds for stream in rig.streams] == [["reset"], []]

    def test_a_client_that_goes_is_served(self) -> None:
        rig = Rig()
        stream = rig.request(fields=POST, end=False)
        rig.feed(goaway(0), raw(DATA, END_STREAM, 1, b"x"))
        assert stream.kinds == ["head", "data", "end"]


class TestWindowUpdate6_9:
    def test_by_zero(self) -> None:
        rig = Rig()
        stream = rig.request(fields=POST, end=False)
        rig.feed(window_update(1, 0))
        only_reset(rig, 1, PROTOCOL_ERROR)
        assert stream.fault == "WINDOW_UPDATE by 0"
        assert rig.broken_by(window_update(0, 0)).code is PROTOCOL_ERROR

    def test_idle(self) -> None:
        assert Rig().broken_by(window_update(1, 1)).code is PROTOCOL_ERROR

    def test_above_the_largest_6_9_1(self) -> None:
        rig = Rig()
        stream = rig.request(fields=POST, end=False)
        rig.feed(window_update(1, (1 << 31) - 1 - 65_535))
        assert rig.sent() == []
        rig.feed(window_update(1, 1))
        only_reset(rig, 1, FLOW_CONTROL_ERROR)
        assert stream.was_reset is FLOW_CONTROL_ERROR
        assert rig.broken_by(window_update(0, (1 << 31) - 65_535)).code is FLOW_CONTROL_ERROR

    def test_settings_that_take_a_window_above_the_largest_6_9_2(self) -> None:
        rig = Rig()
        rig.request(fields=POST, end=False)
        rig.feed(window_update(1, 1000))
        assert rig.broken_by(settings({4: (1 << 31) - 1})).code is FLOW_CONTROL_ERROR
