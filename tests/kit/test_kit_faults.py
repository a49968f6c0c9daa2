"""Each fault of the fault proxy happens, and nothing else does."""

from __future__ import annotations

import socket
import time

import pytest

from tests.kit import client, payload, peers, poll
from tests.kit.faults import FaultProxy, Faults
from tests.kit.peers import Peer


def test_without_faults_bytes_and_half_close_pass() -> None:
    total = payload.MIB
    with (
        Peer(peers.source(total)) as peer,
        FaultProxy(peer.port) as proxy,
        client.connect(proxy.port) as sock,
    ):
        assert client.digest_to_end(sock) == (total, payload.sha256(total))
        sock.sendall(b"late")
        sock.shutdown(socket.SHUT_WR)
        assert peer.wait_for_ending() == "eof"
        assert peer.seen[0].received_bytes == 4


def test_reset_after_some_bytes() -> None:
    with (
        Peer(peers.echo) as peer,
        FaultProxy(peer.port, faults=Faults(reset_after_bytes=3)) as proxy,
        client.connect(proxy.port) as sock,
    ):
        sock.sendall(b"hello")
        assert client.was_reset(sock)


def test_end_after_some_bytes() -> None:
    with (
        Peer(peers.echo) as peer,
        FaultProxy(peer.port, faults=Faults(end_after_bytes=3)) as proxy,
        client.connect(proxy.port) as sock,
    ):
        sock.sendall(b"hello")
        assert client.read_to_end(sock) == b"hel"


def test_a_cut_resets_both_sides() -> None:
    with Peer(peers.echo) as peer, FaultProxy(peer.port) as proxy, client.connect(proxy.port) as sock:
        sock.sendall(b"x")
        assert client.read_exactly(sock, 1) == b"x"
        proxy.cut()
        assert client.was_reset(sock)
        assert peer.wait_for_ending() == "reset"


def test_a_blackhole_takes_and_gives_nothing() -> None:
    with (
        Peer(peers.echo) as peer,
        FaultProxy(peer.port, faults=Faults(blackhole=True)) as proxy,
        client.connect(proxy.port, timeout_s=0.2) as sock,
    ):
        sock.sendall(b"x")
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert peer.seen[0].received_bytes == 0


def test_latency_and_drip_take_their_time() -> None:
    with Peer(peers.echo) as peer:
        with FaultProxy(peer.port, faults=Faults(latency_s=0.05)) as proxy:
            start = time.monotonic()
            assert client.ask(proxy.port, b"x") == b"x"
            assert time.monotonic() - start >= 0.1
        with FaultProxy(peer.port, faults=Faults(drip_bytes_per_s=640)) as proxy:
            start = time.monotonic()
            assert client.ask(proxy.port, b"x" * 64) == b"x" * 64
            assert time.monotonic() - start >= 0.09


def test_waiting_names_what_did_not_come() -> None:
    with pytest.raises(AssertionError, match=r"not within 0.01 s: rain; last answer: 0"):
        poll.until(lambda: 0, "rain", within_s=0.01)
    with pytest.raises(AssertionError, match="ceased to hold: sunshine"):
        poll.holds(lambda: False, "sunshine", for_s=0.01)
