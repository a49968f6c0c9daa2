"""Guarantee: a connection through the proxy is the connection that the application would have had without it.

Every byte arrives, unchanged and in order, both ways and at the same time; whoever ends first ends only its
own direction; a reset arrives as a reset; the server may speak first; a thousand connections do not get in
each other's way; and a side that does not read costs neither memory nor its neighbours. All of it with and
without TLS upstream.
"""

from __future__ import annotations

import hashlib
import socket
import threading

import pytest

from tests.e2e.upstreams import serving
from tests.kit import client, payload, peers, poll
from tests.kit.koguma import Koguma
from tests.kit.payload import MIB

BULK_BYTES = 64 * MIB
STALLED_BYTES = 96 * MIB
STALL_ALLOWANCE_BYTES = 24 * MIB
"""How much a stalled connection may add to resident memory: buffers of a few MiB, and allocator slack."""

plain_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@plain_and_tls
def test_echo(koguma: Koguma, tls: bool) -> None:
    with serving(koguma, peers.echo, tls=tls):
        assert client.ask(koguma.port("app"), b"hello") == b"hello"


@plain_and_tls
@pytest.mark.parametrize("total", [BULK_BYTES, pytest.param(1024 * MIB, marks=pytest.mark.slow)], ids=["64MiB", "1GiB"])
def test_bulk_downstream(koguma: Koguma, tls: bool, total: int) -> None:
    with (
        serving(koguma, peers.source(total), tls=tls),
        client.connect(koguma.port("app"), timeout_s=30) as sock,
    ):
        assert client.digest_to_end(sock) == (total, payload.sha256(total))
        koguma.wait_for_stat("app", "upstream_cx_rx_bytes_total", total)


@plain_and_tls
@pytest.mark.parametrize("total", [BULK_BYTES, pytest.param(1024 * MIB, marks=pytest.mark.slow)], ids=["64MiB", "1GiB"])
def test_bulk_upstream(koguma: Koguma, tls: bool, total: int) -> None:
    with (
        serving(koguma, peers.answer_after_end, tls=tls),
        client.connect(koguma.port("app"), timeout_s=30) as sock,
    ):
        upload = client.Upload(sock, payload.blocks(total))
        assert client.read_to_end(sock) == f"{total} {payload.sha256(total)}".encode()
        upload.finish()
        koguma.wait_for_stat("app", "upstream_cx_tx_bytes_total", total)


@plain_and_tls
def test_both_directions_at_once(koguma: Koguma, tls: bool) -> None:
    total = 32 * MIB
    with serving(koguma, peers.echo, tls=tls), client.connect(koguma.port("app"), timeout_s=30) as sock:
        upload = client.Upload(sock, payload.blocks(total))
        assert client.digest_to_end(sock) == (total, payload.sha256(total))
        upload.finish()


@plain_and_tls
def test_tiny_writes(koguma: Koguma, tls: bool) -> None:
    text = bytes(range(256)) * 4
    with serving(koguma, peers.echo, tls=tls), client.connect(koguma.port("app")) as sock:
        for byte in text:
            sock.sendall(bytes([byte]))
        assert client.read_exactly(sock, len(text)) == text


@plain_and_tls
def test_the_application_ends_first_and_still_gets_its_answer(koguma: Koguma, tls: bool) -> None:
    with serving(koguma, peers.answer_after_end, tls=tls) as peer:
        answer = client.ask(koguma.port("app"), b"question")
        assert answer == f"8 {hashlib.sha256(b'question').hexdigest()}".encode()
        assert peer.wait_for_ending() == "eof"


@plain_and_tls
def test_the_server_ends_first_and_still_gets_the_rest(koguma: Koguma, tls: bool) -> None:
    with serving(koguma, peers.end_then_read(b"bye"), tls=tls) as peer:
        with client.connect(koguma.port("app")) as sock:
            assert client.read_to_end(sock) == b"bye"
            sock.sendall(b"and yet")
            sock.shutdown(socket.SHUT_WR)
            assert peer.wait_for_ending() == "eof"
        assert peer.seen[0].received_bytes == 7


@plain_and_tls
def test_the_server_speaks_first(koguma: Koguma, tls: bool) -> None:
    with serving(koguma, peers.banner(b"220 ready\r\n"), tls=tls), client.connect(koguma.port("app")) as sock:
        assert client.read_exactly(sock, 11) == b"220 ready\r\n"
        sock.sendall(b"HELO")
        assert client.read_exactly(sock, 4) == b"HELO"


@plain_and_tls
def test_a_reset_by_the_application_reaches_the_server(koguma: Koguma, tls: bool) -> None:
    with serving(koguma, peers.echo, tls=tls) as peer:
        sock = client.connect(koguma.port("app"))
        sock.sendall(b"x")
        assert client.read_exactly(sock, 1) == b"x"
        client.reset(sock)
        assert peer.wait_for_ending() == "reset"


@plain_and_tls
def test_a_reset_by_the_server_reaches_the_application(koguma: Koguma, tls: bool) -> None:
    with serving(koguma, peers.reset_after(4), tls=tls), client.connect(koguma.port("app")) as sock:
        sock.sendall(b"four")
        assert client.was_reset(sock)


@plain_and_tls
def test_a_thousand_connections_at_once(koguma: Koguma, tls: bool) -> None:
    count = 1000 if not tls else 200
    with serving(koguma, peers.echo, tls=tls) as peer:
        socks = [client.connect(koguma.port("app"), timeout_s=30) for _ in range(count)]
        try:
            for number, sock in enumerate(socks):
                sock.sendall(number.to_bytes(4, "big"))
            for number, sock in enumerate(socks):
                assert client.read_exactly(sock, 4) == number.to_bytes(4, "big")
            assert len(peer.seen) == count
            assert koguma.stat("app", "upstream_cx_active") == count
        finally:
            for sock in socks:
                sock.close()
        poll.until(lambda: koguma.stat("app", "upstream_cx_active") == 0, "every connection to end")


@plain_and_tls
def test_ended_connections_leave_nothing_behind(koguma: Koguma, tls: bool) -> None:
    with serving(koguma, peers.echo, tls=tls):
        assert client.ask(koguma.port("app")) == b"ping"
        poll.until(lambda: koguma.stat("app", "upstream_cx_active") == 0, "the first connection to end")
        files = koguma.open_files()
        for _ in range(100):
            assert client.ask(koguma.port("app")) == b"ping"
        assert koguma.stat("app", "upstream_cx_total") == 101
        poll.until(lambda: koguma.stat("app", "upstream_cx_active") == 0, "every connection to end")
        poll.until(lambda: koguma.open_files() <= files, f"file descriptors to be {files} again")


@plain_and_tls
def test_an_application_that_does_not_read_costs_no_memory(koguma: Koguma, tls: bool) -> None:
    with serving(koguma, peers.source(STALLED_BYTES), tls=tls), client.connect(koguma.port("app")) as sock:
        start = sock.recv(1, socket.MSG_PEEK)
        assert len(start) == 1
        limit = koguma.resident_bytes() + STALL_ALLOWANCE_BYTES
        poll.holds(lambda: koguma.resident_bytes() < limit, "bounded memory while the application stalls", for_s=1.0)
        received_bytes = koguma.stat("app", "upstream_cx_rx_bytes_total")
        assert received_bytes < STALLED_BYTES / 2
        assert client.digest_to_end(sock) == (STALLED_BYTES, payload.sha256(STALLED_BYTES))


@plain_and_tls
def test_a_server_that_does_not_read_costs_no_memory(koguma: Koguma, tls: bool) -> None:
    release = threading.Event()
    with serving(koguma, peers.holding(release), tls=tls) as peer:
        with client.connect(koguma.port("app"), timeout_s=30) as sock:
            limit = koguma.resident_bytes() + STALL_ALLOWANCE_BYTES
            upload = client.Upload(sock, payload.blocks(STALLED_BYTES))
            poll.holds(lambda: koguma.resident_bytes() < limit, "bounded memory while the server stalls", for_s=1.0)
            assert upload.sent_bytes < STALLED_BYTES / 2
            release.set()
            upload.finish()
            assert peer.wait_for_ending() == "eof"
        assert peer.seen[0].sha256 == payload.sha256(STALLED_BYTES)


def test_a_stalled_connection_does_not_slow_its_neighbours(koguma: Koguma) -> None:
    with serving(koguma, peers.source(4 * MIB)), client.connect(koguma.port("app")) as stalled:
        assert len(stalled.recv(1)) == 1
        for _ in range(5):
            with client.connect(koguma.port("app")) as sock:
                assert client.digest_to_end(sock) == (4 * MIB, payload.sha256(4 * MIB))
