"""Which entries of which policies concern a service, in Kuma's order, and what they amount to.

    PolicyBook       every policy that is good, kept from plan to plan: an Entry for each item of ``to``
      .selection()   -> Selection: the entries for one Dataplane, sorted, and indexed by what they ask of a service
        .terms()     -> Terms: the entries for one service, merged kind by kind

Kuma sorts by ``targetRef``, origin, role, the kind of the entry's ``targetRef``, and the display name backwards
(``pkg/plugins/policies/core/rules/sort``): the last entry is the strongest. Most services of a mesh are meant by the
same entries, so terms are computed once for each sequence of entries and found again by it: an Entry is compared by
identity, and stays the same object for as long as its document does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from config.document import Path, format_path
from config.load import Document
from config.plan import Protocol
from config.policies.merge import leaves, merge
from config.policies.policy import ORIGIN_RANK, ROLE_RANK, Conf, Origin, Policy, Role, origin_of, role_of
from config.policies.target_ref import ProxyType, TargetKind, TargetRef
from config.resources.dataplane import SERVICE_TAG, Dataplane
from config.resources.meta import DISPLAY_NAME_LABEL, MESH_LABEL, NAMESPACE_LABEL, ZONE_LABEL, Meta

ANY_TAG_VALUE = "*"
MAX_TERMS_KEPT = 4096
"""What different services may be told while policies stay the same, before what nobody is told any more is dropped."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One item of a policy's ``to``, the ``index``-th."""

    document: Document
    policy: Policy
    index: int
    target: TargetRef
    conf: Conf

    def line_of(self, path: Path) -> int:
        """The line of a field below ``default``."""
        return self.document.line_of(format_path(("spec", "to", self.index, "default", *path)))


@dataclass(frozen=True, slots=True)
class Setting:
    """A field that policies set: ``path`` below ``default``, and the entry whose ``value`` is in force."""

    path: Path
    value: object
    entry: Entry


@dataclass(frozen=True)
class Terms:
    """What policies say of a service, by the kind of policy."""

    entries: tuple[Entry, ...] = ()
    confs: Mapping[str, Conf] = field(default_factory=dict)
    fields: dict[Protocol, dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)
    """What becomes of them in a plan, as far as ``apply`` was asked."""

    @cached_property
    def settings(self) -> list[Setting]:
        found: list[Setting] = []
        for kind, conf in self.confs.items():
            whose: dict[Path, Entry] = {}
            for entry in self.entries:
                if entry.policy.kind == kind:
                    whose |= dict.fromkeys((path for path, _ in leaves(entry.conf)), entry)
            found += [Setting(path, value, whose[path]) for path, value in leaves(conf)]
        return found


NO_TERMS = Terms()


class PolicyBook:
    def __init__(self) -> None:
        self._entries: dict[int, tuple[Document, tuple[Entry, ...]]] = {}
        self._last: Selection | None = None

    def selection(self, documents: Iterable[Document], dataplane: Dataplane) -> Selection:
        """``documents``: those that hold the good policies, of any mesh and for any proxy. The same object as before,
        unless what concerns the Dataplane has changed.
        """
        known, self._entries = self._entries, {}
        chosen: list[Entry] = []
        for document in documents:
            kept = known.get(id(document)) or (document, _entries(document))
            self._entries[id(document)] = kept
            policy = document.resource
            if isinstance(policy, Policy) and policy.mesh == dataplane.mesh and is_for(policy, dataplane):
                chosen += kept[1]
        last = self._last
        if last is None or last.mesh != dataplane.mesh or last.chosen != chosen or len(last.used) > MAX_TERMS_KEPT:
            last = self._last = Selection(dataplane.mesh, chosen, last.used if last is not None else {})
        return last


def _entries(document: Document) -> tuple[Entry, ...]:
    policy = document.resource
    assert isinstance(policy, Policy)
    return tuple(
        Entry(document, policy, index, entry.target_ref, entry.default) for index, entry in enumerate(policy.entries)
    )


class Selection:
    """The entries for one Dataplane, which is of ``mesh``."""

    def __init__(self, mesh: str, entries: list[Entry], known: Mapping[tuple[Entry, ...], Terms]) -> None:
        self.mesh = mesh
        self.chosen = entries
        self._known = known
        self.used: dict[tuple[Entry, ...], Terms] = {}
        self._rank: dict[Entry, int] = {}
        self._always: list[Entry] = []
        self._by_name: dict[str, list[Entry]] = {}
        self._by_label: dict[str, dict[str, list[Entry]]] = {}
        for rank, entry in enumerate(in_order(entries)):
            self._rank[entry] = rank
            self._file(entry)

    def _file(self, entry: Entry) -> None:
        target = entry.target
        if target.kind == TargetKind.MESH:
            self._always.append(entry)
        elif target.kind == TargetKind.MESH_EXTERNAL_SERVICE:
            if target.name:
                self._by_name.setdefault(target.name, []).append(entry)
            elif target.labels:
                label, value = _rarest(target.labels)
                self._by_label.setdefault(label, {}).setdefault(value, []).append(entry)

    def terms(self, service: Meta) -> Terms:
        """For a service of the mesh."""
        own = self._own(service)
        entries = tuple(sorted([*self._always, *own], key=self._rank.__getitem__) if own else self._always)
        terms = self.used.get(entries)
        if terms is None:
            terms = self.used[entries] = self._known.get(entries) or _terms(entries)
        return terms

    def _own(self, service: Meta) -> list[Entry]:
        """Those that name the service, or labels of it."""
        found: list[Entry] = []
        if self._by_name:
            for name in {service.name, service.display_name}:
                found += (entry for entry in self._by_name.get(name, ()) if _is_in_namespace(entry, service))
        for label, by_value in self._by_label.items():
            value = service.label(label)
            if value in by_value:
                found += (entry for entry in by_value[value] if service.has_labels(entry.target.labels or {}))
        return found


def _terms(entries: tuple[Entry, ...]) -> Terms:
    by_kind: dict[str, list[Conf]] = {}
    for entry in entries:
        by_kind.setdefault(entry.policy.kind, []).append(entry.conf)
    return Terms(entries, {kind: merge(confs) for kind, confs in by_kind.items()})


_COMMON_LABELS = (MESH_LABEL, ZONE_LABEL, NAMESPACE_LABEL)


def _rarest(labels: Mapping[str, str]) -> tuple[str, str]:
    """The label under which an entry is filed: one that few services have."""
    return min(labels.items(), key=lambda item: (item[0] != DISPLAY_NAME_LABEL, item[0] in _COMMON_LABELS, item))


def _is_in_namespace(entry: Entry, service: Meta) -> bool:
    """A name is one of the policy's own namespace, unless it says which. Universal has no namespaces."""
    wanted = entry.target.namespace or entry.policy.meta.namespace
    return not wanted or not service.namespace or wanted == service.namespace


# Order


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Kuma's order, the strongest last. Reversing twice keeps the order of a policy's own entries."""
    by_key = sorted(entries, key=lambda entry: entry.document.key)
    by_name = sorted(reversed(by_key), key=lambda entry: entry.policy.meta.display_name)
    return sorted(reversed(by_name), key=_strength)


def _strength(entry: Entry) -> tuple[int, ...]:
    top, meta = entry.policy.target, entry.policy.meta
    is_dataplane = top.kind == TargetKind.DATAPLANE
    return (
        top.rank,
        is_dataplane and bool(top.name),
        is_dataplane and bool(top.section_name),
        ORIGIN_RANK[origin_of(meta)],
        ROLE_RANK[role_of(meta)],
        entry.target.rank,
    )


# Which policies are for a Dataplane


def is_for(policy: Policy, dataplane: Dataplane) -> bool:
    """Whether a policy of the Dataplane's mesh means it."""
    if policy.is_shadow or not _is_near(policy.meta, dataplane.meta):
        return False
    top = policy.target
    match top.kind:
        case TargetKind.MESH:
            return not top.proxy_types or _proxy_type(dataplane) in top.proxy_types
        case TargetKind.DATAPLANE:
            return _is_meant(top, policy.meta, dataplane.meta)
        case TargetKind.MESH_SUBSET:
            tags = top.tags or {}
            return _has_tags(dataplane, tags) and (not top.proxy_types or _proxy_type(dataplane) in top.proxy_types)
        case TargetKind.MESH_SERVICE | TargetKind.MESH_SERVICE_SUBSET:
            named = {SERVICE_TAG: top.name} if top.name else {}
            return bool(named) and _has_tags(dataplane, {**named, **(top.tags or {})})
    return False


def _is_near(policy: Meta, dataplane: Meta) -> bool:
    """Namespace and zone: who may speak for whom."""
    role = role_of(policy)
    if role in (Role.CONSUMER, Role.WORKLOAD_OWNER) and policy.namespace != dataplane.namespace:
        return False
    zone = policy.labels.get(ZONE_LABEL)
    is_foreign = origin_of(policy) is Origin.ZONE and zone is not None and zone != dataplane.zone
    return role is Role.PRODUCER or not is_foreign


def _is_meant(top: TargetRef, policy: Meta, dataplane: Meta) -> bool:
    if top.labels:
        return dataplane.has_labels(top.labels)
    namespace = top.namespace or (policy.namespace if top.name else "")
    if namespace and dataplane.namespace and namespace != dataplane.namespace:
        return False
    return not top.name or top.name in (dataplane.name, dataplane.display_name)


def _proxy_type(dataplane: Dataplane) -> ProxyType:
    return ProxyType.SIDECAR if dataplane.networking.gateway is None else ProxyType.GATEWAY


def _has_tags(dataplane: Dataplane, wanted: Mapping[str, str]) -> bool:
    """Whether some inbound, or the gateway, has all the tags. A Dataplane of Kuma 3 has labels in their place."""
    networking = dataplane.networking
    tagged = [inbound.tags for inbound in networking.inbound if inbound.tags]
    if networking.gateway is not None and networking.gateway.tags:
        tagged.append(networking.gateway.tags)
    if not tagged:
        return all(_fits(value, dataplane.meta.label(tag)) for tag, value in wanted.items())
    return any(all(_fits(value, tags.get(tag)) for tag, value in wanted.items()) for tags in tagged)


def _fits(wanted: str, given: str | None) -> bool:
    return given is not None and wanted in (ANY_TAG_VALUE, given)
