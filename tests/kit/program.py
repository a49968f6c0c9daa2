"""A child process whose output is read all the time, and which never outlives the test."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.kit import poll

JOIN_S = 10.0


class Program:
    """A started process. ``lines`` is its output so far (stdout and stderr are kept apart), complete after
    the end.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.command = list(command)
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self.process = subprocess.Popen(
            self.command,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), name="program output", daemon=True)
            for stream, lines in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
            if stream is not None
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """``None`` while it runs; negative for a signal."""
        return self.process.poll()

    @property
    def is_running(self) -> bool:
        return self.exit_code is None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, *, within_s: float = 10.0) -> int:
        """The exit code, with all output read."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s:g} s: {self.describe()}") from None
        for reader in self._readers:
            reader.join(JOIN_S)
        return code

    def kill(self) -> None:
        """The process and whatever it has started."""
        if self.is_running:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """Gone, reaped, and its pipes closed."""
        self.kill()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def wait_for_line(self, text: str, *, within_s: float = 15.0) -> str:
        """The first output line that contains ``text``; an early end of the process is a failure at once."""

        def look() -> str | None:
            for line in [*self.stderr, *self.stdout]:
                if text in line:
                    return line
            if not self.is_running:
                self.wait()
                raise AssertionError(f"ended before it said {text!r}: {self.describe()}")
            return None

        line = poll.until(look, f"{text!r} from {self.command[0]}", within_s=within_s)
        assert line is not None
        return line

    def describe(self) -> str:
        """Command, state and the end of the output, for a failure message."""
        state = "running" if self.is_running else f"exit code {self.exit_code}"
        tail = "\n".join([*self.stdout[-20:], *self.stderr[-40:]])
        return f"{' '.join(self.command)} ({state})\n{tail}"

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))  # noqa: PERF401 -- others look while it grows
