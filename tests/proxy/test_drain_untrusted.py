"""Guarantee: connections outlive their peers' trust unless the user wants them drained; then a request that runs is
finished, and within the drain time the connection is over.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from config.plan import Plan, Protocol, ProxyIdentity
from proxy.listener import ConnectionLimit
from proxy.runtime import Runtime
from tests.kit import peers
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer
from tests.kit.rawhttp import Wire
from tests.proxy.inbound_rig import ACCEPTANCE, GOOD, A, B, allowing
from tests.proxy.rig import LoopThread, cluster_plan, listener_plan, services, target_of
from tests.tls.inbound import bundle, client_context
from tls.acceptance import Acceptance
from tls.bundles import TrustBundles
from tls.permissions import Permissions

BOTH = replace(ACCEPTANCE, bundles=TrustBundles.of([bundle("a", A, B)]))
A_LESS = replace(ACCEPTANCE, bundles=TrustBundles.of([bundle("a", B), bundle("b", A)]))


class World:
    """A runtime with one inbound, which is given plans."""

    def __init__(self, loop: LoopThread, application: Peer, protocol: Protocol, *, drains: bool) -> None:
        self.loop = loop
        self._drains = drains
        self._cluster = cluster_plan([target_of(application)], "app", protocol=protocol)
        self._protocol = protocol
        nobody = Plan(ProxyIdentity("default", "dp"))
        self.runtime = loop.look(lambda: Runtime(nobody, services(), ConnectionLimit(100), 0.3))
        self.demand(ACCEPTANCE)

    def demand(self, acceptance: Acceptance, permissions: Permissions | None = None) -> None:
        listener = listener_plan(0, "app", "in", protocol=self._protocol)
        listener = replace(listener, acceptance=acceptance, permissions=permissions)
        plan = Plan(
            ProxyIdentity("default", "dp"), {"in": listener}, {"app": self._cluster}, drain_untrusted=self._drains
        )
        self.loop.run(self.runtime.apply(plan))

    @property
    def port(self) -> int:
        return self.runtime.listeners["in"].port

    def count(self) -> int:
        return self.loop.look(lambda: len(self.runtime.listeners["in"].connections))

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run(self.runtime.close())
        self.loop.look(self.runtime.listeners["in"].abort_connections)


@pytest.fixture
def echo() -> Iterator[Peer]:
    with Peer(peers.echo) as peer:
        yield peer


def dial(port: int) -> socket.socket:
    sock = client_context(GOOD, alpn=("kuma",)).wrap_socket(socket.create_connection(("127.0.0.1", port), 10))
    ask(sock)
    return sock


def ask(sock: socket.socket) -> None:
    sock.sendall(b"ping")
    assert sock.recv(100) == b"ping"


def ends(sock: socket.socket) -> bool:
    sock.settimeout(10)
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


def test_connections_stay_where_nobody_asks_for_more(one_loop: LoopThread, echo: Peer) -> None:
    with World(one_loop, echo, Protocol.TCP, drains=False) as world, dial(world.port) as sock:
        world.demand(A_LESS)
        ask(sock)
        assert world.count() == 1


@pytest.mark.parametrize("change", [A_LESS, allowing("spiffe://a/y")], ids=["trust", "permissions"])
def test_a_relay_ends_within_the_drain_time(one_loop: LoopThread, echo: Peer, change: object) -> None:
    with World(one_loop, echo, Protocol.TCP, drains=True) as world:
        with dial(world.port) as sock:
            world.demand(BOTH)
            ask(sock)  # it is trusted still
            if isinstance(change, Permissions):
                world.demand(ACCEPTANCE, change)
            else:
                world.demand(A_LESS)
            ask(sock)
            assert ends(sock)
        one_loop.until(lambda: not world.runtime.listeners["in"].connections, "the relay to end")


def test_http_ends_after_the_response_that_runs(one_loop: LoopThread) -> None:
    context = client_context(GOOD, alpn=("kuma",))
    with (
        Origin(always(ok(b"hello"))) as origin,
        World(one_loop, origin, Protocol.HTTP, drains=True) as world,
        Wire(world.port, tls=context) as idle,
        Wire(world.port, tls=context) as busy,
    ):
        assert idle.get().status == 200
        busy.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na")
        one_loop.until(lambda: world.runtime.listeners["in"].http.downstream_rq_active == 1, "a request")
        world.demand(A_LESS)
        assert idle.read_to_end() == b""
        busy.send(b"b")
        answer = busy.response()
        assert (answer.status, answer["connection"]) == (200, "close")


def test_a_handshake_that_began_under_other_trust_is_judged_by_todays(one_loop: LoopThread, echo: Peer) -> None:
    with (
        World(one_loop, echo, Protocol.TCP, drains=False) as world,
        socket.create_connection(("127.0.0.1", world.port), 10) as raw,
    ):
        one_loop.until(lambda: world.runtime.listeners["in"].handshakes, "a handshake")
        world.demand(A_LESS)
        with client_context(GOOD, alpn=("kuma",)).wrap_socket(raw) as sock:
            assert ends(sock)
    assert not echo.seen
