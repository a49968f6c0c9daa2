"""The load: wrk, h2load and programs of our own, each started on its core, and what they print, read.

All but the open-loop generator are closed loops: so many connections, each with so many requests under way, as fast as
they are answered. That finds the most that a proxy can do, and says nothing of latency.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from bench.process import MeasurementError, program

CONNECTIONS = 32
H2_CONNECTIONS, H2_STREAMS = 8, 16
GRPC_STREAMS = 16
WARM_UP_REQUESTS, SLOW_WARM_UP_REQUESTS = 2000, 200
TOLERATED = 0.001
GRACE_S = 30.0
"""For a program of the load to start and to end, beside the time that it measures."""


@dataclass(frozen=True, slots=True)
class Load:
    """``count`` of what was asked for (requests, bytes, messages) in ``seconds``, and more that a program may know."""

    count: int
    seconds: float
    failed: int = 0
    """So few that the rest is still a measurement."""

    @property
    def rate(self) -> float:
        return self.count / self.seconds


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds. ``behind_s``: the 99th percentile of how late the generator itself was."""

    rate: float
    p50_s: float
    p99_s: float
    p999_s: float
    behind_s: float


UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def parse_wrk(text: str) -> Load:
    """Requests that were answered by 2xx or 3xx. Raises :class:`MeasurementError` if any was not, or there was none."""
    counted = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m),", text)
    if counted is None or int(counted[1]) == 0:
        raise MeasurementError(f"nothing was answered: {text.strip()}")
    if "Socket errors" in text or "Non-2xx" in text:
        raise MeasurementError(f"the load met errors: {text.strip()}")
    return Load(int(counted[1]), float(counted[2]) * UNITS[counted[3]])


def parse_h2load(text: str) -> Load:
    """Requests that were answered by 2xx. Raises as :func:`parse_wrk`, but one in a thousand may fail: nginx's
    ``grpc_pass`` breaks a request now and then where an origin answers before it has read all of the one before.
    """
    ended = re.search(r"^finished in ([\d.]+)(us|ms|s|m)", text, re.MULTILINE)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    codes = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text, re.MULTILINE)
    if ended is None or counts is None or codes is None:
        raise MeasurementError(f"h2load counted nothing: {text.strip()[-500:]}")
    succeeded = int(codes[1])
    failed = max(sum(map(int, counts.groups()[1:])), sum(map(int, codes.groups()[1:])))
    if failed > TOLERATED * succeeded or not succeeded:
        raise MeasurementError(f"the load met errors: {counts[0]}; {codes[0]}")
    return Load(succeeded, float(ended[1]) * UNITS[ended[2]], failed)


def parse_own(text: str) -> dict[str, Any]:
    """The JSON object that a program of ours prints at its end."""
    try:
        said = json.loads(text)
    except ValueError as exc:
        raise MeasurementError(f"not an answer: {text[-500:]!r}") from exc
    if not isinstance(said, dict):
        raise MeasurementError(f"not an answer: {text[-500:]!r}")
    return said


def whole_seconds(seconds: float) -> int:
    """wrk and h2load count whole seconds."""
    return max(1, round(seconds))


def wrk(
    port: int, path: str, seconds: float, cores: Set[int], *, connections: int = CONNECTIONS, close: bool = False
) -> Load:
    """HTTP/1.1 over kept-alive connections; with ``close``, each request on a connection of its own."""
    headers = ["-H", "Connection: close"] if close else []
    duration = whole_seconds(seconds)
    patience = f"--timeout={GRACE_S:g}s"  # slow is no error: it is what is measured
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", patience, *headers, f"http://127.0.0.1:{port}{path}"]
    return parse_wrk(program(command, cores, duration + GRACE_S))


def h2load(
    port: int, path: str, seconds: float, cores: Set[int], *, headers: tuple[str, ...] = (), body: str = ""
) -> Load:
    """HTTP/2 with prior knowledge, several streams on each connection. ``body``: a file to POST."""
    duration = whole_seconds(seconds)
    more = [word for header in headers for word in ("-H", header)]
    if body:
        more += ["-d", body]
    command = [
        "h2load", "-t1", f"-c{H2_CONNECTIONS}", f"-m{H2_STREAMS}", f"-D{duration}", *more,
        f"http://127.0.0.1:{port}{path}",
    ]  # fmt: skip
    return parse_h2load(program(command, cores, duration + GRACE_S))


def warm_up(port: int, cores: Set[int], requests: int, *, http2: bool) -> None:
    """Connections to the origin are open, and code is warm."""
    version = [f"-c{H2_CONNECTIONS}", f"-m{H2_STREAMS}"] if http2 else ["--h1", f"-c{CONNECTIONS}"]
    command = ["h2load", "-t1", f"-n{requests}", *version, f"http://127.0.0.1:{port}/small"]
    parse_h2load(program(command, cores, GRACE_S))


def _own(module: str, arguments: list[str], seconds: float, cores: Set[int]) -> dict[str, Any]:
    return parse_own(program([sys.executable, "-m", module, *arguments], cores, seconds + GRACE_S))


def sink(port: int, path: str, seconds: float, cores: Set[int]) -> Load:
    """Bytes of large bodies, one after the other over one connection."""
    said = _own("bench.sink", [str(port), path, str(seconds)], seconds, cores)
    return Load(int(said["bytes"]), float(said["seconds"]))


def grpc(port: int, mode: str, seconds: float, cores: Set[int]) -> Load:
    """Calls (``unary``) or messages there and back (``stream``) of a grpcio client."""
    said = _own("bench.grpc_client", [str(port), mode, str(seconds), str(GRPC_STREAMS)], seconds, cores)
    return Load(int(said["count"]), float(said["seconds"]))


def open_loop(port: int, path: str, rate: float, seconds: float, cores: Set[int]) -> Latency:
    """Requests that are due at a fixed rate, whatever became of those before."""
    said = _own("bench.open_loop", [str(port), path, str(rate), str(seconds)], seconds, cores)
    return Latency(*(float(said[name]) for name in ("rate", "p50_s", "p99_s", "p999_s", "behind_s")))
