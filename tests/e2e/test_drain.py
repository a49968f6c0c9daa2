"""Guarantee: SIGTERM takes the proxy out without cutting a conversation short.

At once it says that it is not ready and takes no new connection; those that exist go on until they end or the
drain time is over; then it exits with 0. A second SIGTERM ends it at once.
"""

from __future__ import annotations

import time

from tests.e2e.upstreams import serving
from tests.kit import client, peers, poll
from tests.kit.koguma import Koguma

LONG = "30s"
SOON_S = 3.0


def refuses(port: int) -> bool:
    try:
        client.connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_idle_it_exits_at_once(koguma: Koguma) -> None:
    koguma.drain_time = LONG
    with serving(koguma, peers.echo):
        koguma.terminate()
        assert koguma.wait_for_exit(within_s=SOON_S) == 0


def test_a_conversation_is_finished_and_nothing_new_begins(koguma: Koguma) -> None:
    koguma.drain_time = LONG
    with serving(koguma, peers.echo):
        with client.connect(koguma.port("app")) as sock:
            sock.sendall(b"before")
            assert client.read_exactly(sock, 6) == b"before"
            koguma.terminate()
            poll.until(lambda: koguma.admin("/ready").status == 503, "/ready to say 503")
            assert "DRAINING" in koguma.admin("/ready").text
            poll.until(lambda: refuses(koguma.port("app")), "new connections to be refused")
            sock.sendall(b"after")
            assert client.read_exactly(sock, 5) == b"after"
            assert koguma.program.is_running
        assert koguma.wait_for_exit(within_s=SOON_S) == 0


def test_the_drain_time_is_the_longest_wait(koguma: Koguma) -> None:
    koguma.drain_time = "1s"
    with serving(koguma, peers.echo), client.connect(koguma.port("app")) as sock:
        sock.sendall(b"x")
        assert client.read_exactly(sock, 1) == b"x"
        start = time.monotonic()
        koguma.terminate()
        assert koguma.wait_for_exit(within_s=1 + SOON_S) == 0
        assert time.monotonic() - start >= 0.9
        assert client.was_reset(sock) or sock.recv(1) == b""


def test_a_second_sigterm_ends_it_at_once(koguma: Koguma) -> None:
    koguma.drain_time = LONG
    with serving(koguma, peers.echo), client.connect(koguma.port("app")) as sock:
        sock.sendall(b"x")
        assert client.read_exactly(sock, 1) == b"x"
        koguma.terminate()
        poll.until(lambda: koguma.admin("/ready").status == 503, "the drain to begin")
        assert koguma.program.is_running
        koguma.terminate()
        assert koguma.wait_for_exit(within_s=SOON_S) == 0


def test_a_reload_during_the_drain_does_no_harm(koguma: Koguma) -> None:
    koguma.drain_time = LONG
    with serving(koguma, peers.echo):
        with client.connect(koguma.port("app")) as sock:
            sock.sendall(b"x")
            assert client.read_exactly(sock, 1) == b"x"
            koguma.terminate()
            poll.until(lambda: koguma.admin("/ready").status == 503, "the drain to begin")
            koguma.hang_up()
            sock.sendall(b"y")
            assert client.read_exactly(sock, 1) == b"y"
            poll.until(lambda: refuses(koguma.port("app")), "new connections to be refused")
        assert koguma.wait_for_exit(within_s=SOON_S) == 0
