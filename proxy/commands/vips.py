"""``koguma vips``: make the VIPs' CIDR local to this machine, by one route in its ``local`` table.

    up       ip route add local CIDR dev lo proto 75
    down     takes that route away, and no other: it is known by its protocol number
    status   whether connections to the CIDR stay on this machine

A CIDR inside 127.0.0.0/8 is local already and needs nothing.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from config.vips import CIDR_VARIABLE, Network
from proxy.exits import EXIT_CANNOT_START, EXIT_INVALID, EXIT_OK

PROTOCOL = 75
"""Marks the routes that are ours. The numbers from 5 to 255 are for whoever routes (rtnetlink(7)); none is known to
use this one."""
TABLE_LOCAL = 255
TYPE_LOCAL = 2
IFF_UP = 1
MIN_PREFIX = 8
FAMILIES = {4: 2, 6: 10}


class Failed(Exception):
    """The route could not be changed; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class LocalRoute:
    network: Network
    protocol: int


class Routes:
    """The ``local`` table of this network namespace, by netlink. Raises :class:`Failed`."""

    def __init__(self, netlink: Any) -> None:
        self._netlink = netlink
        found = netlink.link_lookup(ifname="lo")
        if not found:
            raise Failed("this network namespace has no loopback interface lo")
        self._loopback = found[0]

    def covering(self, network: Network) -> LocalRoute | None:
        """The route that makes the whole network local; an exact one first."""
        routes = sorted(self._all(network.version), key=lambda route: -route.network.prefixlen)
        return next((route for route in routes if _is_within(network, route.network)), None)

    def add(self, network: Network) -> None:
        if network.prefixlen < MIN_PREFIX:
            raise Failed(f"{network} is too large: this machine would reach nothing else; a /{MIN_PREFIX} at most")
        if not self._netlink.get_links(self._loopback)[0]["flags"] & IFF_UP:
            raise Failed("the loopback interface is down: run `ip link set lo up` first")
        self._change("add", network)

    def remove(self, network: Network) -> None:
        self._change("del", network)

    def _all(self, version: int) -> list[LocalRoute]:
        found = []
        for route in self._netlink.get_routes(family=FAMILIES[version], table=TABLE_LOCAL):
            destination = route.get_attr("RTA_DST")
            if destination is not None and route["type"] == TYPE_LOCAL:
                found.append(LocalRoute(ip_network((destination, route["dst_len"])), route["proto"]))
        return found

    def _change(self, command: str, network: Network) -> None:
        scope = {"scope": "host"} if network.version == 4 else {}
        try:
            self._netlink.route(
                command,
                dst=str(network),
                family=FAMILIES[network.version],
                table=TABLE_LOCAL,
                type="local",
                oif=self._loopback,
                proto=PROTOCOL,
                **scope,
            )
        except NetlinkError as exc:
            raise Failed(_why(exc.code, network)) from exc


def vips(action: str, pools: Sequence[Network]) -> int:
    """``action``: ``up``, ``down`` or ``status``. The exit code of ``status`` is 1 where a pool is not local."""
    actions: dict[str, Callable[[Routes, Network], int]] = {"up": _up, "down": _down, "status": _status}
    try:
        with IPRoute() as netlink:
            routes = Routes(netlink)
            return max([actions[action](routes, pool) for pool in pools])
    except Failed as exc:
        print(f"koguma: {exc}", file=sys.stderr)
    except OSError as exc:
        print(f"koguma: no netlink socket: {exc.strerror or exc}", file=sys.stderr)
    return EXIT_CANNOT_START


def _up(routes: Routes, network: Network) -> int:
    route = routes.covering(network)
    if route is None:
        routes.add(network)
        print(f"{network} is local now")
    else:
        print(f"{network} is local already: {_describe(route)}")
    return EXIT_OK


def _down(routes: Routes, network: Network) -> int:
    route = routes.covering(network)
    if route is None:
        print(f"{network} is not local")
    elif route.network == network and route.protocol == PROTOCOL:
        routes.remove(network)
        print(f"{network} is no longer local")
    else:
        print(f"{network} stays local: {_describe(route)}, which is not ours")
    return EXIT_OK


def _status(routes: Routes, network: Network) -> int:
    route = routes.covering(network)
    if route is None:
        print(f"{network} is not local: `koguma vips up` makes it so")
        return EXIT_INVALID
    print(f"{network} is local: {_describe(route)}")
    return EXIT_OK


def _describe(route: LocalRoute) -> str:
    owner = "set by koguma" if route.protocol == PROTOCOL else f"protocol {route.protocol}"
    return f"route {route.network} ({owner})"


def _is_within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _why(code: int, network: Network) -> str:
    if code in (errno.EPERM, errno.EACCES):
        return (
            f"no permission to make {network} local: that needs CAP_NET_ADMIN in this network namespace "
            "(run this once as root, or in a container with --cap-add NET_ADMIN); "
            f"VIPs inside 127.0.0.0/8 need no privilege: set {CIDR_VARIABLE}=127.242.0.0/16"
        )
    return f"cannot change the route to {network}: {errno.errorcode.get(code, str(code))}"
