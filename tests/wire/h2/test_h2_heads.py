"""RFC 9113 §8: what a field list means, and what is malformed. A malformed message is its stream's error: it is reset,
nothing of it is heard, and the connection lives.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy.wire import CHUNKED, NONE, Field
from proxy.wire.h2 import ErrorCode, FieldBlock, H2Limits, heads
from proxy.wire.h2.heads import forget_heads, request_head
from tests.wire.h2.h2_rig import (
    DATA,
    END_STREAM,
    GET,
    OK,
    PING,
    POST,
    RST_STREAM,
    Heard,
    Rig,
    raw,
)

PROTOCOL_ERROR = ErrorCode.PROTOCOL_ERROR
HEAD_BLOCK = FieldBlock([(b":method", b"HEAD"), *GET[1:]])


def without(name: bytes) -> list[Field]:
    return [field for field in GET if field[0] != name]


def changed(name: bytes, value: bytes) -> list[Field]:
    return [(name, value) if field[0] == name else field for field in GET]


def requested(fields: list[Field], end: bool = True) -> Any:
    return Rig().request(1, fields, end).heads[0]


def responded(fields: list[Field], end: bool = False, head: bool = False) -> Any:
    rig = Rig("client")
    stream = rig.open(HEAD_BLOCK, b"HEAD") if head else rig.open()
    rig.feed(rig.headers(1, fields, end))
    return stream.heads[0]


def lives(rig: Rig) -> None:
    rig.feed(raw(PING, 0, 0, bytes(8)))
    assert rig.sent()[-1].kind == PING


class TestRequests8_3_1:
    def test_the_head(self) -> None:
        head = requested([*GET, (b"x-one", b"1"), (b"x-two", b"")])
        assert (head.method, head.authority, head.path) == (b"GET", b"a.test", b"/")
        assert head.fields == [(b"x-one", b"1"), (b"x-two", b"")]
        assert (head.version, head.keep_alive, head.upgrade) == ((2, 0), True, None)
        assert (head.body, head.te_trailers, head.expects_continue) == (NONE, False, False)

    def test_options_asterisk(self) -> None:
        fields = [(b":method", b"OPTIONS"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"*")]
        assert requested(fields).path == b"*"

    def test_host_where_there_is_no_authority(self) -> None:
        head = requested([*without(b":authority"), (b"host", b"b.test:80"), (b"x", b"y")])
        assert (head.authority, head.fields) == (b"b.test:80", [(b"x", b"y")])

    def test_authority_wins_over_host(self) -> None:
        head = requested([*GET, (b"host", b"other.test")])
        assert (head.authority, head.fields) == (b"a.test", [])

    def test_neither_is_answered(self) -> None:
        rig = Rig()
        stream = rig.request(1, without(b":authority"), end=False)
        assert stream.calls == [("refused", 400, "missing_host_header")]
        rig.feed(raw(DATA, END_STREAM, 1, b"unread"))
        assert stream.kinds == ["refused", "data", "end"]
        stream.send_head(FieldBlock([(b":status", b"400")]), end=True)
        assert stream.closed

    @pytest.mark.parametrize("value", [b"trailers", b"Trailers"])
    def test_te(self, value: bytes) -> None:
        head = requested([*GET, (b"te", value)])
        assert head.te_trailers
        assert head.fields == []

    def test_expect(self) -> None:
        assert requested([*POST, (b"expect", b"100-Continue")], end=False).expects_continue
        assert not requested([*POST, (b"expect", b"100-continue")]).expects_continue
        assert not requested(
            [*POST, (b"expect", b"100-continue"), (b"content-length", b"0")], end=False
        ).expects_continue
        assert requested([*POST, (b"expect", b"else")], end=False).fields == [(b"expect", b"else")]

    def test_cookie_crumbs_8_2_3(self) -> None:
        head = requested([*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c=3")])
        assert head.fields == [(b"cookie", b"a=1; b=2; c=3"), (b"x", b"y")]

    def test_http2_settings_is_dropped(self) -> None:
        assert requested([*GET, (b"http2-settings", b"x")]).fields == []

    @pytest.mark.parametrize(
        ("fields", "end", "body"),
        [
            ([], True, NONE), ([], False, CHUNKED), ([(b"content-length", b"0")], True, 0),
            ([(b"content-length", b"0")], False, 0), ([(b"content-length", b"5")], False, 5),
        ],
    )  # fmt: skip
    def test_the_body(self, fields: list[Field], end: bool, body: int) -> None:
        head = requested([*POST, *fields], end)
        assert head.body == body
        assert head.fields == []

    def test_connect_8_5(self) -> None:
        head = requested([(b":method", b"CONNECT"), (b":authority", b"a.test:443")], end=False)
        assert (head.method, head.authority, head.path, head.body) == (b"CONNECT", b"a.test:443", b"", CHUNKED)

    @pytest.mark.parametrize(
        "fields",
        [
            without(b":method"), without(b":scheme"), without(b":path"), [], [(b"x", b"y")],
            changed(b":method", b""), changed(b":method", b"G T"), changed(b":path", b""), changed(b":path", b"x"),
            changed(b":path", b"*"), changed(b":path", b"/ "), changed(b":path", b"/#a"), changed(b":path", b"/\xff"),
            changed(b":path", b"http://a/"), changed(b":scheme", b""), changed(b":scheme", b"1http"),
            changed(b":authority", b"user@a.test"), changed(b":authority", b"a b"), changed(b":authority", b"a/b"),
            [*without(b":authority"), (b"host", b"a,b")], [*without(b":authority"), (b"host", b"a"), (b"host", b"a")],
            [*GET, (b":path", b"/")], [*GET, (b":method", b"GET")], [*GET, (b":unknown", b"x")],
            [*GET, (b":status", b"200")],
            [(b"x", b"y"), *GET], [GET[0], (b"x", b"y"), *GET[1:]],
            [*GET, (b":protocol", b"websocket")],
            [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]],
            [(b":method", b"CONNECT"), *GET[1:]], [(b":method", b"CONNECT")],
            [(b":method", b"CONNECT"), (b":authority", b"a b")],
            [*GET, (b"te", b"gzip")], [*GET, (b"te", b"trailers, gzip")],
            [*GET, (b"content-length", b"1")],
        ],
    )  # fmt: skip
    def test_malformed(self, fields: list[Field]) -> None:
        rig = Rig()
        rig.feed(rig.headers(1, fields))
        assert [(frame.kind, frame.number) for frame in rig.sent()] == [(RST_STREAM, PROTOCOL_ERROR)]
        assert (rig.streams, rig.connection.streams, rig.connection.malformed) == ([], {}, 1)
        rig.feed(raw(DATA, END_STREAM, 1, b"on its way"))
        assert rig.request(3).kinds == ["head", "end"]


class TestFields8_2:
    BAD: tuple[Field, ...] = (
        (b"Upper", b"a"), (b"", b"a"), (b"a b", b"c"), (b"a\0", b"b"), (b"a\xff", b"b"), (b"a:b", b"c"),
        (b"a\n", b"b"),
        (b"a", b"b\rc"), (b"a", b"b\nc"), (b"a", b"b\nc\nd"), (b"a", b"\0"), (b"a", b" b"), (b"a", b"b "),
        (b"a", b"\tb"),
        (b"a", b"b\t"), (b"a", b"\x01"), (b"a", b"\x7f"), (b"connection", b"close"), (b"keep-alive", b"5"),
        (b"proxy-connection", b"close"), (b"transfer-encoding", b"chunked"), (b"upgrade", b"websocket"),
        (b"content-length", b"+1"), (b"content-length", b"1, 1"), (b"content-length", b""),
        (b"content-length", b"9" * 20),
    )  # fmt: skip

    @pytest.mark.parametrize("bad", BAD)
    def test_in_a_request(self, bad: Field) -> None:
        rig = Rig()
        rig.feed(rig.headers(1, [*GET, bad], end=False))
        assert [(frame.kind, frame.number) for frame in rig.sent()] == [(RST_STREAM, PROTOCOL_ERROR)]
        lives(rig)

    @pytest.mark.parametrize("bad", BAD)
    def test_in_a_response(self, bad: Field) -> None:
        rig = Rig("client")
        stream = rig.open()
        rig.sent()
        rig.feed(rig.headers(1, [*OK, bad], end=False))
        assert stream.kinds == ["reset"]
        assert stream.was_reset is PROTOCOL_ERROR
        assert stream.fault
        assert [(frame.kind, frame.number) for frame in rig.sent()] == [(RST_STREAM, PROTOCOL_ERROR)]
        lives(rig)

    @pytest.mark.parametrize("bad", [bad for bad in BAD if bad[0] != b"content-length"])
    @pytest.mark.parametrize("role", ["server", "client"])
    def test_in_trailers(self, role: str, bad: Field) -> None:
        rig = Rig(role)
        stream = rig.request(1, POST, end=False) if role == "server" else rig.open()
        if role == "client":
            rig.feed(rig.headers(1, OK, end=False))
        rig.feed(rig.headers(1, [(b"a", b"b"), bad]))
        assert stream.kinds == ["head", "reset"]
        lives(rig)

    def test_obs_text_and_tabs_within_pass(self) -> None:
        assert requested([*GET, (b"x", b"a\tb \xff")]).fields == [(b"x", b"a\tb \xff")]


class TestContentLength8_1_1:
    @pytest.mark.parametrize("role", ["server", "client"])
    @pytest.mark.parametrize(
        "pieces",
        [[b"four", b""], [b"sixsix"], [b"", b""], [b"12345", b"6"], [b"1234567"]],
    )
    def test_a_body_of_another_length(self, role: str, pieces: list[bytes]) -> None:
        rig = Rig(role)
        length = (b"content-length", b"5")
        if role == "server":
            stream = rig.request(1, [*POST, length], end=False)
        else:
            stream = rig.open()
            rig.feed(rig.headers(1, [*OK, length], end=False))
        for index, piece in enumerate(pieces):
            rig.feed(raw(DATA, index == len(pieces) - 1, 1, piece))
        assert stream.kinds[-1] == "reset"
        assert stream.was_reset is PROTOCOL_ERROR
        assert len(stream.body) <= 5
        assert stream.fault == "body of another length than content-length says"
        lives(rig)

    def test_trailers_before_its_end(self) -> None:
        rig = Rig()
        stream = rig.request(1, [*POST, (b"content-length", b"5")], end=False)
        rig.feed(raw(DATA, 0, 1, b"four"), rig.headers(1, [(b"a", b"b")]))
        assert stream.kinds == ["head", "data", "reset"]

    def test_the_right_one(self) -> None:
        rig = Rig()
        stream = rig.request(1, [*POST, (b"content-length", b"5")], end=False)
        rig.feed(raw(DATA, 0, 1, b"four"), raw(DATA, END_STREAM, 1, b"5"))
        assert stream.kinds == ["head", "data", "end"]
        other = rig.request(3, [*POST, (b"content-length", b"5")], end=False)
        rig.feed(raw(DATA, 0, 3, b"12345"), rig.headers(3, [(b"a", b"b")]))
        assert other.calls[-1] == ("end", [(b"a", b"b")])


class TestResponses8_3_2:
    @pytest.mark.parametrize(
        ("fields", "end", "head", "body", "declared"),
        [
            (OK, False, False, CHUNKED, CHUNKED),
            (OK, True, False, 0, 0),
            ([*OK, (b"content-length", b"5")], False, False, 5, 5),
            ([*OK, (b"content-length", b"0")], True, False, 0, 0),
            ([*OK, (b"content-length", b"5")], True, True, NONE, 5),
            (OK, True, True, NONE, CHUNKED),
            ([(b":status", b"204")], True, False, NONE, NONE),
            ([(b":status", b"204"), (b"content-length", b"0")], True, False, NONE, NONE),
            ([(b":status", b"304")], True, False, NONE, NONE),
            ([(b":status", b"304"), (b"content-length", b"7")], True, False, NONE, 7),
            ([(b":status", b"999")], False, False, CHUNKED, CHUNKED),
        ],
    )
    def test_the_body(self, fields: list[Field], end: bool, head: bool, body: int, declared: int) -> None:
        found = responded(fields, end, head)
        assert (found.body, found.declared, found.fields) == (body, declared, [])
        assert (found.status, found.version, found.keep_alive) == (int(fields[0][1]), (2, 0), True)

    @pytest.mark.parametrize("fields", [[(b":status", b"204")], [(b":status", b"304")]])
    def test_a_body_where_there_is_none(self, fields: list[Field]) -> None:
        rig = Rig("client")
        stream = rig.open()
        rig.feed(rig.headers(1, fields, end=False), raw(DATA, 0, 1, b"x"))
        assert stream.kinds == ["head", "reset"]

    def test_an_end_behind_a_bodiless_head(self) -> None:
        rig = Rig("client")
        stream = rig.open(HEAD_BLOCK, b"HEAD")
        rig.feed(rig.headers(1, [*OK, (b"content-length", b"5")], end=False), raw(DATA, END_STREAM, 1))
        assert stream.kinds == ["head", "end"]

    @pytest.mark.parametrize(
        "fields",
        [
            [], [(b"x", b"y")], [(b":status", b"20")], [(b":status", b"2000")], [(b":status", b"099")],
            [(b":status", b"abc")], [(b":status", b"200"), (b":status", b"200")], [(b"x", b"y"), (b":status", b"200")],
            [(b":status", b"200"), (b":path", b"/")], [(b":method", b"GET")], [(b":status", b"101")],
            [(b":status", b"204"), (b"content-length", b"1")], [(b":status", b"100"), (b"content-length", b"1")],
        ],
    )  # fmt: skip
    def test_malformed(self, fields: list[Field]) -> None:
        rig = Rig("client")
        stream = rig.open()
        rig.feed(rig.headers(1, fields, end=False))
        assert stream.calls == [("reset", PROTOCOL_ERROR, False)]
        lives(rig)

    def test_interim_ones_come_first(self) -> None:
        rig = Rig("client")
        stream = rig.open()
        rig.feed(
            rig.headers(1, [(b":status", b"100")], end=False),
            rig.headers(1, [(b":status", b"103"), (b"link", b"</a>")], end=False),
            rig.headers(1, OK, end=False),
            raw(DATA, END_STREAM, 1, b"x"),
        )
        assert [head.status for head in stream.heads] == [100, 103, 200]
        assert stream.kinds == ["head", "head", "head", "data", "end"]

    def test_an_interim_one_that_ends(self) -> None:
        rig = Rig("client")
        stream = rig.open()
        rig.feed(rig.headers(1, [(b":status", b"100")]))
        assert stream.kinds == ["reset"]

    def test_te_is_dropped(self) -> None:
        assert responded([*OK, (b"te", b"x")]).fields == []


class TestTrailers8_1:
    def test_are_heard(self) -> None:
        rig = Rig("client")
        stream = rig.open()
        rig.feed(rig.headers(1, OK, end=False), raw(DATA, 0, 1, b"x"))
        rig.feed(rig.headers(1, [(b"grpc-status", b"0"), (b"grpc-message", b"")]))
        assert stream.calls[-1] == ("end", [(b"grpc-status", b"0"), (b"grpc-message", b"")])

    def test_a_request_has_them_too(self) -> None:
        rig = Rig()
        stream = rig.request(1, POST, end=False)
        rig.feed(rig.headers(1, [(b"x-checksum", b"1")]))
        assert stream.calls[-1] == ("end", [(b"x-checksum", b"1")])

    @pytest.mark.parametrize(
        "field", [(b"content-length", b"1"), (b"host", b"a"), (b"authorization", b"a"), (b"te", b"trailers")]
    )
    def test_a_request_s_may_not_say_what_a_head_says(self, field: Field) -> None:
        rig = Rig()
        stream = rig.request(1, POST, end=False)
        rig.feed(rig.headers(1, [field]))
        assert stream.kinds == ["head", "reset"]

    @pytest.mark.parametrize("field", [(b":path", b"/"), (b":status", b"200")])
    def test_pseudo_fields(self, field: Field) -> None:
        for role in ("server", "client"):
            rig = Rig(role)
            stream = rig.request(1, POST, end=False) if role == "server" else rig.open()
            if role == "client":
                rig.feed(rig.headers(1, OK, end=False))
            rig.feed(rig.headers(1, [field]))
            assert stream.kinds == ["head", "reset"]

    def test_without_the_end(self) -> None:
        rig = Rig()
        stream = rig.request(1, POST, end=False)
        rig.feed(rig.headers(1, [(b"a", b"b")], end=False))
        assert stream.kinds == ["head", "reset"]
        assert stream.was_reset is PROTOCOL_ERROR

    def test_ours(self) -> None:
        rig = Rig()
        stream = rig.request()
        stream.send_head(FieldBlock(OK))
        for wrong in ([(b":status", b"200")], [(b"A", b"b")]):
            with pytest.raises(ValueError, match=r"pseudo-field|carry"):
                stream.send_trailers(wrong)
        stream.send_trailers([(b"grpc-status", b"0")])
        frames = rig.sent()
        assert [rig.fields_of(frame) for frame in frames] == [OK, [(b"grpc-status", b"0")]]
        assert frames[-1].flags & END_STREAM


class TestSizes:
    def test_too_many_fields(self) -> None:
        rig = Rig()
        assert rig.request(1, [*GET, *[(b"x", b"y")] * 96]).kinds == ["head", "end"]
        assert rig.request(3, [*GET, *[(b"x", b"y")] * 97]).calls[0] == ("refused", 431, "http2.too_many_headers")

    def test_too_large_a_list(self) -> None:
        rig = Rig()
        fixed = sum(len(name) + len(value) + 32 for name, value in GET)
        fits = 61_440 - fixed - 33
        assert rig.request(1, [*GET, (b"x", b"y" * fits)]).kinds == ["head", "end"]
        assert rig.request(3, [*GET, (b"x", b"y" * (fits + 1))]).calls[0] == ("refused", 431, "http2.headers_too_large")

    def test_a_response_too_large(self) -> None:
        rig = Rig("client", limits=H2Limits(max_fields=3))
        stream = rig.open()
        rig.feed(rig.headers(1, [*OK, *[(b"x", b"y")] * 3]))
        assert stream.calls == [("reset", PROTOCOL_ERROR, False)]

    def test_trailers_too_large(self) -> None:
        rig = Rig(limits=H2Limits(max_fields=5))
        stream = rig.request(1, POST, end=False)
        rig.feed(rig.headers(1, [(b"x", b"y")] * 6))
        assert stream.kinds == ["head", "reset"]


class TestSharing:
    def test_equal_lists_are_the_same_head_on_every_connection(self) -> None:
        found = {
            id(stream.heads[0]) for rig in (Rig(), Rig()) for stream in (rig.request(1), rig.request(3), rig.request(5))
        }
        assert len(found) == 1

    def test_with_and_without_an_end_they_differ(self) -> None:
        rig = Rig()
        block = rig.headers(1, GET, end=False)
        rig.feed(block, rig.headers(3, GET, end=True), rig.headers(5, GET, end=False))
        assert [stream.heads[0].body for stream in rig.streams] == [CHUNKED, NONE, CHUNKED]

    def test_a_head_request_s_response_differs(self) -> None:
        rig = Rig("client")
        streams: list[Heard] = []
        for _ in range(2):
            streams += [rig.open(HEAD_BLOCK, b"HEAD"), rig.open()]
        for stream in streams:
            rig.feed(rig.headers(stream.id, [*OK, (b"content-length", b"5")], end=False))
        assert [stream.heads[0].body for stream in streams] == [NONE, 5, NONE, 5]

    def test_a_block_means_what_the_table_says_now(self) -> None:
        """The same bytes, before and after an insertion moved the table."""
        rig = Rig()
        get = b"\x82\x86\x84\x01\x01a"
        rig.feed(raw(1, 5, 1, get + b"\x40\x05x-one\x011"))
        rig.feed(raw(1, 5, 3, get + b"\xbe"), raw(1, 5, 5, get + b"\xbe"))
        rig.feed(raw(1, 5, 7, get + b"\x40\x05x-two\x012"))
        rig.feed(raw(1, 5, 9, get + b"\xbe"), raw(1, 5, 11, get + b"\xbf"))
        assert [stream.heads[0].fields[0][1] for stream in rig.streams] == [b"1", b"1", b"1", b"2", b"2", b"1"]

    def test_tables_are_bounded(self) -> None:
        forget_heads()
        for number in range(1500):
            request_head([*GET, (b"x", b"%d" % number)], True, 100)
        assert len(heads._requests[True]) <= 1024
        forget_heads()
        request_head([*GET, (b"x", b"y" * 5000)], True, 5100)
        assert not heads._requests[True]

    def test_a_connection_remembers_so_many_blocks(self) -> None:
        rig = Rig()
        for number in range(300):
            rig.feed(raw(1, 5, 1 + 2 * number, b"\x82\x86\x84\x01\x01a\x00\x01x\x03%03d" % number))
            rig.streams[-1].reset(ErrorCode.CANCEL)
            rig.sent()
        assert len(rig.streams) == 300
        assert len(rig.connection._requests[True]) <= 128
