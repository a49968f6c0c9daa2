"""Guarantee: whatever clients that share an endpoint's connection do (read, stop reading, ask for more, leave), those
who stay get all that they asked for, whole, and nothing stays paused.
"""

from __future__ import annotations

import hashlib
import random
import select
import socket
from typing import cast

import pytest

from config.plan import Protocol
from proxy.http import h2_lockstep
from proxy.http.h2_lockstep import Lockstep
from proxy.http.h2_upstream import Http2Upstream
from tests.kit.http2_peers import H2Client, H2Origin, H2Visit, Message
from tests.proxy.rig import LoopThread, Rig

BODIES = [random.Random(seed).randbytes(size) for seed, size in enumerate((1, 300_000, 1024 * 1024, 2 * 1024 * 1024))]
DIGESTS = [hashlib.sha256(body).digest() for body in BODIES]
CLIENTS = 4
ROUNDS = 2
STEPS = 12
BURST = 8
"""Of the largest: more than sockets hold."""


class Client(H2Client):
    """Reads what is there when it is told to, and keeps to small buffers, so that it is soon full."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self.asked: dict[int, int] = {}

    def ask_for(self, which: int) -> None:
        self.asked[self.begin(path=f"/{which}")] = which

    def read_some(self, times: int) -> None:
        for _ in range(times):
            if not select.select([self.sock], [], [], 0)[0] or not self.read():
                return

    def leave(self, script: random.Random) -> None:
        """In order, or with a reset, as whoever leaves with something unread."""
        if script.random() < 0.5:
            self.sock.shutdown(socket.SHUT_WR)
        self.sock.close()

    def wait_for_all(self) -> None:
        for stream, which in self.asked.items():
            answer = self.wait(stream)
            assert answer.is_whole, answer.reset
            assert hashlib.sha256(answer.body).digest() == DIGESTS[which]
            answer.body.clear()
        self.asked.clear()


def send_asked(visit: H2Visit, request: Message) -> None:
    if request.reset is None:
        visit.answer(request, body=BODIES[int(request[":path"][1:])])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("patience_s", [60.0, 0.005], ids=["patient", "impatient"])
def test_whatever_clients_do(loop: LoopThread, monkeypatch: pytest.MonkeyPatch, patience_s: float, seed: int) -> None:
    """With endless patience, whatever depends on its end never comes."""
    monkeypatch.setattr(h2_lockstep, "PATIENCE_S", patience_s)
    script = random.Random(seed)
    pauses = 0
    pause = Lockstep.wait

    def wait(lockstep: Lockstep) -> None:
        nonlocal pauses
        pause(lockstep)
        pauses += lockstep._timer is not None

    monkeypatch.setattr(Lockstep, "wait", wait)
    with (
        H2Origin(send_asked) as origin,
        Rig(loop, [origin], protocol=Protocol.HTTP2) as rig,
    ):
        clients = [Client(rig.port)]

        def upstreams() -> list[Http2Upstream]:
            return cast("list[Http2Upstream]", list(rig.cluster.connections))

        for _ in range(ROUNDS):
            before = pauses
            client = script.choice(clients)
            for _ in range(BURST):
                client.ask_for(len(BODIES) - 1)
            rig.loop.until(lambda: pauses > before, "the endpoint to be read from no more")  # noqa: B023
            for _ in range(STEPS):
                client = script.choice(clients)
                match script.choices(("ask", "read", "come", "leave"), (4, 6, 2, 1))[0]:
                    case "ask":
                        client.ask_for(script.randrange(len(BODIES)))
                    case "read":
                        client.read_some(script.randrange(1, 100))
                    case "come" if len(clients) < CLIENTS:
                        clients.append(Client(rig.port))
                    case "leave" if len(clients) > 1:
                        clients.remove(client)
                        client.leave(script)
                    case _:
                        pass
            script.shuffle(clients)
            for client in clients:
                client.wait_for_all()
            rig.loop.until(lambda: not any(one.engine.streams for one in upstreams()), "all to be over")
            rig.loop.until(
                lambda: all(one.transport.is_reading() for one in upstreams()),  # type: ignore[attr-defined]
                "everything to be read from",
            )
            assert rig.loop.look(lambda: sum(one.engine._held for one in upstreams())) == 0
        for client in clients:
            client.ask_for(0)
            client.wait_for_all()
            client.close()
