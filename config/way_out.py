"""How a sidecar's traffic for external services leaves the zone, where the mesh says ``routing.zoneEgress``.

It goes to the zone's egresses by mTLS, and they originate TLS to the service. What a sidecar has to know of an egress
is its address and its SPIFFE ID, which follows from the MeshIdentity that means it: nobody else's certificate will do,
be it the mesh's own. Egresses are the Dataplanes of the mesh that have a Ready listener of type ZoneEgress (Kuma 3),
and only where there is none the ZoneEgress resources (Kuma 2).

It fails closed. Without an egress, or without a certificate to show to it, a service has no endpoints: nothing leaves
by another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from config.egress import doors, face
from config.identity import NoIdentity, select, spiffe_id_of, trust_domain_of
from config.load import Document
from config.plan import ClusterPlan, DnsTarget, EndpointPlan, IpTarget
from config.resources.dataplane import Dataplane, ListenerState
from config.resources.meshidentity import MeshIdentity
from config.resources.meta import ZONE_LABEL, Meta
from config.resources.names import is_ip
from config.resources.zoneegress import ZoneEgress
from config.sni import snis_of
from config.trust import InboundTerms
from tls.bundles import TrustBundles
from tls.policy import ClientCertificate, MatchType, Origination, SanMatcher, TrustAnchors

MESH_PROTOCOL = "kuma"
"""What sidecars offer in ALPN to whatever is of the mesh."""

Objection = Callable[[Document, str], None]


@dataclass(frozen=True, slots=True)
class WayOut:
    """Through the zone's egress. ``why_closed``: there is none that could be used."""

    endpoints: tuple[EndpointPlan, ...] = ()
    peers: tuple[SanMatcher, ...] = ()
    anchors: TrustAnchors | None = None
    bundles: TrustBundles = field(default_factory=TrustBundles)
    client: ClientCertificate | None = None
    why_closed: str = ""

    def lead(self, service: ClusterPlan, meta: Meta, port: int) -> ClusterPlan:
        """The service as it is reached by this way."""
        if self.why_closed:
            return replace(service, endpoints=(), tls=None, through_egress=True, why_empty=self.why_closed)
        tls = Origination(
            server_name=snis_of(meta, port)[0],
            sans=self.peers,
            anchors=self.anchors,
            client=self.client,
            alpn=(MESH_PROTOCOL,),
            bundles=self.bundles,
        )
        return replace(service, endpoints=self.endpoints, tls=tls, through_egress=True)


@dataclass(frozen=True, slots=True)
class _Instance:
    """An egress, as the sidecar's mesh sees it."""

    document: Document
    face: Dataplane
    endpoint: EndpointPlan


def find_way_out(
    sidecar: Dataplane, documents: Iterable[Document], terms: InboundTerms, objection: Objection
) -> WayOut:
    """``documents``: those in force. What keeps an egress from being used is told to ``objection``."""
    documents = list(documents)
    identities = [d for d in documents if isinstance(d.resource, MeshIdentity) and d.mesh == sidecar.mesh]
    if terms.refusal is not None or terms.certificate is None:
        why = terms.refusal or terms.warning or "there is no certificate"
        return WayOut(why_closed=f"the way out is through the zone egress, and it wants a certificate: {why}")
    if not terms.bundles:
        return WayOut(why_closed="the way out is through the zone egress, and no MeshTrust says whom to trust there")
    endpoints: list[EndpointPlan] = []
    peers: dict[SanMatcher, None] = {}
    found = list(_instances(sidecar, documents))
    for instance in found:
        try:
            peers[SanMatcher(MatchType.EXACT, _spiffe_id(instance.face, identities))] = None
        except NoIdentity as error:
            objection(instance.document, f"is not used: its SPIFFE ID is not known: {error.message}")
        else:
            endpoints.append(instance.endpoint)
    if not endpoints:
        what = "none is usable" if found else "there is none in the resources"
        return WayOut(why_closed=f"the way out is through the zone egress, and {what}")
    anchors = TrustAnchors(terms.bundles.union_pem.encode("ascii"), f"the MeshTrusts of mesh {sidecar.mesh}")
    return WayOut(tuple(endpoints), tuple(peers), anchors, terms.bundles, terms.certificate)


def _spiffe_id(egress: Dataplane, identities: list[Document]) -> str:
    """Raises :class:`NoIdentity`."""
    identity = select(identities, egress)
    if identity is None:
        raise NoIdentity("", "no MeshIdentity means it")
    return str(spiffe_id_of(identity, egress, trust_domain_of(identity, egress)))


def _instances(sidecar: Dataplane, documents: list[Document]) -> list[_Instance]:
    dataplanes = list(_of_dataplanes(sidecar, documents))
    return dataplanes or list(_of_zone_egresses(sidecar, documents))


def _of_dataplanes(sidecar: Dataplane, documents: Iterable[Document]) -> Iterator[_Instance]:
    for document in documents:
        egress = document.resource
        if not isinstance(egress, Dataplane) or egress.mesh != sidecar.mesh:
            continue
        if not _is_in_zone(sidecar, egress.meta.labels.get(ZONE_LABEL)):
            continue
        for _, door in doors(egress):
            if door.state is ListenerState.READY:
                endpoint = _endpoint(door.bind_address(egress.networking), door.port)
                yield _Instance(document, egress, endpoint)


def _of_zone_egresses(sidecar: Dataplane, documents: Iterable[Document]) -> Iterator[_Instance]:
    for document in documents:
        egress = document.resource
        if isinstance(egress, ZoneEgress) and _is_in_zone(sidecar, egress.zone):
            endpoint = _endpoint(egress.networking.address, egress.networking.port)
            yield _Instance(document, face(egress, sidecar.mesh), endpoint)


def _is_in_zone(sidecar: Dataplane, zone: str | None) -> bool:
    """Where one of them does not say its zone, it is the same."""
    own = sidecar.meta.labels.get(ZONE_LABEL)
    return not own or not zone or own == zone


def _endpoint(address: str, port: int) -> EndpointPlan:
    return EndpointPlan(IpTarget(ip_address(address), port) if is_ip(address) else DnsTarget(address, port))
