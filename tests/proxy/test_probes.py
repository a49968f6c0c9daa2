"""Guarantee: an application is called ready exactly as its thresholds say, and a probe leaves nothing behind."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from config.plan import Direction, IpTarget, ListenerPlan, ProbePlan, Protocol
from proxy.probes import Probe, Probes, connect
from tests.kit.ports import free_port

LOOPBACK = ip_address("127.0.0.1")


def plan(port: int = 1, *, unhealthy: int = 1, healthy: int = 1, interval_s: float = 0.01) -> ProbePlan:
    return ProbePlan(IpTarget(LOOPBACK, port), interval_s, 5.0, unhealthy, healthy)


def listener(name: str, probe: ProbePlan | None) -> ListenerPlan:
    return ListenerPlan(name, Direction.INBOUND, LOOPBACK, 8080, Protocol.TCP, name, probe=probe)


@pytest.mark.parametrize(
    ("thresholds", "outcomes", "said"),
    [
        ((1, 1), "", ""),
        ((1, 1), "+", "+"),
        ((1, 1), "-", "-"),
        ((1, 1), "+-+", "+-+"),
        ((3, 2), "+", "+"),  # the first counts at once
        ((3, 2), "-", "-"),
        ((3, 2), "+--+", "++++"),
        ((3, 2), "+---", "+++-"),
        ((3, 2), "---", "---"),
        ((3, 2), "+---+-", "+++---"),
        ((3, 2), "+---++", "+++--+"),
        ((3, 2), "+--+--+---", "+++++++++-"),  # in a row
    ],
)
def test_thresholds(thresholds: tuple[int, int], outcomes: str, said: str) -> None:
    async def walk() -> str:
        unhealthy, healthy = thresholds
        probe = Probe("inbound", plan(unhealthy=unhealthy, healthy=healthy))
        assert (probe.is_ready, probe.fault) == (False, "not probed yet")
        text = ""
        for outcome in outcomes:  # nothing is awaited: the probe itself does not run meanwhile
            probe.take(None if outcome == "+" else "it is gone")
            assert probe.fault == (None if outcome == "+" else "it is gone")
            text += "+" if probe.is_ready else "-"
        probe.close()
        return text

    assert asyncio.run(walk()) == said


def test_changes_are_said_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def walk() -> None:
        probe = Probe("inbound", plan())
        for fault in ("gone", "gone", None, None, "gone"):
            probe.take(fault)
        probe.close()

    caplog.set_level("INFO", "koguma.probes")
    asyncio.run(walk())
    assert [record.message for record in caplog.records] == [
        "inbound is not ready: the application at 127.0.0.1:1 does not answer: gone",
        "inbound is ready: the application at 127.0.0.1:1 answers",
        "inbound is not ready: the application at 127.0.0.1:1 does not answer: gone",
    ]


def test_a_connection_is_opened_and_closed() -> None:
    async def probe() -> bytes:
        seen = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.set_result(await reader.read())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            assert await connect(plan(port)) is None
            return bytes(await seen)

    assert asyncio.run(probe()) == b""


def test_why_it_does_not_answer() -> None:
    assert asyncio.run(connect(plan(free_port()))) == "Connection refused"


def test_one_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def probe() -> str | None:
        async def never(*_: object, **_more: object) -> None:
            await asyncio.get_running_loop().create_future()

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "create_connection", never)
        return await connect(ProbePlan(IpTarget(LOOPBACK, 1), timeout_s=0.01))

    assert asyncio.run(probe()) == "no connection within 0.01 s"


def test_what_a_plan_asks_for_runs_and_nothing_else() -> None:
    async def walk() -> None:
        probes = Probes()
        probes.apply([listener("a", plan(1)), listener("b", plan(2)), listener("c", None)])
        before = dict(probes.by_listener)
        assert set(before) == {"a", "b"}
        probes.apply([listener("a", plan(1)), listener("b", plan(3))])
        assert probes.by_listener["a"] is before["a"]
        assert probes.by_listener["b"] is not before["b"]
        probes.close()
        assert not probes.by_listener
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(walk())


def test_it_probes_again_and_again() -> None:
    async def walk() -> None:
        count = 0
        enough = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            count += 1
            if count >= 3:
                enough.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, asyncio.timeout(10):
            probe = Probe("inbound", plan(server.sockets[0].getsockname()[1]))
            await enough.wait()
            assert probe.is_ready
            probe.close()

    asyncio.run(walk())
