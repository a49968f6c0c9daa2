"""Guarantee: a large HTTP/1.1 response that the kernel moves to the client is the response that the origin sent, to the
byte, with its end where its length says; each way in which it can be cut short is told as ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from proxy import splicing
from proxy.http.exchange import Exchange
from proxy.http.h1_upstream import SPLICED_BYTES, Http1Upstream
from proxy.outcome import Outcome
from proxy.splicing import Source, Splices
from proxy.wire import ResponseHead
from proxy.wire.h1 import ResponseReader
from tests.kit import client, payload, poll
from tests.kit.origins import Conversation, Origin
from tests.kit.peers import Peer, Visit, server_tls
from tests.kit.rawhttp import Wire
from tests.proxy.http_rig import HttpRig, stats_of, wait_for_endings, wait_until_idle
from tests.proxy.rig import SERVER, LoopThread, Rig, trusting

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
SIZE = 24 * payload.MIB
MUCH = 8 * payload.MIB


@pytest.fixture(autouse=True)
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splicing, "SWEEP_INTERVAL_S", 1000.0)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What :meth:`Splices.begin` answered."""
    answers: list[bool] = []
    begin = Splices.begin

    def noting(splices: Splices, source: Source, *more: object) -> bool:
        answers.append(begin(splices, source, *more))  # type: ignore[arg-type]
        return answers[-1]

    monkeypatch.setattr(Splices, "begin", noting)
    return answers


def large(one: Conversation, size: int = SIZE, behind: bytes = b"") -> None:
    one.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
    for block in payload.blocks(size):
        one.send(block)
    if behind:
        one.send(behind)


def large_to_all(one: Conversation) -> None:
    while one.request() is not None:
        large(one)


def part(release: threading.Event, then: Callable[[Conversation], None]) -> Callable[[Conversation], None]:
    """The beginning of a large response; what follows when released."""

    def converse(one: Conversation) -> None:
        one.request()
        one.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE)
        for block in payload.blocks(MUCH):
            one.send(block)
        assert release.wait(10)
        then(one)

    return converse


def wait_for_splice(rig: Rig) -> None:
    rig.loop.until(lambda: rig.services.splices.active, "the response to be spliced")


def read_much(wire: Wire) -> None:
    """The head and what has come of the body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.read_exactly(wire.sock, 1)
    client.read_exactly(wire.sock, MUCH)


def test_responses_come_whole_one_after_the_other(
    one_loop: LoopThread, begun: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    end = Exchange._end
    monkeypatch.setattr(Exchange, "_end", lambda one, outcome: (sizes.append(one.sent), end(one, outcome)))
    with Origin(large_to_all) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        for _ in range(3):
            response = wire.ask(GET)
            assert (response.length, response.sha256) == (SIZE, payload.sha256(SIZE))
        wait_until_idle(rig)
        assert begun.count(True) >= 3
        assert origin.connections == 1, "the connection went back to the pool"
        assert not rig.services.splices.active
        assert sizes == [SIZE] * 3, "as the access log has it"
        received, sent = rig.loop.look(rig.listener.byte_totals)
        assert received == 3 * len(GET)
        assert 3 * SIZE < sent < 3 * SIZE + 1000
        assert rig.loop.look(rig.cluster.byte_totals)[0] > 3 * SIZE


def test_pipelined_requests_wait_for_it(one_loop: LoopThread, begun: list[bool]) -> None:
    with Origin(large_to_all) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET * 3)
        assert {wire.response().sha256 for _ in range(3)} == {payload.sha256(SIZE)}
    assert True in begun


def test_nothing_behind_its_end_reaches_the_client(one_loop: LoopThread, begun: list[bool]) -> None:
    """What an origin sends unasked would be taken for the answer to another request."""

    def talkative(one: Conversation) -> None:
        while one.request() is not None:
            large(one, behind=b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong")

    with Origin(talkative) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        for _ in range(2):
            response = wire.ask(GET)
            assert (response.length, response.sha256) == (SIZE, payload.sha256(SIZE))
        assert True in begun
        assert origin.connections == 2, "the connection was not used again"


def test_the_request_still_comes_meanwhile(one_loop: LoopThread, begun: list[bool]) -> None:
    """The response is begun when the request's head has come, and its end is the end of both."""

    def converse(visit: Visit) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += visit.recv(1)
        visit.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE)
        for block in payload.blocks(SIZE):
            visit.send(block)
            visit.recv()
        visit.read_to_end()

    with Peer(converse) as peer, HttpRig(one_loop, [peer]) as rig, Wire(rig.port) as wire:
        wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (1 << 40))
        upload = client.Upload(wire.sock, payload.blocks(1 << 40))
        response = wire.response()
        assert (response.length, response.sha256) == (SIZE, payload.sha256(SIZE))
        assert True in begun
        wait_until_idle(rig)
        assert not rig.services.splices.active
        assert peer.wait_for_ending() in ("eof", "reset")
        assert stats_of(rig).downstream_rq_response_before_rq_complete == 1
        wire.reset()
        with pytest.raises(OSError, match=r"."):
            upload.finish()


@pytest.mark.parametrize("framing", ["chunked", "until close"])
def test_what_has_no_length_is_not_spliced(one_loop: LoopThread, begun: list[bool], framing: str) -> None:
    def converse(one: Conversation) -> None:
        one.request()
        chunked = framing == "chunked"
        one.send(b"HTTP/1.1 200 OK\r\n%b\r\n" % (b"transfer-encoding: chunked\r\n" if chunked else b""))
        for block in payload.blocks(MUCH):
            one.send(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
        one.send(b"0\r\n\r\n" if chunked else b"")

    with Origin(converse) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        response = wire.ask(GET)
        assert (response.length, response.sha256) == (MUCH, payload.sha256(MUCH))
    assert begun == []


def test_what_comes_out_of_tls_is_not_spliced(one_loop: LoopThread, begun: list[bool]) -> None:
    with (
        Origin(large_to_all, tls=server_tls(SERVER)) as origin,
        HttpRig(one_loop, [origin], tls=trusting()) as rig,
        Wire(rig.port) as wire,
    ):
        assert wire.ask(GET).sha256 == payload.sha256(SIZE)
    assert True not in begun


@pytest.mark.parametrize("size", [SPLICED_BYTES - 1, SPLICED_BYTES, SPLICED_BYTES + 1, 2 * SPLICED_BYTES])
def test_bodies_about_as_large_as_is_worth_it(one_loop: LoopThread, size: int) -> None:
    def converse(one: Conversation) -> None:
        while one.request() is not None:
            large(one, size)

    with Origin(converse) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        for _ in range(20):
            assert wire.ask(GET).sha256 == payload.sha256(size)
        wait_until_idle(rig)
        assert origin.connections == 1


@pytest.mark.parametrize("ending", ["end", "reset"])
def test_an_origin_that_leaves_cuts_the_response_short(one_loop: LoopThread, ending: str) -> None:
    release = threading.Event()

    def leave(one: Conversation) -> None:
        if ending == "end":
            one.end()
        else:
            one.reset()

    with Origin(part(release, leave)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET)
        read_much(wire)
        wait_for_splice(rig)
        release.set()
        assert client.read_to_end(wire.sock) == b"", "the connection ends where the response did"
        wait_until_idle(rig)
        assert rig.cluster.stats.upstream_rq_rx_reset == 1
        assert rig.loop.look(rig.cluster.byte_totals)[0] > MUCH
        assert not rig.services.splices.active


def test_a_connection_that_is_lost_otherwise_cuts_it_too(one_loop: LoopThread) -> None:
    """As where the rest of the request cannot be sent."""
    release = threading.Event()
    with Origin(part(release, large)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET)
        read_much(wire)
        wait_for_splice(rig)
        (upstream,) = rig.cluster.connections
        assert isinstance(upstream, Http1Upstream)
        one_loop.look(upstream.transport.abort)
        assert client.read_to_end(wire.sock) == b""
        wait_until_idle(rig)
        assert not rig.services.splices.active
        release.set()


@pytest.mark.parametrize("reads", [True, False], ids=["that reads", "that does not"])
def test_a_client_that_leaves(one_loop: LoopThread, reads: bool) -> None:
    release = threading.Event()
    with Origin(part(release, large)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET)
        if reads:
            read_much(wire)
        wait_for_splice(rig)
        client.reset(wire.sock)
        release.set()
        assert wait_for_endings(rig) == [Outcome.DOWNSTREAM_RESET]
        wait_until_idle(rig)
        assert stats_of(rig).downstream_rq_rx_reset == 1
        assert rig.cluster.stats.upstream_rq_tx_reset == 1
        assert not rig.services.splices.active
        assert origin.wait_for_ending() == "reset"


def test_a_client_whose_leaving_only_the_splice_meets(one_loop: LoopThread) -> None:
    """Its connection is not read from, while a request of it waits."""
    with Origin(large_to_all) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET * 2)
        one_loop.until(lambda: any(one.held for one in rig.services.splices.active), "a pipe that waits")
        client.reset(wire.sock)
        assert wait_for_endings(rig) == [Outcome.DOWNSTREAM_RESET]
        wait_until_idle(rig)


def test_a_response_that_has_no_more_time_is_cut(one_loop: LoopThread) -> None:
    release = threading.Event()
    with (
        Origin(part(release, large)) as origin,
        HttpRig(one_loop, [origin], request_timeout_s=0.5) as rig,
        Wire(rig.port) as wire,
    ):
        wire.send(GET)
        read_much(wire)
        wait_for_splice(rig)
        assert client.read_to_end(wire.sock) == b""
        wait_until_idle(rig)
        assert rig.cluster.stats.upstream_rq_timeout == 1
        assert not rig.services.splices.active
        release.set()


def test_a_client_that_does_not_read_stops_the_origin(one_loop: LoopThread, begun: list[bool]) -> None:
    with Origin(large_to_all) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET)
        one_loop.until(lambda: any(one.held for one in rig.services.splices.active), "a pipe that waits")
        (splice,) = rig.services.splices.active

        def give_way() -> bool:
            splice.give_way_if_idle()
            splice.give_way_if_idle()
            return not rig.services.splices.active

        assert one_loop.look(give_way)
        begun.clear()
        response = wire.response()
        assert (response.length, response.sha256) == (SIZE, payload.sha256(SIZE))
        assert True in begun, "it is taken over again"


def test_a_drain_waits_for_it(one_loop: LoopThread) -> None:
    release = threading.Event()

    def rest(one: Conversation) -> None:
        one.send(bytes(SIZE - MUCH))

    with Origin(part(release, rest)) as origin, HttpRig(one_loop, [origin]) as rig, Wire(rig.port) as wire:
        wire.send(GET)
        read_much(wire)
        wait_for_splice(rig)
        one_loop.run(rig.listener.stop())
        release.set()
        assert client.read_to_end(wire.sock) == bytes(SIZE - MUCH)
        poll.until(lambda: rig.ended == [Outcome.COMPLETED], "the connection to end in order")


class Body:
    """A sink that counts."""

    def __init__(self) -> None:
        self.data = b""
        self.ends = 0

    def on_head(self, head: ResponseHead) -> None: ...

    def on_data(self, data: bytes) -> None:
        self.data += data

    def on_end(self, trailers: object) -> None:
        self.ends += 1


def test_a_reader_goes_on_behind_what_has_passed_it_by() -> None:
    body = Body()
    reader = ResponseReader(body)
    assert reader.body_left == 0
    reader.next_message(b"GET")
    reader.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab")
    assert reader.body_left == 8
    reader.passed_by(5)
    assert reader.body_left == 3
    reader.receive(b"ijk")
    assert (body.data, body.ends, reader.body_left) == (b"abijk", 1, 0)
