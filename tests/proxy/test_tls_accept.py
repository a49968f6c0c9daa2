"""Guarantee: behind an inbound with mTLS the application hears of no peer that was not verified and permitted."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace

import pytest

from config.plan import Protocol
from proxy.door import MAX_QUOTED_CHARS, DoorAcceptor
from tests.kit import client, peers
from tests.kit.ca import Identity
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer
from tests.proxy.inbound_rig import ACCEPTANCE, FOREIGN, GOOD, PERMISSIVE, A, B, Inbound
from tests.proxy.rig import LoopThread
from tests.tls.duet import V12, V13
from tests.tls.inbound import bundle, client_context
from tls.bundles import TrustBundles
from tls.client_hello import ClientHello
from tls.permissions import IdMatch, Permissions
from tls.policy import MatchType


@pytest.fixture
def application() -> Iterator[Peer]:
    with Peer(peers.echo) as peer:
        yield peer


@pytest.fixture
def inbound(loop: LoopThread, application: Peer) -> Iterator[Inbound]:
    with Inbound(loop, [application]) as rig:
        rig.demand()
        yield rig


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_a_verified_peer_reaches_the_application(inbound: Inbound, version: ssl.TLSVersion) -> None:
    assert inbound.call(GOOD, version=version) == b"ping"
    inbound.wait_for_end()
    assert inbound.loop.look(lambda: inbound.listener.stats.ssl_handshake) == 1


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
@pytest.mark.parametrize("identity", [FOREIGN, None, A.leaf("svc.test")], ids=["foreign", "none", "no SVID"])
def test_no_other_does(inbound: Inbound, application: Peer, identity: Identity | None, version: ssl.TLSVersion) -> None:
    assert inbound.call(identity, version=version) == b""
    inbound.loop.until(lambda: not inbound.listener.handshakes, "the handshake to be over")
    assert not application.seen
    stats = inbound.listener.stats
    refused = (stats.ssl_handshake, stats.ssl_fail_verify_error + stats.ssl_fail_verify_no_cert)
    assert inbound.loop.look(lambda: (*refused, inbound.limit.active)) == (0, 1, 0)


class Stranger:
    """The transport of one whom nobody knows."""

    def get_extra_info(self, _: str) -> None:
        return None

    def abort(self) -> None:
        """It is reset."""


@pytest.mark.parametrize("chars", [MAX_QUOTED_CHARS, MAX_QUOTED_CHARS + 1, 16_000])
def test_of_an_unknown_server_name_so_much_is_logged(
    inbound: Inbound, caplog: pytest.LogCaptureFixture, chars: int
) -> None:
    """A stranger may write 16 KB there."""

    def lead() -> None:
        acceptor = DoorAcceptor(inbound.listener)
        acceptor._raw = Stranger()  # type: ignore[assignment]
        acceptor._lead(ClientHello("x" * chars, ()))

    inbound.loop.look(lead)
    (record,) = [one for one in caplog.records if getattr(one, "cause", "") == "unknown_server_name"]
    quoted = "x" * MAX_QUOTED_CHARS + ("" if chars == MAX_QUOTED_CHARS else "...")
    assert record.getMessage().endswith(f"no service has the server name '{quoted}'")


def test_plaintext_is_refused_without_a_word(inbound: Inbound, application: Peer) -> None:
    assert client.ask(inbound.port, b"GET / HTTP/1.1\r\n\r\n") == b""
    assert not application.seen


def test_permissions(inbound: Inbound, application: Peer) -> None:
    inbound.demand(permissions=Permissions(allow=(IdMatch(MatchType.PREFIX, "spiffe://a/y"),)))
    assert inbound.call(GOOD) == b""
    assert not application.seen
    assert inbound.call(A.leaf("spiffe://a/y")) == b"ping"
    stats = inbound.listener.stats
    assert inbound.loop.look(lambda: (stats.rbac_denied, stats.rbac_allowed)) == (1, 1)
    inbound.demand(permissions=Permissions(shadow_deny=(IdMatch(MatchType.EXACT, "spiffe://a/x"),)))
    assert inbound.call(GOOD) == b"ping"
    assert inbound.loop.look(lambda: stats.rbac_shadow_denied) == 1


def test_a_permissive_inbound_takes_all_three(inbound: Inbound) -> None:
    inbound.demand(PERMISSIVE)
    assert client.ask(inbound.port, b"plain") == b"plain"
    assert inbound.call(GOOD) == b"ping"
    assert inbound.call(FOREIGN) == b"", "the mesh's own TLS is verified all the same"
    hello = b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"
    assert client.ask(inbound.port, hello) == hello, "other TLS is the application's"


def test_trust_changes_apply_to_the_next_handshake(inbound: Inbound) -> None:
    assert inbound.call(GOOD) == b"ping"
    inbound.demand(replace(ACCEPTANCE, bundles=TrustBundles.of([bundle("a", B)])))
    assert inbound.call(GOOD) == b""
    assert inbound.call(FOREIGN) == b"ping"


def test_http_over_mtls(loop: LoopThread) -> None:
    with Origin(always(ok(b"hello"))) as origin, Inbound(loop, [origin], protocol=Protocol.HTTP) as inbound:
        inbound.demand()
        request = b"GET / HTTP/1.1\r\nHost: svc\r\nX-Forwarded-Client-Cert: URI=spiffe://a/forged\r\n\r\n"
        assert inbound.call(GOOD, request).startswith(b"HTTP/1.1 200 ")
        assert "forged" not in repr(origin.last)


def test_a_stopped_listener_drops_handshakes(inbound: Inbound) -> None:
    with client.connect(inbound.port) as sock:
        inbound.loop.until(lambda: inbound.listener.handshakes, "a handshake")
        inbound.loop.run(inbound.listener.stop())
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass  # as good an end
    inbound.loop.until(lambda: inbound.limit.active == 0, "the account to be balanced")


def test_a_peer_that_has_our_answer_is_let_in_by_a_listener_that_stops(inbound: Inbound) -> None:
    """In TLS 1.3 it has a connection for itself by then, and may have said something on it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(GOOD, version=V13, alpn=("kuma",)).wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with socket.create_connection(("127.0.0.1", inbound.port), 10) as sock:
        sock.sendall(outgoing.read())
        while True:
            incoming.write(sock.recv(65536))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                continue
        assert inbound.loop.look(lambda: (inbound.listener.is_idle, inbound.listener.idle.is_set())) == (False, False)
        inbound.loop.run(inbound.listener.stop())
        tls.write(b"ping")
        sock.sendall(outgoing.read())
        answer = b""
        while not answer:
            incoming.write(sock.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                answer = tls.read(100)
        assert answer == b"ping"
    inbound.loop.until(lambda: inbound.listener.is_idle and inbound.listener.idle.is_set(), "the end")
