"""Transparent proxying: the kernel leads the connections of an application, and those to it, to one port of ours each.

What comes in at such a port belongs to the listener with the address that it was meant for, which has no socket of its
own (``bind_to_port``). Where no listener has the address it is passed through, if it may.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from config.draft import Draft
from config.plan import ClusterPlan, Direction, ListenerPlan, Protocol
from config.resources.dataplane import IpFamilyMode, TransparentProxying
from config.resources.shape import is_port
from config.vips import Address

SOURCES: Mapping[int, Address] = {4: ip_address("127.0.0.6"), 6: ip_address("::6")}
"""By IP version: whence connections go to a workload whose inbound connections the kernel redirects. Kuma's rules let
those from here pass, and lead any other to an address of the machine back to the proxy.
"""


def plan_redirect(
    draft: Draft, transparent: TransparentProxying, direction: Direction, *, passes_through: bool
) -> None:
    """Where the kernel redirects connections to: Kuma's listener and cluster of passthrough."""
    is_inbound = direction is Direction.INBOUND
    port = transparent.redirect_port_inbound if is_inbound else transparent.redirect_port_outbound
    if not is_port(port):
        field = f"networking.transparentProxying.redirectPort{direction.capitalize()}"
        draft.object(field, "port must be in the range [1, 65535]")
        return
    families = [("ipv4", "0.0.0.0")]
    if transparent.ip_family_mode is not IpFamilyMode.IPV4:
        families.append(("ipv6", "::"))
    for family, address in families:
        name = f"self_transparentproxy_passthrough_{direction}_{family}"
        listener = ListenerPlan(
            name, direction, ip_address(address), port, Protocol.TCP, name if passes_through else "",
            original_dst=True,
        )  # fmt: skip
        draft.listeners[name] = listener
        if passes_through:
            source = SOURCES[listener.address.version] if is_inbound else None
            draft.clusters[name] = ClusterPlan(name, draft.mesh, "passthrough", Protocol.TCP, (), source=source)
