"""What planning gives: the plan, and what became of each resource, for people.

    ResourceState   a resource of the set: whether it is good, what is wrong with it, and, for a service, its status
    InForce         a service that can run: its last good version on the terms of today

Rows that stay the same from one plan to the next stay the same objects, and so does what they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from config.created_trust import CreatedTrust
from config.load import Document, Key
from config.naming import ServiceStatus
from config.plan import ClusterPlan, Plan
from config.policies.apply import on_terms
from config.policies.selection import NO_TERMS, Terms
from config.problems import Problem
from config.resources.meshexternalservice import Extension, MeshExternalService
from config.trust import KINDS as TRUST_KINDS
from config.way_out import WayOut
from tls.policy import ClientCertificate


class Health(StrEnum):
    GOOD = "good"
    STALE = "stale"
    """Wrong now; the last good version is in force."""
    BROKEN = "broken"
    """Wrong, and never was good: absent."""


@dataclass(frozen=True, eq=False)
class InForce:
    """A service that can run: as it was compiled, what policies say of it, and the way to it."""

    compiled: ClusterPlan
    terms: Terms
    service: MeshExternalService
    client: ClientCertificate | None = None
    """What it presents to endpoints, where that is the proxy's own identity."""
    way_out: WayOut | None = None
    """Where it is not left directly."""

    @cached_property
    def plan(self) -> ClusterPlan:
        """What comes of it: made when it is asked for, since most services of a large mesh are used by others."""
        plan = on_terms(self.compiled, self.terms)
        if self.way_out is not None:
            return self.way_out.lead(plan, self.service.meta, self.service.match.port)
        if self.client is None or plan.tls is None:
            return plan
        return replace(plan, tls=replace(plan.tls, client=self.client))


@dataclass(frozen=True, slots=True)
class ResourceState:
    """One resource of the set, for ``/resources`` and ``inspect``."""

    kind: str
    mesh: str
    name: str
    kri: str
    file: str
    line: int
    health: Health
    problems: tuple[Problem, ...]
    service: InForce | None = None
    """For a MeshExternalService."""
    status: ServiceStatus | None = None
    """For a MeshExternalService that can run: its virtual IP and its hostnames."""

    @property
    def cluster(self) -> ClusterPlan | None:
        """For a MeshExternalService: the plan in force."""
        return self.service.plan if self.service is not None else None

    @property
    def terms(self) -> Terms:
        """For a MeshExternalService: what policies say of it."""
        return self.service.terms if self.service is not None else NO_TERMS

    def with_status(self, status: ServiceStatus, found: Iterable[Problem] = ()) -> ResourceState:
        """The same with a status, and what is wrong with it. Not by ``replace``, which takes ten times as long."""
        return ResourceState(
            self.kind, self.mesh, self.name, self.kri, self.file, self.line, self.health,
            (*self.problems, *found), self.service, status,
        )  # fmt: skip

    def conditions(self) -> list[dict[str, str]]:
        """As Kuma writes conditions."""
        faults = "; ".join(f"{p.field}: {p.message}" if p.field else p.message for p in self.problems if p.is_error)
        accepted = self.health is Health.GOOD
        conditions = [
            {
                "type": "Accepted",
                "status": "True" if accepted else "False",
                "reason": "Accepted" if accepted else "Invalid",
                "message": faults,
            }
        ]
        if self.health is Health.STALE:
            conditions.append(
                {
                    "type": "LastGoodKept",
                    "status": "True",
                    "reason": "Invalid",
                    "message": "the last good version stays in force",
                }
            )
        return conditions


@dataclass(frozen=True, slots=True)
class Planned:
    """``plan`` is ``None`` where there is no usable Dataplane or ZoneEgress, now or before."""

    plan: Plan | None
    problems: tuple[Problem, ...]
    resources: tuple[ResourceState, ...]
    extended: Mapping[Key, Extension] = field(default_factory=dict)
    """The services whose endpoints an extension has to supply."""
    created_trusts: tuple[CreatedTrust, ...] = ()
    """The MeshTrusts that MeshIdentities bring with them."""
    agent_timeout_s: float | None = None
    """An agent of SPIRE is to be asked, and the start may wait so long for its first answer. ``None``: none is."""

    @property
    def has_errors(self) -> bool:
        return any(problem.is_error for problem in self.problems)


def row_of(
    key: Key, document: Document, health: Health, problems: tuple[Problem, ...], service: InForce | None = None
) -> ResourceState:
    kri = document.resource.kri() if document.resource is not None else ""
    return ResourceState(key[0], key[1], key[2], kri, document.file, document.line, health, problems, service)


def add_problems(rows: dict[Key, ResourceState], problems: Iterable[Problem]) -> None:
    """To the rows of resources that are right by themselves, and of which something was found later."""
    found: dict[tuple[str, str, str, str], list[Problem]] = {}
    for problem in problems:
        if problem.type in TRUST_KINDS:
            found.setdefault((problem.type, problem.mesh, problem.name, problem.file), []).append(problem)
    if found:
        for key, row in rows.items():
            rows[key] = _with_problem(row, found.get((row.kind, row.mesh, row.name, row.file), ()))


def _with_problem(row: ResourceState, problems: Sequence[Problem]) -> ResourceState:
    if not problems:
        return row
    is_broken = row.health is Health.GOOD and any(problem.is_error for problem in problems)
    return replace(row, health=Health.BROKEN if is_broken else row.health, problems=(*row.problems, *problems))
