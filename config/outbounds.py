"""A Dataplane's outbounds: a listener for each, and which service its ``backendRef`` means.

A Dataplane may have thousands of references, and a mesh as many services. So services are found by name; which ones are
meant is worked out again only where the Dataplane, or the name of a service, is another
(:meth:`Outbounds.forget_names`); and what has not changed is the very listener of the last plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from config.draft import Draft
from config.hostnames import seniority
from config.load import Document, Key
from config.plan import HEADERS_TIMEOUT_S, Access, Direction, ListenerPlan
from config.planned import InForce
from config.policies.apply import request_headers_timeout_s
from config.problems import Severity
from config.resources.dataplane import BackendKind, BackendRef, Dataplane, Outbound


class Outbounds:
    """Remembers those of the last plan."""

    def __init__(self) -> None:
        self._listeners: dict[tuple[str, int], tuple[InForce, ListenerPlan]] = {}
        """By address and port, with what they lead to."""
        self._services: _Services | None = None
        self._meant: tuple[Dataplane, _Services, list[Key | None]] | None = None
        """Which services the outbounds of a Dataplane mean."""

    def forget_names(self) -> None:
        """A service was added, removed or named anew."""
        self._services = None

    def plan(
        self,
        draft: Draft,
        dataplane: Dataplane,
        access: Access,
        documents: Iterable[Document],
        on_terms: Callable[[Key], InForce],
    ) -> None:
        """``documents``: of all services that can run; ``on_terms``: such a service as it is to run."""
        if not dataplane.networking.outbound:
            return
        before, self._listeners = self._listeners, {}
        backends = self._backends(dataplane, documents)
        for index, (outbound, key) in enumerate(zip(dataplane.networking.outbound, backends, strict=True)):
            if key is None:
                if outbound.backend_ref is not None:  # else tags of the 2.x form: the loader has said so
                    why_not = _why_none(outbound.backend_ref, dataplane.mesh)
                    draft.object(f"networking.outbound[{index}].backendRef", f"{why_not}: skipped", Severity.WARNING)
                continue
            service, place = on_terms(key), (outbound.address, outbound.port)
            cluster, known = service.plan, before.get(place)
            if known is None or known[0] is not service or known[1].access is not access:
                known = service, _outbound(outbound, service, access, known[1] if known is not None else None)
            self._listeners[place] = known
            listener = known[1]
            if listener.name in draft.listeners:
                draft.object(f"networking.outbound[{index}]", f"{listener.bind} is already used by another outbound")
            elif draft.clusters.get(cluster.name, cluster) is not cluster:
                message = f"two services have the identifier {cluster.name}: give one another display name"
                draft.object(f"networking.outbound[{index}].backendRef", message)
            else:
                draft.add(listener, cluster)

    def _backends(self, dataplane: Dataplane, documents: Iterable[Document]) -> list[Key | None]:
        """Which service each outbound means."""
        services = self._services
        if services is None or services.mesh != dataplane.mesh:
            services = self._services = _Services(dataplane.mesh, documents)
        if self._meant is None or self._meant[0] is not dataplane or self._meant[1] is not services:
            references = (outbound.backend_ref for outbound in dataplane.networking.outbound)
            found = [services.meant(one) if one is not None else None for one in references]
            self._meant = dataplane, services, found
        return self._meant[2]


class _Services:
    """The services of one mesh, by name. It looks at nothing but their metas, and holds for as long as these do."""

    def __init__(self, mesh: str, documents: Iterable[Document]) -> None:
        self.mesh = mesh
        self._all = [document for document in documents if document.mesh == mesh]
        self._by_name: dict[str, list[Document]] = {}
        for document in self._all:
            meta = document.meta
            for name in {meta.name, meta.display_name}:
                self._by_name.setdefault(name, []).append(document)

    def meant(self, reference: BackendRef) -> Key | None:
        """The service that a backendRef means, by name or by labels; the oldest of several."""
        if reference.kind is not BackendKind.MESH_EXTERNAL_SERVICE:
            return None
        name = reference.name
        matches = self._by_name.get(name, ()) if name else self._labelled(reference.labels)
        return min(matches, key=lambda one: seniority(one.meta)).key if matches else None

    def _labelled(self, labels: Mapping[str, str]) -> list[Document]:
        """Those that have all of ``labels``, the ones that Kuma computes included; no labels, no service."""
        return [document for document in self._all if labels and document.meta.has_labels(labels)]


def _why_none(reference: BackendRef, mesh: str) -> str:
    if reference.kind is not BackendKind.MESH_EXTERNAL_SERVICE:
        return f"kind {reference.kind} is not served by this version"
    wanted = reference.name or ", ".join(f"{k}={v}" for k, v in reference.labels.items())
    return f'no usable MeshExternalService "{wanted}" in mesh "{mesh}"'


def _outbound(outbound: Outbound, service: InForce, access: Access, before: ListenerPlan | None) -> ListenerPlan:
    """Its listener; ``before`` itself where nothing has changed."""
    cluster, head_timeout_s = service.plan, request_headers_timeout_s(service.terms)
    if head_timeout_s is None:
        head_timeout_s = HEADERS_TIMEOUT_S
    terms = (cluster.protocol, cluster.name, access, head_timeout_s)
    if before is not None and terms == (
        before.protocol, before.cluster, before.access, before.request_headers_timeout_s
    ):  # fmt: skip
        return before
    return ListenerPlan(
        name=f"outbound_{outbound.address}_{outbound.port}",
        direction=Direction.OUTBOUND,
        address=ip_address(outbound.address),
        port=outbound.port,
        protocol=cluster.protocol,
        cluster=cluster.name,
        access=access,
        request_headers_timeout_s=head_timeout_s,
    )
