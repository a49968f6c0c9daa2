"""From resources to a plan, remembering what was good.

A planner is fed the whole set of documents each time something changed. A resource that has become wrong keeps its last
good version, one that never was good is absent, and nothing else notices either (a Mesh that never could be read counts
as forbidding: what it might have forbidden is not known). Compiling is pure given (documents, time, environment,
what was good before); services whose document and secrets did not change are not compiled again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from ipaddress import ip_address
from itertools import chain
from pathlib import Path, PurePath

from config.created_trust import CreatedTrust
from config.egress import DoorMemory, Offer, Ward, doors, face, faces, plan_door
from config.extension import NOTHING, Extensions, NoExtensions, Supplied
from config.hostnames import age, with_defaults
from config.identity import IdentityDesk
from config.issuers import Agent, IdentityFiles, NoAgent
from config.load import Document, Key, Loaded
from config.naming import Named, Naming, ServiceStatus
from config.plan import (
    HEADERS_TIMEOUT_S,
    Access,
    AdminPlan,
    ClusterPlan,
    Direction,
    EndpointPlan,
    IdentityPlan,
    IpTarget,
    ListenerPlan,
    NamePlan,
    Plan,
    Protocol,
    ProxyIdentity,
)
from config.policies.apply import on_terms, request_headers_timeout_s
from config.policies.policy import Policy
from config.policies.selection import NO_TERMS, PolicyBook, Selection, Terms
from config.problems import Problem, Severity
from config.resources.dataplane import (
    BackendKind,
    BackendRef,
    Dataplane,
    Inbound,
    IpFamilyMode,
    Listener,
    Networking,
    Outbound,
    ReachableBackend,
    State,
    TransparentProxying,
)
from config.resources.hostnamegenerator import HostnameGenerator
from config.resources.mesh import Mesh, Routing
from config.resources.meshexternalservice import Extension, MeshExternalService
from config.resources.meta import Meta
from config.resources.names import is_ip
from config.resources.registry import KINDS
from config.resources.secret import GlobalSecret, Secret
from config.resources.shape import is_port
from config.resources.zoneegress import ZoneEgress
from config.services import Compiled, ServiceCompiler, Unusable
from config.trust import KINDS as TRUST_KINDS
from config.trust import InboundTerms, TrustPlanner
from config.vips import DEFAULT_CIDR, Address, Lease, Ledger, Network, parse_pools
from config.way_out import WayOut, find_way_out
from tls.bundles import TrustBundles
from tls.material import MaterialError
from tls.policy import ClientCertificate

CLIENT_CERTIFICATE_LABEL = "koguma.io/client-certificate"
"""On a MeshExternalService with TLS and without ``clientCert``: where the client certificate comes from instead."""
FROM_IDENTITY = "identity"
SOURCES: Mapping[int, Address] = {4: ip_address("127.0.0.6"), 6: ip_address("::6")}
"""By IP version: whence connections go to a workload whose inbound connections the kernel redirects. Kuma's rules let
those from here pass, and lead any other to an address of the machine back to the proxy.
"""


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


@dataclass(frozen=True, slots=True)
class _GoodService:
    document: Document
    secrets: tuple[tuple[str, bytes | None], ...]
    """What it referred to, and what that held: the service is compiled anew when one changes."""
    supplied: Supplied | None
    """Likewise, by its extension."""
    compiled: Compiled
    warnings: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Surroundings:
    """What decides, besides its document, how a service runs. Where it is the same as for the last plan, so is whatever
    has not changed itself.
    """

    secrets: Mapping[tuple[str, str], bytes]
    selections: Mapping[str, Selection]
    certificates: Mapping[str, ClientCertificate | None]
    ways_out: Mapping[str, WayOut]

    def moved_since(self, before: _Surroundings | None) -> frozenset[str] | None:
        """The meshes in which something is not as it was; ``None``: it may be in all."""
        if before is None or self.secrets != before.secrets:
            return None
        meshes = {*self.selections, *before.selections, *self.certificates, *before.certificates}
        meshes |= {*self.ways_out, *before.ways_out}
        return frozenset(
            mesh
            for mesh in meshes
            if self.selections.get(mesh) is not before.selections.get(mesh)
            or self.certificates.get(mesh) != before.certificates.get(mesh)
            or self.ways_out.get(mesh) is not before.ways_out.get(mesh)
        )


@dataclass(frozen=True, slots=True)
class _Bound:
    """The listeners of a service's virtual IPs, and what they were made of."""

    service: InForce
    vips: tuple[Address, ...]
    access: Access
    bind_to_port: bool
    listeners: tuple[ListenerPlan, ...]


@dataclass(slots=True)
class Settings:
    """What is not in any resource."""

    environ: Mapping[str, str]
    admin_address: str = "127.0.0.1"
    admin_port: int | None = None
    partial: bool = False
    """The set may be a part of the real one (``validate``): what is missing from it is a warning."""
    is_egress: bool = False
    """The proxy has to be a zone egress, whatever else it is."""
    vips: bool | None = None
    """Listen on the services' virtual IPs; ``None``: where the Dataplane is in transparent proxying mode."""
    pools: tuple[Network, ...] = parse_pools(DEFAULT_CIDR)
    """What virtual IPs are taken from: at most one CIDR of each IP version."""
    leases: tuple[Lease, ...] = ()
    """The virtual IPs that were given away before."""
    extensions: Extensions = field(default_factory=NoExtensions)
    drain_untrusted: bool = False
    """As in the plan."""
    agent: Agent = field(default_factory=NoAgent)
    """What provider Spire of a MeshIdentity speaks of."""
    identity_files: IdentityFiles | None = None
    """The proxy's identity, whatever MeshIdentities say."""
    identity_dir: Path | None = None
    """Where the CAs that we make are kept; ``None``: nowhere, they are lost with the planner."""


class Planner:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._good: dict[Key, Document] = {}
        self._services: dict[Key, _GoodService] = {}
        self._proxy: Document | None = None
        self.vips = Ledger(settings.pools, settings.leases)
        self._naming = Naming(self.vips)
        self._bound: dict[Key, _Bound] = {}
        self._outbounds: dict[tuple[str, int], tuple[InForce, ListenerPlan]] = {}
        """By address and port: those of the last plan, and what they lead to."""
        self._rows: dict[Key, ResourceState] = {}
        """Of services that are well."""
        self._shown: dict[Key, tuple[ResourceState, ResourceState]] = {}
        """Rows without a status, and the same with it."""
        self._in_force: dict[Key, InForce] = {}
        self._settled: set[Key] = set()
        """Of which this plan knows the terms already."""
        self._surroundings: _Surroundings | None = None
        """Those of the last plan, whose services have all been looked at."""
        self._known: dict[str, _Services] = {}
        """By mesh; for as long as services are added, removed or named anew."""
        self._meant: tuple[Dataplane, _Services, list[Key | None]] | None = None
        """Which services the outbounds of a Dataplane mean."""
        # By mesh: a zone egress has a face in each.
        self._faces: dict[str, Dataplane] = {}
        self._policies: dict[str, PolicyBook] = {}
        self._selections: dict[str, Selection] = {}
        self._trust: dict[str, TrustPlanner] = {}
        self._terms: dict[str, InboundTerms] = {}
        self._ways_out: dict[str, WayOut] = {}
        self._doors: dict[str, DoorMemory] = {}
        """By the names of their sections."""

    def plan(self, resources: Loaded, dataplane: Loaded | None, now: datetime) -> Planned:
        problems = [*resources.problems, *(p for d in resources.documents for p in d.problems)]
        current: dict[Key, Document] = {}
        for document in resources.documents:
            current.setdefault(document.key, document)  # of two with one key the first counts; the loader says so
        self._forget(current, resources.unreadable_files)
        states: dict[Key, ResourceState] = {}
        for key, document in current.items():
            if document.resource is not None and key[0] != MeshExternalService.kind:
                self._good[key] = document
        if dataplane is not None:
            problems.extend(self._read_dataplane(dataplane))
        secrets = self._secrets()
        self._look_around(current, secrets, now, problems)
        self._settled.clear()
        around = _Surroundings(secrets, self._selections, self._certificates(), self._ways_out)
        moved, self._surroundings = around.moved_since(self._surroundings), None
        used: set[tuple[str, str]] = set()

        def secret(mesh: str, name: str) -> bytes | None:
            used.add((mesh, name))
            return secrets.get((mesh, name))

        compiler = ServiceCompiler(secret, now, self._settings.environ, self._settings.extensions)
        for key, document in current.items():
            if key[0] == MeshExternalService.kind:
                if moved is not None and key[1] not in moved and self._stays(key, document):
                    problems.extend(self._services[key].warnings)
                    states[key] = self._rows[key]
                    self._settled.add(key)
                    continue
                used.clear()
                found, state = self._service(key, document, compiler, secrets, used)
                problems.extend(found)
                states[key] = state
            elif document.kind in KINDS:
                states[key] = self._state(key, document)
        for key in self._services.keys() - current.keys():  # in files that cannot be read any more
            good = self._services[key]
            states[key] = _row(key, good.document, Health.STALE, (), self._on_terms(key))
        self._surroundings = around
        named = self._name_services(current, resources, now)
        self._show(states, named, problems)
        plan = None
        if dataplane is not None:
            found, plan = self._proxy_plan(current, named)
            problems.extend(found)
            problems.extend(self._without_certificate(current))
            _add_problems(states, found)
        created = tuple(chain.from_iterable(terms.created for terms in self._terms.values()))
        waits = [terms.agent_timeout_s for terms in self._terms.values() if terms.agent_timeout_s is not None]
        return Planned(
            plan,
            tuple(problems),
            tuple(states.values()),
            self._extended(current, plan),
            created,
            max(waits, default=None),
        )

    def _extended(self, current: Mapping[Key, Document], plan: Plan | None) -> dict[Key, Extension]:
        """Of the plan's meshes; in force, or about to be."""
        found: dict[Key, Extension] = {}
        if plan is None:
            return found
        in_force = ((key, service.document) for key, service in self._services.items())
        for key, document in chain(in_force, current.items()):
            service = document.resource
            if isinstance(service, MeshExternalService) and service.extension is not None and key[1] in self._faces:
                found[key] = service.extension
        return found

    def _show(self, states: dict[Key, ResourceState], named: Named, problems: list[Problem]) -> None:
        """Put the statuses into the rows. Rows that stay the same stay the same objects."""
        before, self._shown = self._shown, {}
        for key, status in named.statuses.items():
            row, found = states[key], named.problems.get(key)
            known = before.get(key)
            if found:
                problems.extend(found)
                shown = row.with_status(status, found)
            elif known is not None and known[0] is row and known[1].status is status:
                shown = known[1]
            else:
                shown = row.with_status(status)
            if not found:
                self._shown[key] = row, shown
            states[key] = shown

    def _name_services(self, current: Mapping[Key, Document], resources: Loaded, now: datetime) -> Named:
        good = [d.resource for d in self._good.values() if isinstance(d.resource, HostnameGenerator)]
        present = [d for d in current.values() if d.kind == HostnameGenerator.kind]
        taken = [f"{d.name}.{d.namespace}" if d.namespace else d.name for d in present]
        return self._naming.name(
            {key: service.document for key, service in self._services.items()},
            with_defaults(good, taken, self._settings.environ),
            now,
            also_there=[key for key in current if key[0] == MeshExternalService.kind],
            others_are_gone=not resources.unreadable_files,
        )

    # What was good

    def _forget(self, current: Mapping[Key, Document], unreadable: Iterable[str]) -> None:
        """Drop what is no longer in the set. What stood in a file that cannot be read now is not known to be gone."""
        places = tuple(unreadable)

        def is_gone(key: Key, document: Document) -> bool:
            return key not in current and not any(PurePath(document.file).is_relative_to(place) for place in places)

        for key, document in tuple(self._good.items()):
            if is_gone(key, document):
                del self._good[key]
        for key, service in tuple(self._services.items()):
            if is_gone(key, service.document):
                del self._services[key]
                self._known.clear()
                self._in_force.pop(key, None)
                self._rows.pop(key, None)

    def _state(self, key: Key, document: Document) -> ResourceState:
        fallback = Health.STALE if key in self._good else Health.BROKEN
        health = fallback if document.resource is None else Health.GOOD
        return _row(key, document, health, document.problems)

    def _secrets(self) -> dict[tuple[str, str], bytes]:
        """By (mesh, name). A global secret belongs to no mesh, so no service can name it."""
        found: dict[tuple[str, str], bytes] = {}
        for document in self._good.values():
            if isinstance(document.resource, Secret) and not isinstance(document.resource, GlobalSecret):
                found[document.mesh, document.name] = document.resource.data
        return found

    # Services

    def _service(
        self,
        key: Key,
        document: Document,
        compiler: ServiceCompiler,
        secrets: Mapping[tuple[str, str], bytes],
        used: set[tuple[str, str]],
    ) -> tuple[Sequence[Problem], ResourceState]:
        good = self._services.get(key)
        service = document.resource
        if not isinstance(service, MeshExternalService):
            return [], self._broken(key, document, document.problems)
        supplied = self._settings.extensions.supplied(key) if service.extension is not None else None
        if (
            good is None
            or good.document is not document
            or good.supplied is not supplied
            or any(secrets.get((document.mesh, name)) != content for name, content in good.secrets)
        ):
            try:
                compiled = compiler.compile(service, supplied or NOTHING)
            except Unusable as exc:
                severity = Severity.WARNING if exc.missing and self._settings.partial else Severity.ERROR
                problem = document.problem(exc.field, exc.message, severity)
                fault = replace(problem, severity=Severity.ERROR)
                return [problem], self._broken(key, document, (*document.problems, fault))
            contents = tuple((name, secrets.get((mesh, name))) for mesh, name in sorted(used))
            warnings = tuple(document.problem(field, text, Severity.WARNING) for field, text in compiled.warnings)
            if good is None or _meta(good.document) != _meta(document):
                self._known.clear()
            good = self._services[key] = _GoodService(document, contents, supplied, compiled, warnings)
        return good.warnings, self._good_row(key, good)

    def _stays(self, key: Key, document: Document) -> bool:
        """Whether a service, around which nothing has changed, is as it was itself: then so is its row."""
        good, row = self._services.get(key), self._rows.get(key)
        if good is None or row is None or good.document is not document or row.service is not self._in_force.get(key):
            return False
        service = document.resource
        assert isinstance(service, MeshExternalService)
        supplied = self._settings.extensions.supplied(key) if service.extension is not None else None
        return good.supplied is supplied

    def _good_row(self, key: Key, good: _GoodService) -> ResourceState:
        """The same object as before, unless the service or its terms changed."""
        service = self._on_terms(key)
        row = self._rows.get(key)
        if row is None or row.service is not service:
            problems = (*good.document.problems, *good.warnings)
            row = self._rows[key] = _row(key, good.document, Health.GOOD, problems, service)
        return row

    def _broken(self, key: Key, document: Document, problems: tuple[Problem, ...]) -> ResourceState:
        self._rows.pop(key, None)
        if key not in self._services:
            return _row(key, document, Health.BROKEN, problems)
        return _row(key, document, Health.STALE, problems, self._on_terms(key))

    # Policies

    def _look_around(
        self,
        current: Mapping[Key, Document],
        secrets: Mapping[tuple[str, str], bytes],
        now: datetime,
        problems: list[Problem],
    ) -> None:
        """Find what holds for the proxy in each of its meshes: policies, identity and trust, the way out. Without a
        proxy there is nothing to select by, and nothing applies.
        """
        self._faces = self._find_faces(current)
        self._policies = {mesh: self._policies.get(mesh) or PolicyBook() for mesh in self._faces}
        self._trust = {mesh: self._trust.get(mesh) or self._new_trust() for mesh in self._faces}
        policies = [document for document in self._good.values() if isinstance(document.resource, Policy)]
        self._selections = {mesh: self._policies[mesh].selection(policies, face) for mesh, face in self._faces.items()}
        self._terms = {
            mesh: self._trust[mesh].terms(
                self._good, current, face, lambda mesh, name: secrets.get((mesh, name)), now
            )
            for mesh, face in self._faces.items()
        }  # fmt: skip
        before, self._ways_out = self._ways_out, {}
        for mesh, dataplane in self._faces.items():
            if self._routing(mesh).zone_egress and not any(True for _ in doors(dataplane)):

                def object_to(document: Document, message: str) -> None:
                    problems.append(document.problem("", message, Severity.WARNING))

                way = find_way_out(dataplane, self._good.values(), self._terms[mesh], object_to)
                known = before.get(mesh)
                self._ways_out[mesh] = known if known is not None and known == way else way

    def _find_faces(self, current: Mapping[Key, Document]) -> dict[str, Dataplane]:
        if self._proxy is None:
            return {}
        proxy = self._proxy.resource
        assert isinstance(proxy, Dataplane | ZoneEgress)
        if isinstance(proxy, Dataplane):
            return {proxy.mesh: proxy}
        meshes = {key[1] for key in (*current, *self._services) if key[0] == MeshExternalService.kind}
        return {face.mesh: face for face in faces(proxy, sorted(meshes))}

    def _new_trust(self) -> TrustPlanner:
        settings = self._settings
        desk = IdentityDesk(settings.identity_dir, settings.environ, settings.agent)
        return TrustPlanner(desk, partial=settings.partial, files=settings.identity_files)

    def _on_terms(self, key: Key) -> InForce:
        """A service as it is to run. The same object as before, unless the service or its terms changed."""
        if key in self._settled:
            return self._in_force[key]
        self._settled.add(key)
        good = self._services[key]
        mesh, service = good.document.mesh, good.document.resource
        assert isinstance(service, MeshExternalService)
        terms, way_out = NO_TERMS, self._ways_out.get(mesh)
        if mesh in self._selections:
            terms = self._selections[mesh].terms(service.meta)
        compiled = good.compiled.plan
        client = self._terms[mesh].certificate if self._presents_identity(good) else None
        before = self._in_force.get(key)
        if (
            before is None
            or before.compiled is not compiled
            or before.terms is not terms
            or before.client != client
            or before.way_out is not way_out
        ):
            before = self._in_force[key] = InForce(compiled, terms, service, client, way_out)
        return before

    # Identity

    def _presents_identity(self, good: _GoodService) -> bool:
        """Whether a service asks for our identity's certificate, and not for one of its own."""
        document, tls = good.document, good.compiled.plan.tls
        return (
            tls is not None
            and tls.client is None
            and _meta(document).labels.get(CLIENT_CERTIFICATE_LABEL) == FROM_IDENTITY
            and document.mesh in self._terms
        )

    def _certificates(self) -> dict[str, ClientCertificate | None]:
        return {mesh: terms.certificate for mesh, terms in self._terms.items()}

    def _without_certificate(self, current: Mapping[Key, Document]) -> Iterator[Problem]:
        without = {mesh for mesh, terms in self._terms.items() if terms.certificate is None}
        for key, good in self._services.items() if without else ():
            if key[1] in without and key in current and self._presents_identity(good):
                text = f"{CLIENT_CERTIFICATE_LABEL}: there is no MeshIdentity with a certificate for this Dataplane"
                yield good.document.problem("labels", text, Severity.WARNING)

    # The proxy

    def _read_dataplane(self, loaded: Loaded) -> list[Problem]:
        """Take the proxy, a Dataplane or a ZoneEgress, if it is good; else the one before stays."""
        problems = [*loaded.problems, *(p for d in loaded.documents for p in d.problems)]
        fresh = [document for document in loaded.documents if isinstance(document.resource, Dataplane | ZoneEgress)]
        if fresh and self._settings.is_egress and not _is_egress(fresh[0]):
            text = "--proxy-type egress: a ZoneEgress is needed, or a Dataplane with a listener of type ZoneEgress"
            problems.append(fresh[0].problem("networking", text))
        if fresh and not any(problem.is_error for problem in problems):
            self._proxy = fresh[0]
        return problems

    def _proxy_plan(self, current: Mapping[Key, Document], named: Named) -> tuple[list[Problem], Plan | None]:
        document = self._proxy
        if document is None:
            return [], None
        proxy = document.resource
        assert isinstance(proxy, Dataplane | ZoneEgress)
        draft = _Draft(document)
        if isinstance(proxy, Dataplane):
            terms = self._terms[proxy.mesh]
            access = self._access(proxy.mesh, current)
            self._plan_outbounds(draft, proxy, access)
            self._plan_vips(draft, proxy, access, named, current)
            _plan_inbounds(draft, proxy, terms)
            for field, door in doors(proxy):
                self._plan_door(draft, field, door, proxy.networking, current)
        else:
            admin_face = face(proxy, "")
            for _, door in doors(admin_face):
                self._plan_door(draft, "networking", door, admin_face.networking, current)
        for terms in self._terms.values():
            draft.problems.extend(terms.problems)
        settings, admin = self._settings, proxy.networking.admin
        port = settings.admin_port
        if port is None and admin is not None and admin.port:
            port = admin.port
        meta = proxy.meta
        plan = Plan(
            proxy=ProxyIdentity(meta.mesh, meta.name, _zone_of(proxy), tuple(sorted(meta.labels.items()))),
            listeners=draft.listeners,
            clusters=draft.clusters,
            admin=AdminPlan(settings.admin_address, port if port is not None else AdminPlan().port),
            names=draft.names,
            identity=self._identity_due_first(),
            trust=self._trusted(),
            trust_generations=self._trust_generations(),
            drain_untrusted=settings.drain_untrusted,
        )
        return draft.problems, plan

    def _identity_due_first(self) -> IdentityPlan | None:
        """A ZoneEgress has an identity in each mesh; renewing one plans all of them anew."""
        identities = [terms.identity for terms in self._terms.values() if terms.identity is not None]
        return min(identities, key=_due, default=None)

    def _trusted(self) -> TrustBundles:
        """For people: peers are judged by what their listeners and clusters say."""
        if len(self._terms) == 1:
            return next(iter(self._terms.values())).bundles
        by_place = {
            f"{mesh}/{domain}": bundle
            for mesh, terms in self._terms.items()
            for domain, bundle in terms.bundles.by_domain.items()
        }
        return TrustBundles(by_place, "/".join(terms.bundles.digest for terms in self._terms.values()))

    def _trust_generations(self) -> Mapping[str, int]:
        """By the names that :meth:`_trusted` has."""
        if len(self._terms) == 1:
            return next(iter(self._terms.values())).generations
        return {
            f"{mesh}/{domain}": generation
            for mesh, terms in self._terms.items()
            for domain, generation in terms.generations.items()
        }

    def _plan_door(
        self, draft: _Draft, field: str, door: Listener, networking: Networking, current: Mapping[Key, Document]
    ) -> None:
        """A zone egress: its port, and behind it the services of every mesh that it has a face in."""
        is_legacy = isinstance(draft.proxy, ZoneEgress)
        wards = [
            Ward(mesh, self._terms[mesh], self._access(mesh, current), tuple(self._offers(mesh)))
            for mesh in self._faces
        ]  # fmt: skip

        def object_to(where: str, message: str) -> None:
            draft.object(where, message, Severity.WARNING)

        memory = self._doors.setdefault(door.section, DoorMemory())
        for listener, cluster in plan_door(field, door, networking, wards, is_legacy, object_to, memory):
            if listener.name in draft.listeners:
                draft.object(field, f"two services have the identifier {listener.cluster}: give one another name")
            elif cluster is None:
                draft.listeners[listener.name] = listener
            else:
                draft.add(listener, cluster)

    def _offers(self, mesh: str) -> Iterator[Offer]:
        """The services of a mesh, the oldest first: of two with one name it is the one that is meant."""
        for good in sorted((good for good in self._services.values() if good.document.mesh == mesh), key=_age):
            service = self._on_terms(good.document.key)
            head_timeout_s = request_headers_timeout_s(service.terms)
            yield Offer(service.service.meta, service.service.match.port, service.plan, head_timeout_s)

    def _plan_outbounds(self, draft: _Draft, dataplane: Dataplane, access: Access) -> None:
        if not dataplane.networking.outbound:
            return
        before, self._outbounds = self._outbounds, {}
        for index, (outbound, key) in enumerate(
            zip(dataplane.networking.outbound, self._backends(dataplane), strict=True)
        ):
            if key is None:
                if outbound.backend_ref is not None:  # else tags of the 2.x form: the loader has said so
                    why_not = _why_none(outbound.backend_ref, dataplane.mesh)
                    draft.object(f"networking.outbound[{index}].backendRef", f"{why_not}: skipped", Severity.WARNING)
                continue
            service, place = self._on_terms(key), (outbound.address, outbound.port)
            cluster, known = service.plan, before.get(place)
            if known is None or known[0] is not service or known[1].access is not access:
                known = service, _outbound(outbound, service, access, known[1] if known is not None else None)
            self._outbounds[place] = known
            listener = known[1]
            if listener.name in draft.listeners:
                draft.object(f"networking.outbound[{index}]", f"{listener.bind} is already used by another outbound")
            elif draft.clusters.get(cluster.name, cluster) is not cluster:
                message = f"two services have the identifier {cluster.name}: give one another display name"
                draft.object(f"networking.outbound[{index}].backendRef", message)
            else:
                draft.add(listener, cluster)

    def _backends(self, dataplane: Dataplane) -> list[Key | None]:
        """Which service each outbound means."""
        known = self._known.get(dataplane.mesh)
        if known is None:
            known = self._known[dataplane.mesh] = _Services(dataplane.mesh, self._services.values())
        if self._meant is None or self._meant[0] is not dataplane or self._meant[1] is not known:
            references = (outbound.backend_ref for outbound in dataplane.networking.outbound)
            found = [known.meant(one) if one is not None else None for one in references]
            self._meant = dataplane, known, found
        return self._meant[2]

    def _plan_vips(
        self, draft: _Draft, dataplane: Dataplane, access: Access, named: Named, current: Mapping[Key, Document]
    ) -> None:
        """A listener on each virtual IP of the Dataplane's mesh, and the names that lead there."""
        transparent = dataplane.networking.transparent_proxying
        redirects = transparent is not None and transparent.redirect_port_outbound != 0
        if not (redirects if self._settings.vips is None else self._settings.vips):
            return
        if redirects:
            assert transparent is not None
            passes_through = self._passes_through(dataplane.mesh, current)
            _plan_redirect(draft, transparent, Direction.OUTBOUND, passes_through=passes_through)
        bind_to_port = not redirects or self._settings.vips is True
        reachable = transparent.reachable_backends if transparent is not None else None
        before, self._bound = self._bound, {}
        for key, status in named.statuses.items():
            good = self._services[key]
            if key[1] != dataplane.mesh or not (reachable is None or _is_reachable(good, reachable.refs)):
                continue
            service = self._in_force[key]
            cluster = service.plan
            if draft.clusters.get(cluster.name, cluster) is not cluster:
                message = f"two services have the identifier {cluster.name}: give one another display name"
                draft.problems.append(good.document.problem("name", message))
                continue
            bound = self._bound[key] = _bind(
                service, _match_port(good), status.vips, access, before.get(key), bind_to_port=bind_to_port
            )
            for listener in bound.listeners:
                taken = draft.listeners.get(listener.name)
                if taken is None:
                    draft.add(listener, cluster)
                elif taken.cluster != cluster.name:
                    message = f"an outbound of the Dataplane has the VIP {listener.bind}: no listener of its own"
                    draft.problems.append(good.document.problem("", message, Severity.WARNING))
            for hostname in status.hostnames:
                draft.names[hostname] = NamePlan(hostname, status.vips)

    def _passes_through(self, mesh: str, current: Mapping[Key, Document]) -> bool:
        """Whether connections to destinations that are no service may leave: ``networking.outbound.passthrough``."""
        found = self._mesh(mesh)
        if found is not None:
            outbound = (found.networking or {}).get("outbound")
            return not isinstance(outbound, dict) or outbound.get("passthrough", True) is not False
        return not self._is_unreadable(mesh, current)

    def _mesh(self, name: str) -> Mesh | None:
        """A Mesh that could be read, now or before."""
        for document in self._good.values():
            if isinstance(document.resource, Mesh) and document.name == name:
                return document.resource
        return None

    def _routing(self, mesh: str) -> Routing:
        """What the Mesh says; without one in the set, Kuma's defaults."""
        found = self._mesh(mesh)
        return found.routing if found is not None else Routing()

    def _access(self, mesh: str, current: Mapping[Key, Document]) -> Access:
        """What the Mesh allows. No Mesh in the set: Kuma's default, which is to allow."""
        good = self._mesh(mesh)
        if good is not None:
            return Access.FORBID if good.routing.default_forbid_mes_access else Access.ALLOW
        return Access.FORBID if self._is_unreadable(mesh, current) else Access.ALLOW

    def _is_unreadable(self, mesh: str, current: Mapping[Key, Document]) -> bool:
        """Whether there is a Mesh of which not even an earlier version could be read."""
        return any(key[0] == Mesh.kind and key[2] == mesh for key in current)

    @property
    def services(self) -> Iterator[ClusterPlan]:
        """Every service that compiles or once did, whether an outbound leads to it or not."""
        return (self._on_terms(key).plan for key in self._services)


def _why_none(reference: BackendRef, mesh: str) -> str:
    if reference.kind is not BackendKind.MESH_EXTERNAL_SERVICE:
        return f"kind {reference.kind} is not served by this version"
    wanted = reference.name or ", ".join(f"{k}={v}" for k, v in reference.labels.items())
    return f'no usable MeshExternalService "{wanted}" in mesh "{mesh}"'


def _outbound(outbound: Outbound, service: InForce, access: Access, before: ListenerPlan | None) -> ListenerPlan:
    """Its listener; ``before`` itself where nothing has changed."""
    cluster, head_timeout_s = service.plan, request_headers_timeout_s(service.terms)
    if head_timeout_s is None:
        head_timeout_s = HEADERS_TIMEOUT_S
    terms = (cluster.protocol, cluster.name, access, head_timeout_s)
    if before is not None and terms == (
        before.protocol, before.cluster, before.access, before.request_headers_timeout_s
    ):  # fmt: skip
        return before
    return ListenerPlan(
        name=f"outbound_{outbound.address}_{outbound.port}",
        direction=Direction.OUTBOUND,
        address=ip_address(outbound.address),
        port=outbound.port,
        protocol=cluster.protocol,
        cluster=cluster.name,
        access=access,
        request_headers_timeout_s=head_timeout_s,
    )


def _is_egress(document: Document) -> bool:
    proxy = document.resource
    return isinstance(proxy, ZoneEgress) or (isinstance(proxy, Dataplane) and any(True for _ in doors(proxy)))


def _zone_of(proxy: Dataplane | ZoneEgress) -> str:
    return (proxy.zone if isinstance(proxy, ZoneEgress) else "") or proxy.meta.zone


class _Draft:
    """Listeners and clusters of a proxy, as far as they are planned."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.mesh = document.mesh
        self.proxy = document.resource
        self.listeners: dict[str, ListenerPlan] = {}
        self.clusters: dict[str, ClusterPlan] = {}
        self.names: dict[str, NamePlan] = {}
        self.problems: list[Problem] = []

    def add(self, listener: ListenerPlan, cluster: ClusterPlan) -> None:
        self.listeners[listener.name] = listener
        self.clusters[cluster.name] = cluster

    def object(self, field: str, message: str, severity: Severity = Severity.ERROR) -> None:
        self.problems.append(self._document.problem(field, message, severity))


def _plan_inbounds(draft: _Draft, dataplane: Dataplane, terms: InboundTerms) -> None:
    networking = dataplane.networking
    transparent, is_redirected = networking.transparent_proxying, networking.is_inbound_redirected
    passes_through = terms.lets_undeclared_pass
    for index, inbound in enumerate(networking.inbound):
        field = f"networking.inbound[{index}]"
        bind = inbound.bind_address(networking)
        is_own = inbound.workload(networking) == (bind, inbound.port)
        if inbound.state is State.IGNORED or (is_own and not is_redirected):
            continue  # the application's own port; the loader has said so
        if not is_ip(bind):
            message = f'"{bind}" is a name: give the inbound an IP address to listen on'
            draft.object(f"{field}.address", message, Severity.WARNING)
            continue
        try:
            acceptance, refusal = terms.acceptance(inbound), terms.refusal
        except MaterialError as error:
            acceptance, refusal = None, error.message
        if refusal is not None:
            message = f"the inbound is not opened: {refusal}, and plaintext would not be what you asked for"
            draft.object(field, message, Severity.WARNING)
            passes_through = False
            continue
        listener, cluster = _inbound(dataplane, inbound, networking, is_redirected=is_redirected)
        if listener.name in draft.listeners:
            message = f'"{inbound.section}" is already the name of another inbound: give it one of its own'
            draft.object(field, message)
            continue
        if acceptance is None:
            draft.object(field, f"{listener.bind} accepts plaintext: {terms.warning}", Severity.WARNING)
        else:
            listener = replace(listener, acceptance=acceptance, permissions=terms.permissions(inbound))
        draft.add(listener, cluster)
    if is_redirected:
        assert transparent is not None
        _plan_redirect(draft, transparent, Direction.INBOUND, passes_through=passes_through)


def _add_problems(rows: dict[Key, ResourceState], problems: Iterable[Problem]) -> None:
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


def _meta(document: Document) -> Meta:
    assert document.resource is not None
    return document.resource.meta


def _age(good: _GoodService) -> tuple[float, str]:
    meta = _meta(good.document)
    return age(meta.creation_time), meta.name


def _match_port(good: _GoodService) -> int:
    service = good.document.resource
    assert isinstance(service, MeshExternalService)
    return service.match.port


def _is_reachable(good: _GoodService, references: Iterable[ReachableBackend]) -> bool:
    """Whether one of the references of ``reachableBackends`` means the service."""
    meta = _meta(good.document)
    for reference in references:
        if reference.kind is not BackendKind.MESH_EXTERNAL_SERVICE:
            continue
        if reference.port not in (None, 0, _match_port(good)):
            continue
        if reference.name:
            is_meant = reference.name in (meta.name, meta.display_name)
            is_meant = is_meant and reference.namespace in ("", meta.namespace)
        else:
            labels = meta.all_labels
            is_meant = all(labels.get(key) == value for key, value in reference.labels.items())
        if is_meant:
            return True
    return False


def _bind(
    service: InForce,
    port: int,
    vips: tuple[Address, ...],
    access: Access,
    before: _Bound | None,
    *,
    bind_to_port: bool,
) -> _Bound:
    """A listener for each virtual IP; the very ones of the last plan where nothing has changed."""
    if (
        before is not None
        and before.service is service
        and before.vips == vips
        and before.access is access
        and before.bind_to_port is bind_to_port
    ):
        return before
    cluster = service.plan
    head_timeout_s = request_headers_timeout_s(service.terms)
    listeners = []
    for address in vips:
        listener = ListenerPlan(
            name=f"outbound_{address}_{port}",
            direction=Direction.OUTBOUND,
            address=address,
            port=port,
            protocol=cluster.protocol,
            cluster=cluster.name,
            access=access,
            bind_to_port=bind_to_port,
        )
        if head_timeout_s is not None:
            listener = replace(listener, request_headers_timeout_s=head_timeout_s)
        listeners.append(listener)
    return _Bound(service, vips, access, bind_to_port, tuple(listeners))


def _plan_redirect(
    draft: _Draft, transparent: TransparentProxying, direction: Direction, *, passes_through: bool
) -> None:
    """Where the kernel redirects connections to: Kuma's listener and cluster of passthrough."""
    is_inbound = direction is Direction.INBOUND
    port = transparent.redirect_port_inbound if is_inbound else transparent.redirect_port_outbound
    if not is_port(port):
        field = f"networking.transparentProxying.redirectPort{direction.capitalize()}"
        draft.object(field, "port must be in the range [1, 65535]")
        return
    families = [("ipv4", "0.0.0.0")]
    if transparent.ip_family_mode is not IpFamilyMode.IPV4:
        families.append(("ipv6", "::"))
    for family, address in families:
        name = f"self_transparentproxy_passthrough_{direction}_{family}"
        listener = ListenerPlan(
            name, direction, ip_address(address), port, Protocol.TCP, name if passes_through else "",
            original_dst=True,
        )  # fmt: skip
        draft.listeners[name] = listener
        if passes_through:
            source = SOURCES[listener.address.version] if is_inbound else None
            draft.clusters[name] = ClusterPlan(name, draft.mesh, "passthrough", Protocol.TCP, (), source=source)


class _Services:
    """The services of one mesh, by name: a Dataplane has many references, and a mesh many services. It looks at nothing
    but their metas, and holds for as long as these do.
    """

    def __init__(self, mesh: str, services: Iterable[_GoodService]) -> None:
        self.mesh = mesh
        self._all = [service for service in services if service.document.mesh == mesh]
        self._by_name: dict[str, list[_GoodService]] = {}
        for service in self._all:
            meta = _meta(service.document)
            for name in {meta.name, meta.display_name}:
                self._by_name.setdefault(name, []).append(service)

    def meant(self, reference: BackendRef) -> Key | None:
        """The service that a backendRef means, by name or by labels; the oldest of several."""
        if reference.kind is not BackendKind.MESH_EXTERNAL_SERVICE:
            return None
        name = reference.name
        matches = self._by_name.get(name, ()) if name else self._labelled(reference.labels)
        return min(matches, key=_age).document.key if matches else None

    def _labelled(self, labels: Mapping[str, str]) -> list[_GoodService]:
        """Those that have all of ``labels``, the ones that Kuma computes included; no labels, no service."""
        return [service for service in self._all if labels and _meta(service.document).has_labels(labels)]


def _row(
    key: Key, document: Document, health: Health, problems: tuple[Problem, ...], service: InForce | None = None
) -> ResourceState:
    kri = document.resource.kri() if document.resource is not None else ""
    return ResourceState(key[0], key[1], key[2], kri, document.file, document.line, health, problems, service)


def _inbound(
    dataplane: Dataplane, inbound: Inbound, networking: Networking, *, is_redirected: bool
) -> tuple[ListenerPlan, ClusterPlan]:
    """A port of the application's, as Kuma names it; the time-outs are Kuma's for inbounds without a policy."""
    name = f"self_inbound_dp_{inbound.section}"
    protocol = inbound.plan_protocol
    text, port = inbound.workload(networking)
    address = ip_address(text)
    target, source = IpTarget(address, port), None
    if is_redirected and not address.is_loopback:
        source = SOURCES[address.version]
    probe = inbound.service_probe.plan(target) if inbound.service_probe is not None else None
    if probe is not None and source is not None:
        probe = replace(probe, source=source)
    listener = ListenerPlan(
        name, Direction.INBOUND, ip_address(inbound.bind_address(networking)), inbound.port, protocol, name,
        probe=probe, bind_to_port=not is_redirected,
    )  # fmt: skip
    cluster = ClusterPlan(
        name=name,
        mesh=dataplane.mesh,
        service=dataplane.name,
        protocol=protocol,
        endpoints=(EndpointPlan(target),),
        connect_timeout_s=10.0,
        idle_timeout_s=7200.0,
        source=source,
    )
    return listener, cluster


def _due(identity: IdentityPlan) -> float:
    return identity.renew_at.timestamp() if identity.renew_at is not None else float("inf")
