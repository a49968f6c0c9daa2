"""The laws that hold the HTTP/1 codec: what it may accept, what it may send, and that cuts do not matter.

*Refinement.* What we accept, h11 and llhttp accept too, and all three agree on method, target, fields, framing, body,
trailers and where the next message starts. (The other direction is not claimed: we refuse much that they accept.)
*Output.* What we render, both read as it was meant. *Cuts.* However the bytes arrive, the calls are the same.
*Garbage.* Any bytes give calls or BadMessage, and nothing else.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import CHUNKED, UNTIL_CLOSE, BadMessage, Framing, RequestHead, ResponseHead
from proxy.wire.body import chunk, last_chunk
from proxy.wire.h1 import RequestReader, ResponseReader
from proxy.wire.head import render_request, render_response
from tests.differential.depth import laws
from tests.differential.divergences import LLHTTP_REFUSES_REQUESTS, Divergence
from tests.differential.messages import mutated, requests, responses
from tests.differential.oracles import Fields, Read, Refused, h11_read, llhttp_read
from tests.wire.recorder import Recorder, facts, read_requests, read_responses

# Written down again, and not taken from the code under test.
CONSUMED = {b"connection", b"content-length", b"http2-settings", b"keep-alive", b"proxy-connection", b"te",
            b"transfer-encoding", b"upgrade"}  # fmt: skip


def our_request(data: bytes) -> tuple[RequestHead, Recorder, int] | None:
    """The first request of ``data``, what the sink was told, and the request's size; None if it is not accepted."""
    sink = Recorder()
    reader = RequestReader(sink)
    try:
        reader.receive(data)
    except BadMessage:
        return None
    if "end" not in sink.kinds:
        return None
    return sink.heads[0], sink, len(data) - waiting(reader, sink)


def waiting(reader: RequestReader | ResponseReader, sink: Recorder) -> int:
    """How many bytes wait behind the message: handed over as another protocol's, they can be counted."""
    pieces = list(sink.pieces)
    calls = list(sink.calls)
    sink.pieces.clear()
    reader.switch_protocol()
    count = len(sink.body)
    sink.pieces, sink.calls = pieces, calls
    return count


def our_response(data: bytes, method: bytes) -> tuple[ResponseHead, Recorder, int] | None:
    """As :func:`our_request`, for the final response to ``method``; one until close takes everything."""
    sink = Recorder()
    reader = ResponseReader(sink)
    try:
        reader.next_message(method)
        reader.receive(data)
    except BadMessage:
        return None
    if sink.heads and sink.heads[-1].body == UNTIL_CLOSE:
        reader.eof()
        return sink.heads[-1], sink, len(data)
    if "end" not in sink.kinds:
        return None
    return sink.heads[-1], sink, len(data) - waiting(reader, sink)


def nominated(fields: Fields) -> set[bytes]:
    values = [value for name, value in fields if name == b"connection"]
    return {member.strip(b" \t") for value in values for member in value.lower().split(b",")} - {b""}


def expected_request_fields(fields: Fields) -> Fields:
    gone = CONSUMED | {b"host"} | nominated(fields)
    return [
        (name, value)
        for name, value in fields
        if name not in gone and not (name == b"expect" and value.lower() == b"100-continue")
    ]


def expected_framing(fields: Fields) -> Framing | None:
    """None where nothing is said."""
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    assert len(lengths) + len(codings) <= 1
    if codings:
        assert codings[0].lower() == b"chunked"
        return CHUNKED
    return int(lengths[0]) if lengths else None


def agree(a: Read, b: Read) -> None:
    assert (a.start, a.version, a.fields, a.body, a.trailers, a.size) == (
        b.start,
        b.version,
        b.fields,
        b.body,
        b.trailers,
        b.size,
    )


@given(requests())
@laws(400)
def test_refinement_of_requests(data: bytes) -> None:
    ours = our_request(data)
    if ours is None:
        return
    head, sink, size = ours
    theirs = h11_read(data)
    if not any(divergence.applies(data, theirs) for divergence in LLHTTP_REFUSES_REQUESTS):
        agree(llhttp_read(data, size), theirs)
    method, target = theirs.start
    assert head.method == method
    assert head.version == (1, int(theirs.version[2:]))
    hosts = [value for name, value in theirs.fields if name == b"host"]
    if target[:1] == b"/" or target == b"*":
        assert (head.authority, head.path) == (hosts[0] if hosts else b"", target)
    else:
        scheme, _, rest = target.partition(b"://")
        assert scheme.lower() in (b"http", b"https")
        assert rest.startswith(head.authority)
        path = rest[len(head.authority) :]
        assert head.path == (path if path[:1] == b"/" else b"/" + path if path or method != b"OPTIONS" else b"*")
    assert list(head.fields) == expected_request_fields(theirs.fields)
    framing = expected_framing(theirs.fields)
    assert head.body == (-1 if framing is None else framing)
    assert sink.body == theirs.body
    assert sink.calls[-1] == ("end", theirs.trailers or None)
    assert size == theirs.size


@given(responses(), st.sampled_from([b"GET", b"GET", b"POST", b"HEAD"]))
@laws(400)
def test_refinement_of_responses(data: bytes, method: bytes) -> None:
    ours = our_response(data, method)
    if ours is None:
        return
    head, sink, size = ours
    until_close = head.body == UNTIL_CLOSE
    theirs = h11_read(data, method, eof=until_close)
    if method != b"HEAD" and not until_close:  # llhttp is not told of HEAD, and httptools not of the end
        agree(llhttp_read(data, size, is_request=False), theirs)
    assert b"%d" % head.status == theirs.start[0]
    assert head.version == (1, int(theirs.version[2:]))
    gone = CONSUMED | {name for name in nominated(theirs.fields) if name != b"host"}
    assert list(head.fields) == [field for field in theirs.fields if field[0] not in gone]
    framing = expected_framing(theirs.fields)
    if method != b"HEAD" and head.status not in (204, 304):
        assert head.body == head.declared == (UNTIL_CLOSE if framing is None else framing)
    assert sink.body == theirs.body
    assert sink.calls[-1] == ("end", theirs.trailers or None)
    assert size == theirs.size


def encoded(sink: Recorder, body: Framing, trailers: Fields | None) -> bytes:
    if body != CHUNKED:
        return sink.body
    return b"".join(b"".join(chunk(piece)) for piece in sink.pieces) + last_chunk(trailers)


@given(requests())
@laws(200)
def test_requests_that_we_render_are_read_as_meant(data: bytes) -> None:
    ours = our_request(data)
    if ours is None:
        return
    head, sink, _ = ours
    trailers = sink.calls[-1][1]
    sent = render_request(head.method, head.path, head.authority, head.fields, head.body)
    sent += encoded(sink, head.body, trailers)
    theirs = h11_read(sent + b"GET")
    if not any(divergence.applies(sent, theirs) for divergence in LLHTTP_REFUSES_REQUESTS):
        agree(llhttp_read(sent, len(sent)), theirs)
    assert theirs.size == len(sent)
    assert theirs.start == (head.method, head.path)
    assert theirs.fields[0] == (b"host", head.authority)
    assert expected_request_fields(theirs.fields) == list(head.fields)
    assert expected_framing(theirs.fields) == (None if head.body == -1 else head.body)
    assert (theirs.body, theirs.trailers) == (sink.body, trailers or [])
    again = our_request(sent + b"GET")
    assert again is not None
    assert again[0].fields == head.fields
    assert again[2] == len(sent)


@given(responses(), st.sampled_from([b"GET", b"GET", b"HEAD"]))
@laws(200)
def test_responses_that_we_render_are_read_as_meant(data: bytes, method: bytes) -> None:
    ours = our_response(data, method)
    if ours is None:
        return
    head, sink, _ = ours
    trailers = sink.calls[-1][1]
    sent = render_response(head.status, head.fields, head.declared)
    sent += encoded(sink, head.body, trailers)
    until_close = head.body == UNTIL_CLOSE
    theirs = h11_read(sent, method, eof=until_close)
    if method != b"HEAD" and not until_close:
        agree(llhttp_read(sent, len(sent), is_request=False), theirs)
    assert theirs.size == len(sent)
    assert theirs.start == (b"%d" % head.status,)
    assert [field for field in theirs.fields if field[0] not in CONSUMED] == list(head.fields)
    assert (theirs.body, theirs.trailers) == (sink.body, trailers or [])
    again = our_response(sent, method)
    assert again is not None
    assert dict(facts(again[0])) | {"version": 0, "keep_alive": 0, "leniency": 0, "upgrade": 0} == (
        dict(facts(head)) | {"version": 0, "keep_alive": 0, "leniency": 0, "upgrade": 0}
    )


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def every_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@given(st.data(), st.lists(requests(), min_size=1, max_size=3).map(b"".join))
@laws(100)
def test_cuts_of_requests_do_not_matter(draw: st.DataObject, data: bytes) -> None:
    whole = read_requests([data], eof=True).calls
    assert read_requests(draw.draw(cut(data)), eof=True).calls == whole
    assert read_requests(every_byte(data), eof=True).calls == whole


@given(st.data(), responses(), st.sampled_from([b"GET", b"HEAD"]))
@laws(100)
def test_cuts_of_responses_do_not_matter(draw: st.DataObject, data: bytes, method: bytes) -> None:
    whole = read_responses([data], [method], eof=True).calls
    assert read_responses(draw.draw(cut(data)), [method], eof=True).calls == whole
    assert read_responses(every_byte(data), [method], eof=True).calls == whole


@given(st.binary(max_size=200) | st.binary(max_size=60).flatmap(mutated), st.binary(max_size=40))
@laws(150)
def test_garbage_gives_calls_or_our_one_error(data: bytes, more: bytes) -> None:
    for prefix in (b"", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"):
        read_requests([prefix + data, more], eof=True)
    for prefix in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        read_responses([prefix + data, more], [b"GET", b"HEAD"], eof=True)


@pytest.mark.parametrize("divergence", LLHTTP_REFUSES_REQUESTS, ids=lambda divergence: divergence.name)
def test_divergence_is_still_one(divergence: Divergence) -> None:
    ours = our_request(divergence.example)
    assert ours is not None
    theirs = h11_read(divergence.example)
    assert divergence.applies(divergence.example, theirs)
    with pytest.raises(Refused, match="llhttp"):
        llhttp_read(divergence.example, ours[2])
