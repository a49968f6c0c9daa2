"""Running processes on a core, loading them, and what it cost them: rates, and CPU from the process's own accounting.

The proxy under test has one core, the load generator and the origin share another. On a machine that others use too the
rate wanders; CPU time per unit of work wanders less, so both are reported.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Sample:
    """``rate`` in units a second, ``cpu`` in seconds of the proxy's CPU per unit. A unit is a request, or a byte."""

    rate: float
    cpu: float


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(command: list[str], core: int, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process pinned to a core, once ``port`` accepts connections."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, preexec_fn=lambda: os.sched_setaffinity(0, {core})
        )
        try:
            _await_port(process, port, log)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended: {log.read_text()[-2000:]}")
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen on {port}: {log.read_text()[-2000:]}")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def requests(port: int, path: str, pid: int | None, core: int, seconds: float) -> Sample:
    """HTTP requests over kept-alive connections, by wrk."""
    before = cpu_seconds(pid) if pid is not None else 0.0
    output = subprocess.run(
        ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s",
         f"http://127.0.0.1:{port}{path}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    after = cpu_seconds(pid) if pid is not None else 0.0
    if "Socket errors" in output or "Non-2xx" in output:
        raise RuntimeError(f"the load met errors:\n{output}")
    count = re.search(r"(\d+) requests in", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if count is None or rate is None or int(count[1]) == 0:
        raise RuntimeError(f"nothing was answered on port {port}:\n{output}")
    return Sample(float(rate[1]), (after - before) / int(count[1]))


def download(port: int, path: str, pid: int | None, core: int, seconds: float) -> Sample:
    """Bytes of one large body over one connection at a time, by curl, as many times as fit."""
    before = cpu_seconds(pid) if pid is not None else 0.0
    began, total = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        output = subprocess.run(
            ["taskset", "-c", str(core), "curl", "-sf", "-o", os.devnull, "-w", "%{size_download}",
             f"http://127.0.0.1:{port}{path}"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        total += int(output)
    elapsed = time.monotonic() - began
    after = cpu_seconds(pid) if pid is not None else 0.0
    return Sample(total / elapsed, (after - before) / total)
