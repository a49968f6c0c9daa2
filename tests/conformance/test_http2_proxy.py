"""Guarantee: what the other conformance tests do not ask, a client of the proxy can rely on all the same: a fault of
one stream leaves the connection as it was, windows are kept both ways, and nobody is cut off without need.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import expect
from tests.conformance.targets import BIG_BYTES, BIG_PATH, PAGE, koguma_before
from tests.kit import poll
from tests.kit.apps import Nghttpd
from tests.kit.h2frames import (
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW_BYTES,
    HEADER_BYTES,
    PREFACE,
    Code,
    Frame,
    Frames,
    Kind,
    Setting,
    continuation,
    data,
    goaway,
    headers,
    ping,
    rst_stream,
    settings,
    settings_ack,
    window_update,
)
from tests.kit.koguma import Koguma

Field = tuple[str, str]

DATA_BYTES = 16_000


@pytest.fixture
def client(koguma: Koguma) -> Iterator[Frames]:
    with Frames(koguma.port("app")) as client:
        client.handshake()
        yield client


def status_of(client: Frames, stream_id: int) -> str:
    """Of the next response; it is on this stream."""
    head = expect.frame(client, Kind.HEADERS)
    assert head.stream_id == stream_id
    return client.decode(head)[":status"]


def is_alive(client: Frames, stream_id: int = 3) -> None:
    """A request with the tables as they are is answered."""
    client.send(client.get(stream_id))
    assert status_of(client, stream_id) == "200"


# 3.4 HTTP/2 Connection Preface


def test_a_preface_in_single_bytes(koguma: Koguma) -> None:
    with Frames(koguma.port("app")) as client:
        client.send(*(bytes([byte]) for byte in PREFACE + settings()))
        assert not expect.frame(client, Kind.SETTINGS).is_ack
        is_alive(client, 1)


def test_everything_at_once(koguma: Koguma) -> None:
    """A client need not wait for the server's SETTINGS."""
    with Frames(koguma.port("app")) as client:
        client.send(PREFACE + settings() + client.get(1))
        assert status_of(client, 1) == "200"


def test_a_preface_without_settings(koguma: Koguma) -> None:
    with Frames(koguma.port("app")) as client:
        client.send(PREFACE, ping())
        expect.connection_error(client, Code.PROTOCOL_ERROR)


# 5.2 Flow Control, 6.9 WINDOW_UPDATE


def test_more_data_than_the_window_of_the_stream(client: Frames) -> None:
    """Refused, unless the proxy was quick enough to give more window in between."""
    window_bytes = client.peer_settings[Setting.INITIAL_WINDOW_SIZE]
    frames = 2 * window_bytes // DATA_BYTES
    client.send(client.post(), data(1, bytes(DATA_BYTES)) * frames, ping())
    for event in client.events():
        assert isinstance(event, Frame), event
        if event.kind in (Kind.RST_STREAM, Kind.GOAWAY):
            assert event.code == Code.FLOW_CONTROL_ERROR
            return
        if event.kind == Kind.PING:
            break
    assert window_bytes + client.granted[1] >= frames * DATA_BYTES


def test_a_large_upload_is_given_window(client: Frames) -> None:
    """Padding counts as data does."""
    part = data(1, bytes(12_000), padding=bytes(200))
    cost_bytes = len(part) - HEADER_BYTES
    windows = {0: DEFAULT_WINDOW_BYTES, 1: client.peer_settings[Setting.INITIAL_WINDOW_SIZE]}
    parts = 20 * 1024 * 1024 // cost_bytes
    client.send(client.post())
    for sent in range(0, parts * cost_bytes, cost_bytes):
        while any(windows[stream_id] + client.granted[stream_id] < sent + cost_bytes for stream_id in windows):
            expect.frame(client, Kind.WINDOW_UPDATE)
        client.send(part)
    client.send(data(1, b"", end=True))
    assert status_of(client, 1) == "200"


def test_a_large_download_keeps_to_the_windows(client: Frames) -> None:
    client.send(headers(1, client.encode(client.request(path=BIG_PATH))))
    received = 0
    allowed = DEFAULT_WINDOW_BYTES
    for event in client.events():
        assert isinstance(event, Frame), event
        if event.kind != Kind.DATA:
            continue
        assert len(event.payload) <= DEFAULT_FRAME_BYTES
        received += len(event.payload)
        assert received <= allowed
        if event.ends_stream:
            break
        if allowed - received < DEFAULT_WINDOW_BYTES // 2:
            grant = DEFAULT_WINDOW_BYTES // 2
            allowed += grant
            client.send(window_update(0, grant) + window_update(1, grant))
    assert received == BIG_BYTES


def test_a_stream_without_window_does_not_hold_up_another(client: Frames) -> None:
    client.send(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
    expect.settings_ack(client)
    client.send(headers(1, client.encode(client.request(path=BIG_PATH))), client.get(3), window_update(3, 1000))
    page = expect.frame(client, Kind.DATA)
    assert (page.stream_id, page.payload) == (3, PAGE)


# 5.4.2 Stream Error Handling, 8 Expressing HTTP Semantics in HTTP/2


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([("X-TEST", "ok")], id="a name in upper case"),
        pytest.param([("x test", "ok")], id="a name with a space"),
        pytest.param([("x\x00", "ok")], id="a name with NUL"),
        pytest.param([("x:y", "ok")], id="a name with a colon"),
        pytest.param([("", "ok")], id="an empty name"),
        pytest.param([("x-test", "a\r\nb: c")], id="a value with line breaks"),
        pytest.param([("x-test", "a\x00")], id="a value with NUL"),
        pytest.param([("x-test", " a")], id="a value that begins with a space"),
        pytest.param([("x-test", "a\t")], id="a value that ends with a tab"),
        pytest.param([("transfer-encoding", "chunked")], id="transfer-encoding"),
        pytest.param([("connection", "x-test")], id="connection"),
        pytest.param([("keep-alive", "1")], id="keep-alive"),
        pytest.param([("proxy-connection", "close")], id="proxy-connection"),
        pytest.param([("upgrade", "websocket")], id="upgrade"),
        pytest.param([("te", "gzip")], id="te"),
        pytest.param([(":protocol", "websocket")], id="extended CONNECT, not offered"),
        pytest.param([("content-length", "1"), ("content-length", "2")], id="two content-lengths"),
        pytest.param([("content-length", "+0")], id="a content-length that is no number"),
        pytest.param([("content-length", "5")], id="a content-length and no content"),
    ],
)
def test_a_malformed_request_ends_its_stream_only(client: Frames, more: list[Field]) -> None:
    client.send(client.get(1, *more))
    reset = expect.frame(client, Kind.RST_STREAM)
    assert (reset.stream_id, reset.code) == (1, Code.PROTOCOL_ERROR)
    is_alive(client)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (":scheme", ""),
        (":scheme", "ht tp"),
        (":path", "no-slash"),
        (":path", "/a b"),
        (":path", "*"),
        (":method", "G T"),
    ],
)
def test_a_pseudo_header_field_with_a_wrong_value(client: Frames, name: str, value: str) -> None:
    fields = [(known, value if known == name else had) for known, had in client.request()]
    client.send(headers(1, client.encode(fields)))
    reset = expect.frame(client, Kind.RST_STREAM)
    assert (reset.stream_id, reset.code) == (1, Code.PROTOCOL_ERROR)
    is_alive(client)


def test_te_trailers_is_fine(client: Frames) -> None:
    client.send(client.get(1, ("te", "trailers")))
    assert status_of(client, 1) == "200"


def test_connect_is_refused(client: Frames) -> None:
    client.send(headers(1, client.encode([(":method", "CONNECT"), (":authority", "127.0.0.1:80")]), end=False))
    assert status_of(client, 1) == "405"
    is_alive(client)


def test_a_host_field_alone_names_the_authority(client: Frames) -> None:
    fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "127.0.0.1")]
    client.send(headers(1, client.encode(fields)))
    assert status_of(client, 1) == "200"


# 6.4 RST_STREAM, 5.1 Stream States


def test_frames_that_cross_a_reset_are_ignored(client: Frames) -> None:
    """The proxy resets; what the client has sent until it hears of it is no fault (5.1, closed)."""
    client.send(client.post(1, ("content-length", "1")), data(1, b"test"))
    assert expect.frame(client, Kind.RST_STREAM).code == Code.PROTOCOL_ERROR
    client.send(data(1, b"test"), window_update(1, 1), data(1, b"test", end=True), ping())
    for event in client.events():
        assert isinstance(event, Frame)
        assert event.kind not in (Kind.GOAWAY, Kind.RST_STREAM), str(event)
        if event.kind == Kind.PING:
            break
    is_alive(client)


def test_window_update_and_rst_stream_behind_the_end_are_ignored(client: Frames) -> None:
    client.send(client.get(1))
    expect.end_of_stream(client)
    client.send(window_update(1, 1), rst_stream(1), ping())
    expect.pong(client, bytes(8))
    is_alive(client)


def test_streams_above_the_limit_are_refused_and_the_others_answered(client: Frames) -> None:
    most = client.peer_settings[Setting.MAX_CONCURRENT_STREAMS]
    client.send(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
    block = client.encode(client.request())
    client.send(b"".join(headers(1 + 2 * number, block) for number in range(most + 1)))
    reset = expect.frame(client, Kind.RST_STREAM)
    assert (reset.stream_id, reset.code) == (2 * most + 1, Code.REFUSED_STREAM)
    client.send(settings((Setting.INITIAL_WINDOW_SIZE, len(PAGE))))
    ended = 0
    client.patience_s = 10
    for event in client.events():
        assert isinstance(event, Frame), f"{event} after {ended} responses"
        ended += event.kind == Kind.DATA and event.ends_stream
        if ended == most:
            return


# 6.5 SETTINGS


def test_a_client_without_a_dynamic_table(koguma: Koguma) -> None:
    """The proxy's encoder keeps to it: RFC 7541, 4.2."""
    with Frames(koguma.port("app")) as client:
        client.decoder.max_allowed_table_size = 0
        client.handshake((Setting.HEADER_TABLE_SIZE, 0))
        for stream_id in (1, 3, 5):
            is_alive(client, stream_id)
        assert client.decoder.header_table_size == 0


def test_a_client_that_never_acknowledges_settings_is_served(koguma: Koguma) -> None:
    with Frames(koguma.port("app")) as client:
        client.send(PREFACE, settings())
        is_alive(client, 1)
        client.send(settings_ack())
        is_alive(client, 3)


# 6.8 GOAWAY


def test_goaway_of_a_client_does_not_cut_its_streams(client: Frames) -> None:
    client.send(client.post(1), goaway(0), data(1, b"test", end=True))
    assert status_of(client, 1) == "200"
    expect.end_of_stream(client)


def test_a_client_that_is_gone_ends_its_exchanges(koguma: Koguma) -> None:
    """Although nothing could be sent to it that would show that it is: its response waits for a window."""
    with Frames(koguma.port("app")) as client:
        client.handshake((Setting.INITIAL_WINDOW_SIZE, 0))
        client.send(headers(1, client.encode(client.request(path=BIG_PATH))))
        assert status_of(client, 1) == "200"
        assert koguma.stat("app", "upstream_rq_active") == 1
    poll.until(lambda: koguma.stat("app", "upstream_rq_active") == 0, "the exchange to end", within_s=2)


def test_a_drain_lets_streams_finish(origin: Nghttpd, tmp_path: Path) -> None:
    with koguma_before(origin, tmp_path) as koguma, Frames(koguma.port("app")) as client:
        client.handshake((Setting.INITIAL_WINDOW_SIZE, 0))
        client.send(client.get(1))
        assert status_of(client, 1) == "200"
        koguma.terminate()
        first = expect.frame(client, Kind.GOAWAY)
        assert first.code == Code.NO_ERROR
        client.send(window_update(1, len(PAGE)))
        assert expect.frame(client, Kind.DATA).payload == PAGE
        expect.end_of_connection(client)
        assert koguma.wait_for_exit() == 0


# 6.10 CONTINUATION


def test_a_field_section_in_many_pieces(client: Frames) -> None:
    block = client.encode(client.request(("x-test", "v" * 200)))
    parts = [block[at : at + 20] for at in range(0, len(block), 20)]
    client.send(headers(1, parts[0], end_headers=False))
    for part in parts[1:]:
        client.send(continuation(1, part, end_headers=part is parts[-1]))
    assert status_of(client, 1) == "200"


def test_bytes_one_by_one(client: Frames) -> None:
    request = client.post(1) + data(1, b"test", end=True, padding=bytes(3))
    client.send(*(bytes([byte]) for byte in request))
    assert status_of(client, 1) == "200"


def test_a_ping_is_answered_before_a_slow_response(client: Frames) -> None:
    client.send(client.post(1), ping(b"quickly!"))
    asked = time.monotonic()
    expect.pong(client, b"quickly!")
    assert time.monotonic() - asked < 1
    client.send(data(1, b"", end=True))
    assert status_of(client, 1) == "200"
