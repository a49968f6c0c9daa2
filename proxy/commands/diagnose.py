"""``koguma diagnose``: dial every endpoint of a service as the proxy would, and explain the verdict.

Nothing of an application's is sent: a connection is made, TLS is spoken, and it is closed again. A service with an
extension is diagnosed with what that supplies within ``SUPPLY_WAIT_S``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import uvloop

from config.plan import ClusterPlan
from config.planner import Planned, ResourceState
from config.problems import Problem
from proxy.balance import Endpoint
from proxy.clock import wall_clock
from proxy.cluster import resolved_endpoints
from proxy.dial import Dialer
from proxy.dialled import Dialled
from proxy.exits import EXIT_INVALID, EXIT_OK, EXIT_USAGE
from proxy.extensions.host import ExtensionHost
from proxy.extensions.registry import Registry
from proxy.lookup import Resolver
from proxy.options import Names, Sources
from proxy.reading import read
from proxy.relay import ByteTransport
from proxy.resolution import Address, ResolutionError
from tls.handshake import Established, Refused
from tls.material import CertificateFacts, describe_certificate
from tls.verdict import Phase, Verdict, classify, unresolved

SUPPLY_WAIT_S = 10.0
"""How long an extension may take for its first supply."""
SETTLE_S = 0.3
"""How long to listen after a TLS 1.3 handshake: a server that rejects our certificate says so only then."""


class Probe(Dialled):
    """A connection that is looked at and closed."""

    def __init__(self) -> None:
        self.connected = False
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.transport: ByteTransport | None = None

    def abandon(self) -> None:
        """Nothing to do: a connection that comes late is closed with the loop."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("ByteTransport", transport)
        self.connected = True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(exc)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one endpoint: an established connection, or a verdict."""

    target: str
    established: Established | None = None
    verdict: Verdict | None = None
    seconds: float = 0.0


def diagnose(name: str, sources: Sources, names: Names, output: str) -> int:
    """Exit code 0 where every endpoint is fine."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_diagnose(name, sources, names, output))


async def _diagnose(name: str, sources: Sources, names: Names, output: str) -> int:
    loop, something_new = asyncio.get_running_loop(), asyncio.Event()
    resolver = Resolver(names.upstreams or None, names.hosts_file, loop.time)
    host = ExtensionHost(Registry(), something_new.set, resolver.nameservers)
    try:
        reading = read(sources, host)
        planned = reading.plan()
        state = _find(name, planned)
        if state is not None and await _was_supplied(state, host, something_new):
            planned = reading.plan()
            state = _find(name, planned)
    finally:
        host.close()
    if state is None or state.cluster is None:
        return _unknown(name, planned)
    plan = state.cluster
    findings = await _dial_all(plan, resolver)
    notes = [problem for problem in state.problems if problem.field.startswith("spec.extension")]
    if output == "json":
        json.dump(_as_json(plan, findings, notes), sys.stdout, indent=2)
        print()
    else:
        print(f"{plan.service} ({plan.name})")
        for note in notes:
            print(f"  {note.message}")
        for finding in findings:
            print("\n".join(_explain(finding, plan)))
        if not findings:
            print("  no endpoints: every connection will be refused")
    return EXIT_OK if findings and all(finding.verdict is None for finding in findings) else EXIT_INVALID


def _find(name: str, planned: Planned) -> ResourceState | None:
    """A service that can run, of the proxy's mesh before others."""
    found = [one for one in planned.resources if one.cluster is not None and name in (one.name, one.cluster.name)]
    if planned.plan is not None:
        mesh = planned.plan.proxy.mesh
        found = [one for one in found if one.mesh == mesh] or found
    return found[0] if found else None


async def _was_supplied(state: ResourceState, host: ExtensionHost, something_new: asyncio.Event) -> bool:
    """Whether the service has an extension. It was given time for its first supply, or its first fault."""
    assert state.service is not None
    service = state.service.service
    if service.extension is None:
        return False
    host.apply({(state.kind, state.mesh, state.name, service.meta.namespace): service.extension})
    try:
        async with asyncio.timeout(SUPPLY_WAIT_S):
            await something_new.wait()
    except TimeoutError:
        pass
    return True


def _unknown(name: str, planned: Planned) -> int:
    broken = [state for state in planned.resources if state.name == name and state.kind == "MeshExternalService"]
    if not broken:
        known = sorted(state.name for state in planned.resources if state.kind == "MeshExternalService")
        print(
            f'koguma: no MeshExternalService "{name}"; there are: {", ".join(known) or "none"}',
            file=sys.stderr,
        )
        return EXIT_USAGE
    for problem in broken[0].problems:
        print(problem.as_text(), file=sys.stderr)
    return EXIT_INVALID


async def _dial_all(plan: ClusterPlan, resolver: Resolver) -> list[Finding]:
    addresses: dict[str, Iterable[Address]] = {}
    findings = []
    for name in dict.fromkeys(plan.dns_names):
        try:
            addresses[name] = (await resolver.resolve(name)).addresses
        except ResolutionError as exc:
            findings.append(Finding(name, verdict=unresolved(name, str(exc))))
    dialer = Dialer(wall_clock)
    endpoints = resolved_endpoints(plan, addresses)
    return findings + [await _dial(dialer, endpoint, plan) for endpoint in endpoints]


async def _dial(dialer: Dialer, endpoint: Endpoint, plan: ClusterPlan) -> Finding:
    probe = Probe()
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        established = await dialer.open(endpoint, plan, probe)
    except (OSError, Refused) as exc:
        verdict = exc.verdict if isinstance(exc, Refused) else _judge(exc, Phase.CONNECT, plan)
        return Finding(str(endpoint), verdict=verdict, seconds=loop.time() - began)
    seconds = loop.time() - began
    try:
        async with asyncio.timeout(SETTLE_S):
            ended = await asyncio.shield(probe.closed)
    except TimeoutError:
        ended = None
    if ended is not None and established is not None:
        return Finding(str(endpoint), verdict=_judge(ended, Phase.ESTABLISHED, plan), seconds=seconds)
    assert probe.transport is not None
    probe.transport.close()
    return Finding(str(endpoint), established, seconds=seconds)


def _judge(exc: Exception, phase: Phase, plan: ClusterPlan) -> Verdict:
    return classify(exc, phase, plan.tls, now=wall_clock())


def _explain(finding: Finding, plan: ClusterPlan) -> list[str]:
    lines = ["", f"  {finding.target}"]
    if finding.verdict is not None:
        lines += [f"    REFUSED after {finding.seconds * 1000:.0f} ms"]
        return lines + [f"    {line}" for line in finding.verdict.as_text().splitlines()]
    lines += [f"    OK in {finding.seconds * 1000:.0f} ms"]
    established = finding.established
    if established is None:
        return [*lines, "    plaintext: spec.tls.enabled is not true"]
    tls = plan.tls
    assert tls is not None
    checked = f"verified against {tls.anchors.source}" if tls.mode.checks_chain and tls.anchors else "NOT VERIFIED"
    alpn, sni = established.alpn or "-", established.sni or "-"
    lines += [
        f"    {established.version}, {established.cipher}, ALPN {alpn}, SNI {sni}",
        f"    chain   {checked}",
        f"    name    {_matched(established)}",
    ]
    for depth, facts in enumerate(_chain(established)):
        lines.append(f"    [{depth}] {facts.subject or '(no subject)'}, issued by {facts.issuer}")
        lines.append(f"        {', '.join(facts.sans) or 'no SANs'}")
        lines.append(f"        valid {facts.not_before} to {facts.not_after}, {facts.key_type}")
    return lines


def _matched(established: Established) -> str:
    match = established.matched
    return f"{match.presented} matches {match.matcher}" if match is not None else "NOT VERIFIED"


def _chain(established: Established) -> list[CertificateFacts]:
    return [describe_certificate(der) for der in established.chain] or [established.peer]


def _as_json(plan: ClusterPlan, findings: list[Finding], notes: Iterable[Problem]) -> dict[str, object]:
    return {
        "service": plan.service,
        "cluster": plan.name,
        "notes": [note.message for note in notes],
        "endpoints": [
            {
                "target": finding.target,
                "ok": finding.verdict is None,
                "seconds": round(finding.seconds, 4),
                "tls": _established_as_json(finding.established) if finding.established is not None else None,
                "verdict": finding.verdict.as_dict() if finding.verdict is not None else None,
            }
            for finding in findings
        ],
    }


def _established_as_json(established: Established) -> dict[str, object]:
    return {
        "version": established.version,
        "cipher": established.cipher,
        "alpn": established.alpn,
        "sni": established.sni,
        "matched": _matched(established),
        "chain": [facts.as_dict() for facts in _chain(established)],
    }
