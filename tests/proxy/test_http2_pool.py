"""Guarantee: connections of HTTP/2 are shared, no more of them are made than an endpoint may have, and one that nobody
took up costs no request.
"""

from __future__ import annotations

import ssl
import threading

import pytest

from config.plan import Protocol
from proxy.http import h2_pool, h2_upstream
from proxy.http.exchange import MAX_ATTEMPTS
from proxy.http.h1_downstream import Http1Downstream
from proxy.http.h2_pool import MAX_CONNECTIONS_PER_ENDPOINT, Http2Pool
from proxy.http.h2_upstream import Http2Upstream
from proxy.wire.h2.limits import Settings
from tests.kit import client as tcp
from tests.kit.ca import Authority
from tests.kit.h2frames import Frames, Setting, headers, rst_stream, window_update
from tests.kit.http2_peers import H2Client, H2Origin, H2Visit, Message, respond
from tests.kit.peers import Peer, Visit, server_tls
from tests.proxy.rig import SERVER, LoopThread, Rig, grows_no_more, trusting
from tls.verdict import Cause, Refused, not_tls

WAITING = 4


class SlowToOpen(H2Origin):
    """Its first connections end without a word, once a request has come."""

    def __init__(self, silent: int) -> None:
        self.silent = silent
        super().__init__(respond(body=b"done"))

    def _visited(self, visit: Visit) -> None:
        if self.silent:
            self.silent -= 1
            visit.recv()
        else:
            super()._visited(visit)


def test_a_connection_that_was_never_taken_up_costs_no_request(one_loop: LoopThread) -> None:
    """As in the backlog of a server that ends while its successor begins."""
    with (
        SlowToOpen(2) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        H2Client(rig.port) as client,
    ):
        assert client.ask("POST", "/", body=b"once").body == b"done"
        assert [bytes(request.body) for request in origin.requests] == [b"once"]
        assert rig.cluster.stats.upstream_rq_retry == 2


def test_an_endpoint_that_never_takes_one_up_is_given_up(one_loop: LoopThread) -> None:
    with (
        SlowToOpen(1000) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        H2Client(rig.port) as client,
    ):
        answer = client.ask("POST", "/", body=b"once")
        assert answer.status == 503
        assert answer.body.endswith(b"connection termination")
        assert 1000 - origin.silent == MAX_ATTEMPTS


def test_what_was_sent_before_we_refused_the_server_is_not_sent_again(
    one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It became another by renegotiation: nobody says what it did with what it had received."""
    lose, refused = Http2Upstream.connection_lost, Refused(not_tls(b"?"))
    monkeypatch.setattr(Http2Upstream, "connection_lost", lambda connection, _: lose(connection, refused))
    with (
        SlowToOpen(1000) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        H2Client(rig.port) as client,
    ):
        answer = client.ask("POST", "/", body=b"once")
        assert (answer.status, 1000 - origin.silent) == (503, 1)
        assert rig.cluster.stats.upstream_rq_retry == 0


class RefusesLate(Peer):
    """Of TLS 1.3, where the handshake is over for a client before the server has judged it: the alert waits for
    ``may_say_so``.
    """

    def __init__(self) -> None:
        self.handshakes = 0
        self.may_say_so = threading.Event()
        self._context = server_tls(SERVER, client_ca_pem=Authority.root("Clients").pem)
        self._context.set_alpn_protocols(["h2"])
        super().__init__(self._refuse)

    def _refuse(self, visit: Visit) -> None:
        self.handshakes += 1
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self._context.wrap_bio(received, to_send, server_side=True)
        while True:
            try:
                server.do_handshake()
            except ssl.SSLWantReadError:
                visit.send(to_send.read())
                received.write(visit.recv())
            except ssl.SSLError:
                break
        assert self.may_say_so.wait(10)
        visit.send(to_send.read())
        visit.read_to_end()


def test_what_was_sent_before_a_server_refused_our_certificate_is_not_sent_again(one_loop: LoopThread) -> None:
    with (
        RefusesLate() as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2, tls=trusting()) as rig,
        H2Client(rig.port) as client,
    ):
        stream = client.begin("POST", "/")
        one_loop.until(lambda: rig.cluster.stats.upstream_cx_http2_total, "the connection")
        origin.may_say_so.set()
        answer = client.wait(stream)
        assert (answer.status, origin.handshakes) == (503, 1)
        assert rig.cluster.stats.upstream_rq_retry == 0
        (endpoint,) = rig.cluster.balancer
        assert endpoint.last_verdict is not None
        assert endpoint.last_verdict.cause is Cause.CLIENT_CERTIFICATE_REQUIRED


def test_what_a_server_has_begun_with_is_not_sent_again(one_loop: LoopThread) -> None:
    def script(visit: H2Visit, _request: Message) -> None:
        raise ConnectionResetError

    with (
        H2Origin(script) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        H2Client(rig.port) as client,
    ):
        assert client.ask("POST", "/", body=b"once").status == 503
        assert len(origin.requests) == 1


def test_connections_to_one_endpoint_are_bounded(one_loop: LoopThread) -> None:
    may_answer = threading.Event()
    may_answer.set()

    def script(visit: H2Visit, request: Message) -> None:
        assert may_answer.wait(10)
        visit.answer(request)

    with (
        H2Origin(script, max_streams=1) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        H2Client(rig.port) as client,
    ):
        assert client.ask().status == 200  # from now on it is known that a connection has one stream
        may_answer.clear()
        pool, stats = rig.cluster.http, rig.cluster.stats
        assert isinstance(pool, Http2Pool)
        streams = [client.begin() for _ in range(MAX_CONNECTIONS_PER_ENDPOINT + WAITING)]
        one_loop.until(
            lambda: (stats.upstream_cx_active, pool.waiting_count) == (MAX_CONNECTIONS_PER_ENDPOINT, WAITING),
            "the rest to wait",
        )
        may_answer.set()
        assert {client.wait(stream).status for stream in streams} == {200}
        assert stats.upstream_cx_total == MAX_CONNECTIONS_PER_ENDPOINT


SMALL_WINDOWS = Settings(stream_window_bytes=128 * 1024, connection_window_bytes=1024 * 1024)
"""Towards the origin. They clog as large ones do, after fewer bytes."""


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h2_upstream, "CLIENT_SETTINGS", SMALL_WINDOWS)
    monkeypatch.setattr(h2_upstream, "STALLED_S", 60.0)
    monkeypatch.setattr(h2_pool, "LOOK_INTERVAL_S", 0.05)


class Clogging:
    """A client that asks for more than it takes, until everybody has to wait. The origin begins large responses as far
    as the window goes, says nothing more on ``/quiet``, and is quick otherwise.
    """

    BEGUN = bytes(SMALL_WINDOWS.stream_window_bytes)

    def __init__(self, rig: Rig, max_connections: int = 100) -> None:
        rig.update(max_connections=max_connections)
        self.client = Frames(rig.port)
        self.client.handshake((Setting.INITIAL_WINDOW_SIZE, 0))
        self._rig = rig
        self.count = 0
        while not self.is_clogged():
            self.ask_for_more()

    def ask_for_more(self) -> None:
        block = self.client.encode(self.client.request(path="/large"))
        self.client.send(headers(2 * self.count + 1, block))
        self.count += 1
        stats, pool = self._rig.cluster.stats, self._rig.cluster.http
        assert isinstance(pool, Http2Pool)
        self._rig.loop.until(
            lambda: self._held() + stats.upstream_rq_pending_active == self.count and not pool._dialling,
            "a response to stand still, or a request to wait for others",
        )

    @staticmethod
    def script(visit: H2Visit, request: Message) -> None:
        if request.reset is not None:
            return
        if request[":path"] == "/small":
            visit.answer(request, 200, body=b"small")
            return
        visit.send_head(request.stream_id, [(":status", "200")])
        if request[":path"] == "/large":
            visit.send_what_fits(request.stream_id, Clogging.BEGUN)

    @property
    def upstreams(self) -> list[Http2Upstream]:
        return [one for one in self._rig.cluster.connections if isinstance(one, Http2Upstream)]

    def is_clogged(self) -> bool:
        """Do others wait?"""
        return self._rig.cluster.stats.upstream_rq_pending_active > 0

    def _held(self) -> int:
        return sum(stream.clogs for one in self.upstreams for stream in one.engine.streams.values())

    def take_all(self) -> None:
        streams = range(1, 2 * self.count, 2)
        self.client.send(*(window_update(stream, len(self.BEGUN)) for stream in (0, *streams)))

    def __enter__(self) -> Clogging:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.sock.close()


@pytest.mark.usefixtures("small_windows")
def test_nobody_waits_long_for_clients_that_take_nothing(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        H2Origin(Clogging.script) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        H2Client(rig.port) as other,
    ):
        quiet = other.begin(path="/quiet")
        other.wait_for_head(quiet)
        with Clogging(rig) as clogging:
            assert origin.connections == MAX_CONNECTIONS_PER_ENDPOINT
            monkeypatch.setattr(h2_upstream, "STALLED_S", 0.1)
            assert other.ask(path="/small").body == b"small"
            ended = rig.listener.http.downstream_rq_idle_timeout
            assert 0 < ended < clogging.count / 2, "no more than it takes"
        assert not other.messages[quiet].is_over, "it holds nothing up"


@pytest.mark.usefixtures("small_windows")
def test_a_client_that_is_only_slow_is_not_ended(one_loop: LoopThread) -> None:
    with (
        H2Origin(Clogging.script) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        H2Client(rig.port) as other,
    ):
        other.begin(path="/quiet")
        with Clogging(rig) as clogging:
            small = other.begin(path="/small")
            clogging.take_all()
            assert other.wait(small).body == b"small"
        assert rig.listener.http.downstream_rq_idle_timeout == 0


@pytest.mark.usefixtures("small_windows")
def test_time_before_there_was_anything_to_take_does_not_count(
    one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An origin may think for long, and a gRPC stream have nothing to say: clients have their time from then on."""
    with (
        H2Origin(Clogging.script) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        H2Client(rig.port) as other,
    ):
        monkeypatch.setattr(rig.listener, "now", lambda: one_loop.loop.time() - 1000)
        with Clogging(rig):
            pool = rig.cluster.http
            assert isinstance(pool, Http2Pool)
            other.begin(path="/small")
            one_loop.until(lambda: pool.waiting_count == 2, "another to wait")
            rig.loop.look(pool._look_again)
            assert rig.listener.http.downstream_rq_idle_timeout == 0


def test_a_client_of_http1_that_is_only_slow_does_not_stand_still(loop: LoopThread) -> None:
    """What waits for it waits in its transport, and is taken from there."""
    body = bytes(8 * 1024 * 1024)

    def script(visit: H2Visit, request: Message) -> None:
        visit.answer(request, body=body)

    with (
        H2Origin(script) as origin,
        Rig(loop, [origin], protocol=Protocol.HTTP2) as rig,
        tcp.connect(rig.port) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
        grows_no_more(rig, lambda: sum(one.received for one in rig.cluster.connections))
        (downstream,) = rig.listener.connections
        assert isinstance(downstream, Http1Downstream)
        buffered, sent = rig.loop.look(lambda: (downstream.transport.get_write_buffer_size(), downstream.sent))
        assert buffered > 1024 * 1024
        rig.loop.look(lambda: downstream.check_times(1e9))
        assert rig.loop.look(lambda: downstream.still_since(2e9)) == 1e9
        taken = 0
        while rig.loop.look(downstream.transport.get_write_buffer_size) == buffered:
            taken += len(sock.recv(64 * 1024))
        assert rig.loop.look(lambda: (downstream.still_since(2e9), downstream.sent)) == (2e9, sent)
        while taken < len(body):
            taken += len(sock.recv(256 * 1024))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Http2Upstream]:
    """The connections that were looked at for responses that stand still; none ever has any."""
    seen: list[Http2Upstream] = []

    def end_stalled(connection: Http2Upstream) -> bool:
        seen.append(connection)
        return False

    monkeypatch.setattr(Http2Upstream, "end_stalled", end_stalled)
    return seen


@pytest.mark.usefixtures("small_windows")
def test_one_endpoint_that_cannot_be_cleared_does_not_keep_others_from_it(
    one_loop: LoopThread, looks: list[Http2Upstream]
) -> None:
    with (
        H2Origin(Clogging.script) as origin,
        H2Origin(Clogging.script) as other,
        Rig(one_loop, [origin, other], protocol=Protocol.HTTP2) as rig,
        Clogging(rig) as clogging,
    ):
        pool = rig.cluster.http
        assert isinstance(pool, Http2Pool)
        while len(pool._waiting) < 2:
            clogging.ask_for_more()
        looks.clear()
        one_loop.until(lambda: {one.endpoint for one in looks} == {*rig.cluster.balancer}, "both to be looked at")


@pytest.mark.usefixtures("small_windows")
def test_what_is_retired_is_not_cleared(one_loop: LoopThread, looks: list[Http2Upstream]) -> None:
    """Nobody who waits would get a stream there."""
    with (
        H2Origin(Clogging.script) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        Clogging(rig, max_connections=2) as clogging,
    ):
        overflows = rig.cluster.stats.upstream_cx_overflow
        retired = rig.loop.look(lambda: clogging.upstreams[0])
        rig.loop.look(retired.retire)
        looks.clear()
        one_loop.until(lambda: len(looks) >= 2, "two looks")
        assert retired not in looks
        assert rig.cluster.stats.upstream_cx_overflow == overflows, "of those who wait, each counts once"


@pytest.mark.usefixtures("small_windows")
def test_nothing_is_ended_for_those_who_wait_no_more(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        H2Origin(Clogging.script) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        Clogging(rig) as clogging,
    ):
        stats = rig.cluster.stats
        cancelled = stats.upstream_rq_cancelled
        clogging.client.send(rst_stream(2 * clogging.count - 1))
        one_loop.until(lambda: stats.upstream_rq_cancelled > cancelled, "the one that waits to leave")
        monkeypatch.setattr(h2_upstream, "STALLED_S", 0.0)
        one_loop.until(lambda: not stats.upstream_rq_pending_active, "it to be forgotten")
        assert rig.listener.http.downstream_rq_idle_timeout == 0


@pytest.mark.usefixtures("small_windows")
def test_what_clogs_after_somebody_began_to_wait_is_cleared_too(
    one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first they wait for a stream, of which there are only so many, and nothing stands still."""
    monkeypatch.setattr(h2_upstream, "STALLED_S", 0.1)
    everybody = threading.Barrier(MAX_CONNECTIONS_PER_ENDPOINT + 1)

    def script(visit: H2Visit, request: Message) -> None:
        if request.reset is not None:
            return
        if request[":path"] == "/small":
            visit.answer(request, 200, body=b"small")
            return
        visit.send_head(request.stream_id, [(":status", "200")])
        large = [one.stream_id for one in visit.messages.values() if one[":path"] == "/large"]
        if large.index(request.stream_id) == 4:
            everybody.wait(10)
            for stream_id in large:
                visit.send_what_fits(stream_id, Clogging.BEGUN)

    with (
        H2Origin(script, max_streams=5) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        H2Client(rig.port) as other,
        Frames(rig.port) as client,
    ):
        assert other.ask(path="/small").status == 200  # from now on it is known that a connection has five streams
        stats = rig.cluster.stats
        client.handshake((Setting.INITIAL_WINDOW_SIZE, 0))
        count = 5 * MAX_CONNECTIONS_PER_ENDPOINT
        blocks = [client.encode(client.request(path="/large")) for _ in range(count)]
        client.send(*(headers(2 * number + 1, block) for number, block in enumerate(blocks)))
        one_loop.until(lambda: stats.upstream_rq_active - stats.upstream_rq_pending_active == count, "all of them")
        small = other.begin(path="/small")
        one_loop.until(lambda: stats.upstream_rq_pending_active == 1, "another to wait")
        everybody.wait(10)
        assert other.wait(small).body == b"small"


@pytest.mark.usefixtures("small_windows")
def test_who_has_a_stream_already_does_not_wait_long_either(
    one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses that were all begun before any stood still may use up all of the window."""
    monkeypatch.setattr(h2_upstream, "STALLED_S", 0.1)
    monkeypatch.setattr(h2_upstream, "REFILL_INTERVAL_S", 0.05)
    window = SMALL_WINDOWS.connection_window_bytes
    count = 2 * window // SMALL_WINDOWS.stream_window_bytes

    def script(visit: H2Visit, request: Message) -> None:
        if request.reset is not None:
            return
        visit.send_head(request.stream_id, [(":status", "200")])
        large = [one.stream_id for one in visit.messages.values() if one[":path"] == "/large"]
        if request[":path"] == "/large" and large[-1] == request.stream_id and len(large) == count:
            (feed,) = (one.stream_id for one in visit.messages.values() if one[":path"] == "/feed")
            left = {**dict.fromkeys(large, len(Clogging.BEGUN)), feed: window}
            while left[feed]:
                for stream_id, missing in left.items():
                    if visit.messages[stream_id].reset is None:
                        left[stream_id] -= visit.send_what_fits(stream_id, bytes(missing))
                if left[feed] and not visit.read():
                    return
            visit.send_data(feed, b"", end=True)

    with (
        H2Origin(script) as origin,
        Rig(one_loop, [origin], protocol=Protocol.HTTP2) as rig,
        H2Client(rig.port) as other,
        Frames(rig.port) as client,
    ):
        feed = other.begin(path="/feed")
        other.wait_for_head(feed)
        client.handshake((Setting.INITIAL_WINDOW_SIZE, 0))
        blocks = [client.encode(client.request(path="/large")) for _ in range(count)]
        client.send(*(headers(2 * number + 1, block) for number, block in enumerate(blocks)))
        assert len(other.wait(feed).body) == window
        assert origin.connections == 1
