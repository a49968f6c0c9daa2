"""@grpc/grpc-js on both ends: its client for one scenario, and its server with the methods of
:mod:`tests.kit.grpc_server`.

The package comes by npm, in the versions of ``package-lock.json``, once for each of them: into pytest's cache. Where
npm or its registry is missing, the tests that want it are skipped, and say so.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kit.apps import find
from tests.kit.grpc_peers import GrpcServer

PROGRAMS = Path(__file__).with_name("grpc_js")
PACKAGE_FILES = ("package.json", "package-lock.json")
INSTALL_S = 50.0
RUN_S = 40.0


def install(cache: Path) -> Path:
    """The folder below ``cache`` where the packages are. Skips the test if they cannot be had."""
    npm = find("npm")
    files = [PROGRAMS / name for name in PACKAGE_FILES]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    directory = cache / digest[:16]
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            for path in files:
                shutil.copy(path, directory)
            _install(npm, directory)
            (directory / "complete").touch()
    return directory / "node_modules"


def _install(npm: str, directory: Path) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"@grpc/grpc-js: npm took more than {INSTALL_S:g} s")
    if done.returncode != 0:
        pytest.skip(f"@grpc/grpc-js cannot be installed: npm says {done.stderr.strip()[-300:]}")


def _node(packages: Path, program: str) -> list[str]:
    return [find("env"), f"NODE_PATH={packages}", find("node"), str(PROGRAMS / program)]


def run_client(packages: Path, port: int, scenario: str) -> Any:
    """The result of a scenario of ``client.js``."""
    command = [*_node(packages, "client.js"), str(port), scenario]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, f"{scenario}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout)


class GrpcJsServer(GrpcServer):
    """As the server of grpcio, which its arguments and its events are those of."""

    def __init__(self, packages: Path, directory: Path, **more: Any) -> None:
        super().__init__(directory, **more)
        self._words = _node(packages, "server.js")

    def program(self) -> list[str]:
        return self._words
