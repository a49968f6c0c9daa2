"""Guarantee: the example of a zone egress does what it says, in network namespaces of its own and without root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.kit import netns
from tests.kit.koguma import SOURCE_ROOT, environment

SCRIPT = SOURCE_ROOT / "examples" / "egress" / "run.sh"


THROUGH = "through the egress: 200 greetings from outside"
DENIED = "not permitted: 403 RBAC: access denied"


def run(*arguments: str) -> list[str]:
    """What the example prints."""
    missing = [name for name in ("bash", "openssl", "curl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    programs = {"KOGUMA": f"{sys.executable} -m proxy", "PYTHON": sys.executable, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [str(SCRIPT), *arguments], env=environment(programs), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(120)
def test_the_egress_example() -> None:
    netns.require()
    assert run() == [THROUGH, DENIED, "without the egress: 000"]


@pytest.mark.timeout(120)
def test_the_egress_example_without_root() -> None:
    assert run("--loopback") == [THROUGH, DENIED]
