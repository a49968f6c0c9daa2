"""A listener on each virtual IP of the services that a Dataplane may reach, and the names that lead there.

Most services of a large mesh are the same in each plan: then their listeners are the very ones of the last plan, and
whoever compares the two plans sees so at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from config.draft import Draft
from config.load import Document, Key
from config.naming import ServiceStatus
from config.plan import Access, Direction, ListenerPlan, NamePlan
from config.planned import InForce
from config.policies.apply import request_headers_timeout_s
from config.problems import Severity
from config.resources.dataplane import BackendKind, ReachableBackend
from config.vips import Address


@dataclass(frozen=True, slots=True)
class Bindable:
    """A service with its virtual IPs and names."""

    document: Document
    in_force: InForce
    status: ServiceStatus

    def is_reachable(self, references: Iterable[ReachableBackend]) -> bool:
        """Whether one of the references of ``reachableBackends`` means the service."""
        service = self.in_force.service
        meta = service.meta
        for reference in references:
            if reference.kind is not BackendKind.MESH_EXTERNAL_SERVICE:
                continue
            if reference.port not in (None, 0, service.match.port):
                continue
            if reference.name:
                is_meant = reference.name in (meta.name, meta.display_name)
                is_meant = is_meant and reference.namespace in ("", meta.namespace)
            else:
                labels = meta.all_labels
                is_meant = all(labels.get(key) == value for key, value in reference.labels.items())
            if is_meant:
                return True
        return False


@dataclass(frozen=True, slots=True)
class _Bound:
    """The listeners of a service's virtual IPs, and what they were made of."""

    service: InForce
    vips: tuple[Address, ...]
    access: Access
    bind_to_port: bool
    listeners: tuple[ListenerPlan, ...]


class VipListeners:
    """Remembers those of the last plan."""

    def __init__(self) -> None:
        self._bound: dict[Key, _Bound] = {}

    def plan(self, draft: Draft, services: Iterable[Bindable], access: Access, *, bind_to_port: bool) -> None:
        """``bind_to_port``: the listeners have sockets of their own; else the kernel redirects to us what is theirs."""
        before, self._bound = self._bound, {}
        for one in services:
            key, cluster = one.document.key, one.in_force.plan
            if draft.clusters.get(cluster.name, cluster) is not cluster:
                message = f"two services have the identifier {cluster.name}: give one another display name"
                draft.problems.append(one.document.problem("name", message))
                continue
            bound = self._bound[key] = _bind(one, access, before.get(key), bind_to_port=bind_to_port)
            for listener in bound.listeners:
                taken = draft.listeners.get(listener.name)
                if taken is None:
                    draft.add(listener, cluster)
                elif taken.cluster != cluster.name:
                    message = f"an outbound of the Dataplane has the VIP {listener.bind}: no listener of its own"
                    draft.problems.append(one.document.problem("", message, Severity.WARNING))
            for hostname in one.status.hostnames:
                draft.names[hostname] = NamePlan(hostname, one.status.vips)


def _bind(one: Bindable, access: Access, before: _Bound | None, *, bind_to_port: bool) -> _Bound:
    """A listener for each virtual IP; the very ones of the last plan where nothing has changed."""
    service, vips = one.in_force, one.status.vips
    if (
        before is not None
        and before.service is service
        and before.vips == vips
        and before.access is access
        and before.bind_to_port is bind_to_port
    ):
        return before
    cluster, port = service.plan, service.service.match.port
    head_timeout_s = request_headers_timeout_s(service.terms)
    listeners = []
    for address in vips:
        listener = ListenerPlan(
            name=f"outbound_{address}_{port}",
            direction=Direction.OUTBOUND,
            address=address,
            port=port,
            protocol=cluster.protocol,
            cluster=cluster.name,
            access=access,
            bind_to_port=bind_to_port,
        )
        if head_timeout_s is not None:
            listener = replace(listener, request_headers_timeout_s=head_timeout_s)
        listeners.append(listener)
    return _Bound(service, vips, access, bind_to_port, tuple(listeners))
