"""Readers: pipelining, the end of input, upgrades, interim responses, what is remembered and what is held."""

from __future__ import annotations

import dataclasses

import pytest

from proxy.wire import BadMessage
from proxy.wire.h1 import HEADS_REMEMBERED, REMEMBERED_HEAD_BYTES, RequestReader, ResponseReader, forget_heads
from proxy.wire.limits import REQUEST_LIMITS, RESPONSE_LIMITS
from tests.wire.recorder import Recorder, read_requests, read_responses

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"


def paths(sink: Recorder) -> list[bytes]:
    return [head.path for head in sink.heads]


def test_one_message_at_a_time() -> None:
    sink = Recorder()
    reader = RequestReader(sink)
    reader.receive(POST + b"abc" + GET % 1 + GET % 2)
    assert sink.kinds == ["head", "data", "end"]
    assert reader.pending
    reader.receive((GET % 3)[:10])
    assert paths(sink) == [b"/"]
    reader.next_message()
    assert paths(sink) == [b"/", b"/1"]
    assert reader.pending
    reader.next_message()
    assert paths(sink) == [b"/", b"/1", b"/2"]
    assert reader.pending
    reader.next_message()
    assert not reader.pending
    assert reader.started
    reader.receive((GET % 3)[10:])
    assert paths(sink)[3:] == [b"/3"]
    assert not reader.started


def test_thousands_of_pipelined_requests_are_a_loop() -> None:
    sink = read_requests([b"".join(GET % number for number in range(5000))])
    assert paths(sink) == [b"/%d" % number for number in range(5000)]


def test_pipelined_bytes_are_bounded() -> None:
    reader = RequestReader(Recorder(), dataclasses.replace(REQUEST_LIMITS, max_pending_bytes=5))
    reader.receive(GET % 1 + b"abc")
    reader.receive(b"de")
    with pytest.raises(BadMessage) as bad:
        reader.receive(b"f")
    assert bad.value.status == 400
    assert not reader.pending


@pytest.mark.parametrize("cut", range(1, len(POST) + 3))
def test_end_of_input_within_a_request(cut: int) -> None:
    sink = Recorder()
    reader = RequestReader(sink)
    reader.receive((POST + b"abc")[:cut])
    assert reader.started
    with pytest.raises(BadMessage) as bad:
        reader.eof()
    assert bad.value.status == 400
    assert "end" not in sink.kinds


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\r", b"GET / HTTP/1.1\rH", b"GET / HTTP/1.1\r\nHost: a\n\n", b"\n",
        b"\x16\x03\x01",
        CHUNKED + b"3\n", CHUNKED + b"3\r\r", CHUNKED + b"zz", CHUNKED + b"3;a\rb", CHUNKED + b"0\r\na: b\n",
        CHUNKED + b"0\r\n\n",
        CHUNKED + b"3\r\nabcX",
    ],
)  # fmt: skip
def test_what_cannot_become_right_is_refused_at_once(start: bytes) -> None:
    """And not when the head's deadline has passed."""
    assert read_requests([start]).calls[-1][:2] == ("bad", 400)


def test_end_of_input_between_requests_is_fine() -> None:
    reader = RequestReader(Recorder())
    reader.eof()
    reader.receive(POST + b"abc")
    reader.eof()
    reader.next_message()
    reader.eof()


def test_a_reader_that_raised_ignores_the_rest() -> None:
    sink = Recorder()
    reader = RequestReader(sink)
    with pytest.raises(BadMessage):
        reader.receive(b"\x00")
    reader.receive(GET % 1)
    reader.next_message()
    reader.eof()
    assert sink.calls == []


@pytest.mark.parametrize("rest", [b"abc", b"3\r\nabc\r\n0\r\n\r\n"])
def test_stopped_at_the_head(rest: bytes) -> None:
    sink = Recorder()
    reader = RequestReader(sink)
    sink.at_head = reader.stop
    framing = b"Content-Length: 3" if rest == b"abc" else b"Transfer-Encoding: chunked"
    reader.receive(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n" + rest + GET % 1)
    assert sink.kinds == ["head"]
    assert not reader.pending


def test_stopped_at_the_head_of_a_request_without_a_body() -> None:
    for _ in range(2):  # unknown and known
        sink = Recorder()
        reader = RequestReader(sink)
        sink.at_head = reader.stop
        reader.receive(GET % 7)
        assert sink.kinds == ["head"]


def test_stopped_within_chunks() -> None:
    sink = Recorder()
    reader = RequestReader(sink)
    reader.receive(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na")
    reader.stop()
    reader.receive(b"bc\r\n0\r\n\r\n")
    assert sink.kinds == ["head", "data"]
    assert not reader.started


def test_stopped_at_the_data() -> None:
    sink = Recorder()
    reader = RequestReader(sink)
    sink.at_data = reader.stop
    reader.receive(POST + b"abc" + GET % 1)
    assert sink.kinds == ["head", "data"]


def test_next_message_is_for_after_the_end() -> None:
    reader = RequestReader(Recorder())
    reader.receive(POST)
    with pytest.raises(RuntimeError):
        reader.next_message()


def test_a_client_that_switches_protocol() -> None:
    sink = Recorder()
    reader = RequestReader(sink)
    reader.receive(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw1")
    assert sink.kinds == ["head", "end"]
    assert reader.pending
    reader.switch_protocol()
    reader.receive(b"GET / HTTP/1.1\r\n\r\n")
    reader.eof()
    assert sink.kinds == ["head", "end", "data", "end"]
    assert sink.body == b"raw1GET / HTTP/1.1\r\n\r\n"


def test_an_origin_that_switches_protocol() -> None:
    sink = Recorder()
    reader = ResponseReader(sink)
    reader.next_message(b"GET")
    reader.receive(b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw1")
    assert sink.kinds == ["head"]
    assert sink.heads[0].upgrade == b"websocket"
    reader.switch_protocol()
    reader.receive(b"raw2")
    reader.eof()
    assert sink.kinds == ["head", "data", "end"]
    assert sink.body == b"raw1raw2"


def test_an_origin_that_switches_while_its_head_is_told() -> None:
    sink = Recorder()
    reader = ResponseReader(sink)
    sink.at_head = reader.switch_protocol
    reader.next_message(b"GET")
    reader.receive(b"HTTP/1.1 101 Go\r\n\r\nraw")
    assert sink.body == b"raw"


def test_interim_responses() -> None:
    interim = b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"
    sink = read_responses([interim + b"HTTP/1.1 100 C\r\n\r\n" + OK + b"abc"], [b"GET"])
    assert [head.status for head in sink.heads] == [103, 100, 200]
    assert sink.kinds == ["head", "head", "head", "data", "end"]
    most = RESPONSE_LIMITS.max_interim_responses
    assert read_responses([interim * most + OK + b"abc"], [b"GET"]).kinds[-1] == "end"
    assert read_responses([interim * (most + 1)], [b"GET"]).calls[-1] == ("bad", 502, "http1.codec_error")
    assert read_responses([interim * most + OK + b"abc"] * 2, [b"GET", b"GET"]).kinds[-1] == "end"


def test_started_tells_whether_a_response_has_begun() -> None:
    reader = ResponseReader(Recorder())
    assert not reader.started
    reader.next_message(b"GET")
    assert not reader.started
    reader.receive(b"HTTP/1.1 100 C\r\n\r\n")
    assert reader.started
    reader.receive(b"H")
    assert reader.started
    reader.receive(OK[1:])
    assert reader.started
    reader.receive(b"abc")
    assert not reader.started
    reader.next_message(b"GET")
    assert not reader.started
    with pytest.raises(BadMessage) as bad:
        reader.eof()
    assert bad.value.status == 502


def test_head_and_get_are_told_apart() -> None:
    sink = read_responses([OK, OK + b"abc", OK, b"HTTP/1.1 204 N\r\n\r\n"], [b"HEAD", b"GET", b"HEAD", b"GET"])
    assert sink.kinds == ["head", "end", "head", "data", "end", "head", "end", "head", "end"]
    assert sink.body == b"abc"


def test_unsolicited_responses_wait() -> None:
    sink = Recorder()
    reader = ResponseReader(sink)
    reader.receive(OK)
    assert reader.pending
    assert sink.calls == []
    reader.eof()
    reader = ResponseReader(sink)
    reader.next_message(b"GET")
    reader.receive(OK + b"abcX")
    assert reader.pending
    assert sink.body == b"abc"


@pytest.mark.parametrize(
    "first", [OK + b"abc", b"HTTP/1.1 204 N\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
)
def test_a_second_response_is_nobodys(first: bytes) -> None:
    """A response that was not asked for must never answer the request that gets the connection next."""
    seen = []
    sink = Recorder()
    reader = ResponseReader(sink)
    sink.at_end = lambda: seen.append(reader.pending)
    reader.next_message(b"GET")
    reader.receive(first + OK + b"abc")
    assert seen == [True]
    with pytest.raises(BadMessage) as bad:
        reader.next_message(b"GET")
    assert bad.value.status == 502
    assert len(sink.heads) == 1
    assert read_responses([first + OK + b"abc"], [b"GET", b"GET"]).calls[-1] == ("bad", 502, "http1.codec_error")
    assert read_responses([first, OK + b"abc"], [b"GET", b"GET"]).kinds[-1] == "end"


def test_bytes_of_the_final_response_do_not_count_as_pending_after_an_interim_one() -> None:
    seen = []
    sink = Recorder()
    reader = ResponseReader(sink)
    sink.at_head = lambda: seen.append(reader.pending)
    reader.next_message(b"GET")
    reader.receive(b"HTTP/1.1 100 C\r\n\r\n" + OK + b"abc")
    assert seen == [False, False]
    assert not reader.pending


def test_a_body_until_close() -> None:
    sink = read_responses([b"HTTP/1.1 200 OK\r\n\r\nab", b"c"], [b"GET"])
    assert sink.kinds == ["head", "data"]
    sink = read_responses([b"HTTP/1.1 200 OK\r\n\r\nab", b"c"], [b"GET"], eof=True)
    assert sink.kinds == ["head", "data", "end"]
    assert sink.body == b"abc"


@pytest.mark.parametrize("cut", range(len(OK) + 3))
def test_end_of_input_within_a_response(cut: int) -> None:
    sink = read_responses([(OK + b"abc")[:cut]], [b"GET"], eof=True)
    assert sink.calls[-1] == ("bad", 502, "http1.codec_error")


def test_a_body_that_starts_in_the_next_read_is_not_copied() -> None:
    data = b"abc"
    assert read_requests([POST, data]).pieces[0] is data


def test_equal_heads_are_one_object() -> None:
    first, second = Recorder(), Recorder()
    RequestReader(first).receive(GET % 1)
    reader = RequestReader(second)
    reader.receive((GET % 1)[:5])
    reader.receive((GET % 1)[5:])
    assert first.heads[0] is second.heads[0]


def test_what_is_remembered_is_bounded() -> None:
    forget_heads()
    sink = Recorder()
    reader = RequestReader(sink)
    sink.at_end = reader.next_message
    reader.receive(b"".join(GET % number for number in range(HEADS_REMEMBERED + 10)))
    assert len(reader._heads) == 10
    long = b"GET / HTTP/1.1\r\nHost: a\r\nx: %b\r\n\r\n"
    reader.receive(long % (b"y" * (REMEMBERED_HEAD_BYTES - len(long) + 2)))
    assert len(reader._heads) == 11
    reader.receive(long % (b"y" * (REMEMBERED_HEAD_BYTES - len(long) + 3)))
    assert len(reader._heads) == 11
    assert len(sink.heads) == HEADS_REMEMBERED + 12


def test_what_passes_one_limit_is_not_remembered_for_another() -> None:
    block = b"GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n\r\n"
    strict = dataclasses.replace(REQUEST_LIMITS, max_fields=1)
    assert read_requests([block]).kinds == ["head", "end"]
    assert read_requests([block], strict).calls == [("bad", 431, "http1.too_many_headers")]
    for number in range(40):  # nor do limits pile up
        read_requests([block], dataclasses.replace(REQUEST_LIMITS, max_head_bytes=1000 + number))
        read_responses([OK + b"abc"], [b"GET"], dataclasses.replace(REQUEST_LIMITS, max_head_bytes=1000 + number))
