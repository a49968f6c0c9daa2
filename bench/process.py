"""Processes that are measured: started on their own cores, and what they cost by the kernel's own accounting.

A proxy may be several processes (a master and its workers), so CPU time and memory are those of the whole tree.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path

START_S = 15.0
STOP_S = 10.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class MeasurementError(RuntimeError):
    """What was to be measured did not happen; says what happened instead."""


_given: set[int] = set()


def free_port() -> int:
    """Nobody's, and none that was given away before: the kernel may offer one twice that is not in use yet."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


@contextmanager
def running(
    command: list[str],
    cores: Set[int],
    is_ready: Callable[[], bool],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    within_s: float = START_S,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process pinned to ``cores``, once ``is_ready``. Its output goes to ``log``, whose end is in the error."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, sorted(cores))), *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(environment or {})},
        )  # fmt: skip
        try:
            deadline = time.monotonic() + within_s
            while not is_ready():
                if process.poll() is not None:
                    raise MeasurementError(f"{command[0]} ended with {process.returncode}: {_end_of(log)}")
                if time.monotonic() > deadline:
                    raise MeasurementError(f"{command[0]} is not ready after {within_s:g} s: {_end_of(log)}")
                time.sleep(0.005)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip() or "it said nothing"


def accepts(port: int, address: str = "127.0.0.1") -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((address, port)) == 0


def tree(pid: int) -> list[int]:
    """``pid`` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:  # it ended meanwhile
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` behind the name, which may hold blanks: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree so far, in steps of 10 ms as a rule."""
    total = 0
    for one in tree(pid):
        fields = _stat(one)
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def resident_bytes(pid: int) -> int:
    """RSS of the tree. Pages that its processes share count in each of them, as in what ``ps`` says."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in tree(pid)) * page


def program(command: list[str], cores: Set[int], within_s: float) -> str:
    """What a program of ours or of others prints, run to its end on ``cores``. Raises :class:`MeasurementError`."""
    words = ["taskset", "-c", ",".join(map(str, sorted(cores))), *command]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=within_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise MeasurementError(f"{command[0]} did not end within {within_s:g} s") from exc
    if done.returncode != 0:
        raise MeasurementError(
            f"{' '.join(command)} ended with {done.returncode}: {(done.stderr or done.stdout)[-1000:]}"
        )
    return done.stdout
