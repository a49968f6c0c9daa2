"""Guarantee: connections of HTTP/2 are shared, no more of them are made than an endpoint may have, and one that nobody
took up costs no request.
"""

from __future__ import annotations

import threading

from config.plan import Protocol
from proxy.http.exchange import MAX_ATTEMPTS
from proxy.http.h2_pool import MAX_CONNECTIONS_PER_ENDPOINT, Http2Pool
from tests.kit.http2_peers import H2Client, H2Origin, H2Visit, Message, respond
from tests.kit.peers import Visit
from tests.proxy.rig import LoopThread, Rig

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
