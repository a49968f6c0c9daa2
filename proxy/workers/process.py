"""One worker as the supervisor sees it: a child process, and the questions put to it.

A worker that does not answer in time is as bad as one that has crashed: the kernel goes on giving it its share of the
connections. It is killed, and whoever keeps workers notices its end.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
import sysconfig
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import proxy
from proxy.sockets import StartError
from proxy.tasks import spawn
from proxy.workers.channel import Channel, ChannelError
from proxy.workers.messages import Command, Failure, Piece, Request

log = logging.getLogger("koguma.workers")

ANSWER_S = 30.0
"""How long a worker may take for an answer, or for the next piece of one."""


class WorkerGone(Exception):
    """The worker has ended, or is about to."""


class WorkerFailed(Exception):
    """A fault of ours in the worker, which has logged it; it goes on as it was before."""


class WorkerProcess:
    """A running child. Create by :meth:`start`."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.number = number
        self.pid = process.pid
        self._process = process
        self._channel = channel
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Queue[Piece | Failure | None]] = {}
        self._is_gone = False
        self._reader = spawn(self._read(), f"worker {number}")

    @classmethod
    async def start(cls, number: int, descriptors: tuple[int, ...] = ()) -> WorkerProcess:
        """``descriptors`` are inherited under their numbers. Raises ``OSError`` if there can be no process."""
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-m", "proxy.workers.worker", str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *descriptors),
                    env=_environment(),
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        return cls(number, process, await Channel.open(ours))

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.pid})"

    async def call(self, command: Command, *, within_s: float = ANSWER_S) -> object:
        """The answer, of one piece. Raises :class:`StartError` for what the worker says to people, and
        :class:`WorkerGone`, :class:`WorkerFailed`.
        """
        async for value in self.ask(command, within_s=within_s):
            return value
        raise AssertionError("an answer has a piece at least")

    async def ask(self, command: Command, *, within_s: float = ANSWER_S) -> AsyncIterator[object]:
        """The pieces of the answer, as they come, each within ``within_s``. Raises as :meth:`call`."""
        number = next(self._numbers)
        pieces: asyncio.Queue[Piece | Failure | None] = asyncio.Queue()
        self._answers[number] = pieces
        try:
            await self._send(Request(number, command), within_s)
            while True:
                piece = await self._next(pieces, command, within_s)
                yield piece.value
                if piece.last:
                    return
        finally:
            del self._answers[number]

    async def _send(self, request: Request, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._channel.send(request)
        except TimeoutError as exc:
            raise self._too_late(request.command, within_s) from exc
        except OSError as exc:
            raise WorkerGone(f"{self} ended") from exc

    async def _next(self, pieces: asyncio.Queue[Piece | Failure | None], command: Command, within_s: float) -> Piece:
        if self._is_gone and pieces.empty():
            raise WorkerGone(f"{self} ended")
        try:
            async with asyncio.timeout(within_s):
                piece = await pieces.get()
        except TimeoutError as exc:
            raise self._too_late(command, within_s) from exc
        if piece is None:
            raise WorkerGone(f"{self} ended")
        if isinstance(piece, Failure):
            raise StartError(piece.text) if piece.expected else WorkerFailed(f"{self} failed: {piece.text}")
        return piece

    def _too_late(self, command: Command, within_s: float) -> WorkerGone:
        log.error("%s has not answered %s for %g s", self, type(command).__name__, within_s)
        self.kill()
        return WorkerGone(f"{self} does not answer")

    async def _read(self) -> None:
        try:
            while isinstance(message := await self._channel.receive(), Piece | Failure):
                pieces = self._answers.get(message.number)
                if pieces is not None:
                    pieces.put_nowait(message)
        except ChannelError as exc:
            log.error("%s: %s", self, exc)
            self.kill()
        self._is_gone = True
        self._channel.close()
        for pieces in self._answers.values():
            pieces.put_nowait(None)

    async def ended(self) -> int:
        """The exit code, once there is one; negative for a signal. Nobody waits for an answer any more."""
        code = await self._process.wait()
        await asyncio.wait([self._reader])
        return code

    def leave(self) -> None:
        """End the conversation: the worker drains, if it has not, and ends by itself."""
        self._channel.close()

    def kill(self) -> None:
        """At once. May be called for one that has ended."""
        try:
            self._process.kill()
        except ProcessLookupError:
            pass


def how_it_ended(exit_code: int) -> str:
    """``exit code 1``, ``killed by SIGKILL``."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"


def _environment() -> Mapping[str, str]:
    """Ours; and where this program is no installed one, the way to it: the current folder may hold other packages of
    these names, so it is not looked into (``-P``).
    """
    root = str(Path(proxy.__file__).parents[1])
    if root == sysconfig.get_path("purelib"):
        return os.environ
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root if not before else f"{root}{os.pathsep}{before}"}
