"""A plan as the difference to the one before.

A plan of 10,000 services has megabytes; a reload commonly changes one of them. So a worker is sent what is new or
other, in stages of bounded size, then what is gone. What did not change is the same object before and after, also in
the worker, whose runtime then passes over it without comparing.

    old --compare--> stages, difference --compose(old)--> new

No field of a plan is named here: what maps names to parts is compared by the part, anything else as a whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from config.plan import ClusterPlan, Plan, ProxyIdentity

NOTHING = Plan(ProxyIdentity("", ""))
"""What a worker runs when it begins."""

STAGE_PARTS = 256
"""Parts of one stage. They share what they have in common, such as a CA bundle."""

SHARED_LIMITS = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
"""Limits of a service that hold for all workers together."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Parts of a plan to come: of its field ``field``, by name."""

    field: str
    parts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Difference:
    """``removed``: names, by field; ``others``: fields that are no mapping, where they changed."""

    removed: Mapping[str, frozenset[str]]
    others: Mapping[str, object]


def compare(old: Plan, new: Plan, workers: int) -> tuple[list[Stage], Difference]:
    """From ``old`` to what each of ``workers`` is to run of ``new``."""
    stages: list[Stage] = []
    removed: dict[str, frozenset[str]] = {}
    others: dict[str, object] = {}
    for field in dataclasses.fields(Plan):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if not isinstance(after, Mapping):
            if before != after:
                others[field.name] = after
            continue
        changed = (
            (name, share(part, workers))
            for name, part in after.items()
            if (was := before.get(name)) is not part and was != part
        )
        stages += (Stage(field.name, parts) for parts in _batches(changed))
        if gone := frozenset(before.keys() - after.keys()):
            removed[field.name] = gone
    return stages, Difference(removed, others)


def compose(old: Plan, stages: list[Stage], difference: Difference) -> Plan:
    """The inverse of :func:`compare`."""
    fields = dict(difference.others)
    for field in {stage.field for stage in stages} | difference.removed.keys():
        gone = difference.removed.get(field, frozenset())
        parts = {name: part for name, part in getattr(old, field).items() if name not in gone}
        for stage in stages:
            if stage.field == field:
                parts.update(stage.parts)
        fields[field] = parts
    return dataclasses.replace(old, **fields)  # type: ignore[arg-type]


def share(part: object, workers: int) -> object:
    """A worker's share of a part: limits that hold for all workers together are divided, and rounded up."""
    if not isinstance(part, ClusterPlan):
        return part
    limits = {name: -(-getattr(part, name) // workers) for name in SHARED_LIMITS}
    return dataclasses.replace(part, **limits)


def _batches(parts: Iterator[tuple[str, object]]) -> Iterator[dict[str, object]]:
    while batch := dict(islice(parts, STAGE_PARTS)):
        yield batch
