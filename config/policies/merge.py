"""Several configurations as one: RFC 7396 (JSON merge patch) over models.

Objects are merged field by field, everything else is replaced; the last one that sets a field wins. A ``null``, which
would remove a field in RFC 7396, cannot be in a valid policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from config.document import Path
from config.resources.shape import Node

N = TypeVar("N", bound=Node)


def merge(confs: Sequence[N]) -> N:
    """At least one configuration, the strongest at the end."""
    merged = confs[0]
    for conf in confs[1:]:
        merged = _patched(merged, conf)
    return merged


def _patched(base: N, patch: N) -> N:
    update: dict[str, object] = {}
    for name in patch.model_fields_set:
        old, new = getattr(base, name), getattr(patch, name)
        if isinstance(old, Node) and isinstance(new, Node) and name in base.model_fields_set:
            new = _patched(old, new)
        update[name] = new
    return base.model_copy(update=update)


def leaves(node: Node, at: Path = ()) -> Iterator[tuple[Path, object]]:
    """What a document sets: the path and value of each field that is no object, and of each empty object."""
    if at and not node.model_fields_set:
        yield at, {}
    fields = type(node).model_fields
    for name in fields:
        if name not in node.model_fields_set:
            continue
        value = getattr(node, name)
        path = (*at, fields[name].alias or name)
        if isinstance(value, Node):
            yield from leaves(value, path)
        else:
            yield path, value
