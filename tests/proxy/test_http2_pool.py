"""Guarantee: connections of HTTP/2 are shared, no more of them are made than an endpoint may have, and one that nobody
took up costs no request.
"""

from __future__ import annotations

import ssl
import threading

import pytest

from config.plan import Protocol
from proxy.http.exchange import MAX_ATTEMPTS
from proxy.http.h2_pool import MAX_CONNECTIONS_PER_ENDPOINT, Http2Pool
from proxy.http.h2_upstream import Http2Upstream
from tests.kit.ca import Authority
from tests.kit.http2_peers import H2Client, H2Origin, H2Visit, Message, respond
from tests.kit.peers import Peer, Visit, server_tls
from tests.proxy.rig import SERVER, LoopThread, Rig, trusting
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
