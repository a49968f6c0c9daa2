"""The machine: which cores are whose, and what a reader has to know of it."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. On two cores, the load shares the second with two workers, and that is said in the row."""

    proxy: frozenset[int]
    load: frozenset[int]
    two_workers: frozenset[int]
    load_of_two_workers: frozenset[int]

    @property
    def two_workers_share(self) -> bool:
        return bool(self.two_workers & self.load_of_two_workers)


def choose_cores(allowed: set[int], siblings_of: Callable[[int], set[int]]) -> Cores:
    """One core for the proxy, and one for the load and the origin, of different physical cores where there are two.

    Raises ``ValueError`` where there is one core only.
    """
    apart: list[int] = []
    for core in sorted(allowed):
        if not any(core in siblings_of(other) for other in apart):
            apart.append(core)
    order = [*apart, *(core for core in sorted(allowed) if core not in apart)]
    if len(order) < 2:
        raise ValueError("two cores are needed: one for the proxy, one for the load")
    proxy, load = order[0], order[1]
    second = next((core for core in order[2:]), load)
    return Cores(frozenset({proxy}), frozenset({load}), frozenset({proxy, second}), frozenset({load}))


def siblings(core: int) -> set[int]:
    """The hyperthreads of the physical core that ``core`` is one of; itself only, where the kernel does not say."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    return parse_cpu_list(path.read_text()) if path.exists() else {core}


def parse_cpu_list(text: str) -> set[int]:
    """``0-1,8`` as the kernel writes it."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def this_machine() -> Cores:
    return choose_cores(os.sched_getaffinity(0), siblings)


def describe() -> dict[str, str]:
    """What to print beside the numbers. The load average says whether we were alone."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "CPU": f"{model}, {os.cpu_count()} CPUs",
        "memory": f"{int(memory) / 1024 / 1024:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{sys.version.split()[0]}, {ssl.OPENSSL_VERSION}",
        "load average before the first run": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "revision": _revision(),
    }


def _revision() -> str:
    folder = Path(__file__).parent
    try:
        words = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
