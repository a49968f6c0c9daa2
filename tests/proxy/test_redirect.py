"""Guarantee: a redirected connection reaches what it meant: the listener of that address, or that address itself, or
nothing; and never this proxy again.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from config.plan import Direction, ListenerPlan, Plan, Protocol
from proxy.listener import Listener
from proxy.redirect import original_destination
from tests.kit import client, peers
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer
from tests.kit.ports import free_port
from tests.kit.rawhttp import Wire
from tests.proxy.inbound_rig import ACCEPTANCE, GOOD
from tests.proxy.rig import LoopThread, cluster_plan, listener_plan, target_of
from tests.proxy.test_runtime import NOBODY, Running
from tests.tls.inbound import client_context

VIP = "242.7.8.9"
PASSTHROUGH = "passthrough"


def vip_listener(port: int, cluster: str, protocol: Protocol = Protocol.TCP) -> ListenerPlan:
    plan = listener_plan(port, cluster, f"outbound_{VIP}_{port}", protocol=protocol)
    return replace(plan, address=ip_address(VIP), bind_to_port=False)


class Redirecting:
    """A proxy to which every connection comes redirected, on its way to ``destination``."""

    def __init__(self, loop: LoopThread, peer: Peer, *, passes: bool = True, protocol: Protocol = Protocol.TCP) -> None:
        self.running = Running(loop)
        self.port = free_port()
        self.destination = (VIP, 80)
        entry = replace(listener_plan(self.port, PASSTHROUGH if passes else "", "redirect"), original_dst=True)
        listeners = {entry.name: entry}
        listeners |= {one.name: one for one in [vip_listener(80, "app", protocol)]}
        clusters = {"app": cluster_plan([target_of(peer)], protocol=protocol)}
        if passes:
            clusters[PASSTHROUGH] = cluster_plan([], PASSTHROUGH)
        self.plan = Plan(NOBODY.proxy, listeners, clusters)
        assert self.running.apply(self.plan).failed == {}
        self.listener("redirect").destination_of = lambda _sock: self.destination

    def listener(self, name: str) -> Listener:
        return self.running.runtime.listeners[name]

    @property
    def vip(self) -> Listener:
        return self.listener(f"outbound_{VIP}_80")


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer(peers.echo) as one:
        yield one


@pytest.fixture
def proxy(loop: LoopThread, peer: Peer) -> Iterator[Redirecting]:
    one = Redirecting(loop, peer)
    yield one
    one.running.close()


def test_a_virtual_ip_needs_no_socket(proxy: Redirecting) -> None:
    assert proxy.running.descriptors().keys() == {"redirect"}
    assert client.ask(proxy.port) == b"ping"
    proxy.running.loop.until(lambda: proxy.vip.stats.downstream_cx_destroy == 1, "the relay to end")
    assert proxy.vip.stats.downstream_cx_total == 1
    assert proxy.listener("redirect").stats.downstream_cx_total == 0, "it belongs to the virtual IP"


def test_what_is_spoken_there_is_spoken(loop: LoopThread) -> None:
    with Origin(always(ok(b"by http"))) as origin:
        proxy = Redirecting(loop, origin, protocol=Protocol.HTTP)
        with Wire(proxy.port) as wire:
            assert wire.get().body == b"by http"
        proxy.running.close()


def test_any_other_destination_is_passed_through(proxy: Redirecting, peer: Peer) -> None:
    where = peer.endpoint
    proxy.destination = (where["address"], where["port"])
    assert client.ask(proxy.port, b"through") == b"through"
    stats = proxy.running.runtime.clusters[PASSTHROUGH].stats
    assert (stats.upstream_cx_total, stats.upstream_cx_connect_fail) == (1, 0)
    proxy.running.loop.until(lambda: proxy.listener("redirect").stats.downstream_cx_destroy == 1, "the relay to end")


def test_a_destination_where_nobody_is(proxy: Redirecting) -> None:
    proxy.destination = ("127.0.0.1", free_port())
    assert client.gets_nowhere(proxy.port)
    assert proxy.running.runtime.clusters[PASSTHROUGH].stats.upstream_cx_connect_fail == 1


def test_passthrough_may_be_forbidden(loop: LoopThread, peer: Peer) -> None:
    proxy = Redirecting(loop, peer, passes=False)
    assert client.ask(proxy.port) == b"ping"
    proxy.destination = (peer.endpoint["address"], peer.endpoint["port"])
    assert client.gets_nowhere(proxy.port)
    assert len(peer.seen) == 1
    proxy.running.close()


def test_nothing_goes_round(proxy: Redirecting) -> None:
    proxy.destination = ("127.0.0.1", proxy.port)
    assert client.gets_nowhere(proxy.port)
    entry = proxy.listener("redirect")
    entry.destination_of = original_destination
    assert client.gets_nowhere(proxy.port), "one that was not redirected at all"
    proxy.running.loop.until(lambda: entry.stats.downstream_cx_destroy == 2, "both to end")
    assert proxy.running.runtime.clusters[PASSTHROUGH].stats.upstream_cx_total == 0


def test_a_virtual_ip_that_is_removed(proxy: Redirecting) -> None:
    plan = proxy.plan
    without = replace(plan, listeners={name: one for name, one in plan.listeners.items() if one.original_dst})
    proxy.running.apply(replace(without, clusters={PASSTHROUGH: plan.clusters[PASSTHROUGH]}))
    proxy.destination = (VIP, 80)
    with client.connect(proxy.port) as app:
        proxy.running.loop.until(
            lambda: proxy.running.runtime.clusters[PASSTHROUGH].stats.upstream_cx_total == 1, "it to be passed through"
        )
        client.reset(app)


class RedirectingInbound(Running):
    """A proxy to which every connection comes redirected, on its way to the inbound ``10.1.2.3:80`` with mTLS; there is
    an outbound of the same address.
    """

    def __init__(self, loop: LoopThread, peer: Peer, passing: str) -> None:
        super().__init__(loop)
        self.port, place = free_port(), {"address": ip_address("10.1.2.3"), "bind_to_port": False}
        redirect = replace(listener_plan(self.port, passing, "redirect"), original_dst=True)
        parts = [
            replace(redirect, direction=Direction.INBOUND),
            replace(listener_plan(80, "nowhere", "outbound"), **place),
            replace(listener_plan(80, "app", "inbound"), **place, direction=Direction.INBOUND, acceptance=ACCEPTANCE),
        ]
        clusters = {"app": cluster_plan([target_of(peer)]), "nowhere": cluster_plan([], "nowhere")}
        clusters[PASSTHROUGH] = replace(cluster_plan([], PASSTHROUGH), source=ip_address("127.0.0.6"))
        assert self.apply(Plan(NOBODY.proxy, {one.name: one for one in parts}, clusters)).failed == {}
        self.destination = ("10.1.2.3", 80)
        self.runtime.listeners["redirect"].destination_of = lambda _sock: self.destination


def test_an_inbound_keeps_its_mtls(loop: LoopThread, peer: Peer) -> None:
    proxy = RedirectingInbound(loop, peer, PASSTHROUGH)
    context = client_context(GOOD, alpn=("kuma",))
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as raw, context.wrap_socket(raw) as sock:
        sock.sendall(b"ping")
        assert sock.recv(100) == b"ping"
    assert loop.look(lambda: proxy.runtime.listeners["inbound"].stats.ssl_handshake) == 1
    assert client.gets_nowhere(proxy.port), "plaintext"
    assert len(peer.seen) == 1
    proxy.close()


@pytest.mark.parametrize("passing", [PASSTHROUGH, ""])
def test_what_is_no_inbound_passes_from_a_source_of_its_own_or_not_at_all(loop: LoopThread, passing: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        with Peer(peers.echo) as peer:
            proxy = RedirectingInbound(loop, peer, passing)
        proxy.destination = server.getsockname()[:2]
        with client.connect(proxy.port) as app:
            if passing:
                accepted, (whence, _) = server.accept()
                accepted.close()
                assert whence == "127.0.0.6"
            else:
                assert app.recv(1) == b""
        proxy.close()


def test_without_a_redirect_the_destination_is_where_it_arrived() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as listening:
            listening.bind((host, 0))
            listening.listen()
            with socket.create_connection(listening.getsockname()[:2]):
                accepted, _ = listening.accept()
                with accepted:
                    assert original_destination(accepted) == listening.getsockname()[:2]
