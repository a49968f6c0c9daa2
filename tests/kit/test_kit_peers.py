"""The peers do what their names say and record it, over TCP, unix sockets and TLS, so that a failing
end-to-end test points at the proxy.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit import client, payload, peers
from tests.kit.ca import Authority, Identity
from tests.kit.peers import Peer
from tests.kit.streams import TlsStream

ROOT = Authority.root()
SERVER = ROOT.leaf("api.example.test")


@contextmanager
def tls_to(
    peer: Peer, *, identity: Identity | None = None, version: ssl.TLSVersion | None = None
) -> Iterator[TlsStream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ROOT.pem)
    if version is not None:
        context.maximum_version = version
    if identity is not None:
        peers.load_identity(context, identity)
    with client.connect(peer.port) as sock:
        stream = TlsStream(sock, context, server_side=False, server_hostname="api.example.test")
        stream.handshake()
        yield stream


def read_to_end(stream: TlsStream) -> bytes:
    data = b""
    while chunk := stream.recv():
        data += chunk
    return data


@pytest.mark.parametrize("at", ["127.0.0.1", "::1"])
def test_echo_over_tcp(at: str) -> None:
    with Peer(peers.echo, at=at) as peer:
        assert client.ask(peer.port, b"hello", host=at) == b"hello"
        assert peer.wait_for_ending() == "eof"
        assert peer.seen[0].sha256 == hashlib.sha256(b"hello").hexdigest()


@pytest.mark.parametrize("abstract", [False, True])
def test_echo_over_a_unix_socket(tmp_path: Path, abstract: bool) -> None:
    at = "@koguma-kit-echo" if abstract else str(tmp_path / "echo.sock")
    with Peer(peers.echo, at=at) as peer, socket.socket(socket.AF_UNIX) as sock:
        assert peer.endpoint == {"address": f"unix://{at}"}
        sock.connect("\0koguma-kit-echo" if abstract else at)
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert client.read_to_end(sock) == b"hello"


def test_source_sends_the_payload_with_the_known_hash() -> None:
    total = 3 * payload.MIB + 17
    with Peer(peers.source(total)) as peer, client.connect(peer.port) as sock:
        assert client.digest_to_end(sock) == (total, payload.sha256(total))


def test_an_answer_after_the_end_needs_half_close() -> None:
    with Peer(peers.answer_after_end) as peer:
        assert client.ask(peer.port, b"abc") == f"3 {hashlib.sha256(b'abc').hexdigest()}".encode()


def test_a_banner_comes_before_any_byte_of_the_client() -> None:
    with Peer(peers.banner(b"220 hi\r\n")) as peer, client.connect(peer.port) as sock:
        assert client.read_exactly(sock, 8) == b"220 hi\r\n"


def test_a_reset_at_once_arrives_as_a_reset() -> None:
    with Peer(peers.reset_at_once) as peer:
        try:
            with client.connect(peer.port) as sock:
                was_reset = client.was_reset(sock)
        except ConnectionResetError:  # it may be quicker than connect()
            was_reset = True
        assert was_reset


def test_a_reset_after_some_bytes_arrives_as_a_reset() -> None:
    with Peer(peers.reset_after(4)) as peer, client.connect(peer.port) as sock:
        sock.sendall(b"four")
        assert client.was_reset(sock)


def test_a_reset_by_the_client_is_recorded() -> None:
    with Peer(peers.discard) as peer:
        sock = client.connect(peer.port)
        sock.sendall(b"x")
        peer.wait_for(1)
        client.reset(sock)
        assert peer.wait_for_ending() == "reset"


def test_nobody_listens_after_stop_listening() -> None:
    with Peer(peers.echo) as peer:
        port = peer.port
        with client.connect(port) as sock:
            peer.wait_for(1)
            peer.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                client.connect(port)
            sock.sendall(b"still here")
            assert client.read_exactly(sock, 10) == b"still here"


def test_a_mistake_in_a_behaviour_fails_the_test() -> None:
    def wrong(_visit: peers.Visit) -> None:
        raise KeyError("mistake")

    peer = Peer(wrong)
    with client.connect(peer.port) as sock:
        assert client.read_to_end(sock) == b""
    with pytest.raises(KeyError):
        peer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_recorded_and_half_closes_both_ways(version: ssl.TLSVersion) -> None:
    with (
        Peer(peers.answer_after_end, tls=peers.server_tls(SERVER)) as peer,
        tls_to(peer, version=version) as stream,
    ):
        stream.send(b"abc")
        stream.end()
        assert read_to_end(stream).startswith(b"3 ")
        assert peer.wait_for_ending() == "eof"
        assert peer.seen[0].sni == "api.example.test"
        assert peer.seen[0].version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert not peer.seen[0].resumed


def test_a_tls_peer_that_ended_first_still_reads() -> None:
    behaviour = peers.end_then_read(b"bye")
    with Peer(behaviour, tls=peers.server_tls(SERVER)) as peer, tls_to(peer) as stream:
        assert read_to_end(stream) == b"bye"
        stream.send(b"and yet")
        stream.end()
        assert peer.wait_for_ending() == "eof"
        assert peer.seen[0].received_bytes == 7


def test_a_tls_peer_that_ends_while_data_waits_loses_none_of_it() -> None:
    behaviour = peers.greeting(b"bye")
    with Peer(behaviour, tls=peers.server_tls(SERVER)) as peer:
        for turn in range(20):  # sometimes the data comes together with the last message of the handshake
            with tls_to(peer) as stream:
                stream.send(b"early")
                stream.end()
                assert read_to_end(stream) == b"bye"
            assert peer.wait_for_ending(turn) == "eof"
            assert peer.seen[turn].received_bytes == 5


def test_an_end_without_close_notify_is_a_truncation() -> None:
    with Peer(peers.discard, tls=peers.server_tls(SERVER)) as peer:
        with tls_to(peer, version=ssl.TLSVersion.TLSv1_2) as stream:
            stream.send(b"x")
        assert peer.wait_for_ending() == "truncated"


def test_a_client_certificate_is_recorded_and_its_absence_refused() -> None:
    tls = peers.server_tls(SERVER, client_ca_pem=ROOT.pem)
    identity = ROOT.leaf("spiffe://example.test/app")
    with Peer(peers.echo, tls=tls) as peer:
        with tls_to(peer, identity=identity) as stream:
            stream.send(b"x")
            assert stream.recv() == b"x"
        assert peer.seen[0].client_sans == ("spiffe://example.test/app",)
        assert peer.seen[0].client_der == identity.der
        with pytest.raises(ssl.SSLError), tls_to(peer) as stream:
            stream.recv()
        peer.wait_for_ending(1)
        assert peer.seen[1].handshake_error == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_an_old_tls_version_really_works_and_the_default_refuses_it(version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_verify_locations(cadata=ROOT.pem)
    context.minimum_version = context.maximum_version = version
    with (
        Peer(peers.echo, tls=peers.server_tls(SERVER, minimum=version, maximum=version)) as old,
        Peer(peers.echo, tls=peers.server_tls(SERVER)) as new,
    ):
        for peer in (old, new):
            with client.connect(peer.port) as sock:
                stream = TlsStream(sock, context, server_side=False, server_hostname="api.example.test")
                if peer is new:
                    with pytest.raises(ssl.SSLError):
                        stream.handshake()
                else:
                    stream.handshake()
                    stream.send(b"x")
                    assert stream.recv() == b"x"
        assert old.seen[0].version in ("TLSv1", "TLSv1.1")


def test_resumption_is_recorded() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ROOT.pem)
    session: ssl.SSLSession | None = None
    with Peer(peers.echo, tls=peers.server_tls(SERVER)) as peer:
        for _ in range(2):
            with client.connect(peer.port) as sock:
                stream = TlsStream(
                    sock, context, server_side=False, server_hostname="api.example.test", session=session
                )
                stream.handshake()
                stream.send(b"x")
                assert stream.recv() == b"x"
                session = stream.tls.session
                stream.end()
        assert [seen.resumed for seen in peer.wait_for(2)] == [False, True]


def test_many_connections_at_once() -> None:
    with Peer(peers.echo) as peer:
        socks = [client.connect(peer.port) for _ in range(300)]
        peer.wait_for(300)
        for number, sock in enumerate(socks):
            sock.sendall(number.to_bytes(4, "big"))
        for number, sock in enumerate(socks):
            assert client.read_exactly(sock, 4) == number.to_bytes(4, "big")
            sock.close()
