"""Guarantee: a watched name is refreshed at its TTL and retried with back-off, its last good addresses
outlive failures for a bounded while, and listeners hear of changes only. Time is virtual.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest

from proxy.resolution import Address, Answer, Kind, ResolutionError
from proxy.resolver import MAX_RETRY_S, NameWatch, ResolverPool
from proxy.tasks import spawn


class NoJitter(Random):
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


@dataclass(order=True)
class FakeTimer:
    when: float
    callback: Callable[[], object] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """A clock, its timers, and a DNS whose next outcomes the test writes down."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[FakeTimer] = []
        self.outcome: Answer | BaseException = answer("192.0.2.1")
        self.asked_at: list[float] = []
        self.names: list[str] = []

    def clock(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> FakeTimer:
        timer = FakeTimer(self.now + delay, callback)
        heapq.heappush(self.timers, timer)
        return timer

    async def resolve(self, name: str) -> Answer:
        self.asked_at.append(self.now)
        self.names.append(name)
        await asyncio.sleep(0)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    async def settle(self) -> None:
        for _ in range(8):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        await self.settle()
        end = self.now + seconds
        while self.timers and self.timers[0].when <= end:
            timer = heapq.heappop(self.timers)
            self.now = max(self.now, timer.when)
            if not timer.cancelled:
                timer.callback()
                await self.settle()
        self.now = end

    def watch(self, on_change: Callable[[tuple[Address, ...]], None], rng: Random | None = None) -> NameWatch:
        return NameWatch("a.test", self.resolve, on_change, clock=self.clock, scheduler=self, rng=rng or NoJitter())

    def pool(self) -> ResolverPool:
        return ResolverPool(self.resolve, clock=self.clock, scheduler=self, rng=NoJitter())


def addresses(*texts: str) -> tuple[Address, ...]:
    return tuple(ip_address(text) for text in texts)


def answer(*texts: str, ttl_s: float = 60.0) -> Answer:
    return Answer(addresses(*texts), ttl_s, "dns")


SERVFAIL = ResolutionError(Kind.SERVFAIL, "a.test A at 127.0.0.1:53: SERVFAIL")
NXDOMAIN = ResolutionError(Kind.NXDOMAIN, "a.test A at 127.0.0.1:53: no such name")


def play(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario(World()))


def test_a_change_is_told_once() -> None:
    async def scenario(world: World) -> None:
        told: list[tuple[Address, ...]] = []
        watch = world.watch(told.append)
        watch.start()
        await asyncio.wait_for(watch.ready.wait(), 5)
        await world.advance(130)
        assert told == [addresses("192.0.2.1")], "the same answer thrice is one change"
        assert world.asked_at == [0, 60, 120]
        world.outcome = answer("192.0.2.1", "192.0.2.2")
        await world.advance(120)
        assert told[1:] == [addresses("192.0.2.1", "192.0.2.2")]
        assert (watch.update_attempt, watch.update_success, watch.update_failure) == (5, 5, 0)
        assert (watch.stale, watch.last_error, watch.age_s) == (False, None, 10.0)
        watch.close()

    play(scenario)


def test_the_refresh_is_jittered_by_5_percent() -> None:
    async def scenario(world: World) -> None:
        watch = world.watch(lambda _: None, Random(7))
        watch.start()
        await world.advance(60 * 200)
        gaps = [b - a for a, b in zip(world.asked_at, world.asked_at[1:], strict=False)]
        assert 57 <= min(gaps) < 58
        assert 62 < max(gaps) <= 63
        watch.close()

    play(scenario)


@pytest.mark.parametrize("error", [SERVFAIL, NXDOMAIN], ids=["SERVFAIL", "NXDOMAIN"])
def test_the_last_good_answer_is_kept_for_an_hour_then_dropped(
    error: ResolutionError, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        told: list[tuple[Address, ...]] = []
        watch = world.watch(told.append)
        watch.start()
        await world.advance(1)
        world.outcome = error
        await world.advance(3598)
        assert watch.addresses == addresses("192.0.2.1")
        assert watch.stale
        assert watch.last_error is error
        assert watch.age_s == 3599.0
        assert told == [addresses("192.0.2.1")]
        await world.advance(1)
        assert told == [addresses("192.0.2.1"), ()], "to the second"
        assert (watch.addresses, watch.stale) == ((), False)
        world.outcome = answer("192.0.2.3")
        await world.advance(31)
        assert told[2:] == [addresses("192.0.2.3")]
        assert watch.last_error is None
        watch.close()

    caplog.set_level(logging.INFO, "koguma.dns")
    play(scenario)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"]
    assert "stay in use" in caplog.messages[0]
    assert "are dropped" in caplog.messages[1]
    assert "resolves again" in caplog.messages[2]


def test_failures_back_off_from_1_to_30_seconds_and_success_resets() -> None:
    async def scenario(world: World) -> None:
        world.outcome = SERVFAIL
        told: list[tuple[Address, ...]] = []
        watch = world.watch(told.append)
        watch.start()
        await asyncio.wait_for(watch.ready.wait(), 5)
        assert (watch.addresses, watch.stale, watch.age_s) == ((), False, None)
        await world.advance(100)
        assert world.asked_at == [0, 1, 3, 7, 15, 31, 61, 91]
        assert watch.update_failure == watch.update_attempt == 8
        assert told == []
        assert world.asked_at[-1] - world.asked_at[-2] == MAX_RETRY_S
        world.outcome = answer("192.0.2.1")
        await world.advance(22)
        world.outcome = SERVFAIL
        await world.advance(62)
        assert world.asked_at[8:] == [121, 181, 182, 184]
        watch.close()

    play(scenario)


def test_an_unexpected_fault_is_logged_and_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        world.outcome = ZeroDivisionError("a bug")
        watch = world.watch(lambda _: None)
        watch.start()
        await asyncio.wait_for(watch.ready.wait(), 5)
        world.outcome = answer("192.0.2.1")
        await world.advance(30)
        assert watch.addresses == addresses("192.0.2.1")
        watch.close()

    play(scenario)
    assert "resolve a.test failed: ZeroDivisionError('a bug')" in caplog.text


def test_nothing_happens_after_close() -> None:
    async def scenario(world: World) -> None:
        told: list[tuple[Address, ...]] = []
        refreshing, idle = world.watch(told.append), world.watch(told.append)
        idle.start()
        await world.advance(1)
        refreshing.start()
        await asyncio.sleep(0)
        for watch in (refreshing, idle, idle):
            watch.close()
        await world.advance(1000)
        assert told == [addresses("192.0.2.1")]
        assert world.asked_at == [0, 1]
        with pytest.raises(RuntimeError):
            idle.start()

    play(scenario)


def test_close_abandons_a_lookup_under_way() -> None:
    async def scenario(world: World) -> None:
        abandoned = asyncio.Event()

        async def hang(name: str) -> Answer:
            try:
                await asyncio.get_running_loop().create_future()
                raise AssertionError("nothing completes it")
            except asyncio.CancelledError:
                abandoned.set()
                raise

        watch = NameWatch("a.test", hang, print, clock=world.clock, scheduler=world, rng=NoJitter())
        watch.start()
        await world.settle()
        watch.close()
        await asyncio.wait_for(abandoned.wait(), 5)
        assert world.timers == []

    play(scenario)


def test_a_pool_shares_one_watch_for_a_name_until_the_last_leaves() -> None:
    async def scenario(world: World) -> None:
        pool = world.pool()
        first: list[tuple[Address, ...]] = []
        second: list[tuple[Address, ...]] = []
        tell_first, tell_second = first.append, second.append
        watch = pool.watch("a.test", tell_first)
        await world.advance(1)
        assert pool.watch("A.TEST", tell_second) is watch
        assert watch.addresses == addresses("192.0.2.1"), "who comes later reads what is known"
        pool.watch("b.test", tell_second)
        assert {it.name for it in pool} == {"a.test", "b.test"}
        pool.unwatch("b.test", tell_second)
        world.outcome = answer("192.0.2.2")
        await world.advance(60)
        assert (first, second) == (
            [addresses("192.0.2.1"), addresses("192.0.2.2")],
            [addresses("192.0.2.2")],
        )
        pool.unwatch("a.test", tell_first)
        world.outcome = answer("192.0.2.3")
        await world.advance(60)
        assert len(first) == len(second) == 2
        assert second[-1] == addresses("192.0.2.3")
        pool.unwatch("a.test", tell_second)
        asked = len(world.asked_at)
        await world.advance(1000)
        assert (len(pool), len(world.asked_at)) == (0, asked)
        with pytest.raises(KeyError):
            pool.unwatch("a.test", tell_second)

    play(scenario)


def test_one_listener_s_fault_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        pool = world.pool()
        told: list[tuple[Address, ...]] = []

        def broken(_: tuple[Address, ...]) -> None:
            raise ValueError("cluster x")

        pool.watch("a.test", broken)
        pool.watch("a.test", told.append)
        await world.advance(1)
        assert told == [addresses("192.0.2.1")]
        pool.close()
        await world.advance(1000)
        assert world.asked_at == [0]

    play(scenario)
    assert "a listener failed on the new addresses of a.test" in caplog.text


def test_a_listener_may_leave_and_take_another_along() -> None:
    async def scenario(world: World) -> None:
        pool = world.pool()
        told: list[tuple[Address, ...]] = []
        tell = told.append

        def leaver(_: tuple[Address, ...]) -> None:
            pool.unwatch("a.test", leaver)
            pool.unwatch("a.test", tell)

        pool.watch("a.test", leaver)
        pool.watch("a.test", tell)
        await world.advance(1000)
        assert (told, len(pool), world.asked_at) == ([], 0, [0])

    play(scenario)


def test_a_spawned_task_tells_its_failure_to_the_log_and_to_who_awaits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise LookupError("lost")

    async def wait() -> None:
        await asyncio.sleep(3600)

    async def scenario() -> None:
        failing, waiting = spawn(fail(), "fail"), spawn(wait(), "wait")
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(LookupError):
            await failing
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())
    assert [(record.name, record.message) for record in caplog.records] == [
        ("koguma.tasks", "task fail failed: LookupError('lost')")
    ]
