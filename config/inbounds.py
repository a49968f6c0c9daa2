"""A Dataplane's inbounds: for each a listener, and a cluster with one endpoint, the application.

They fail closed: an inbound that cannot have the mTLS that is asked for is not opened, and what the kernel redirects to
us and no inbound takes is then not passed through either.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from config.draft import Draft
from config.plan import ClusterPlan, Direction, EndpointPlan, IpTarget, ListenerPlan
from config.problems import Severity
from config.redirect import SOURCES, plan_redirect
from config.resources.dataplane import Dataplane, Inbound, Networking, State
from config.resources.names import is_ip
from config.trust import InboundTerms
from tls.material import MaterialError


def plan_inbounds(draft: Draft, dataplane: Dataplane, terms: InboundTerms) -> None:
    networking = dataplane.networking
    transparent, is_redirected = networking.transparent_proxying, networking.is_inbound_redirected
    passes_through = terms.lets_undeclared_pass
    for index, inbound in enumerate(networking.inbound):
        field = f"networking.inbound[{index}]"
        bind = inbound.bind_address(networking)
        is_own = inbound.workload(networking) == (bind, inbound.port)
        if inbound.state is State.IGNORED or (is_own and not is_redirected):
            continue  # the application's own port; the loader has said so
        if not is_ip(bind):
            message = f'"{bind}" is a name: give the inbound an IP address to listen on'
            draft.object(f"{field}.address", message, Severity.WARNING)
            continue
        try:
            acceptance, refusal = terms.acceptance(inbound), terms.refusal
        except MaterialError as error:
            acceptance, refusal = None, error.message
        if refusal is not None:
            message = f"the inbound is not opened: {refusal}, and plaintext would not be what you asked for"
            draft.object(field, message, Severity.WARNING)
            passes_through = False
            continue
        listener, cluster = _inbound(dataplane, inbound, networking, is_redirected=is_redirected)
        if listener.name in draft.listeners:
            message = f'"{inbound.section}" is already the name of another inbound: give it one of its own'
            draft.object(field, message)
            continue
        if acceptance is None:
            draft.object(field, f"{listener.bind} accepts plaintext: {terms.warning}", Severity.WARNING)
        else:
            listener = replace(listener, acceptance=acceptance, permissions=terms.permissions(inbound))
        draft.add(listener, cluster)
    if is_redirected:
        assert transparent is not None
        plan_redirect(draft, transparent, Direction.INBOUND, passes_through=passes_through)


def _inbound(
    dataplane: Dataplane, inbound: Inbound, networking: Networking, *, is_redirected: bool
) -> tuple[ListenerPlan, ClusterPlan]:
    """A port of the application's, as Kuma names it; the time-outs are Kuma's for inbounds without a policy."""
    name = f"self_inbound_dp_{inbound.section}"
    protocol = inbound.plan_protocol
    text, port = inbound.workload(networking)
    address = ip_address(text)
    target, source = IpTarget(address, port), None
    if is_redirected and not address.is_loopback:
        source = SOURCES[address.version]
    probe = inbound.service_probe.plan(target) if inbound.service_probe is not None else None
    if probe is not None and source is not None:
        probe = replace(probe, source=source)
    listener = ListenerPlan(
        name, Direction.INBOUND, ip_address(inbound.bind_address(networking)), inbound.port, protocol, name,
        probe=probe, bind_to_port=not is_redirected,
    )  # fmt: skip
    cluster = ClusterPlan(
        name=name,
        mesh=dataplane.mesh,
        service=dataplane.name,
        protocol=protocol,
        endpoints=(EndpointPlan(target),),
        connect_timeout_s=10.0,
        idle_timeout_s=7200.0,
        source=source,
    )
    return listener, cluster
