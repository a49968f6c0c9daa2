"""``targetRef``: what a policy is for (at the top) and which traffic an entry means (in ``to`` and ``from``).

One model for both versions of Kuma: 2.x selects by name, tags and labels, 3.x by labels alone. Messages are those of
``ValidateTargetRef`` (``pkg/core/resources/apis/mesh/validators.go``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from config.resources.shape import Labels, Listed, Node, Omittable, Violation, choice, clip


class TargetKind(StrEnum):
    """In Kuma's order, from the least specific to the most: policies of a later kind win."""

    MESH = "Mesh"
    DATAPLANE = "Dataplane"
    MESH_SUBSET = "MeshSubset"
    MESH_GATEWAY = "MeshGateway"
    MESH_SERVICE = "MeshService"
    MESH_EXTERNAL_SERVICE = "MeshExternalService"
    MESH_MULTI_ZONE_SERVICE = "MeshMultiZoneService"
    MESH_SERVICE_SUBSET = "MeshServiceSubset"
    MESH_HTTP_ROUTE = "MeshHTTPRoute"


KIND_RANK = {kind.value: rank for rank, kind in enumerate(TargetKind)}

_ANY_NAME = re.compile(r"[0-9a-z.\-_]*")


class ProxyType(StrEnum):
    SIDECAR = "Sidecar"
    GATEWAY = "Gateway"


_PROXY_TYPE = choice(ProxyType, "in body should be one of [Sidecar Gateway]", ProxyType.SIDECAR, is_default=False)


class TargetRef(Node):
    kind: str = Field("", description="What is meant.", json_schema_extra={"enum": [kind.value for kind in TargetKind]})
    name: Omittable[str] = Field(None, description="Its name (Kuma 2); or give labels.")
    namespace: Omittable[str] = Field(None, description="The namespace of name (Kuma 2, Kubernetes).")
    labels: Omittable[Labels] = Field(None, description="Labels that it has, those that Kuma computes included.")
    tags: Omittable[Labels] = Field(None, description="Tags of a MeshSubset or MeshServiceSubset (Kuma 2).")
    mesh: Omittable[str] = Field(None, description="Reserved by Kuma.")
    proxy_types: Omittable[Listed[Annotated[ProxyType, _PROXY_TYPE]]] = Field(
        None, description="Only these kinds of proxies (Kuma 2)."
    )
    section_name: Omittable[str] = Field(None, description="A port of it, by name; of a Dataplane for inbounds only.")

    @property
    def rank(self) -> int:
        return KIND_RANK[self.kind]


WHOLE_MESH = TargetRef(kind=TargetKind.MESH.value)
"""What a policy without a ``targetRef`` means."""


def target_ref_rules(
    target: TargetRef, supported: Sequence[TargetKind], *, inbound: bool = False
) -> Iterator[Violation]:
    """Paths start at the ``targetRef``. ``inbound``: the policy is one for inbounds, so it may name one of them."""
    if not target.kind:
        yield Violation(("kind",), "must be defined")
        return
    if target.kind not in supported:
        yield Violation(("kind",), f"value '{clip(target.kind)}' is not supported")
        return
    kind = TargetKind(target.kind)
    if kind is TargetKind.MESH and target.name:
        yield Violation(("name",), f"using name with kind {kind} is not yet supported")
    elif target.name and not _ANY_NAME.fullmatch(target.name):
        text = "invalid characters: must consist of lower case alphanumeric characters, '-', '.' and '_'."
        yield Violation(("name",), text)
    for field in _SET_IN_VAIN[kind]:
        if getattr(target, _ATTRIBUTES[field]):
            yield Violation((field,), f"must not be set with kind {kind}")
    if kind is TargetKind.DATAPLANE and target.section_name and not inbound:
        yield Violation(("sectionName",), "can only be used with inbound policies")
    if kind in _BY_NAME_OR_LABELS:
        yield from _name_or_labels(target, kind)
    elif kind in (TargetKind.MESH_SERVICE_SUBSET, TargetKind.MESH_GATEWAY) and not target.name:
        yield Violation(("name",), f"must be set with kind {kind}")
    yield from _tag_rules(target.tags or {})


_ATTRIBUTES = {
    "name": "name",
    "mesh": "mesh",
    "tags": "tags",
    "proxyTypes": "proxy_types",
    "labels": "labels",
    "namespace": "namespace",
    "sectionName": "section_name",
}
_OF_A_SERVICE = ("mesh", "tags", "proxyTypes")
_SET_IN_VAIN: Mapping[TargetKind, Sequence[str]] = {
    TargetKind.MESH: ("mesh", "tags", "labels", "namespace", "sectionName"),
    TargetKind.DATAPLANE: _OF_A_SERVICE,
    TargetKind.MESH_SUBSET: ("name", "mesh", "labels", "namespace", "sectionName"),
    TargetKind.MESH_GATEWAY: ("mesh", "proxyTypes", "labels", "namespace", "sectionName"),
    TargetKind.MESH_SERVICE: _OF_A_SERVICE,
    TargetKind.MESH_EXTERNAL_SERVICE: (*_OF_A_SERVICE, "sectionName"),
    TargetKind.MESH_MULTI_ZONE_SERVICE: _OF_A_SERVICE,
    TargetKind.MESH_SERVICE_SUBSET: ("mesh", "proxyTypes", "labels", "namespace", "sectionName"),
    TargetKind.MESH_HTTP_ROUTE: _OF_A_SERVICE,
}
_BY_NAME_OR_LABELS = (
    TargetKind.DATAPLANE,
    TargetKind.MESH_SERVICE,
    TargetKind.MESH_EXTERNAL_SERVICE,
    TargetKind.MESH_MULTI_ZONE_SERVICE,
    TargetKind.MESH_HTTP_ROUTE,
)


def _name_or_labels(target: TargetRef, kind: TargetKind) -> Iterator[Violation]:
    if target.labels and (target.name or target.namespace):
        both = "name" if kind is TargetKind.MESH_EXTERNAL_SERVICE else "name and namespace"
        yield Violation(("labels",), f"either labels or {both} must be specified")
    if kind is not TargetKind.DATAPLANE and not target.labels and not target.name:
        yield Violation(("labels",), f"must be set when kind is {kind}")  # 2.x: or a name


def _tag_rules(tags: Mapping[str, str]) -> Iterator[Violation]:
    for tag, value in tags.items():
        if not tag:
            yield Violation(("tags",), "tag name must be non-empty")
        if not value:
            yield Violation(("tags", tag), "tag value must be non-empty")
