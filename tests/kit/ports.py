"""Port numbers for programs that cannot be asked to bind port 0.

They come from below the kernel's ephemeral range, so that no outgoing connection of any test can sit on one
between the check and its use. Test processes that work together take turns through the numbers, so that none is given
out by two of them.
"""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

LOWEST = 10_240


def _ephemeral_start() -> int:
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    return int(text.split()[0])


_COUNT = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_OWN = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _COUNT
_TURNS = (_ephemeral_start() - LOWEST) // _COUNT
_RUN = os.getpid() if _COUNT == 1 else os.getppid()  # the same for all who work together
_turns = itertools.count(_RUN * 101)


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens, and which this process has not given out before."""
    for _ in range(_TURNS):
        port = LOWEST + next(_turns) % _TURNS * _COUNT + _OWN
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port below the ephemeral range")
