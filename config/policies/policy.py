"""What every policy has: a ``targetRef``, its entries for the traffic that a proxy sends (``to``), and its place among
the others. ``inbound`` adds the entries for traffic that a proxy receives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from config.document import Path, format_path
from config.policies.target_ref import WHOLE_MESH, TargetKind, TargetRef, target_ref_rules
from config.problems import Severity
from config.resources.meta import ORIGIN_LABEL, Meta, Resource
from config.resources.shape import Node, Omittable, Violation, warning

EFFECT_LABEL = "kuma.io/effect"
SHADOW = "shadow"
ROLE_LABEL = "kuma.io/policy-role"

NO_EFFECT = "has no effect in this version"


class Origin(StrEnum):
    """Where a policy was made; the later wins."""

    GLOBAL = "global"
    UNKNOWN = ""
    ZONE = "zone"


class Role(StrEnum):
    """On whose behalf a policy speaks; the later wins."""

    SYSTEM = "system"
    PRODUCER = "producer"
    CONSUMER = "consumer"
    WORKLOAD_OWNER = "workload-owner"


ORIGIN_RANK = {origin.value: rank for rank, origin in enumerate(Origin)}
ROLE_RANK = {role.value: rank for rank, role in enumerate(Role)}


def origin_of(meta: Meta) -> Origin:
    label = meta.labels.get(ORIGIN_LABEL, "")
    return Origin(label) if label in ORIGIN_RANK else Origin.UNKNOWN


def role_of(meta: Meta) -> Role:
    """Kuma labels what it stores; a document without the label is the system's, as on Universal."""
    label = meta.labels.get(ROLE_LABEL, "")
    return Role(label) if label in ROLE_RANK else Role.SYSTEM


class Conf(Node):
    """What an entry sets: the ``default`` of it."""

    def rules(self) -> Iterator[Violation]:
        """Paths start at the ``default``."""
        yield from ()


class ToEntry(Node):
    target_ref: TargetRef = Field(description="The services that are meant.")
    default: Conf


TOP_KINDS: Sequence[TargetKind] = (
    TargetKind.MESH,
    TargetKind.DATAPLANE,
    TargetKind.MESH_SUBSET,
    TargetKind.MESH_GATEWAY,
    TargetKind.MESH_SERVICE,
    TargetKind.MESH_SERVICE_SUBSET,
)
SERVICE_KINDS: Sequence[TargetKind] = (
    TargetKind.MESH,
    TargetKind.MESH_SERVICE,
    TargetKind.MESH_EXTERNAL_SERVICE,
    TargetKind.MESH_MULTI_ZONE_SERVICE,
)
_NOT_PROXIES = (TargetKind.MESH_GATEWAY, TargetKind.MESH_HTTP_ROUTE)


class Policy(Resource):
    """A policy with a list ``to``. ``no_effect`` names fields of its ``default`` that nothing reads yet: whoever sets
    one is told.
    """

    has_spec: ClassVar[bool] = True
    top_kinds: ClassVar[Sequence[TargetKind]] = TOP_KINDS
    to_kinds: ClassVar[Sequence[TargetKind]] = SERVICE_KINDS
    no_effect: ClassVar[Sequence[Path]] = ()
    conf_path: ClassVar[Path] = ()
    """What Kuma writes between ``default`` and a field in the paths of violations, though no document has it."""

    target_ref: Omittable[TargetRef] = Field(None, description="The proxies that are meant; all where it is absent.")

    @property
    def entries(self) -> Sequence[ToEntry]:
        return ()

    @property
    def target(self) -> TargetRef:
        return self.target_ref if self.target_ref is not None else WHOLE_MESH

    @property
    def is_shadow(self) -> bool:
        """Whether the policy is only to be looked at."""
        return self.meta.labels.get(EFFECT_LABEL) == SHADOW

    @property
    def is_inbound(self) -> bool:
        """Whether the policy is about traffic that the proxy receives."""
        return False

    def rules(self) -> Iterator[Violation]:
        if self.target_ref is not None:
            found = list(target_ref_rules(self.target_ref, self.top_kinds, inbound=self.is_inbound))
            yield from (violation.under(("targetRef",)) for violation in found)
            if not found and self.target_ref.kind in _NOT_PROXIES:
                text = f"{self.target_ref.kind} is not served by this version: the policy {NO_EFFECT}"
                yield warning(("targetRef", "kind"), text)
        yield from self.list_rules()
        for index, entry in enumerate(self.entries):
            yield from self._entry_rules(entry, ("to", index))
        if self.is_shadow:
            yield warning(("targetRef",) if self.target_ref is not None else (), "a shadow policy is not applied")

    def list_rules(self) -> Iterator[Violation]:
        """What is wrong with the lists together."""
        yield from ()

    def _entry_rules(self, entry: ToEntry, at: Path) -> Iterator[Violation]:
        found = list(target_ref_rules(entry.target_ref, self.to_kinds))
        yield from (violation.under((*at, "targetRef")) for violation in found)
        if not found and entry.target_ref.kind not in (TargetKind.MESH, TargetKind.MESH_EXTERNAL_SERVICE):
            text = f"{entry.target_ref.kind} is not served by this version: the entry {NO_EFFECT}"
            yield warning((*at, "targetRef", "kind"), text)
        for violation in self.conf_rules(entry):
            yield self._placed(violation, (*at, "default"))
        yield from no_effect_warnings(entry.default, self.no_effect, (*at, "default"))

    def conf_rules(self, entry: ToEntry) -> Iterator[Violation]:
        """What is wrong with an entry's ``default``, where paths start."""
        yield from entry.default.rules()

    def _placed(self, violation: Violation, at: Path) -> Violation:
        shown = None
        if self.conf_path and violation.severity is Severity.ERROR:
            shown = format_path(("spec", *at, *self.conf_path, *violation.path))
        return Violation((*at, *violation.path), violation.message, violation.severity, shown)


def no_effect_warnings(conf: Node, paths: Sequence[Path], at: Path) -> Iterator[Violation]:
    for path in paths:
        if is_set(conf, path):
            yield warning((*at, *path), NO_EFFECT)


def is_set(node: Node, path: Path) -> bool:
    """Whether the document has the field at ``path`` below the object ``node``."""
    current: object = node
    for step in path:
        if not isinstance(current, Node):
            return False
        fields = type(current).model_fields
        name = next((name for name in current.model_fields_set if (fields[name].alias or name) == step), None)
        if name is None:
            return False
        current = getattr(current, name)
    return True
