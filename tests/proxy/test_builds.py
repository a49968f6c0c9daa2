"""Guarantee: whatever updates leave to do takes one slice of each turn of the loop, and is done in the end."""

from __future__ import annotations

import asyncio
import logging

import pytest

from config.plan import LoadBalancer
from proxy.balance import Balancer
from proxy.builds import Builds
from proxy.cluster import Cluster
from tests.proxy.rig import at, cluster_plan, services


class Slow(Balancer):
    """Needs ``left`` slices, and writes each into ``diary``."""

    def __init__(self, name: str, left: int, diary: list[str], *, fails: bool = False) -> None:
        super().__init__()
        self.name, self.left, self.diary, self.fails = name, left, diary, fails

    @property
    def is_building(self) -> bool:
        return self.left > 0

    def build(self) -> bool:
        self.left -= 1
        self.diary.append(self.name)
        if self.fails:
            raise ArithmeticError("a fault of ours")
        return self.is_building


async def turns(count: int, diary: list[str]) -> None:
    for _ in range(count):
        diary.append("|")
        await asyncio.sleep(0)


def test_one_slice_a_turn_for_all_together() -> None:
    async def scenario() -> None:
        diary: list[str] = []
        builds = Builds()
        for one in (Slow("a", 2, diary), Slow("done", 0, diary), Slow("b", 1, diary), Slow("c", 2, diary)):
            builds.add(one)
            builds.add(one)
        await turns(7, diary)
        assert "".join(diary) == "|a|a|b|c|c||"
        assert len(builds) == 0
        builds.add(Slow("d", 1, diary))
        await turns(2, diary)
        assert "".join(diary[-3:]) == "|d|"

    asyncio.run(scenario())


def test_who_is_not_used_any_more_gets_none() -> None:
    async def scenario() -> None:
        diary: list[str] = []
        builds = Builds()
        one = Slow("a", 2, diary)
        builds.add(one)
        builds.discard(one)
        builds.discard(one)
        await turns(2, diary)
        assert diary == ["|", "|"]

    asyncio.run(scenario())


def test_a_fault_in_one_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        diary: list[str] = []
        builds = Builds()
        builds.add(Slow("x", 2, diary, fails=True))
        builds.add(Slow("a", 1, diary))
        await turns(6, diary)
        assert "a" in diary

    with caplog.at_level(logging.CRITICAL, logger="asyncio"):
        asyncio.run(scenario())


def test_a_service_sees_its_tables_through() -> None:
    async def scenario() -> None:
        shared = services()
        plans = [
            cluster_plan([at("127.0.0.1", port) for port in ports], load_balancer=LoadBalancer.MAGLEV)
            for ports in ([1, 2], [1, 2, 3], [1, 2, 4])
        ]
        cluster = Cluster(plans[0], shared)
        cluster.start()
        assert len(shared.builds) == 1
        cluster.update(plans[1])
        assert len(shared.builds) == 1, "in the same place"
        while cluster.balancer.is_building:
            await asyncio.sleep(0)
        assert len(shared.builds) == 0
        cluster.update(plans[2])
        cluster.update(cluster_plan([at("127.0.0.1", 1)]))
        assert len(shared.builds) == 0, "another way to choose"
        cluster.update(plans[2])
        cluster.close()
        assert len(shared.builds) == 0

    asyncio.run(scenario())
