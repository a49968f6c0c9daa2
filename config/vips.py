"""Which virtual IP a service has: derived from what the service is called, so that machines agree without talking.

The address is a hash of (mesh, namespace, name) into the CIDR. Where it is taken, the hash is drawn again, a few times,
then the next free address counts. So two machines that see the same services agree on every address, with one
exception: of two services whose hashes meet, each machine keeps the first that it met; machines that meet both at once
take the older (``creationTime``), then the one whose name sorts first. ``status.vip.ip`` decides beforehand.

Nothing moves: whoever has an address keeps it, across restarts too where the leases are kept (``config.vipstate``).
An address whose service has gone rests for a day (``REST_S``), since a resolver or an application may still have it in
a cache; until then only its own service gets it back. When no address is left, it is the newcomers that have none.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import chain
from typing import NamedTuple, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

CIDR_VARIABLE = "KUMA_IPAM_MESH_EXTERNAL_SERVICE_CIDR"
DEFAULT_CIDR = "242.0.0.0/8"
REST_S = 86_400.0
"""How long an address whose service has gone is kept from others: longer than any sane cache of a DNS answer."""
MAX_RESTING = 65_536
"""Addresses of services that have gone. Beyond it, those that rested longest may be given away."""
MAX_DRAWS = 64
"""Of the hash. After so many collisions the pool is nearly full, and its addresses are looked through in order."""
MAX_SCANNED = 1 << 24
"""Addresses that are looked at in order for a free one: all of an IPv4 CIDR of Kuma's size."""

TAKEN_BY_THE_MACHINE = frozenset(
    map(IPv4Address, ("127.0.0.1", "127.0.0.6", "127.0.0.53", "127.0.0.54", "127.0.1.1")),
)
"""In 127.0.0.0/8: the host itself, Kuma's source of passthrough, systemd-resolved (two), Debian's name for the host."""


class Owner(NamedTuple):
    """Who has an address: what makes a MeshExternalService unique."""

    mesh: str
    name: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A service that wants its addresses. ``created``: epoch seconds, infinite where unknown."""

    owner: Owner
    created: float = float("inf")
    wanted: Address | None = None
    """``status.vip.ip``"""


@dataclass(frozen=True, slots=True)
class Lease:
    """An address and whose it is. ``released``: epoch seconds at which its service was seen to have gone."""

    owner: Owner
    address: Address
    released: float | None = None


@dataclass(frozen=True, slots=True)
class Assigned:
    """IPv4 before IPv6 in each tuple. ``faults``: why an owner lacks an address, or has another than it wanted."""

    addresses: Mapping[Owner, tuple[Address, ...]]
    faults: Mapping[Owner, tuple[Fault, ...]]


@dataclass(frozen=True, slots=True)
class Fault:
    field: str
    message: str
    is_error: bool


def parse_pools(text: str) -> tuple[Network, ...]:
    """One CIDR, or one of each family with a comma between them; IPv4 comes first. Raises ``ValueError``."""
    pools: list[Network] = []
    for part in text.split(","):
        try:
            pools.append(ip_network(part.strip(), strict=False))
        except ValueError:
            raise ValueError(f'.MeshExternalServiceCIDR is invalid: "{part.strip()}" is not a CIDR') from None
    if len({pool.version for pool in pools}) != len(pools):
        raise ValueError(".MeshExternalServiceCIDR is invalid: at most one CIDR of each IP version")
    return tuple(sorted(pools, key=lambda pool: pool.version))


def pools_from(environ: Mapping[str, str]) -> tuple[Network, ...]:
    """Raises ``ValueError``."""
    return parse_pools(environ.get(CIDR_VARIABLE) or DEFAULT_CIDR)


def usable_wish(text: object) -> Address | None:
    """``status.vip.ip`` as an address, ``None`` where it is none to which anybody could connect. Raises ``ValueError``
    for what is no address at all.
    """
    address = ip_address(str(text))
    return None if address.is_unspecified or address.is_multicast else address


def _seniority(claim: Claim) -> tuple[float, Owner]:
    return claim.created, claim.owner


class Ledger:
    """Who has which address. Bounded by the services there are, and ``MAX_RESTING``."""

    def __init__(self, pools: Iterable[Network], leases: Iterable[Lease] = ()) -> None:
        self._pools = tuple(_Pool(network) for network in pools)
        self._leases: dict[Address, Lease] = {}
        self._held: dict[tuple[Owner, int], Address] = {}
        self._addresses: dict[Owner, tuple[Address, ...]] = {}
        self._foreign: set[Address] = set()
        """Those that lie in no pool."""
        self.changed = False
        """Since this was last set to false."""
        for lease in sorted(leases, key=lambda lease: lease.released is not None):
            if lease.address in self._leases:
                continue
            if (lease.owner, lease.address.version) not in self._held:
                self._put(lease)
            elif lease.released is not None:
                self._let_rest(lease)
        self.changed = False

    @property
    def leases(self) -> list[Lease]:
        return sorted(self._leases.values(), key=lambda lease: (lease.owner, lease.address.version))

    def assign(
        self,
        claims: Iterable[Claim],
        now_s: float,
        *,
        also_there: Iterable[Owner] = (),
        others_are_gone: bool = True,
    ) -> Assigned:
        """Give every claim its addresses. ``now_s``: epoch seconds. Of those that claim none now, ``also_there`` keep
        what they have, and the others have gone, unless ``others_are_gone`` is false: a file could not be read.
        """
        present = {claim.owner: claim for claim in claims}
        self._release({*present, *also_there}, now_s, others_are_gone=others_are_gone)
        faults: dict[Owner, tuple[Fault, ...]] = {}
        wishes = sorted((claim for claim in present.values() if claim.wanted is not None), key=_seniority)
        granted = {claim.owner for claim in wishes if self._grant_wish(claim, now_s, faults)}
        self._leave_foreign_pools(granted)
        held = self._held
        for pool in self._pools:
            newcomers = [claim for claim in present.values() if (claim.owner, pool.version) not in held]
            for claim in sorted(newcomers, key=_seniority):
                self._draw(pool, claim.owner, faults)
        return Assigned({owner: self._all_of(owner) for owner in present}, faults)

    def _all_of(self, owner: Owner) -> tuple[Address, ...]:
        found = self._addresses.get(owner)
        if found is None:
            each = (self._held.get((owner, version)) for version in (4, 6))
            found = self._addresses[owner] = tuple(address for address in each if address is not None)
        return found

    def _put(self, lease: Lease) -> None:
        """A new lease, or the same with another state."""
        if lease.address not in self._leases:
            self._count(lease.address, 1)
            self._addresses.pop(lease.owner, None)
            if not any(lease.address in pool.network for pool in self._pools):
                self._foreign.add(lease.address)
        self._leases[lease.address] = lease
        self._held[lease.owner, lease.address.version] = lease.address
        self.changed = True

    def _let_rest(self, lease: Lease) -> None:
        """What an owner had before its present address."""
        if lease.address not in self._leases:
            self._count(lease.address, 1)
        self._leases[lease.address] = lease
        self.changed = True

    def _is_current(self, lease: Lease) -> bool:
        return self._held.get((lease.owner, lease.address.version)) == lease.address

    def _drop(self, lease: Lease) -> None:
        if self._is_current(lease):
            del self._held[lease.owner, lease.address.version]
        del self._leases[lease.address]
        self._count(lease.address, -1)
        self._addresses.pop(lease.owner, None)
        self._foreign.discard(lease.address)
        self.changed = True

    def _count(self, address: Address, change: int) -> None:
        for pool in self._pools:
            if pool.has(address):
                pool.used += change

    def _release(self, present: set[Owner], now_s: float, *, others_are_gone: bool) -> None:
        resting: list[tuple[float, Lease]] = []
        for lease in tuple(self._leases.values()):
            if lease.owner in present and self._is_current(lease):
                if lease.released is not None:
                    self._put(replace(lease, released=None))
            elif lease.released is None:
                if others_are_gone:
                    lease = replace(lease, released=now_s)
                    self._put(lease)
                    resting.append((now_s, lease))
            elif lease.released + REST_S <= now_s:
                self._drop(lease)
            else:
                resting.append((lease.released, lease))
        if len(resting) > MAX_RESTING:
            resting.sort(key=lambda pair: pair[0])
            for _, lease in resting[: len(resting) - MAX_RESTING]:
                self._drop(lease)

    def _grant_wish(self, claim: Claim, now_s: float, faults: dict[Owner, tuple[Fault, ...]]) -> bool:
        """Whether the claim has the address that its status names."""
        wanted = claim.wanted
        assert wanted is not None
        holder = self._leases.get(wanted)
        if holder is not None and self._is_current(holder) and holder.owner == claim.owner:
            return True
        if holder is not None and holder.released is None:
            whose = f'MeshExternalService "{holder.owner.name}" in mesh "{holder.owner.mesh}"'
            message = f"{wanted} is the VIP of {whose}: this one gets another"
            faults[claim.owner] = (Fault("status.vip.ip", message, is_error=False),)
            return False
        if holder is not None:
            self._drop(holder)
        before = self._held.pop((claim.owner, wanted.version), None)
        if before is not None:
            self._let_rest(replace(self._leases[before], released=now_s))
        self._put(Lease(claim.owner, wanted))
        return True

    def _leave_foreign_pools(self, granted: Container[Owner]) -> None:
        """Addresses that the CIDR no longer holds are given up, unless a status names them."""
        for address in tuple(self._foreign):
            lease = self._leases[address]
            if lease.owner not in granted and lease.released is None:
                self._drop(lease)

    def _draw(self, pool: _Pool, owner: Owner, faults: dict[Owner, tuple[Fault, ...]]) -> None:
        if pool.used < pool.size:
            for address in pool.candidates(owner):
                if address not in self._leases:
                    self._put(Lease(owner, address))
                    return
        resting = sum(lease.released is not None for lease in self._leases.values())
        rest = f" ({resting} rest, since their services went less than a day ago)" if resting else ""
        message = f"could not allocate vip for MeshExternalService {owner.name}: No addresses left in {pool}{rest}"
        faults[owner] = (*faults.get(owner, ()), Fault("", message, is_error=True))


class _Pool:
    """The addresses of a CIDR that services may have: without the first and the last, which IPv4 gives a meaning (the
    first of IPv6 is the routers'), and without those that the machine itself uses.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.version = network.version
        has_ends = network.num_addresses > 2
        self._first = int(network.network_address) + has_ends
        self._count = network.num_addresses - 2 * has_ends
        self._not_ours = {int(address) for address in TAKEN_BY_THE_MACHINE if address in network}
        self.size = self._count - sum(self._first <= one < self._first + self._count for one in self._not_ours)
        self.used = 0

    def has(self, address: Address) -> bool:
        """Whether the address is one of those that services may have."""
        value = int(address)
        return (
            address.version == self.version and 0 <= value - self._first < self._count and value not in self._not_ours
        )

    def __str__(self) -> str:
        return str(self.network)

    def candidates(self, owner: Owner) -> Iterator[Address]:
        """The addresses that the owner may have, the one it should have first."""
        identity = "\0".join((owner.mesh, owner.namespace, owner.name)).encode()
        draws = (int.from_bytes(sha256(identity + b"\0%d" % number).digest()) for number in range(MAX_DRAWS))
        offsets = chain((draw % self._count for draw in draws), range(min(self._count, MAX_SCANNED)))
        make = IPv4Address if self.version == 4 else IPv6Address
        for offset in offsets:
            value = self._first + offset
            if value not in self._not_ours:
                yield make(value)
