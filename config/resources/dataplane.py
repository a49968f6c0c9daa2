"""Dataplane: the proxy itself, with what it listens on and where its application is.

The content is protobuf in Kuma: a missing number is 0, a missing text is empty, and ``null`` is the same as
absent. Messages are Kuma's (``pkg/core/resources/apis/mesh/dataplane_validator.go``); warnings are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from config.document import Path
from config.plan import IpTarget, ProbePlan, Protocol
from config.resources.meta import Resource
from config.resources.names import is_dns_name, is_ip, is_unspecified
from config.resources.shape import (
    PORT_SCHEMA,
    FreeForm,
    Labels,
    Listed,
    ProtoInt,
    ProtoNode,
    Violation,
    choice,
    is_port,
    warning,
)

LOOPBACK = "127.0.0.1"
SERVICE_TAG = "kuma.io/service"
PROTOCOL_TAG = "kuma.io/protocol"

BAD_PORT = "port must be in the range [1, 65535]"
_BAD_ADDRESS = "address has to be valid IP address"
_DURATION = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?s")
MIN_PROBE_S, MAX_PROBE_S = 0.1, 3600.0
"""Between two probes, and for one."""


class InboundProtocol(StrEnum):
    GRPC = "grpc"
    HTTP = "http"
    HTTP2 = "http2"
    KAFKA = "kafka"
    TCP = "tcp"
    TLS = "tls"


class State(StrEnum):
    READY = "Ready"
    NOT_READY = "NotReady"
    IGNORED = "Ignored"


class ListenerState(StrEnum):
    READY = "Ready"
    NOT_READY = "NotReady"


class ListenerType(StrEnum):
    ZONE_INGRESS = "ZoneIngress"
    ZONE_EGRESS = "ZoneEgress"


class GatewayType(StrEnum):
    DELEGATED = "DELEGATED"
    BUILTIN = "BUILTIN"


class IpFamilyMode(StrEnum):
    UNSPECIFIED = "UnSpecified"
    DUAL_STACK = "DualStack"
    IPV4 = "IPv4"


class BackendKind(StrEnum):
    MESH_EXTERNAL_SERVICE = "MeshExternalService"
    MESH_MULTI_ZONE_SERVICE = "MeshMultiZoneService"
    MESH_SERVICE = "MeshService"


_BACKEND_KINDS = f"invalid value. Available values are: {','.join(BackendKind)}"
_BACKEND_KIND = choice(BackendKind, _BACKEND_KINDS, BackendKind.MESH_EXTERNAL_SERVICE, is_default=False)
_LISTENER_TYPES = "type must be ZoneIngress or ZoneEgress"
_PROTOCOLS = 'has an invalid value "{}". Allowed values: grpc, http, http2, kafka, tcp'


class Health(ProtoNode):
    ready: bool = Field(False, description="Whether the application answers.")


class ServiceProbe(ProtoNode):
    interval: str = Field("", description="Between two probes, such as 10s.")
    timeout: str = Field("", description="For one probe, such as 2s.")
    unhealthy_threshold: ProtoInt | None = Field(None, description="Failures until the application is unhealthy.")
    healthy_threshold: ProtoInt | None = Field(None, description="Successes until it is healthy again.")
    tcp: FreeForm | None = Field(None, description="Probe by connecting; has no fields. Without it nothing is probed.")

    def plan(self, target: IpTarget) -> ProbePlan | None:
        """Of an application; ``None``: in a way that does not exist."""
        if self.tcp is None:
            return None
        default = ProbePlan(target)
        return ProbePlan(
            target,
            interval_s=_probe_s(self.interval) or default.interval_s,
            timeout_s=_probe_s(self.timeout) or default.timeout_s,
            unhealthy_threshold=self.unhealthy_threshold or default.unhealthy_threshold,
            healthy_threshold=self.healthy_threshold or default.healthy_threshold,
        )


def _probe_s(text: str) -> float | None:
    return min(max(float(text[:-1]), MIN_PROBE_S), MAX_PROBE_S) if text else None


class Inbound(ProtoNode):
    port: ProtoInt = Field(0, description="The port that the mesh connects to.", json_schema_extra=PORT_SCHEMA)
    address: str = Field("", description="The IP to listen on; networking.address where it is absent.")
    service_port: ProtoInt = Field(0, description="The application's port; port where it is absent.")
    service_address: str = Field("", description="The application's IP; the listener's where it is absent.")
    name: str = Field("", description="The section name; the port where it is absent.")
    protocol: Annotated[InboundProtocol | None, choice(InboundProtocol, _PROTOCOLS, InboundProtocol.TCP)] = Field(
        None, description="What the application speaks; tcp where it is absent."
    )
    tags: Labels = Field(default_factory=dict, description="Kuma 2.")
    state: Annotated[State, choice(State, '"state" must be one of ["Ready", "NotReady", "Ignored"]', State.READY)] = (
        Field(State.READY, description="Whether traffic may come.")
    )
    health: Health | None = Field(None, description="Kuma 2, before state.")
    service_probe: ServiceProbe | None = Field(None, description="How to find out whether the application answers.")

    @property
    def section(self) -> str:
        return self.name or str(self.port)

    @property
    def plan_protocol(self) -> Protocol:
        """The protocol, from the field or else the tag, as far as the proxy looks into it."""
        named = self.protocol.value if self.protocol is not None else self.tags.get(PROTOCOL_TAG, "")
        return Protocol(named) if named in set(Protocol) else Protocol.TCP

    def bind_address(self, networking: Networking) -> str:
        return self.address or networking.address

    def workload(self, networking: Networking) -> tuple[str, int]:
        """Where the application listens."""
        return self.service_address or self.bind_address(networking), self.service_port or self.port


class BackendRef(ProtoNode):
    kind: Annotated[BackendKind, _BACKEND_KIND] = Field(description="What kind of service.")
    name: str = Field("", description="The service's display name; or give labels.")
    namespace: str = Field("", description="The service's namespace on Kubernetes.")
    labels: Labels = Field(default_factory=dict, description="Labels that the service has; or give name.")
    port: ProtoInt = Field(0, description="The service's port; ignored for a MeshExternalService.")


class Outbound(ProtoNode):
    port: ProtoInt = Field(0, description="The port that the application connects to.", json_schema_extra=PORT_SCHEMA)
    address: str = Field(LOOPBACK, description="The IP to listen on.")
    backend_ref: BackendRef | None = Field(None, description="Where connections go.")
    tags: Labels = Field(default_factory=dict, description="Kuma 2, before backendRef.")


class Gateway(ProtoNode):
    type: Annotated[
        GatewayType,
        choice(GatewayType, '"type" must be one of ["DELEGATED", "BUILTIN"]', GatewayType.DELEGATED),
    ] = Field(GatewayType.DELEGATED, description="Who runs the gateway.")
    tags: Labels = Field(default_factory=dict, description="Kuma 2.")


class Admin(ProtoNode):
    port: ProtoInt = Field(0, description="The port of the admin interface.", json_schema_extra=PORT_SCHEMA)


class ReachableBackend(ProtoNode):
    kind: Annotated[BackendKind, _BACKEND_KIND] = Field(description="What kind of service.")
    name: str = Field("", description="The service's name; or give labels.")
    namespace: str = Field("", description="The service's namespace on Kubernetes.")
    port: ProtoInt | None = Field(None, description="One of the service's ports; all where it is absent.")
    labels: Labels = Field(default_factory=dict, description="Labels that the service has; or give name.")


class ReachableBackends(ProtoNode):
    refs: Listed[ReachableBackend] = Field((), description="The services that the application uses.")


class TransparentProxying(ProtoNode):
    redirect_port_inbound: ProtoInt = Field(0, description="Where redirected inbound traffic arrives.")
    redirect_port_inbound_v6: ProtoInt = Field(0, alias="redirectPortInboundV6", description="Kuma 2.")
    redirect_port_outbound: ProtoInt = Field(0, description="Where redirected outbound traffic arrives.")
    ip_family_mode: Annotated[
        IpFamilyMode,
        choice(
            IpFamilyMode,
            '"ipFamilyMode" must be one of ["UnSpecified", "DualStack", "IPv4"]',
            IpFamilyMode.UNSPECIFIED,
        ),
    ] = Field(IpFamilyMode.UNSPECIFIED, description="Which IP versions are redirected.")
    direct_access_services: Listed[str] = Field((), description="Services that are reached without a virtual IP.")
    reachable_services: Listed[str] = Field((), description="Kuma 2, before reachableBackends.")
    reachable_backends: ReachableBackends | None = Field(None, description="All services where it is absent.")


class Listener(ProtoNode):
    type: Annotated[
        ListenerType | None,
        choice(ListenerType, _LISTENER_TYPES, ListenerType.ZONE_EGRESS, is_default=False),
    ] = Field(None, description="What the listener does.")
    address: str = Field("", description="The IP to listen on; networking.address where it is absent.")
    port: ProtoInt = Field(0, description="The port to listen on.", json_schema_extra=PORT_SCHEMA)
    name: str = Field("", description="The section name; the port where it is absent.")
    state: Annotated[
        ListenerState,
        choice(ListenerState, '"state" must be one of ["Ready", "NotReady"]', ListenerState.READY),
    ] = Field(ListenerState.READY, description="Whether traffic may come.")

    def bind_address(self, networking: Networking) -> str:
        return self.address or networking.address

    @property
    def section(self) -> str:
        return self.name or str(self.port)


class Networking(ProtoNode):
    address: str = Field("", description="The IP or DNS name at which others reach the proxy.")
    advertised_address: str = Field("", description="Kuma 2: the address for proxies elsewhere.")
    inbound: Listed[Inbound] = Field((), description="Ports of the application, offered to the mesh.")
    outbound: Listed[Outbound] = Field((), description="Services of the mesh, offered to the application.")
    gateway: Gateway | None = Field(None, description="The proxy belongs to a gateway.")
    admin: Admin | None = Field(None, description="The admin interface.")
    transparent_proxying: TransparentProxying | None = Field(None, description="The kernel redirects traffic.")
    listeners: Listed[Listener] = Field((), description="The proxy is a zone's ingress or egress.")

    @property
    def is_inbound_redirected(self) -> bool:
        """Whether the kernel brings connections that are for the application."""
        return self.transparent_proxying is not None and self.transparent_proxying.redirect_port_inbound != 0


class Dataplane(ProtoNode, Resource):
    """A proxy: what it listens on, and where its application is."""

    kind: ClassVar[str] = "Dataplane"
    short: ClassVar[str] = "dp"

    networking: Networking = Field(Networking(), description="What the proxy listens on.")
    metrics: FreeForm | None = Field(None, description="Kuma 2; not interpreted.")
    probes: FreeForm | None = Field(None, description="Kuma 2; not interpreted.")
    envoy: FreeForm | None = Field(None, description="Not interpreted.")

    def rules(self) -> Iterator[Violation]:
        if "networking" not in self.model_fields_set:
            yield Violation(("networking",), "must be defined")
            return
        networking = self.networking
        for violation in _networking_rules(networking):
            yield violation.under(("networking",))


def _networking_rules(networking: Networking) -> Iterator[Violation]:
    if networking.admin is not None:
        yield from _admin_rules(networking, networking.admin.port)
    yield from address_rules(networking.address)
    if networking.gateway is not None and networking.gateway.type is GatewayType.DELEGATED:
        if networking.inbound:
            yield Violation(("inbound",), "inbound cannot be defined for delegated gateways")
        if networking.listeners:
            yield Violation(("listeners",), "listeners cannot be defined for delegated gateways")
    for index, inbound in enumerate(networking.inbound):
        for violation in _inbound_rules(inbound, networking):
            yield violation.under(("inbound", index))
    for index, outbound in enumerate(networking.outbound):
        for violation in _outbound_rules(outbound):
            yield violation.under(("outbound", index))
    yield from _listener_rules(networking)
    transparent = networking.transparent_proxying
    if transparent is not None and transparent.reachable_backends is not None:
        for index, ref in enumerate(transparent.reachable_backends.refs):
            yield from _reachable_backend_rules(ref, index)


def _admin_rules(networking: Networking, port: int) -> Iterator[Violation]:
    """The admin interface is on 127.0.0.1: whatever else listens there must have another port."""
    if not 0 <= port <= 65535:
        yield Violation(("admin", "port"), BAD_PORT)
        return
    if port == 0:
        return
    ends = [(inbound.bind_address(networking), inbound.port) for inbound in networking.inbound]
    ends += [inbound.workload(networking) for inbound in networking.inbound]
    if any(at == port and _overlaps_loopback(address) for address, at in ends):
        yield Violation(("admin", "port"), "must differ from inbound")
    if any(outbound.port == port and _overlaps_loopback(outbound.address) for outbound in networking.outbound):
        yield Violation(("admin", "port"), "must differ from outbound")


def _overlaps_loopback(address: str) -> bool:
    return address == LOOPBACK or is_unspecified(address)


def address_rules(address: str) -> Iterator[Violation]:
    if not address:
        yield Violation(("address",), "address can't be empty")
    elif is_unspecified(address):
        yield Violation(("address",), "must not be 0.0.0.0 or ::")
    elif not is_ip(address) and not is_dns_name(address):
        yield Violation(("address",), "address has to be valid IP address or domain name")


def _inbound_rules(inbound: Inbound, networking: Networking) -> Iterator[Violation]:
    if not is_port(inbound.port):
        yield Violation(("port",), BAD_PORT)
    if inbound.service_port != 0 and not is_port(inbound.service_port):
        yield Violation(("servicePort",), BAD_PORT)
    forwards_to_itself = inbound.workload(networking) == (inbound.bind_address(networking), inbound.port)
    if inbound.service_address:
        if not is_ip(inbound.service_address):
            yield Violation(("serviceAddress",), "serviceAddress has to be valid IP address")
        elif forwards_to_itself:
            text = "serviceAddress and servicePort has to differ from address and port"
            yield Violation(("serviceAddress",), text)
    elif forwards_to_itself and is_port(inbound.port) and not networking.is_inbound_redirected:
        yield warning((), "forwards to itself: give the application another port (servicePort) or IP (serviceAddress)")
    if inbound.address and not is_ip(inbound.address):
        yield Violation(("address",), _BAD_ADDRESS)
    if inbound.tags:
        if SERVICE_TAG not in inbound.tags:
            yield Violation(("tags", SERVICE_TAG), "tag has to exist")
        protocol = inbound.tags.get(PROTOCOL_TAG)
        if protocol is not None and protocol not in set(InboundProtocol):
            text = f'tag "{PROTOCOL_TAG}" {_PROTOCOLS.replace("{}", protocol)}'
            yield Violation(("tags", PROTOCOL_TAG), text)
    if inbound.service_probe is not None:
        for violation in _probe_rules(inbound.service_probe):
            yield violation.under(("serviceProbe",))


def _probe_rules(probe: ServiceProbe) -> Iterator[Violation]:
    for name, duration in (("interval", probe.interval), ("timeout", probe.timeout)):
        if duration and not (_DURATION.fullmatch(duration) and float(duration[:-1]) > 0):
            yield Violation((name,), "must have a positive value")
    thresholds = {
        "unhealthyThreshold": probe.unhealthy_threshold,
        "healthyThreshold": probe.healthy_threshold,
    }
    for name, threshold in thresholds.items():
        if threshold is not None and threshold <= 0:
            yield Violation((name,), "must have a positive value")


def _outbound_rules(outbound: Outbound) -> Iterator[Violation]:
    if not is_port(outbound.port):
        yield Violation(("port",), BAD_PORT)
    if not is_ip(outbound.address):
        yield Violation(("address",), _BAD_ADDRESS)
    reference = outbound.backend_ref
    if reference is None:
        if not outbound.tags:
            yield Violation(("backendRef",), "must be defined")
        elif SERVICE_TAG not in outbound.tags:
            yield Violation(("tags",), f'mandatory tag "{SERVICE_TAG}" is missing')
        else:
            yield warning((), "not a backendRef: skipped")
        return
    if outbound.tags:
        yield Violation(("backendRef",), "both backendRef and tags/service cannot be defined")
    if bool(reference.name) == bool(reference.labels):
        yield Violation(("backendRef",), "either 'name' or 'labels' should be specified")
    if reference.kind is not BackendKind.MESH_EXTERNAL_SERVICE and not is_port(reference.port):
        yield Violation(("backendRef", "port"), BAD_PORT)


def _listener_rules(networking: Networking) -> Iterator[Violation]:
    names = {inbound.section for inbound in networking.inbound}
    inbound_ends = {(inbound.bind_address(networking), inbound.port) for inbound in networking.inbound}
    taken: dict[tuple[str, int], ListenerType | None] = {}
    for index, listener in enumerate(networking.listeners):
        path: Path = ("listeners", index)
        if listener.type is None:
            yield Violation((*path, "type"), _LISTENER_TYPES)
        if listener.address and not is_ip(listener.address):
            yield Violation((*path, "address"), _BAD_ADDRESS)
        if not is_port(listener.port):
            yield Violation((*path, "port"), BAD_PORT)
            continue
        if listener.section in names:
            yield Violation((*path, "name"), f'name "{listener.section}" must be unique across inbounds and listeners')
        names.add(listener.section)
        end = (listener.bind_address(networking), listener.port)
        shown = f"address:port {end[0]}:{end[1]}"
        if end in inbound_ends:
            yield Violation(path, f"{shown} collides with an inbound listener")
        elif end in taken and taken[end] is listener.type:
            yield Violation(path, f"{shown} is already used by another listener")
        elif end in taken:
            yield Violation(path, f"{shown} is used by listeners of different types")
        taken.setdefault(end, listener.type)


def _reachable_backend_rules(ref: ReachableBackend, index: int) -> Iterator[Violation]:
    def violation(field: str, message: str) -> Violation:
        # Kuma misspells this path, and whoever looks for its text shall find it.
        return Violation(
            ("transparentProxying", "reachableBackends", "refs", index, field),
            message,
            shown=f"networking.transparentProxing.reachableBackends.refs[{index}].{field}",
        )

    if not ref.name and not ref.labels:
        yield violation("name", "name or labels are required")
    if not ref.name and ref.namespace:
        yield violation("name", "name is required, when namespace is defined")
    if ref.name and ref.labels:
        yield violation("labels", "labels cannot be defined when name is specified")
