"""The plan: what to run, and nothing about how it was asked for.

An immutable, comparable tree. ``config`` makes plans, ``proxy`` applies the difference between two of them.
Nothing on the data path looks at a resource, a label or YAML: everything it needs is here, resolved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from tls.acceptance import Acceptance
from tls.bundles import TrustBundles
from tls.permissions import Permissions
from tls.policy import Origination


class Protocol(StrEnum):
    """``match.protocol``."""

    TCP = "tcp"
    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"


class Direction(StrEnum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


@dataclass(frozen=True, slots=True)
class IpTarget:
    """An endpoint given as an address and a port."""

    address: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class DnsTarget:
    """An endpoint given by name: every address that the name has is an endpoint (Envoy's STRICT_DNS)."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A unix socket. ``path`` starts with ``@`` for one in the abstract namespace."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


Target = IpTarget | DnsTarget | UnixTarget


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    target: Target
    priority: int = 0


class LoadBalancer(StrEnum):
    """Kuma's ``loadBalancer.type``."""

    ROUND_ROBIN = "RoundRobin"
    LEAST_REQUEST = "LeastRequest"
    RING_HASH = "RingHash"
    RANDOM = "Random"
    MAGLEV = "Maglev"


class HashSource(StrEnum):
    """Kuma's ``hashPolicies[].type``."""

    HEADER = "Header"
    COOKIE = "Cookie"
    CONNECTION = "Connection"
    QUERY_PARAMETER = "QueryParameter"
    FILTER_STATE = "FilterState"


@dataclass(frozen=True, slots=True)
class HashPolicyPlan:
    """``name`` is that of the header, cookie, parameter or state; empty for a connection. ``cookie_ttl_s`` is given
    where a cookie that is missing is to be made, with ``cookie_path``.
    """

    source: HashSource
    name: str = ""
    terminal: bool = False
    cookie_ttl_s: float | None = None
    cookie_path: str = ""


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """When a request is sent again. ``retry_on`` has Envoy's names (``gateway-error``, ``connect-failure``, ...), with
    ``retriable-status-codes`` for ``statuses``. ``methods`` is empty for any method. A ``per_try_timeout_s`` of 0
    is none but the request's own. The n-th wait is random, from 0 to (2**n - 1) x ``back_off_base_s``, but no longer
    than ``back_off_max_s``.
    """

    retries: int = 1
    per_try_timeout_s: float = 0.0
    back_off_base_s: float = 0.025
    back_off_max_s: float = 0.25
    retry_on: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    methods: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class EjectionPlan:
    """When an endpoint is left out for a while. Each count is one of failures in a row; 0 is never.

    ``failures``: to connect, TLS included. ``server_errors``: requests that ended with 5xx or without a response.
    ``gateway_errors``: with 502, 503 or 504, or without a response in time. The first time is ``first_s``, doubled with
    each that follows without a success, but no longer than ``longest_s``. ``max_percent`` of the endpoints at a time,
    but one at least.
    """

    failures: int = 3
    server_errors: int = 0
    gateway_errors: int = 0
    first_s: float = 1.0
    longest_s: float = 30.0
    max_percent: int = 100


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """A service: where its bytes may go, and on which terms. ``name`` is a KRI. A time of 0 is no limit.

    The defaults are what holds without a policy.
    """

    name: str
    mesh: str
    service: str
    protocol: Protocol
    endpoints: tuple[EndpointPlan, ...]
    tls: Origination | None = None
    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 3600.0
    max_connections: int = 1024
    max_pending_requests: int = 1024
    max_connect_attempts: int = 5
    request_timeout_s: float = 0.0
    """From the end of a request to the end of its response."""
    stream_idle_timeout_s: float = 300.0
    max_stream_duration_s: float = 0.0
    max_connection_duration_s: float = 0.0
    max_requests: int = 1024
    max_retries: int = 3
    ejection: EjectionPlan = EjectionPlan()
    retry: RetryPlan | None = None
    load_balancer: LoadBalancer = LoadBalancer.ROUND_ROBIN
    least_request_choices: int = 2
    ring_sizes: tuple[int, int] = (1024, 8_000_000)
    """Entries, at least and at most."""
    maglev_table_size: int = 65_537
    hash_policies: tuple[HashPolicyPlan, ...] = ()
    through_egress: bool = False
    """The endpoints are zone egresses, which originate TLS to the service, and give requests its Host."""
    source: IPv4Address | IPv6Address | None = None
    """The address of this machine that connections come from; ``None``: the system chooses."""
    why_empty: str = ""
    """Why there are no endpoints, where that is not what the resource says."""

    @property
    def speaks_http2(self) -> bool:
        return self.protocol in (Protocol.HTTP2, Protocol.GRPC)

    @property
    def dns_names(self) -> Iterator[str]:
        """The names that must be resolved, as often as they are listed."""
        return (endpoint.target.name for endpoint in self.endpoints if isinstance(endpoint.target, DnsTarget))


class Access(StrEnum):
    ALLOW = "allow"
    FORBID = "forbid"


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """How to find out whether the application behind an inbound answers: by connecting. The defaults are those of
    Kuma's control plane (``dpServer.hds.checkDefaults``).
    """

    target: IpTarget
    interval_s: float = 1.0
    timeout_s: float = 2.0
    unhealthy_threshold: int = 1
    healthy_threshold: int = 1
    source: IPv4Address | IPv6Address | None = None
    """As of the cluster."""


HEADERS_TIMEOUT_S = 60.0
"""Where no MeshTimeout says otherwise."""


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    """A listening socket and the cluster behind it. ``name`` is unique in a plan."""

    name: str
    direction: Direction
    address: IPv4Address | IPv6Address
    port: int
    protocol: Protocol
    cluster: str
    access: Access = Access.ALLOW
    request_headers_timeout_s: float = HEADERS_TIMEOUT_S
    """From the first byte of a request to the end of its head; 0 is no limit."""
    acceptance: Acceptance | None = None
    """On an inbound: mTLS as it is demanded. ``None``: plaintext."""
    permissions: Permissions | None = None
    """On an inbound with mTLS: which identities may pass. ``None``: every verified one."""
    is_door: bool = False
    """A zone egress: a connection belongs to the listener that has this one for its ``door`` and the server name that
    the client asks for among its ``server_names``; there is none: it is closed.
    """
    door: str = ""
    """Not empty: connections come only from the listener of that name."""
    server_names: tuple[str, ...] = ()

    probe: ProbePlan | None = None
    """On an inbound: ask its application whether it is there."""
    bind_to_port: bool = True
    """Off: connections come only from a listener with ``original_dst``."""
    original_dst: bool = False
    """The kernel redirects connections here: each belongs to the listener of the address that it meant, else it is
    passed through ``cluster`` to that address, or closed where there is no such cluster.
    """

    @property
    def bind(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


MESH_DOMAIN = "mesh.local"
"""Kuma's own domain, in which its default generators put their hostnames."""
NAME_TTL_S = 30
"""How long whoever resolves a hostname may remember its addresses. Kuma's."""


@dataclass(frozen=True, slots=True)
class NamePlan:
    """A hostname of a service: lower case, without a final dot. ``addresses`` are virtual IPs, IPv4 before IPv6."""

    name: str
    addresses: tuple[IPv4Address | IPv6Address, ...]
    ttl_s: int = NAME_TTL_S


@dataclass(frozen=True, slots=True)
class AdminPlan:
    address: str = "127.0.0.1"
    port: int = 9901


@dataclass(frozen=True, slots=True)
class ProxyIdentity:
    """Who this process is in the mesh."""

    mesh: str
    name: str
    zone: str = "default"
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class IdentityPlan:
    """Who this proxy is: a SPIFFE ID, the MeshIdentity that says so (a KRI), and when its certificate ends and is due
    for renewal. ``None`` there: it has no certificate. ``resource`` is empty for an identity from files; ``fault`` says
    why a renewal that others have to bring may not come.
    """

    id: str
    resource: str
    not_after: datetime | None = None
    renew_at: datetime | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that runs. Keys of the mappings are the names of their values."""

    proxy: ProxyIdentity
    listeners: Mapping[str, ListenerPlan] = field(default_factory=dict)
    clusters: Mapping[str, ClusterPlan] = field(default_factory=dict)
    admin: AdminPlan = AdminPlan()
    names: Mapping[str, NamePlan] = field(default_factory=dict)
    """The hostnames at which the application finds the services: what a DNS server for it answers."""
    identity: IdentityPlan | None = None
    trust: TrustBundles = field(default_factory=TrustBundles)
    """By whose CA certificates peers are judged; of a ZoneEgress, by ``<mesh>/<trust domain>``."""
    trust_generations: Mapping[str, int] = field(default_factory=dict)
    """By trust domain: the number of the change that its bundle has had last. The largest is the newest."""
    drain_untrusted: bool = False
    """Whether connections that exist end when their peers are no longer trusted or permitted."""


Part = ListenerPlan | ClusterPlan


@dataclass(frozen=True, slots=True)
class Add:
    part: Part


@dataclass(frozen=True, slots=True)
class Change:
    old: Part
    new: Part


@dataclass(frozen=True, slots=True)
class Remove:
    part: Part


Step = Add | Change | Remove

P = TypeVar("P", ListenerPlan, ClusterPlan)


def diff(old: Plan, new: Plan) -> list[Step]:
    """The steps from one plan to another, in the order in which they are safe to perform: clusters appear before the
    listeners that use them, and listeners go before the clusters that they used.
    """
    cluster_steps = list(_changes(old.clusters, new.clusters))
    listener_steps = list(_changes(old.listeners, new.listeners))
    return [
        *(step for step in cluster_steps if not isinstance(step, Remove)),
        *(step for step in listener_steps if isinstance(step, Remove)),
        *(step for step in listener_steps if not isinstance(step, Remove)),
        *(step for step in cluster_steps if isinstance(step, Remove)),
    ]


def _changes(old: Mapping[str, P], new: Mapping[str, P]) -> Iterator[Step]:
    for name, part in new.items():
        before = old.get(name)
        if before is None:
            yield Add(part)
        elif before is not part and before != part:
            yield Change(before, part)
    for name, part in old.items():
        if name not in new:
            yield Remove(part)
