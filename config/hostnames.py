"""Which hostnames services get, by the HostnameGenerators of the set: Kuma's order, conditions and collisions.

Generators are asked in turn (those of the zone first, then the older, then by name), each for every service (the older
first, then by name). The first that claims a name within a mesh has it; whoever comes later is told of a collision,
except the very service that has it already. A template is rendered once for each generator and service, until either
changes.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from operator import is_
from typing import Generic, TypeVar

from config.gotemplate import TemplateError
from config.resources.hostnamegenerator import HostnameGenerator, default_generators
from config.resources.meta import DISPLAY_NAME_LABEL, NAMESPACE_LABEL, ORIGIN_LABEL, Meta
from config.resources.names import hostname_faults

SKIP_DEFAULTS_VARIABLE = "KUMA_DEFAULTS_SKIP_HOSTNAME_GENERATORS"

K = TypeVar("K", bound=Hashable)


class Reason(StrEnum):
    """Of the condition ``Generated``."""

    GENERATED = "Generated"
    TEMPLATE_ERROR = "TemplateError"
    COLLISION = "Collision"


@dataclass(frozen=True, slots=True)
class Generation:
    """What one generator had for one service: ``hostname``, or ``message``, which says why there is none."""

    generator: str
    """Its core name."""
    reason: Reason
    hostname: str = ""
    message: str = ""

    def address(self) -> dict[str, object]:
        """An entry of ``status.addresses``."""
        return {
            "hostname": self.hostname,
            "origin": "HostnameGenerator",
            "hostnameGeneratorRef": {"coreName": self.generator},
        }

    def status(self) -> dict[str, object]:
        """An entry of ``status.hostnameGenerators``."""
        return {
            "hostnameGeneratorRef": {"coreName": self.generator},
            "conditions": [
                {
                    "type": "Generated",
                    "status": "True" if self.reason is Reason.GENERATED else "False",
                    "reason": self.reason.value,
                    "message": self.message,
                }
            ],
        }


def age(moment: datetime | None) -> float:
    """For sorting: the older first, and last what does not say when it was created."""
    return moment.timestamp() if moment is not None else float("inf")


def seniority(meta: Meta) -> tuple[float, str]:
    """A key to sort by: the oldest first, and by name what is of one age."""
    return age(meta.creation_time), meta.name


def with_defaults(
    generators: Iterable[HostnameGenerator], taken: Iterable[str], environ: Mapping[str, str]
) -> tuple[HostnameGenerator, ...]:
    """The generators of the set and, unless switched off, Kuma's own whose names are not ``taken``, in the order in
    which they are asked.
    """
    given = sorted(generators, key=_order)
    if environ.get(SKIP_DEFAULTS_VARIABLE, "").lower() in ("true", "1", "t"):
        return tuple(given)
    names = frozenset(taken)
    own = [generator for generator in default_generators() if generator.meta.core_name not in names]
    # Kuma creates its own before anybody can create another: they are the oldest of their origin.
    return tuple(sorted([*own, *given], key=_origin_rank))


def _origin_rank(generator: HostnameGenerator) -> bool:
    return generator.meta.all_labels[ORIGIN_LABEL] != "zone"


def _order(generator: HostnameGenerator) -> tuple[bool, float, str]:
    meta = generator.meta
    return _origin_rank(generator), age(meta.creation_time), meta.core_name


class Hostnames(Generic[K]):
    """Generates again and again, and renders only what changed."""

    def __init__(self) -> None:
        self._generators: tuple[HostnameGenerator, ...] = ()
        self._rendered: dict[K, tuple[Meta, tuple[Generation, ...]]] = {}

    def generate(
        self, generators: Sequence[HostnameGenerator], services: Mapping[K, Meta]
    ) -> dict[K, tuple[Generation, ...]]:
        """For each service what the generators that select it had for it, sorted by the generators' names.

        ``generators`` come in the order in which they are asked (:func:`with_defaults`).
        """
        chosen = tuple(one for one in generators if one.selector.mesh_external_service and one.extension is None)
        rendered = self._rendered if self._is_same(chosen) else {}
        self._generators = chosen
        now: dict[K, tuple[Meta, tuple[Generation, ...]]] = {}
        for key, meta in services.items():
            known = rendered.get(key)
            now[key] = known if known is not None and known[0] is meta else (meta, _render_all(chosen, meta))
        self._rendered = now
        return _settle(chosen, now)

    def _is_same(self, chosen: Sequence[HostnameGenerator]) -> bool:
        """Whether these are the very generators of the last time, as they are while their files do not change."""
        return len(chosen) == len(self._generators) and all(map(is_, chosen, self._generators))


def _render_all(generators: Iterable[HostnameGenerator], meta: Meta) -> tuple[Generation, ...]:
    labels = meta.all_labels
    found = []
    for generator in generators:
        selector = generator.selector.mesh_external_service
        if selector is not None and selector.matches(labels):
            generation = _render(generator, meta, labels)
            if generation is not None:
                found.append(generation)
    return tuple(sorted(found, key=lambda one: one.generator))


def _render(generator: HostnameGenerator, meta: Meta, labels: Mapping[str, str]) -> Generation | None:
    """``None`` for a template that renders to nothing, which Kuma takes for a generator that does not select."""

    def label(key: str) -> str:
        if key not in labels:
            raise ValueError(f"label {key} not found")
        return labels[key]

    name = generator.meta.core_name
    fields = {
        "Name": meta.name,
        "DisplayName": labels[DISPLAY_NAME_LABEL],
        "Namespace": labels.get(NAMESPACE_LABEL, ""),
        "Mesh": meta.mesh,
        "Zone": meta.zone,
    }
    try:
        hostname = generator.compiled.render(fields, {"label": label})
    except TemplateError as exc:
        message = f"pre evaluation of template with parameters failed with error={json.dumps(str(exc))}"
        return Generation(name, Reason.TEMPLATE_ERROR, "", message)
    if not hostname:
        return None
    faults = hostname_faults(hostname)
    if faults:
        message = f"generated hostname {json.dumps(hostname)} is not a valid DNS name: {faults}"
        return Generation(name, Reason.TEMPLATE_ERROR, "", message)
    return Generation(name, Reason.GENERATED, hostname)


def _settle(
    generators: Sequence[HostnameGenerator], rendered: Mapping[K, tuple[Meta, tuple[Generation, ...]]]
) -> dict[K, tuple[Generation, ...]]:
    """Let every name go to the first that claims it."""
    contested = _contested(rendered)
    if not contested:
        return {key: generations for key, (_, generations) in rendered.items()}
    rank = {generator.meta.core_name: index for index, generator in enumerate(generators)}
    claims = sorted(
        (rank[one.generator], age(meta.creation_time), meta.core_name, position, key, one)
        for position, (key, (meta, generations)) in enumerate(rendered.items())
        for one in generations
        if (meta.mesh, one.hostname) in contested
    )
    owners: dict[tuple[str, str], K] = {}
    lost: set[tuple[K, str]] = set()
    for *_, key, one in claims:
        if owners.setdefault((rendered[key][0].mesh, one.hostname), key) != key:
            lost.add((key, one.generator))
    settled: dict[K, tuple[Generation, ...]] = {}
    for key, (meta, generations) in rendered.items():
        # Kuma names the loser itself here, and whoever looks for its text shall find it.
        message = f"Hostname collision with MeshExternalService: {meta.core_name}"
        settled[key] = tuple(
            Generation(one.generator, Reason.COLLISION, "", message) if (key, one.generator) in lost else one
            for one in generations
        )
    return settled


def _contested(rendered: Mapping[K, tuple[Meta, tuple[Generation, ...]]]) -> set[tuple[str, str]]:
    """The (mesh, hostname) pairs that more than one service claims."""
    claimants: dict[tuple[str, str], K] = {}
    contested = set()
    for key, (meta, generations) in rendered.items():
        for one in generations:
            if one.hostname and claimants.setdefault((meta.mesh, one.hostname), key) != key:
                contested.add((meta.mesh, one.hostname))
    return contested
