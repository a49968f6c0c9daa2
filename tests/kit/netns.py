"""Commands in a network and mount namespace of their own: the machine's routes and /etc stay as they are.

A namespace lives as long as the program that was started in it; other commands join it by that program's number.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.kit.koguma import Finished, environment

RUN_S = 50.0


def require() -> None:
    """Skip the test where namespaces cannot be made."""
    missing = [name for name in ("unshare", "nsenter", "ip", "mount", "setpriv") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    made = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no namespaces here: {made.stderr.strip()}")


def unshared(command: Sequence[str], *, first: str = "true", resolv_conf: Path | None = None) -> list[str]:
    """``command`` in new namespaces, after the shell command ``first``. The loopback interface is up, and
    ``/etc/resolv.conf`` is the given file.
    """
    steps = ["ip link set lo up"]
    if resolv_conf is not None:
        steps.append(f"mount --bind {resolv_conf} /etc/resolv.conf")
    script = " && ".join([*steps, first, 'exec "$@"'])
    return ["unshare", "--net", "--mount", "sh", "-c", script, "sh", *command]


def run(command: Sequence[str], *, timeout_s: float = RUN_S) -> Finished:
    done = subprocess.run(
        command, env=environment({}), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
        check=False,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)


def run_beside(pid: int, *command: str) -> Finished:
    """``command`` in the namespaces of a running process."""
    return run(["nsenter", f"--target={pid}", "--net", "--mount", *command])


PYTHON = sys.executable
