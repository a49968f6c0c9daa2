"""What is said of names: addresses, answers, and why there is none. What speaks DNS itself (``proxy.lookup``,
``proxy.dnsquery``, ``proxy.dns``) is loaded when a name is first resolved or served: it takes 2 MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

Address = IPv4Address | IPv6Address
Nameserver = tuple[str, int]
Clock = Callable[[], float]


class Kind(StrEnum):
    """Why a name has no addresses."""

    NXDOMAIN = "nxdomain"
    NO_DATA = "no_data"
    TIMEOUT = "timeout"
    SERVFAIL = "servfail"
    """The server said that it cannot or will not answer, or cannot be reached."""
    MALFORMED = "malformed"
    """The name or the answer is not valid DNS."""

    @property
    def is_definite(self) -> bool:
        """The server answered, and the answer is no: another server would say the same."""
        return self in (Kind.NXDOMAIN, Kind.NO_DATA)


class ResolutionError(Exception):
    """A name did not resolve. ``message`` is one line for people."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Answer:
    """IPv4 before IPv6, each sorted; never empty. ``ttl_s`` lies between ``MIN_TTL_S`` and ``MAX_TTL_S`` of
    ``proxy.lookup``.
    """

    addresses: tuple[Address, ...]
    ttl_s: float
    source: Literal["hosts", "dns"]


def show(server: Nameserver) -> str:
    host, port = server
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def sort_addresses(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """IPv4 before IPv6, each in numeric order, without repetitions."""
    return tuple(sorted(set(addresses), key=lambda address: (address.version, int(address))))
