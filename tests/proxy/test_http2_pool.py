"""Guarantee: connections of HTTP/2 are shared, and no more of them are made than an endpoint may have."""

from __future__ import annotations

import threading

from config.plan import Protocol
from proxy.http.h2_pool import MAX_CONNECTIONS_PER_ENDPOINT, Http2Pool
from tests.kit.http2_peers import H2Client, H2Origin, H2Visit, Message
from tests.proxy.rig import LoopThread, Rig

WAITING = 4


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
