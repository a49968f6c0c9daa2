"""``spec.extension`` of a MeshExternalService, as far as planning sees it: is the type installed, does its ``config``
suit it, and what has it supplied? Who runs extensions is the proxy's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from config.load import Key


@dataclass(frozen=True, slots=True)
class Supply:
    """The part of a service's ``spec`` that its extension owns, in the words of the resource. It may hold keys: it is
    never shown.
    """

    endpoints: Sequence[Mapping[str, Any]] = field(repr=False)
    tls: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Supplied:
    """``supply``: the last that came, if any did. ``fault``: what went wrong since."""

    supply: Supply | None = None
    fault: str | None = None


NOTHING = Supplied()


class Extensions(Protocol):
    """The installed extensions. What they are asked here takes a bounded time, and never raises."""

    def check(self, type: str, config: Any) -> Sequence[str] | None:
        """What is wrong with ``spec.extension.config``; ``None``: there is no such extension."""

    def supplied(self, key: Key) -> Supplied:
        """For the service of this key. The same object as long as nothing changes."""


class NoExtensions:
    """Where none is installed."""

    def check(self, type: str, config: Any) -> Sequence[str] | None:
        return None

    def supplied(self, key: Key) -> Supplied:
        return NOTHING
