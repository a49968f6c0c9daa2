"""A worker: ``python -m proxy.workers.worker FD``, where FD is its end of the channel to the supervisor.

It does what it is asked over the channel and nothing of its own accord, but one thing: when the channel ends, the
supervisor has gone or wants no more, and the worker drains, unless it has, and ends. Signals that a terminal or an init
system sends to all processes of a group are the supervisor's business; here they are ignored.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys

import uvloop

from proxy import logs
from proxy.assembly import assemble
from proxy.exits import EXIT_OK, EXIT_USAGE
from proxy.runtime import Runtime
from proxy.sockets import StartError
from proxy.tasks import spawn
from proxy.workers.channel import Channel
from proxy.workers.difference import NOTHING, Difference, Stage, compose
from proxy.workers.messages import (
    Apply,
    Command,
    Drain,
    Failure,
    Look,
    Piece,
    Request,
    ResetCounters,
    SetLevels,
    Setup,
    StopListening,
)
from proxy.workers.report import Reporter

log = logging.getLogger("koguma.workers")


class Worker:
    """The state of one worker. :meth:`run` returns when it is over."""

    def __init__(self, channel: Channel, setup: Setup) -> None:
        settings = setup.settings
        self._channel = channel
        self._runtime: Runtime = assemble(NOTHING, settings, shares_ports=True, write_lock=setup.write_lock)
        self._reporter = Reporter(self._runtime)
        self._plan = NOTHING
        self._stages: list[Stage] = []
        self._changing = asyncio.Lock()
        """One change at a time: a drain waits for the plan that is being applied."""

    async def run(self) -> None:
        while isinstance(request := await self._channel.receive(), Request):
            spawn(self._answer(request), f"answer {type(request.command).__name__}")
        if not self._runtime.draining:
            log.warning("the supervisor has gone: draining", extra={"event": "draining"})
            await self._drain()
        await self._runtime.close()

    async def _answer(self, request: Request) -> None:
        number, command = request.number, request.command
        try:
            if isinstance(command, Look):
                async for part in self._reporter.report():
                    await self._say(Piece(number, part, last=False))
                await self._say(Piece(number))
            else:
                await self._say(Piece(number, await self._perform(command)))
        except Exception as exc:
            log.exception("%s failed", type(command).__name__)
            await self._say(Failure(number, f"{type(exc).__name__}: {exc}", expected=False))

    async def _say(self, answer: Piece | Failure) -> None:
        try:
            await self._channel.send(answer)
        except OSError:
            pass  # the supervisor has gone, as run() learns too

    async def _perform(self, command: Command) -> object:
        match command:
            case Stage():
                self._stages.append(command)
            case Apply(difference):
                return await self._apply(difference)
            case Drain():
                await self._drain()
            case StopListening(inbound_only):
                await self._runtime.stop_listening(inbound_only)
            case ResetCounters():
                await self._runtime.reset_counters()
            case SetLevels(levels):
                logs.set_levels(levels)
        return None

    async def _apply(self, difference: Difference) -> dict[str, str]:
        """The listeners that could not be opened, and why."""
        async with self._changing:
            stages, self._stages = self._stages, []
            plan = compose(self._plan, stages, difference)
            applied = await self._runtime.apply(plan)
            self._plan = plan
            return applied.failed

    async def _drain(self) -> None:
        async with self._changing:
            await self._runtime.drain()


async def _run(descriptor: int) -> int:
    channel = await Channel.open(_socket(descriptor))
    request = await channel.receive()
    if not isinstance(request, Request) or not isinstance(request.command, Setup):
        return EXIT_USAGE
    setup = request.command
    log_setup = logs.configure(setup.log_level, setup.log_format, worker=setup.number)
    try:
        try:
            worker = Worker(channel, setup)
        except StartError as exc:
            await channel.send(Failure(request.number, str(exc), expected=True))
            return EXIT_OK
        gc.collect()
        gc.freeze()
        await channel.send(Piece(request.number))
        await worker.run()
        return EXIT_OK
    finally:
        channel.close()
        log_setup.close()


def _socket(descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def main(descriptor: int) -> int:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(descriptor))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
