"""Port numbers for programs that cannot be asked to bind port 0.

They come from below the kernel's ephemeral range, so that no outgoing connection of any test can sit on one
between the check and its use, and each test process starts at a place of its own.
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


_SPAN = _ephemeral_start() - LOWEST
_numbers = itertools.count(os.getpid() * 101 % _SPAN)


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens, and which this process has not given out before."""
    for _ in range(_SPAN):
        port = LOWEST + next(_numbers) % _SPAN
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port below the ephemeral range")
