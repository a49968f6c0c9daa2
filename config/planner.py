"""From resources to a plan, remembering what was good.

    services    compiled one by one (``services``), each on the terms of its mesh: policies, identity, the way out
    names       their virtual IPs and hostnames (``naming``)
    the proxy   its listeners and the clusters behind them, in a ``draft``: ``outbounds``, ``vip_listeners``,
                ``redirect``, ``inbounds``, and of a zone egress its door (``egress``)
    planned     what comes of it

A planner is fed the whole set of documents each time something changed. A resource that has become wrong keeps its last
good version, one that never was good is absent, and nothing else notices either. Compiling is pure given (documents,
time, environment, what was good before); services whose document and secrets did not change are not compiled again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from pathlib import Path, PurePath

from config.draft import Draft
from config.egress import DoorMemory, Offer, Ward, doors, face, faces, plan_door
from config.extension import NOTHING, Extensions, NoExtensions, Supplied
from config.hostnames import seniority, with_defaults
from config.identity import IdentityDesk
from config.inbounds import plan_inbounds
from config.issuers import Agent, IdentityFiles, NoAgent
from config.load import Document, Key, Loaded
from config.meshes import Meshes
from config.naming import Named, Naming
from config.outbounds import Outbounds
from config.plan import (
    Access,
    AdminPlan,
    ClusterPlan,
    Direction,
    IdentityPlan,
    Plan,
    ProxyIdentity,
)
from config.planned import Health, InForce, Planned, ResourceState, add_problems, row_of
from config.policies.apply import request_headers_timeout_s
from config.policies.policy import Policy
from config.policies.selection import NO_TERMS, PolicyBook, Selection
from config.problems import Problem, Severity
from config.redirect import plan_redirect
from config.resources.dataplane import (
    Dataplane,
    Listener,
    Networking,
)
from config.resources.hostnamegenerator import HostnameGenerator
from config.resources.meshexternalservice import Extension, MeshExternalService
from config.resources.registry import KINDS
from config.resources.secret import GlobalSecret, Secret
from config.resources.zoneegress import ZoneEgress
from config.services import Compiled, ServiceCompiler, Unusable
from config.trust import InboundTerms, TrustPlanner
from config.vip_listeners import Bindable, VipListeners
from config.vips import DEFAULT_CIDR, Lease, Ledger, Network, parse_pools
from config.way_out import WayOut, find_way_out
from tls.bundles import TrustBundles
from tls.policy import ClientCertificate

__all__ = ["Health", "Planned", "Planner", "ResourceState", "Settings"]

CLIENT_CERTIFICATE_LABEL = "koguma.io/client-certificate"
"""On a MeshExternalService with TLS and without ``clientCert``: where the client certificate comes from instead."""
FROM_IDENTITY = "identity"


@dataclass(frozen=True, slots=True, repr=False)
class _GoodService:
    document: Document
    secrets: tuple[tuple[str, bytes | None], ...]
    """What it referred to, and what that held: the service is compiled anew when one changes."""
    supplied: Supplied | None
    """Likewise, by its extension."""
    compiled: Compiled
    warnings: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
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
        self._vip_listeners = VipListeners()
        self._outbounds = Outbounds()
        self._rows: dict[Key, ResourceState] = {}
        """Of services that are well."""
        self._shown: dict[Key, tuple[ResourceState, ResourceState]] = {}
        """Rows without a status, and the same with it."""
        self._in_force: dict[Key, InForce] = {}
        self._settled: set[Key] = set()
        """Of which this plan knows the terms already."""
        self._surroundings: _Surroundings | None = None
        """Those of the last plan, whose services have all been looked at."""
        self._meshes = Meshes((), ())
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
        self._meshes = Meshes(self._good.values(), current)
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
            states[key] = row_of(key, good.document, Health.STALE, (), self._on_terms(key))
        self._surroundings = around
        named = self._name_services(current, resources, now)
        self._show(states, named, problems)
        plan = None
        if dataplane is not None:
            found, plan = self._proxy_plan(named)
            problems.extend(found)
            problems.extend(self._without_certificate(current))
            add_problems(states, found)
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
                self._outbounds.forget_names()
                self._in_force.pop(key, None)
                self._rows.pop(key, None)

    def _state(self, key: Key, document: Document) -> ResourceState:
        fallback = Health.STALE if key in self._good else Health.BROKEN
        health = fallback if document.resource is None else Health.GOOD
        return row_of(key, document, health, document.problems)

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
            if good is None or good.document.meta != document.meta:
                self._outbounds.forget_names()
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
            row = self._rows[key] = row_of(key, good.document, Health.GOOD, problems, service)
        return row

    def _broken(self, key: Key, document: Document, problems: tuple[Problem, ...]) -> ResourceState:
        self._rows.pop(key, None)
        if key not in self._services:
            return row_of(key, document, Health.BROKEN, problems)
        return row_of(key, document, Health.STALE, problems, self._on_terms(key))

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
            if self._meshes.routing(mesh).zone_egress and not any(True for _ in doors(dataplane)):

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
            and document.meta.labels.get(CLIENT_CERTIFICATE_LABEL) == FROM_IDENTITY
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

    def _proxy_plan(self, named: Named) -> tuple[list[Problem], Plan | None]:
        document = self._proxy
        if document is None:
            return [], None
        proxy = document.resource
        assert isinstance(proxy, Dataplane | ZoneEgress)
        draft = Draft(document)
        if isinstance(proxy, Dataplane):
            terms = self._terms[proxy.mesh]
            access = self._meshes.access(proxy.mesh)
            documents = (good.document for good in self._services.values())
            self._outbounds.plan(draft, proxy, access, documents, self._on_terms)
            self._plan_vips(draft, proxy, access, named)
            plan_inbounds(draft, proxy, terms)
            for field, door in doors(proxy):
                self._plan_door(draft, field, door, proxy.networking)
        else:
            admin_face = face(proxy, "")
            for _, door in doors(admin_face):
                self._plan_door(draft, "networking", door, admin_face.networking)
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

    def _plan_door(self, draft: Draft, field: str, door: Listener, networking: Networking) -> None:
        """A zone egress: its port, and behind it the services of every mesh that it has a face in."""
        is_legacy = isinstance(draft.proxy, ZoneEgress)
        wards = [
            Ward(mesh, self._terms[mesh], self._meshes.access(mesh), tuple(self._offers(mesh)))
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
        there = (good for good in self._services.values() if good.document.mesh == mesh)
        for good in sorted(there, key=lambda one: seniority(one.document.meta)):
            service = self._on_terms(good.document.key)
            head_timeout_s = request_headers_timeout_s(service.terms)
            yield Offer(service.service.meta, service.service.match.port, service.plan, head_timeout_s)

    def _plan_vips(self, draft: Draft, dataplane: Dataplane, access: Access, named: Named) -> None:
        """A listener on each virtual IP of the Dataplane's mesh, and the names that lead there."""
        transparent = dataplane.networking.transparent_proxying
        redirects = transparent is not None and transparent.redirect_port_outbound != 0
        if not (redirects if self._settings.vips is None else self._settings.vips):
            return
        if redirects:
            assert transparent is not None
            passes_through = self._meshes.passes_through(dataplane.mesh)
            plan_redirect(draft, transparent, Direction.OUTBOUND, passes_through=passes_through)
        reachable = transparent.reachable_backends if transparent is not None else None
        there = (
            Bindable(self._services[key].document, self._in_force[key], status)
            for key, status in named.statuses.items()
            if key[1] == dataplane.mesh
        )
        self._vip_listeners.plan(
            draft,
            there if reachable is None else (one for one in there if one.is_reachable(reachable.refs)),
            access,
            bind_to_port=not redirects or self._settings.vips is True,
        )

    @property
    def services(self) -> Iterator[ClusterPlan]:
        """Every service that compiles or once did, whether an outbound leads to it or not."""
        return (self._on_terms(key).plan for key in self._services)


def _is_egress(document: Document) -> bool:
    proxy = document.resource
    return isinstance(proxy, ZoneEgress) or (isinstance(proxy, Dataplane) and any(True for _ in doors(proxy)))


def _zone_of(proxy: Dataplane | ZoneEgress) -> str:
    return (proxy.zone if isinstance(proxy, ZoneEgress) else "") or proxy.meta.zone


def _due(identity: IdentityPlan) -> float:
    return identity.renew_at.timestamp() if identity.renew_at is not None else float("inf")
