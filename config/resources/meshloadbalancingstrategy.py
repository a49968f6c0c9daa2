"""MeshLoadBalancingStrategy: which endpoint is next.

Kuma's ``pkg/plugins/policies/meshloadbalancingstrategy/api/v1alpha1``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Annotated, ClassVar

from pydantic import Field

from config.document import Path
from config.plan import HashSource, LoadBalancer
from config.policies.checks import positive
from config.policies.policy import NO_EFFECT, SERVICE_KINDS, Conf, Policy, ToEntry, is_set
from config.policies.target_ref import TargetKind
from config.resources.duration import Duration
from config.resources.numbers import Decimal
from config.resources.shape import FreeForm, Listed, Node, Omittable, Violation, choice, warning

MAX_RING_SIZE = 8_000_000
MAX_MAGLEV_TABLE_SIZE = 5_000_011

_SOURCE_IP = "SourceIP"  # Kuma 2's short form of Connection with sourceIP

_ONLY_HASHES = "field is not allowed when targetRef.kind is MeshHTTPRoute, only hashPolicies is supported"


class Named(Node):
    name: str = Field(min_length=1, description="Its name.")


class Cookie(Named):
    ttl: Omittable[Duration] = Field(None, description="A cookie that is made lives this long.")
    path: Omittable[str] = Field(None, description="The path of a cookie that is made.")


class Connection(Node):
    source_ip: Omittable[bool] = Field(None, alias="sourceIP", description="By the client's address.")


class FilterState(Node):
    key: str = Field(min_length=1, description="Its key.")


class HashPolicy(Node):
    type: str = Field(
        description="What is hashed.",
        json_schema_extra={"enum": [*(source.value for source in HashSource), _SOURCE_IP]},
    )
    terminal: Omittable[bool] = Field(None, description="If there is a hash by now, look no further.")
    header: Omittable[Named] = Field(None, description="A field of the request.")
    cookie: Omittable[Cookie] = Field(None, description="A cookie of the request.")
    connection: Omittable[Connection] = Field(None, description="The connection.")
    query_parameter: Omittable[Named] = Field(None, description="A parameter of the request's query.")
    filter_state: Omittable[FilterState] = Field(None, description="Envoy's; not interpreted.")

    def rules(self) -> Iterator[Violation]:
        given = {
            HashSource.HEADER: ("header", self.header),
            HashSource.COOKIE: ("cookie", self.cookie),
            HashSource.CONNECTION: ("connection", self.connection),
            HashSource.QUERY_PARAMETER: ("queryParameter", self.query_parameter),
            HashSource.FILTER_STATE: ("filterState", self.filter_state),
        }
        if self.type == HashSource.FILTER_STATE:
            yield warning(("type",), f"{self.type} {NO_EFFECT}")
        if self.type == _SOURCE_IP:
            return
        if self.type not in set(HashSource):
            yield Violation(("type",), "unrecognized type")
            return
        name, part = given[HashSource(self.type)]
        if part is None:
            yield Violation((name,), "must be defined")
        elif isinstance(part, Cookie) and part.path is not None and not part.path.startswith("/"):
            yield Violation(("cookie", "path"), "must be an absolute path")

    @property
    def source(self) -> HashSource:
        return HashSource.CONNECTION if self.type == _SOURCE_IP else HashSource(self.type)


class LeastRequest(Node):
    choice_count: int = Field(2, ge=2, description="How many endpoints to compare.")
    active_request_bias: Omittable[Decimal] = Field(None, description="For endpoints of different weights.")


class RingHash(Node):
    hash_function: Omittable[str] = Field(
        None, description="XXHash where it is absent.", json_schema_extra={"enum": ["XXHash", "MurmurHash2"]}
    )
    min_ring_size: Omittable[int] = Field(None, ge=1, le=MAX_RING_SIZE, description="1024 where it is absent.")
    max_ring_size: Omittable[int] = Field(None, ge=1, le=MAX_RING_SIZE, description="8000000 where it is absent.")
    hash_policies: Listed[HashPolicy] = Field((), description="Kuma 2, before hashPolicies beside loadBalancer.")


class Maglev(Node):
    table_size: Omittable[int] = Field(
        None, ge=1, le=MAX_MAGLEV_TABLE_SIZE, description="A prime number; 65537 where it is absent."
    )
    hash_policies: Listed[HashPolicy] = Field((), description="Kuma 2, before hashPolicies beside loadBalancer.")


_TYPE = choice(
    LoadBalancer, f"in body should be one of [{' '.join(LoadBalancer)}]", LoadBalancer.ROUND_ROBIN, is_default=False
)


class LoadBalancerConf(Node):
    type: Annotated[LoadBalancer, _TYPE] = Field(description="How the next endpoint is found.")
    round_robin: Omittable[FreeForm] = Field(None, description="Has no fields.")
    random: Omittable[FreeForm] = Field(None, description="Has no fields.")
    least_request: Omittable[LeastRequest] = Field(None, description="For LeastRequest.")
    ring_hash: Omittable[RingHash] = Field(None, description="For RingHash.")
    maglev: Omittable[Maglev] = Field(None, description="For Maglev.")

    def rules(self) -> Iterator[Violation]:
        least = self.least_request
        if least is not None and least.active_request_bias is not None and least.active_request_bias < 0:
            yield Violation(("leastRequest", "activeRequestBias"), "must be greater or equal then: 0")
        for name, part in (("ringHash", self.ring_hash), ("maglev", self.maglev)):
            if part is not None:
                yield from _hash_rules(part.hash_policies, (name, "hashPolicies"))
        size = self.maglev.table_size if self.maglev is not None else None
        if size is not None and not _is_prime(size):
            # Kuma lets it pass, and Envoy refuses the cluster: an endpoint's walk through the table would not end.
            yield Violation(("maglev", "tableSize"), "must be a prime number")


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


class AffinityTag(Node):
    key: str = Field("", description="A tag.")
    weight: Omittable[int] = Field(None, description="How much it counts.")


class LocalZone(Node):
    affinity_tags: Listed[AffinityTag] = Field((), description="Endpoints with the same tags come first.")


class LocalityAwareness(Node):
    disabled: Omittable[bool] = Field(None, description="All zones are alike.")
    local_zone: Omittable[LocalZone] = Field(None, description="Inside the zone.")
    cross_zone: Omittable[FreeForm] = Field(None, description="Between zones; not interpreted.")

    def rules(self) -> Iterator[Violation]:
        tags = self.local_zone.affinity_tags if self.local_zone is not None else ()
        for index, tag in enumerate(tags):
            at: Path = ("localZone", "affinityTags", index)
            if not tag.key:
                yield Violation((*at, "key"), "must not be empty")
            yield from positive((*at, "weight"), tag.weight)
        if len({tag.weight is None for tag in tags}) > 1:
            yield Violation(("localZone", "affinityTags"), "all or none affinity tags should have weight")


def _hash_rules(policies: Sequence[HashPolicy], at: Path) -> Iterator[Violation]:
    for index, policy in enumerate(policies):
        yield from (violation.under((*at, index)) for violation in policy.rules())


class LoadBalancingConf(Conf):
    load_balancer: Omittable[LoadBalancerConf] = Field(None, description="How the next endpoint is found.")
    hash_policies: Omittable[Listed[HashPolicy]] = Field(None, description="What RingHash and Maglev hash.")
    locality_awareness: Omittable[LocalityAwareness] = Field(None, description="Which zone's endpoints come first.")

    def rules(self) -> Iterator[Violation]:
        if self.load_balancer is not None:
            yield from (violation.under(("loadBalancer",)) for violation in self.load_balancer.rules())
        yield from _hash_rules(self.hash_policies or (), ("hashPolicies",))
        if self.locality_awareness is not None:
            yield from (violation.under(("localityAwareness",)) for violation in self.locality_awareness.rules())


class LoadBalancingTo(ToEntry):
    default: LoadBalancingConf = Field(LoadBalancingConf(), description="How endpoints are chosen.")


class MeshLoadBalancingStrategy(Policy):
    """Which endpoint is next."""

    kind: ClassVar[str] = "MeshLoadBalancingStrategy"
    short: ClassVar[str] = "mlbs"
    to_kinds: ClassVar[Sequence[TargetKind]] = (*SERVICE_KINDS, TargetKind.MESH_HTTP_ROUTE)
    no_effect: ClassVar[Sequence[Path]] = (
        ("loadBalancer", "leastRequest", "activeRequestBias"),
        ("loadBalancer", "ringHash", "hashFunction"),
        ("localityAwareness",),
    )

    to: Listed[LoadBalancingTo] = Field((), description="Balancing of what the proxy sends.")

    @property
    def entries(self) -> Sequence[LoadBalancingTo]:
        return self.to

    def conf_rules(self, entry: ToEntry) -> Iterator[Violation]:
        yield from entry.default.rules()
        if entry.target_ref.kind == TargetKind.MESH_HTTP_ROUTE:
            for name in ("loadBalancer", "localityAwareness"):
                if is_set(entry.default, (name,)):
                    yield Violation((name,), _ONLY_HASHES)
