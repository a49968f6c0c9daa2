"""What a Dataplane's inbounds demand, and the services behind a zone egress: from MeshTrusts, MeshIdentities, MeshTLS
and MeshTrafficPermissions.

It fails closed. An inbound is plaintext only where no MeshIdentity means the Dataplane, or the one that does has no
provider (Kuma's "SpiffeID only" mode); a warning says so. Where an identity is meant and cannot be had, or where a
document that might have demanded mTLS cannot be read and never could, no inbound opens. A MeshTrafficPermission that
cannot be read denies everybody. Without any MeshTrafficPermission in the mesh every verified peer passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from config.created_trust import CreatedTrust
from config.identity import (
    SPIRE_FIELD,
    IdentityDesk,
    NoIdentity,
    SecretLookup,
    moment,
    own_bundle,
    select,
    spiffe_id_of,
    trust_domain_of,
)
from config.issuers import IdentityFiles
from config.load import Document, Key
from config.plan import IdentityPlan, Protocol
from config.policies.merge import merge
from config.policies.policy import Policy
from config.policies.selection import Entry, in_order, is_for
from config.policies.target_ref import WHOLE_MESH, TargetKind
from config.problems import Problem, Severity
from config.resources.dataplane import Dataplane, Inbound, Listener
from config.resources.meshexternalservice import Version
from config.resources.meshidentity import MeshIdentity, ProviderType
from config.resources.meshtls import MeshTLS, TlsConf
from config.resources.meshtrafficpermission import MeshTrafficPermission
from config.resources.meshtrust import MeshTrust
from config.services import ALPN, tls_versions
from tls.acceptance import Acceptance, InboundMode
from tls.bundles import TrustBundle, TrustBundles, validity_of
from tls.identity import Svid
from tls.issued import Delivery
from tls.material import MaterialError
from tls.permissions import IdMatch, Permissions
from tls.policy import ClientCertificate, MatchType
from tls.server_context import server_context
from tls.spiffe import SCHEME

KINDS = frozenset({MeshTrust.kind, MeshIdentity.kind, MeshTLS.kind, MeshTrafficPermission.kind})

_DEMANDING = frozenset({MeshIdentity.kind, MeshTLS.kind})
"""Kinds that may demand mTLS: an unreadable document of theirs is not known not to."""


@dataclass(slots=True)
class InboundTerms:
    """What holds for the inbounds of one Dataplane. ``refusal``: why none of them may open."""

    bundles: TrustBundles = field(default_factory=TrustBundles)
    generations: Mapping[str, int] = field(default_factory=dict)
    """As in the plan."""
    identity: IdentityPlan | None = None
    refusal: str | None = None
    warning: str | None = None
    """Why an inbound is plaintext."""
    created: list[CreatedTrust] = field(default_factory=list)
    """The MeshTrusts that identities bring with them."""
    agent_timeout_s: float | None = None
    """The agent of provider Spire is to be asked, and the start may wait so long for it. ``None``: it is not."""
    problems: list[Problem] = field(default_factory=list)
    _svid: Svid | None = None
    _from_agent: tuple[TrustBundle, ...] | None = None
    """Where they come with the identity, no MeshTrust counts."""
    _tls: list[tuple[MeshTLS, Entry]] = field(default_factory=list)
    _permissions: list[MeshTrafficPermission] = field(default_factory=list)
    _restricts: bool = False
    _unread_permissions: bool = False

    @property
    def certificate(self) -> ClientCertificate | None:
        """What this proxy presents, to whomever: of its identity."""
        return self._svid.pair if self._svid is not None else None

    def acceptance(self, inbound: Inbound) -> Acceptance | None:
        """Of an inbound. Raises :class:`MaterialError` where OpenSSL will not have the material."""
        return self._acceptance(inbound, inbound.plan_protocol)

    def egress_acceptance(self, door: Listener, protocol: Protocol) -> Acceptance | None:
        """Of the services of a protocol behind a zone egress: never permissive. Raises :class:`MaterialError`."""
        return self._acceptance(door, protocol, InboundMode.STRICT)

    def _acceptance(
        self, section: Inbound | Listener, protocol: Protocol, mode: InboundMode | None = None
    ) -> Acceptance | None:
        if self._svid is None:
            return None
        confs = [entry.conf for policy, entry in self._tls if _means(policy, section)]
        conf = merge(confs) if confs else TlsConf()
        assert isinstance(conf, TlsConf)
        minimum, maximum = tls_versions(conf.tls_version or Version())
        acceptance = Acceptance(
            identity=self._svid.pair,
            bundles=self.bundles,
            mode=mode or conf.mode or InboundMode.STRICT,
            min_version=minimum,
            max_version=maximum,
            ciphers=conf.tls_ciphers or (),
            alpn=ALPN.get(protocol, ()),
        )
        server_context(acceptance)  # OpenSSL has the last word: better now than at the first connection
        return acceptance

    @property
    def lets_undeclared_pass(self) -> bool:
        """Whether what the kernel redirects may pass to a port that is no inbound: as in Kuma, with an identity only
        where MeshTLS is permissive for the whole Dataplane.
        """
        if self._svid is None:
            return self.refusal is None
        confs = [entry.conf for policy, entry in self._tls if not _section(policy)]
        conf = merge(confs) if confs else TlsConf()
        assert isinstance(conf, TlsConf)
        return self.refusal is None and conf.mode is InboundMode.PERMISSIVE

    def permissions(self, inbound: Inbound) -> Permissions | None:
        if not self._restricts:
            return None
        return sum((p.permissions for p in self._permissions if _means(p, inbound)), Permissions())

    def egress_permissions(self, door: Listener, *, is_open: bool) -> EgressPermissions:
        """Of the services behind a zone egress. ``is_open``: one where everybody passes who is not denied by a match
        that names the service.
        """
        policies = [p for p in self._permissions if _means(p, door)]
        return EgressPermissions(policies, is_open=is_open and not self._unread_permissions)


class EgressPermissions:
    """Permissions of services by their server names; the same object for all of which nothing is said by name."""

    def __init__(self, policies: Iterable[MeshTrafficPermission], *, is_open: bool) -> None:
        self._is_open = is_open
        self._policies = list(policies)
        self._named = frozenset(name for policy in self._policies for name in policy.names)
        self._unnamed = self._of(())

    def of(self, names: tuple[str, ...]) -> Permissions:
        return self._of(names) if not self._named.isdisjoint(names) else self._unnamed

    def _of(self, names: tuple[str, ...]) -> Permissions:
        if not self._is_open:
            return sum((policy.permissions_for(names) for policy in self._policies), Permissions())
        named = [policy.permissions_naming(names) for policy in self._policies if names]
        return sum(named, Permissions(allow=(ANYBODY,)))


ANYBODY = IdMatch(MatchType.PREFIX, SCHEME, "Mesh.routing")
"""Behind a ZoneEgress."""


class TrustPlanner:
    """Makes terms again and again; what was issued stays in force until it is due."""

    def __init__(self, desk: IdentityDesk, *, partial: bool, files: IdentityFiles | None = None) -> None:
        """``files``: what the command line says the identity is, whatever MeshIdentities say."""
        self._desk = desk
        self._files = files
        self._partial = partial
        self._bundles: Mapping[str, TrustBundle] = {}
        self._generations: Mapping[str, int] = {}
        self._generation = 0

    def terms(
        self,
        good: Mapping[Key, Document],
        current: Mapping[Key, Document],
        dataplane: Dataplane,
        secret: SecretLookup,
        now: datetime,
    ) -> InboundTerms:
        """``good``: the documents in force, old versions of broken ones among them; ``current``: those of the set."""
        terms = InboundTerms()
        mine = [d for d in good.values() if d.kind in KINDS and d.mesh == dataplane.mesh]
        by_kind: dict[str, list[Document]] = {kind: [] for kind in KINDS}
        for document in mine:
            by_kind[document.kind].append(document)
        unreadable = {
            document.kind
            for key, document in current.items()
            if document.kind in KINDS and document.mesh == dataplane.mesh and key not in good
        }
        bundles = list(_given_bundles(by_kind[MeshTrust.kind], terms, now))
        self._plan_identity(by_kind[MeshIdentity.kind], bundles, dataplane, secret, now, terms)
        if terms._from_agent is not None:
            text = "does not apply to this proxy: its identity comes from SPIRE, and CA certificates come with it"
            terms.problems += (d.problem("", text, Severity.WARNING) for d in by_kind[MeshTrust.kind])
        try:
            terms.bundles = TrustBundles.of(bundles if terms._from_agent is None else terms._from_agent)
        except MaterialError as error:
            terms.refusal = error.message
        terms.generations = self._number(terms.bundles)
        if unreadable & _DEMANDING:
            terms.refusal = f"{' and '.join(sorted(unreadable & _DEMANDING))} cannot be read, and may demand mTLS"
        terms._tls = _tls_policies(by_kind[MeshTLS.kind], dataplane)
        permissions = [d.resource for d in by_kind[MeshTrafficPermission.kind]]
        terms._permissions = [p for p in permissions if isinstance(p, MeshTrafficPermission) and is_for(p, dataplane)]
        terms._restricts = bool(permissions) or MeshTrafficPermission.kind in unreadable
        if MeshTrafficPermission.kind in unreadable:
            terms._permissions, terms._unread_permissions = [], True
        return terms

    def _number(self, bundles: TrustBundles) -> Mapping[str, int]:
        """What has changed since the last plan gets the next number."""
        before, now = self._bundles, bundles.by_domain
        if {name: one.anchors for name, one in before.items()} != {name: one.anchors for name, one in now.items()}:
            self._generation += 1
        self._generations = {
            name: self._generations[name]
            if name in before and before[name].anchors == bundle.anchors
            else self._generation
            for name, bundle in now.items()
        }
        self._bundles = now
        return self._generations

    def _plan_identity(
        self,
        documents: list[Document],
        bundles: list[TrustBundle],
        dataplane: Dataplane,
        secret: SecretLookup,
        now: datetime,
        terms: InboundTerms,
    ) -> None:
        """Add what the identities of the mesh make trusted, and give the Dataplane its own."""
        self._desk.retain(documents)
        chosen = None
        if self._files is not None:
            _take_files(self._files, bundles, now, terms)
        elif (chosen := select(documents, dataplane)) is None:
            terms.warning = "there is no MeshIdentity" + (" for this Dataplane" if documents else "")
        for document in documents:
            try:
                bundle = self._plan_one(document, document is chosen, dataplane, secret, now, terms)
            except NoIdentity as error:
                is_mild = error.is_awaited or (error.missing and self._partial)
                severity = Severity.WARNING if is_mild else Severity.ERROR
                terms.problems.append(document.problem(error.field, error.message, severity))
                if document is chosen:
                    terms.refusal = f'MeshIdentity "{document.name}" is not ready: {error.message}'
            else:
                if bundle is not None:
                    bundles.append(bundle)

    def _plan_one(
        self,
        document: Document,
        is_chosen: bool,
        dataplane: Dataplane,
        secret: SecretLookup,
        now: datetime,
        terms: InboundTerms,
    ) -> TrustBundle | None:
        resource = document.resource
        assert isinstance(resource, MeshIdentity)
        provider = resource.provider
        if not is_chosen and (provider is None or provider.type != ProviderType.BUNDLED):
            return None
        if provider is not None and provider.type == ProviderType.EXTENSION:
            raise NoIdentity("spec.provider.type", f"provider {provider.type} is not served by this version", True)
        terms.agent_timeout_s = resource.agent_timeout_s if is_chosen else terms.agent_timeout_s
        domain = trust_domain_of(document, dataplane)
        identity = spiffe_id_of(document, dataplane, domain) if is_chosen else None
        if identity is not None and resource.agent_timeout_s is not None:
            svid, delivery = self._desk.delivered(identity, now)
            _take_delivery(document, svid, delivery, terms)
            return None
        bundled = resource.bundled
        if bundled is None:
            terms.identity = IdentityPlan(str(identity), resource.kri())
            terms.warning = f'MeshIdentity "{document.name}" has no provider, so there is no certificate'
            return None
        authority = self._desk.authority(document, bundled, domain, secret, now)
        if bundled.is_autogenerated and not self._desk.keeps:
            text = "the CA is lost when the program ends, and trust in it with it: give --state-dir"
            terms.problems.append(document.problem("spec.provider.bundled.autogenerate", text, Severity.WARNING))
        if identity is not None:
            svid = terms._svid = self._desk.certificate(authority, identity, bundled, now)
            terms.identity = IdentityPlan(str(identity), resource.kri(), svid.not_after, svid.renew_at)
        bundle = own_bundle(document, authority, domain)
        if bundle is not None:
            is_kept = not bundled.is_autogenerated or self._desk.keeps
            terms.created.append(_created(document, domain, authority.bundle_pem, is_kept))
        return bundle


def _take_delivery(document: Document, svid: Svid, delivery: Delivery, terms: InboundTerms) -> None:
    """What the agent has issued, with the bundles that come with it."""
    assert document.resource is not None
    terms._svid, terms._from_agent = svid, delivery.bundles
    fault = delivery.fault or ""
    terms.identity = IdentityPlan(str(svid.id), document.resource.kri(), svid.not_after, svid.renew_at, fault)
    notes = list(delivery.notes)
    if fault:
        notes.append(f"{fault}: the certificate of {svid.id} is used until {moment(svid.not_after)}")
    terms.problems += (document.problem(SPIRE_FIELD, note, Severity.WARNING) for note in notes)


def _take_files(files: IdentityFiles, bundles: list[TrustBundle], now: datetime, terms: InboundTerms) -> None:
    found = files.read(now)
    terms.problems += found.problems
    fault = next((problem.message for problem in found.problems if problem.is_error), "")
    if found.bundle is not None:
        bundles.append(found.bundle)
    svid = found.svid
    if svid is None or svid.not_after <= now:
        terms.refusal = f"the identity in {files.paths.certificate} is not ready: {fault}"
        return
    terms._svid = svid
    terms.identity = IdentityPlan(str(svid.id), "", svid.not_after, svid.renew_at, fault)


def _created(document: Document, domain: str, pem: str, is_kept: bool) -> CreatedTrust:
    assert document.resource is not None
    meta = document.resource.meta
    return CreatedTrust(
        mesh=meta.mesh,
        name=meta.display_name,
        zone=meta.zone,
        namespace=meta.namespace,
        trust_domain=domain,
        pem=pem,
        origin=document.resource.kri(),
        is_kept=is_kept,
        file=document.file,
        line=document.line,
    )


def _given_bundles(documents: Iterable[Document], terms: InboundTerms, now: datetime) -> Iterable[TrustBundle]:
    for document in documents:
        resource = document.resource
        assert isinstance(resource, MeshTrust)
        for note in validity_of(resource.bundle, now):
            terms.problems.append(document.problem("spec.caBundles", note, Severity.WARNING))
        yield resource.bundle


def _tls_policies(documents: Iterable[Document], dataplane: Dataplane) -> list[tuple[MeshTLS, Entry]]:
    """Kuma's order, the strongest last."""
    entries: list[Entry] = []
    for document in documents:
        policy = document.resource
        assert isinstance(policy, MeshTLS)
        if is_for(policy, dataplane):
            entries += (
                Entry(document, policy, index, WHOLE_MESH, conf) for index, (_, conf) in enumerate(policy.inbound_confs)
            )
    return [(entry.policy, entry) for entry in in_order(entries) if isinstance(entry.policy, MeshTLS)]


def _means(policy: Policy, section: Inbound | Listener) -> bool:
    """Whether a policy for the Dataplane is one for this section of it."""
    meant = _section(policy)
    return not meant or meant in (section.section, str(section.port))


def _section(policy: Policy) -> str | None:
    """The only section of the Dataplane that a policy means."""
    return policy.target.section_name if policy.target.kind == TargetKind.DATAPLANE else None
