"""What the Meshes of the set say of external services.

A Mesh that could be read, now or before, counts as it was read last. One that never could counts as forbidding: what it
might have forbidden is not known. Where there is none, Kuma's defaults hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from config.load import Document, Key
from config.plan import Access
from config.resources.mesh import Mesh, Routing


class Meshes:
    def __init__(self, good: Iterable[Document], present: Collection[Key]) -> None:
        """``good``: what could be read, now or before; ``present``: what is in the set."""
        self._good: dict[str, Mesh] = {}
        for document in good:
            if isinstance(document.resource, Mesh):
                self._good.setdefault(document.name, document.resource)
        self._present = present

    def routing(self, mesh: str) -> Routing:
        found = self._good.get(mesh)
        return found.routing if found is not None else Routing()

    def access(self, mesh: str) -> Access:
        """What the Mesh allows; without one, Kuma's default, which is to allow."""
        found = self._good.get(mesh)
        if found is not None:
            return Access.FORBID if found.routing.default_forbid_mes_access else Access.ALLOW
        return Access.FORBID if self._is_unreadable(mesh) else Access.ALLOW

    def passes_through(self, mesh: str) -> bool:
        """Whether connections to destinations that are no service may leave: ``networking.outbound.passthrough``."""
        found = self._good.get(mesh)
        if found is not None:
            outbound = (found.networking or {}).get("outbound")
            return not isinstance(outbound, dict) or outbound.get("passthrough", True) is not False
        return not self._is_unreadable(mesh)

    def _is_unreadable(self, mesh: str) -> bool:
        """Whether there is a Mesh of which not even an earlier version could be read."""
        return any(key[0] == Mesh.kind and key[2] == mesh for key in self._present)
