"""A worker that does not answer is ended; how long the next one waits grows, and has an end."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from config.plan import Plan, ProxyIdentity
from proxy.assembly import Settings
from proxy.sockets import StartError
from proxy.workers.difference import compare
from proxy.workers.messages import Apply, Look, Setup, Stage
from proxy.workers.process import WorkerFailed, WorkerGone, WorkerProcess, how_it_ended
from proxy.workers.report import Summary
from proxy.workers.supervisor import MAX_RESTART_S, restart_delay_s
from tests.proxy.test_workers_difference import cluster

PLAN = Plan(ProxyIdentity("default", "dp"), clusters={"a": cluster("a")})


def test_the_first_restart_is_at_once_and_the_next_ones_take_longer_and_longer() -> None:
    delays = [restart_delay_s(crashes) for crashes in range(1, 100)]
    assert delays[:4] == [0, 0.5, 1, 2]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_RESTART_S


@pytest.mark.parametrize(
    ("code", "text"), [(1, "exit code 1"), (-9, "killed by SIGKILL"), (-11, "killed by SIGSEGV"), (-99, "signal 99")]
)
def test_how_it_ended(code: int, text: str) -> None:
    assert text in how_it_ended(code)


async def started(access_log: str | None = None) -> WorkerProcess:
    lock = os.memfd_create("lock")
    try:
        worker = await WorkerProcess.start(1, (lock,))
        try:
            await worker.call(Setup(1, Settings(0.1, access_log=access_log), "warning", "text", lock))
        except StartError:
            assert await worker.ended() == 0
            raise
        return worker
    finally:
        os.close(lock)


async def apply(worker: WorkerProcess, plan: Plan, before: Plan) -> object:
    stages, difference = compare(before, plan, 1)
    for stage in stages:
        await worker.call(stage)
    return await worker.call(Apply(difference))


def test_a_worker_does_what_it_is_asked_and_leaves_when_the_channel_ends() -> None:
    async def scenario() -> None:
        worker = await started()
        nothing = Plan(ProxyIdentity("", ""))
        assert await apply(worker, PLAN, nothing) == {}
        first = [part async for part in worker.ask(Look())]
        assert [state.name for part in first[:-2] for state in part.clusters] == ["a"]  # type: ignore[attr-defined]
        assert isinstance(first[-2], Summary)
        again = [part async for part in worker.ask(Look())]
        assert [type(part) for part in again] == [Summary, type(None)]  # nothing has changed
        worker.leave()
        assert await worker.ended() == 0
        with pytest.raises(WorkerGone):
            await worker.call(Look())

    asyncio.run(scenario())


def test_a_fault_in_a_plan_is_told_and_changes_nothing() -> None:
    async def scenario() -> None:
        worker = await started()
        await worker.call(Stage("no such field", {"bad": 7}))
        with pytest.raises(WorkerFailed, match="AttributeError"):
            await worker.call(Apply(compare(PLAN, PLAN, 1)[1]))
        assert await apply(worker, PLAN, Plan(ProxyIdentity("", ""))) == {}
        worker.leave()
        assert await worker.ended() == 0

    asyncio.run(scenario())


def test_what_is_for_people_is_told_to_people() -> None:
    with pytest.raises(StartError, match="cannot write the access log"):
        asyncio.run(started("no such folder/log"))


def test_one_that_does_not_answer_is_killed() -> None:
    async def scenario() -> None:
        worker = await started()
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(WorkerGone, match="does not answer"):
            await worker.call(Look(), within_s=0.05)
        assert await worker.ended() == -signal.SIGKILL
        worker.kill()  # a second time does no harm

    asyncio.run(scenario())


def test_whoever_waits_for_one_that_ends_is_told() -> None:
    async def scenario() -> None:
        worker = await started()
        os.kill(worker.pid, signal.SIGSTOP)
        asking = asyncio.gather(*(worker.call(Look()) for _ in range(3)), return_exceptions=True)
        asyncio.get_running_loop().call_later(0.05, worker.kill)
        assert [type(answer) for answer in await asking] == [WorkerGone] * 3
        assert await worker.ended() == -signal.SIGKILL

    asyncio.run(scenario())
