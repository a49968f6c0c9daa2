"""Guarantee: however many requests clients of HTTP/2 send at once, a turn of the loop begins a bounded number of them,
each client has its turn, and all are answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.http.exchange import Exchange
from proxy.http.h2_turns import HALF_SPENT, MAX_REQUESTS_AT_A_TIME, MAX_REQUESTS_PER_TURN, Turns
from tests.kit.http2_peers import H2Client
from tests.kit.origins import Origin, always, ok
from tests.proxy.http_rig import HttpRig, stats_of, wait_for_endings
from tests.proxy.rig import LoopThread

MANY = 490
ROUNDS = MAX_REQUESTS_PER_TURN // MAX_REQUESTS_AT_A_TIME


class Client:
    """Has ``left`` requests."""

    def __init__(self, name: str, left: int, diary: list[tuple[str, int]], *, fails: bool = False) -> None:
        self.name, self.left, self.diary, self.fails = name, left, diary, fails
        self.aborted = False

    def go_on(self, requests: int) -> bool:
        if self.fails:
            raise ArithmeticError("a fault of ours")
        self.diary.append((self.name, min(requests, self.left)))
        self.left -= requests
        return self.left > 0

    def abort(self) -> None:
        self.aborted = True


def test_each_has_its_turn_and_a_turn_is_bounded() -> None:
    async def scenario() -> None:
        turns = Turns()
        diary: list[tuple[str, int]] = []
        clients = [Client(str(number), 3 * MAX_REQUESTS_AT_A_TIME, diary) for number in range(ROUNDS + 1)]
        for client in (*clients, clients[0]):
            turns.wait(client)
        turns.left = 0
        await asyncio.sleep(0)
        assert [name for name, _ in diary] == [client.name for client in clients[:ROUNDS]]
        assert sum(requests for _, requests in diary) == MAX_REQUESTS_PER_TURN
        assert turns.left == MAX_REQUESTS_PER_TURN
        await asyncio.sleep(0)
        assert diary[ROUNDS][0] == clients[ROUNDS].name, "who has waited is next"
        for _ in range(3):
            await asyncio.sleep(0)
        assert Counter(name for name, _ in diary) == {client.name: 3 for client in clients}

    asyncio.run(scenario())


def test_a_fault_with_one_ends_it_and_no_other() -> None:
    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context["exception"]))
        turns = Turns()
        diary: list[tuple[str, int]] = []
        bad, good = Client("bad", 1, diary, fails=True), Client("good", 1, diary)
        turns.wait(bad)
        turns.wait(good)
        for _ in range(4):
            await asyncio.sleep(0)
        assert (bad.aborted, good.aborted, diary) == (True, False, [("good", 1)])

    faults: list[BaseException] = []
    asyncio.run(scenario())
    assert len(faults) == 1


class Watch:
    """How many requests begin, and how many ask for a connection, in each turn of those that wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = self.leased = 0
        self.turns: list[tuple[int, int]] = []
        begin, lease, turn = Exchange.begin, Exchange.lease, Turns._turn

        def counting_begin(exchange: Exchange, queue: deque[Exchange] | None = None) -> None:
            self.begun += 1
            begin(exchange, queue)

        def counting_lease(exchange: Exchange) -> None:
            self.leased += not exchange.over
            lease(exchange)

        def counting_turn(turns: Turns) -> None:
            begun, leased = self.begun, self.leased
            turn(turns)
            self.turns.append((self.begun - begun, self.leased - leased))

        monkeypatch.setattr(Exchange, "begin", counting_begin)
        monkeypatch.setattr(Exchange, "lease", counting_lease)
        monkeypatch.setattr(Turns, "_turn", counting_turn)


@contextmanager
def at_once(client: H2Client) -> Iterator[None]:
    """All that is sent within goes out together."""
    held = client.flush
    client.flush = lambda: None  # type: ignore[method-assign]
    yield
    client.flush = held  # type: ignore[method-assign]
    client.flush()


def test_all_requests_of_one_read_are_answered_in_bounded_turns(
    one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Origin(always(ok(b"hi"))) as origin,
        HttpRig(one_loop, [origin]) as rig,
        H2Client(rig.port) as client,
        H2Client(rig.port) as other,
    ):
        for one in (client, other):
            assert one.ask().status == 200
        watch = Watch(monkeypatch)
        with at_once(client):
            streams = [client.begin() for _ in range(MANY)]
        assert other.ask().status == 200
        assert {client.wait(stream).status for stream in streams} == {200}
        assert max(begun for begun, _ in watch.turns) <= MAX_REQUESTS_PER_TURN
        assert max(leased for _, leased in watch.turns) <= MAX_REQUESTS_PER_TURN
        assert sum(begun for begun, _ in watch.turns) >= MANY - 2 * MAX_REQUESTS_PER_TURN, "few began at once"
        assert (watch.begun, stats_of(rig).downstream_rq_active) == (MANY + 1, 0)
        assert client.ask().status == 200, "it is read from again"


def test_who_sends_one_at_a_time_never_waits(one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    with Origin(always(ok(b"hi"))) as origin, HttpRig(one_loop, [origin]) as rig, H2Client(rig.port) as client:
        watch = Watch(monkeypatch)
        for _ in range(2 * MAX_REQUESTS_PER_TURN):
            assert client.ask().status == 200
        assert (watch.begun, watch.leased) == (2 * MAX_REQUESTS_PER_TURN, 0)
        assert len(watch.turns) <= 2 * MAX_REQUESTS_PER_TURN // HALF_SPENT


def test_who_resets_at_once_costs_an_endpoint_next_to_nothing(
    one_loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Origin(always(ok(b"hi"))) as origin, HttpRig(one_loop, [origin]) as rig, H2Client(rig.port) as client:
        assert client.ask().status == 200
        watch = Watch(monkeypatch)
        with at_once(client):
            for _ in range(MANY):
                client.reset(client.begin())
        assert client.ask().status == 200
        assert watch.begun == MANY + 1
        assert watch.leased <= 3, "what begins at once is sent at once; of the others none but the last"


def test_a_client_that_goes_leaves_nothing_behind(one_loop: LoopThread) -> None:
    with Origin(always(ok(b"hi"))) as origin, HttpRig(one_loop, [origin]) as rig:
        client = H2Client(rig.port)
        assert client.ask().status == 200
        with at_once(client):
            for _ in range(MANY):
                client.begin()
        client.sock.close()
        wait_for_endings(rig)
        one_loop.until(lambda: stats_of(rig).downstream_rq_active == 0, "no request to be left")
        one_loop.until(lambda: not rig.listener.turns._waiting, "nobody to wait")
