"""Guarantee: a request and its response arrive as they were meant, whatever their framing, size and version, and in
order.
"""

from __future__ import annotations

import hashlib
import threading

import pytest

from proxy.dialled import Dialled
from tests.kit import payload, peers
from tests.kit.client import Upload
from tests.kit.origins import Conversation, Origin, always, in_turn, ok
from tests.kit.rawhttp import Message, Wire
from tests.proxy.http_rig import HttpRig, connection_of, stats_of, wait_until_idle
from tests.proxy.rig import SERVER, LoopThread, trusting

CHUNKED_REPLY = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 7\r\n\r\n"
)


def put(length: int, method: str = "PUT") -> bytes:
    return f"{method} /up HTTP/1.1\r\nhost: app.test\r\ncontent-length: {length}\r\n\r\n".encode()


def measured(request: Message) -> bytes:
    return ok(f"{request.length} {request.sha256}".encode())


# Methods and lengths


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_requests_without_a_body(loop: LoopThread, method: str) -> None:
    with Origin(always(ok(b"hello"))) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        for number in range(3):
            response = wire.get(f"/a?b={number}", method=method)
            assert (response.status, response.body) == (200, b"hello")
            assert origin.last.start_line == f"{method} /a?b={number} HTTP/1.1"
            assert not {"content-length", "transfer-encoding"} & dict(origin.last.fields).keys()
        assert origin.connections == 1


def test_head_has_the_length_and_no_body(loop: LoopThread) -> None:
    with (
        Origin(always(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) as origin,
        HttpRig(loop, [origin]) as rig,
        Wire(rig.port) as wire,
    ):
        response = wire.get(method="HEAD")
        assert (response["content-length"], response.body) == ("5", b"")
        assert wire.get(method="HEAD").status == 200, "and the connection goes on"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_statuses_without_a_body(one_loop: LoopThread, status: str) -> None:
    reply = f'HTTP/1.1 {status}\r\netag: "a"\r\n\r\n'.encode()
    with Origin(always(reply)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        assert [wire.get().head.split(b"\r\n")[0].decode() for _ in range(2)] == [f"HTTP/1.1 {status}"] * 2
        assert origin.connections == 1


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("size", [0, 1, 70_000, 64 * payload.MIB], ids=["0", "1", "70 kB", "64 MiB"])
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_bodies_go_up_whole(one_loop: LoopThread, method: str, size: int, is_tls: bool) -> None:
    tls = peers.server_tls(SERVER) if is_tls else None
    with (
        Origin(always(measured), tls=tls) as origin,
        HttpRig(one_loop, [origin], tls=trusting() if is_tls else None) as rig,
        Wire(rig.port) as wire,
    ):
        wire.send(put(size, method))
        for block in payload.blocks(size):
            wire.send(block)
        assert wire.response().body.decode() == f"{size} {payload.sha256(size)}"
        assert origin.last["content-length"] == str(size)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_64_mib_come_down_whole(one_loop: LoopThread, is_chunked: bool, is_tls: bool) -> None:
    down(one_loop, 64 * payload.MIB, is_chunked, is_tls)


def test_parts_of_a_body_in_tls_are_not_joined(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = 0
    join = Dialled.chunks_received

    def note(connection: Dialled, chunks: list[bytes]) -> None:
        nonlocal joined
        joined += sum(map(len, chunks))
        join(connection, chunks)

    monkeypatch.setattr(Dialled, "chunks_received", note)
    size = 16 * payload.MIB
    down(one_loop, size, is_chunked=False, is_tls=True)
    assert joined < size / 10
    joined = 0
    down(one_loop, size, is_chunked=True, is_tls=True)
    assert joined > size / 10, "heads of chunks are to be found"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_1_gib_comes_down_whole(one_loop: LoopThread, is_chunked: bool) -> None:
    down(one_loop, 1024 * payload.MIB, is_chunked, False)


def down(loop: LoopThread, size: int, is_chunked: bool, is_tls: bool) -> None:
    def script(one: Conversation) -> None:
        assert one.request() is not None
        one.send(b"HTTP/1.1 200 OK\r\n")
        one.send(b"transfer-encoding: chunked\r\n\r\n" if is_chunked else b"content-length: %d\r\n\r\n" % size)
        for block in payload.blocks(size):
            one.send(b"%x\r\n%b\r\n" % (len(block), block) if is_chunked else block)
        if is_chunked:
            one.send(b"0\r\n\r\n")

    tls = peers.server_tls(SERVER) if is_tls else None
    with (
        Origin(script, tls=tls) as origin,
        HttpRig(loop, [origin], tls=trusting() if is_tls else None) as rig,
        Wire(rig.port) as wire,
    ):
        response = wire.get()
        assert (response.length, response.sha256) == (size, payload.sha256(size))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_1_gib_goes_up_whole(one_loop: LoopThread) -> None:
    size = 1024 * payload.MIB
    with Origin(always(measured)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(put(size))
        for block in payload.blocks(size):
            wire.send(block)
        assert wire.response().body.decode() == f"{size} {payload.sha256(size)}"


# Chunks and trailers


def test_a_chunked_response_keeps_its_data_and_trailers(loop: LoopThread) -> None:
    with Origin(always(CHUNKED_REPLY)) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        for _ in range(2):
            response = wire.get()
            assert (response["transfer-encoding"], response.body) == ("chunked", b"hello!")
            assert response.trailers == b"x-sum: 7\r\n"
            assert b";x=y" not in response.wire, "chunk extensions belong to one connection"
        assert origin.connections == 1


def test_a_chunked_request_keeps_its_data_and_trailers(loop: LoopThread) -> None:
    request = (
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;e\r\nabc\r\n2\r\nde\r\n0\r\nx-t: 1\r\n\r\n"
    )
    with Origin(always(measured)) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        assert wire.ask(request).body.decode() == f"5 {hashlib.sha256(b'abcde').hexdigest()}"
        assert (origin.last["transfer-encoding"], origin.last.trailers) == ("chunked", b"x-t: 1\r\n")


def test_a_body_that_comes_byte_by_byte(one_loop: LoopThread) -> None:
    request = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with Origin(always(measured)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        for byte in request:
            wire.send(bytes([byte]))
        assert wire.response().status == 200
        assert origin.last.body == b"abc"


def test_a_response_until_close_becomes_chunked(loop: LoopThread) -> None:
    script = in_turn(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
    with Origin(script) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        for _ in range(2):
            response = wire.get()
            assert (response["transfer-encoding"], response.body, response.is_whole) == (
                "chunked",
                b"until the end",
                True,
            )
        assert origin.connections == 2


# HTTP/1.0


@pytest.mark.parametrize("asked", ["", "connection: keep-alive\r\n"], ids=["close", "keep-alive"])
@pytest.mark.parametrize("reply", [CHUNKED_REPLY, b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello!"])
def test_an_http_1_0_client_gets_no_chunks_and_the_end(one_loop: LoopThread, reply: bytes, asked: str) -> None:
    with Origin(in_turn(reply)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        response = wire.ask(f"GET / HTTP/1.0\r\nhost: a\r\n{asked}\r\n".encode())
        assert "transfer-encoding" not in response
        assert (response["connection"], response.body) == ("close", b"hello!")
        assert origin.last.start_line == "GET / HTTP/1.1"


def test_an_http_1_0_client_may_keep_its_connection(one_loop: LoopThread) -> None:
    with Origin(always(ok(b"hi"))) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        for _ in range(2):
            assert wire.ask(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")["connection"] == "keep-alive"
        assert wire.ask(b"GET / HTTP/1.0\r\n\r\n")["connection"] == "close"
        assert wire.read_to_end() == b""


def test_an_http_1_0_origin(one_loop: LoopThread) -> None:
    with (
        Origin(in_turn(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")) as origin,
        HttpRig(one_loop, [origin]) as rig,
        Wire(rig.port) as wire,
    ):
        assert [wire.get().body for _ in range(2)] == [b"hi", b"hi"]
        assert (wire.get().start_line, origin.connections) == ("HTTP/1.1 200 OK", 3)


# Interim responses


def test_expect_is_answered_here_and_goes_no_further(loop: LoopThread) -> None:
    with Origin(always(measured)) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        head = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
        assert wire.ask(head).head == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert wire.ask(b"abc").status == 200
        assert "expect" not in origin.last


def test_interim_responses_of_the_origin_end_here(one_loop: LoopThread) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    with Origin(always(interim + ok(b"hi"))) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        assert [(m.status, m.body) for m in (wire.get(), wire.get())] == [(200, b"hi")] * 2
        assert origin.connections == 1


# Pipelining


def test_a_thousand_pipelined_requests_are_answered_in_order(loop: LoopThread) -> None:
    def number(request: Message) -> bytes:
        return ok(request.start_line.split(" ")[1].encode())

    with Origin(always(number)) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        requests = (b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % number for number in range(1000))
        upload = threading.Thread(target=wire.send, args=(b"".join(requests),))
        upload.start()
        assert [wire.response().body for _ in range(1000)] == [b"/%d" % number for number in range(1000)]
        upload.join()
        assert (origin.connections, len(origin.requests)) == (1, 1000)


def test_a_pipelined_body_belongs_to_its_request(one_loop: LoopThread) -> None:
    with Origin(always(measured)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send((put(3) + b"abc" + b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n") * 2)
        assert [wire.response().body[:2] for _ in range(4)] == [b"3 ", b"0 ", b"3 ", b"0 "]
        assert [message.body for message in origin.requests] == [b"abc", b"", b"abc", b""]


def test_a_client_that_ends_behind_pipelined_bodies_has_all_its_responses(one_loop: LoopThread) -> None:
    """The end is not read before what is pipelined has been dealt with: it would make a response the last one."""
    with Origin(always(measured)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.get()
        wire.send((put(3) + b"abc") * 4)
        wire.half_close()
        assert [wire.response().body[:2] for _ in range(4)] == [b"3 "] * 4
        assert wire.read_to_end() == b""


# Targets


def test_absolute_form_beats_host(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        assert wire.ask(b"GET http://other.test:81/p?q HTTP/1.1\r\nhost: a\r\n\r\n").status == 200
        assert (origin.last.start_line, origin.last["host"]) == ("GET /p?q HTTP/1.1", "other.test:81")


def test_options_of_the_server_itself(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        assert wire.get("*", method="OPTIONS").status == 200
        assert origin.last.start_line == "OPTIONS * HTTP/1.1"


def test_connect_is_refused(one_loop: LoopThread) -> None:
    with Origin(always(ok())) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        assert wire.get("a.test:443", method="CONNECT").status == 405
        assert wire.read_to_end() == b""
        assert origin.connections == 0


# Who ends


def test_a_client_that_ends_its_side_still_gets_its_response(loop: LoopThread) -> None:
    with Origin(always(ok(b"hi"))) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        wire.half_close()
        assert wire.response().body == b"hi"
        assert wire.read_to_end() == b""


def test_connection_close_is_honoured(loop: LoopThread) -> None:
    with Origin(always(ok(b"hi"))) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        assert wire.get("/", "connection: close")["connection"] == "close"
        assert wire.read_to_end() == b""
        assert "connection" not in origin.last
        with Wire(rig.port) as other:
            other.get()
        assert origin.connections == 1, "the client's wish is not the origin's"


@pytest.mark.parametrize("body", ["length", "chunked"])
def test_an_early_response_to_an_unread_body(loop: LoopThread, body: str) -> None:
    def script(one: Conversation) -> None:
        while not one.reader.rest.startswith(b"POST") or b"\r\n\r\n" not in one.reader.rest:
            one.reader.more()
        one.send(ok(b"no, thank you", status="413 Payload Too Large"))
        one.read_to_end()

    framing = "content-length: 100000000" if body == "length" else "transfer-encoding: chunked"
    start = b"" if body == "length" else b"%x\r\n" % 100_000_000
    with Origin(script) as origin, HttpRig(loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(f"POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n".encode() + start + b"x" * 100_000)
        response = wire.response()
        assert (response.status, response["connection"], response.body) == (413, "close", b"no, thank you")
        upload = Upload(wire.sock, [b"x" * 1_000_000])
        assert wire.read_to_end() == b"", "the end, and no reset, though the client went on sending"
        upload.join(5)
        wait_until_idle(rig)
        assert stats_of(rig).downstream_rq_response_before_rq_complete == 1
        assert origin.wait_for_ending() in ("eof", "reset")


@pytest.mark.parametrize("how", ["reset", "half-close"])
def test_a_client_that_leaves_within_its_request(loop: LoopThread, how: str) -> None:
    with Origin(always(ok())) as origin, HttpRig(loop, [origin]) as rig:
        with Wire(rig.port) as wire:
            wire.send(put(10) + b"abc")
            origin.wait_for(1)
            loop.until(lambda: rig.cluster.stats.upstream_rq_total == 1, "the request to go out")
            if how == "reset":
                wire.reset()
            else:
                wire.half_close()
                assert wire.read_to_end() == b""
        wait_until_idle(rig)
        assert origin.requests == []
        assert (stats_of(rig).downstream_rq_rx_reset, rig.cluster.stats.upstream_rq_tx_reset) == (1, 1)
        with Wire(rig.port) as wire:
            assert wire.get().status == 200
        assert origin.connections == 2, "what carried half a request is not used again"


def test_a_client_that_resets_while_it_waits(loop: LoopThread) -> None:
    asked, left = threading.Event(), threading.Event()

    def script(one: Conversation) -> None:
        one.request()
        asked.set()
        one.read_to_end()
        left.set()

    with Origin(script) as origin, HttpRig(loop, [origin]) as rig:
        with Wire(rig.port) as wire:
            wire.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert asked.wait(5)
            assert connection_of(rig).exchange is not None
            wire.reset()
        wait_until_idle(rig)
        assert origin.wait_for_ending() in ("eof", "reset")
