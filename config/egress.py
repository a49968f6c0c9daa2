"""Being a zone egress: the services that it leads to, by which server names, and for whom.

    door     the one port that sidecars connect to
    route    a service behind it: found by the server name that a sidecar asks for, and with mTLS, permissions and
             counters of its own. Each is judged by the MeshTrusts of its service's mesh, and of no other mesh.

Two kinds of documents make a zone egress. A ZoneEgress (Kuma 2) serves every mesh, each of which sees it as a Dataplane
of its own: so a MeshIdentity means it by its labels, and it has an identity in each mesh. Who may pass says
``Mesh.routing``; of MeshTrafficPermissions only what names a service (``sni``) counts. A Dataplane with a listener of
type ZoneEgress (Kuma 3) serves its own mesh, and nobody passes without a MeshTrafficPermission.

It fails closed: a mesh in which the egress has no usable identity has no routes, and a server name without a route ends
the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from config.identity import WORKLOAD_LABEL
from config.plan import Access, ClusterPlan, Direction, ListenerPlan, Protocol
from config.resources.dataplane import Admin, Dataplane, Listener, ListenerType, Networking
from config.resources.meta import Meta
from config.resources.names import is_ip
from config.resources.zoneegress import ZoneEgress
from config.sni import snis_of
from config.trust import InboundTerms
from tls.acceptance import Acceptance
from tls.material import MaterialError

Objection = Callable[[str, str], None]
"""(field, message): something is not served as asked for."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A service that may be led to. ``head_timeout_s``: what policies say of a request's head, if anything."""

    meta: Meta
    port: int
    cluster: ClusterPlan
    head_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ward:
    """A mesh behind the doors: what holds there for the egress, and the services, the oldest first."""

    mesh: str
    terms: InboundTerms
    access: Access
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class _Made:
    """A route, and what it was made of; ``names`` are all that the service has."""

    offer: Offer
    names: tuple[str, ...]
    route: ListenerPlan

    def is_of(self, offer: Offer) -> bool:
        """By identity: what has not changed is the same object in the next plan."""
        mine = self.offer
        return mine.meta is offer.meta and mine.cluster is offer.cluster and mine.head_timeout_s == offer.head_timeout_s


class DoorMemory:
    """The routes of a door from plan to plan. One of which nothing has changed stays the object that it was: of ten
    thousand services few change at a time.
    """

    def __init__(self) -> None:
        self._before: dict[str, _Made] = {}
        self._made: dict[str, _Made] = {}
        self._acceptances: dict[tuple[str, Protocol], Acceptance | None] = {}

    def begin(self) -> None:
        """A plan is made: what is not remembered in it is forgotten by the next one."""
        self._before, self._made = self._made, {}

    def recall(self, offer: Offer) -> _Made | None:
        made = self._before.get(offer.cluster.name)
        return made if made is not None and made.is_of(offer) else None

    def remember(self, made: _Made) -> None:
        self._made[made.offer.cluster.name] = made

    def acceptance(self, mesh: str, protocol: Protocol, found: Acceptance | None) -> Acceptance | None:
        """``found``, or an equal one of before."""
        known = self._acceptances.get((mesh, protocol))
        if known != found:
            known = self._acceptances[mesh, protocol] = found
        return known


def faces(proxy: Dataplane | ZoneEgress, meshes: Iterable[str]) -> list[Dataplane]:
    """The proxy as the meshes see it: a ZoneEgress has a face in each of them."""
    if isinstance(proxy, Dataplane):
        return [proxy]
    return [face(proxy, mesh) for mesh in meshes]


def face(egress: ZoneEgress, mesh: str) -> Dataplane:
    """A ZoneEgress as a Dataplane of a mesh. Its workload, which the default SPIFFE ID names, is the egress itself."""
    meta = egress.meta
    labels = {WORKLOAD_LABEL: meta.display_name, **meta.labels}
    networking = egress.networking
    door = Listener(type=ListenerType.ZONE_EGRESS, address=networking.address, port=networking.port)
    return Dataplane(
        meta=replace(meta, type=Dataplane.kind, mesh=mesh, labels=labels),
        networking=Networking(
            address=networking.address, admin=networking.admin or Admin(), listeners=(door,)
        ),
    )  # fmt: skip


def doors(dataplane: Dataplane) -> Iterator[tuple[str, Listener]]:
    """(field, listener) of those through which a zone is left."""
    for index, listener in enumerate(dataplane.networking.listeners):
        if listener.type is ListenerType.ZONE_EGRESS:
            yield f"networking.listeners[{index}]", listener


def plan_door(
    field: str,
    door: Listener,
    networking: Networking,
    wards: Iterable[Ward],
    is_legacy: bool,
    objection: Objection,
    memory: DoorMemory,
) -> Iterator[tuple[ListenerPlan, ClusterPlan | None]]:
    """The listener of a door, then its routes with their clusters. ``is_legacy``: of a ZoneEgress."""
    memory.begin()
    bind = door.bind_address(networking)
    if not is_ip(bind):
        objection(field, f'"{bind}" is a name: give the zone egress an IP address to listen on')
        return
    name = f"self_zoneegress_dp_{door.section}"
    yield (
        ListenerPlan(
            name, Direction.INBOUND, ip_address(bind), door.port, Protocol.TCP, "", is_door=True
        ),
        None,
    )  # fmt: skip
    taken: dict[str, str] = {}
    for ward in wards:
        why_not = _why_closed(ward)
        if why_not is not None:
            objection(field, f'the services of mesh "{ward.mesh}" are not served: {why_not}')
            continue
        try:
            yield from _routes(name, door, ip_address(bind), ward, is_legacy, taken, objection, memory)
        except MaterialError as error:
            objection(field, f'the services of mesh "{ward.mesh}" are not served: {error.message}')


def _why_closed(ward: Ward) -> str | None:
    terms = ward.terms
    if terms.refusal is not None:
        return terms.refusal
    if terms.certificate is None:
        return terms.warning or "there is no certificate"
    if not terms.bundles:
        return "no trust domain is trusted: give a MeshTrust"
    return None


def _routes(
    door_name: str,
    door: Listener,
    address: IPv4Address | IPv6Address,
    ward: Ward,
    is_legacy: bool,
    taken: dict[str, str],
    objection: Objection,
    memory: DoorMemory,
) -> Iterator[tuple[ListenerPlan, ClusterPlan]]:
    terms = ward.terms
    permissions = terms.egress_permissions(door, is_open=is_legacy)
    acceptances = {
        protocol: memory.acceptance(ward.mesh, protocol, terms.egress_acceptance(door, protocol))
        for protocol in Protocol
    }
    for offer in ward.offers:
        cluster = offer.cluster
        known = memory.recall(offer)
        names = known.names if known is not None else snis_of(offer.meta, offer.port)
        free = tuple(name for name in names if name not in taken)
        if len(free) < len(names):
            other = taken[next(name for name in names if name in taken)]
            text = f"{cluster.name} and {other} are asked for by the same server name, which means the latter"
            objection("", text)
            if not free:
                continue
        taken |= dict.fromkeys(free, cluster.name)
        acceptance, permitted = acceptances[cluster.protocol], permissions.of(names)
        if (
            known is not None
            and known.route.server_names == free
            and known.route.acceptance is acceptance
            and known.route.permissions == permitted
            and known.route.access is ward.access
            and (known.route.address, known.route.port) == (address, door.port)
        ):
            memory.remember(known)
            yield known.route, cluster
            continue
        route = ListenerPlan(
            name=f"{door_name}_{cluster.name}",
            direction=Direction.INBOUND,
            address=address,
            port=door.port,
            protocol=cluster.protocol,
            cluster=cluster.name,
            access=ward.access,
            acceptance=acceptance,
            permissions=permitted,
            bind_to_port=False,
            door=door_name,
            server_names=free,
        )
        if offer.head_timeout_s is not None:
            route = replace(route, request_headers_timeout_s=offer.head_timeout_s)
        memory.remember(_Made(offer, names, route))
        yield route, cluster
