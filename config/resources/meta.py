"""What every resource has around its content: kind, mesh, name, labels; in the Universal or the Kubernetes
form.

An :class:`Envelope` is a document taken apart, as far as it can be, whether it is valid or not: even a broken
document has a key, so that a reload can keep what it had under that key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from config.document import Path
from config.resources.names import DNS_1123_TEXT, is_dns_1123_subdomain
from config.resources.shape import REQUIRED, Node, Violation, unknown_field, wrong_type

MESH_LABEL = "kuma.io/mesh"
ZONE_LABEL = "kuma.io/zone"
ORIGIN_LABEL = "kuma.io/origin"
ENV_LABEL = "kuma.io/env"
NAMESPACE_LABEL = "k8s.kuma.io/namespace"
DISPLAY_NAME_LABEL = "kuma.io/display-name"
API_VERSION = "kuma.io/v1alpha1"

DEFAULT_MESH = "default"
DEFAULT_ZONE = "default"
MAX_NAME_CHARS = 253

UNIVERSAL_KEYS = ("type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri")
KUBERNETES_KEYS = ("apiVersion", "kind", "metadata")
_OBJECT_META_KEYS = tuple(
    [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ]
)

_MESH_NAME = re.compile(r"[0-9a-z\-_.]*")


@dataclass(frozen=True, slots=True)
class Meta:
    """``mesh`` is empty for a resource that belongs to none; ``namespace`` is empty in the Universal form."""

    type: str
    mesh: str
    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    creation_time: datetime | None = None
    status: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """What Kuma wrote into the document, as it stands there: nothing in it has been checked."""

    @property
    def display_name(self) -> str:
        return self.labels.get(DISPLAY_NAME_LABEL) or self.name

    @property
    def zone(self) -> str:
        return self.labels.get(ZONE_LABEL) or DEFAULT_ZONE

    @property
    def core_name(self) -> str:
        """The name that Kuma's core knows: on Kubernetes the namespace is a part of it."""
        return f"{self.name}.{self.namespace}" if self.namespace else self.name

    @property
    def all_labels(self) -> dict[str, str]:
        """The labels given, and those that Kuma computes where they are not: a resource from a file is as one that was
        created in this zone.
        """
        computed = {
            DISPLAY_NAME_LABEL: self.name,
            ORIGIN_LABEL: "zone",
            ZONE_LABEL: DEFAULT_ZONE,
            ENV_LABEL: "kubernetes" if self.namespace else "universal",
        }
        if self.mesh:
            computed[MESH_LABEL] = self.mesh
        if self.namespace:
            computed[NAMESPACE_LABEL] = self.namespace
        return computed | dict(self.labels)

    def label(self, key: str) -> str | None:
        """A label, or what Kuma computes for it where the document does not have it."""
        given = self.labels.get(key)
        return given if given is not None else self.all_labels.get(key)

    def has_labels(self, labels: Mapping[str, str]) -> bool:
        return all(self.label(key) == value for key, value in labels.items())


def kri(short: str, mesh: str, zone: str, namespace: str, name: str, section: str = "") -> str:
    """Kuma's resource identifier; empty parts stay empty, so one without a section ends in ``_``."""
    return f"kri_{short}_{mesh}_{zone}_{namespace}_{name}_{section}"


class Resource(Node):
    """A resource whose document is valid. A subclass is one kind: its fields are the content of ``spec`` (or,
    for a resource without such a wrapper, what stands beside ``name``).

    ``short`` is the kind's name in a KRI. ``has_mesh`` tells whether a resource of the kind belongs to a
    mesh, ``has_spec`` whether its Universal form wraps the content in ``spec``, as Kuma's plugin resources
    do.
    """

    kind: ClassVar[str]
    short: ClassVar[str]
    has_mesh: ClassVar[bool] = True
    has_spec: ClassVar[bool] = False

    meta: Meta

    @property
    def name(self) -> str:
        return self.meta.name

    @property
    def mesh(self) -> str:
        return self.meta.mesh

    def kri(self, section: str = "") -> str:
        meta = self.meta
        return kri(self.short, meta.mesh, meta.zone, meta.namespace, meta.display_name, section)

    def rules(self) -> Iterator[Violation]:
        """What is wrong, or doubtful, with content of the right shape; paths start at the content."""
        yield from ()

    def name_rules(self) -> Iterator[Violation]:
        """What is wrong with the name, on top of what every name must be; paths start at the name."""
        yield from ()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A document taken apart, read leniently: what is missing or of a wrong type is empty here, and reported
    by
    :func:`read_meta`.
    """

    tree: Mapping[str, Any] = field(repr=False)
    is_kubernetes: bool
    kind: str
    mesh: str
    name: str
    namespace: str

    @property
    def head(self) -> Path:
        """Where name and labels are."""
        return ("metadata",) if self.is_kubernetes else ()


def open_envelope(tree: Mapping[str, Any]) -> Envelope:
    is_kubernetes = "apiVersion" in tree or "kind" in tree
    head = _mapping(tree.get("metadata")) if is_kubernetes else tree
    mesh = _text(tree.get("mesh"))
    if is_kubernetes and not mesh:
        mesh = _text(_mapping(head.get("labels")).get(MESH_LABEL))
    return Envelope(
        tree,
        is_kubernetes,
        kind=_text(tree.get("kind" if is_kubernetes else "type")),
        mesh=mesh or DEFAULT_MESH,
        name=_text(head.get("name")),
        namespace=_text(head.get("namespace")) if is_kubernetes else "",
    )


def read_meta(envelope: Envelope, has_mesh: bool) -> tuple[Meta, list[Violation]]:
    """The meta of a document, and Kuma's objections to it. Paths start at the document's root."""
    violations = list(_meta_violations(envelope, has_mesh))
    head = _mapping(envelope.tree.get("metadata")) if envelope.is_kubernetes else envelope.tree
    meta = Meta(
        type=envelope.kind,
        mesh=envelope.mesh if has_mesh else "",
        name=envelope.name,
        namespace=envelope.namespace,
        labels={key: value for key, value in _mapping(head.get("labels")).items() if isinstance(value, str)},
        creation_time=_moment(head.get(_time_key(envelope))),
        status=_mapping(envelope.tree.get("status")),
    )
    return meta, violations


def _meta_violations(envelope: Envelope, has_mesh: bool) -> Iterator[Violation]:
    tree, at = envelope.tree, envelope.head
    metadata = tree.get("metadata")
    if envelope.is_kubernetes and "metadata" in tree and not isinstance(metadata, dict):
        yield Violation(("metadata",), wrong_type("object", metadata))
        return
    head = _mapping(metadata) if envelope.is_kubernetes else tree
    if envelope.is_kubernetes:
        for key in head:
            if key not in _OBJECT_META_KEYS:
                yield Violation(("metadata", key), unknown_field(key, _OBJECT_META_KEYS))
        if not isinstance(head.get("namespace", ""), str):
            yield Violation((*at, "namespace"), wrong_type("string", head["namespace"]))

    name = head.get("name")
    if name is not None and not isinstance(name, str):
        yield Violation((*at, "name"), wrong_type("string", name), shown="name")
    elif not name:
        yield Violation((*at, "name"), "cannot be empty", shown="name")
    elif len(name) > MAX_NAME_CHARS:
        yield Violation((*at, "name"), f"value length must less or equal {MAX_NAME_CHARS}", shown="name")
    elif not is_dns_1123_subdomain(name):
        yield Violation(
            (*at, "name"),
            DNS_1123_TEXT,
            shown="name",
        )

    labels = head.get("labels")
    if labels is not None and not isinstance(labels, dict):
        yield Violation((*at, "labels"), wrong_type("object", labels))
    for key, value in _mapping(labels).items():
        if not isinstance(value, str):
            yield Violation((*at, "labels", key), wrong_type("string", value))

    if has_mesh:
        yield from _mesh_violations(envelope, _mapping(labels))

    time_key = _time_key(envelope)
    moment = head.get(time_key)
    if moment is not None and _moment(moment) is None:
        yield Violation((*at, time_key), "in body must be of type date-time")


def _mesh_violations(envelope: Envelope, labels: Mapping[str, Any]) -> Iterator[Violation]:
    path: Path = ("mesh",)
    mesh = envelope.tree.get("mesh")
    if envelope.is_kubernetes and not mesh:
        path = ("metadata", "labels", MESH_LABEL)
        mesh = labels.get(MESH_LABEL)
    if mesh is None:
        return
    if not isinstance(mesh, str):
        if path == ("mesh",):
            yield Violation(path, wrong_type("string", mesh))
    elif not mesh:
        yield Violation(path, "cannot be empty", shown="mesh")
    elif not _MESH_NAME.fullmatch(mesh):
        yield Violation(
            path,
            "invalid characters. Valid characters are numbers, lowercase latin letters and '-', '_', '.' symbols.",
            shown="mesh",
        )


def envelope_violations(envelope: Envelope, content_keys: tuple[str, ...]) -> Iterator[Violation]:
    """What stands beside the meta and should not, or should and does not."""
    tree = envelope.tree
    known = ((*KUBERNETES_KEYS, "mesh") if envelope.is_kubernetes else UNIVERSAL_KEYS) + content_keys
    for key in tree:
        if key not in known:
            yield Violation((key,), unknown_field(key, known))
    if envelope.is_kubernetes:
        version = tree.get("apiVersion")
        if version is None:
            yield Violation(("apiVersion",), REQUIRED)
        elif not isinstance(version, str):
            yield Violation(("apiVersion",), wrong_type("string", version))


def _time_key(envelope: Envelope) -> str:
    return "creationTimestamp" if envelope.is_kubernetes else "creationTime"


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
