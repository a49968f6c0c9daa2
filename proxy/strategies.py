"""Which endpoint next, where it is not simply the next one: chosen by chance, by load, or by what the request has.

Priorities, ejections, trials and panic are those of :class:`Balancer`; each class here chooses among the endpoints of
one priority that may be used.

    RANDOM          any
    LEAST_REQUEST   the one with the fewest requests of some taken at random, the first of equals
    RING_HASH       each endpoint has many places on a ring of hashes; the first at or behind the request's hash
    MAGLEV          each endpoint fills its share of a table, in an order of its own; the request's hash is the index

Ring and table are Envoy's, entry by entry (``ring_hash_lb.cc``, ``maglev_lb.cc``), so that both send a request to the
same endpoint. They hold all endpoints of a priority, and are made anew only when these change; one that may not be used
is passed over, and its requests are spread over the others, while those of the others stay where they are. A request
without a hash goes anywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from random import Random

from config.plan import ClusterPlan, EjectionPlan, LoadBalancer, Protocol
from proxy.balance import Balancer, Endpoint
from proxy.xxh64 import xxh64

MAX_RING_SIZE = 65_536
"""Entries: what a policy may ask for beyond takes too long to fill."""
MAX_TABLE_SIZE = 65_537


class _Choosing(Balancer, ABC):
    """Chooses among all that may be used."""

    def __init__(self, endpoints: Iterable[Endpoint], rules: EjectionPlan, chance: Random) -> None:
        self._chance = chance
        super().__init__(endpoints, rules)

    def pick(self, now: float, tried: Collection[Endpoint] = (), key: int | None = None) -> Endpoint | None:
        for level in self._levels:
            usable = [endpoint for endpoint in level if endpoint.ejected_until <= now and endpoint not in tried]
            if usable:
                endpoint = usable[0] if len(usable) == 1 else self._choose(usable, key)
                self._lend(endpoint, now)
                return endpoint
        return self._panic(tried)

    @abstractmethod
    def _choose(self, usable: Sequence[Endpoint], key: int | None) -> Endpoint:
        """Of at least two, all of one priority."""


class RandomChoice(_Choosing):
    def _choose(self, usable: Sequence[Endpoint], key: int | None) -> Endpoint:
        return self._chance.choice(usable)


class LeastRequest(_Choosing):
    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        rules: EjectionPlan,
        chance: Random,
        choices: int,
        load_of: Callable[[Endpoint], int],
    ) -> None:
        self._choices = choices
        self._load_of = load_of
        super().__init__(endpoints, rules, chance)

    def _choose(self, usable: Sequence[Endpoint], key: int | None) -> Endpoint:
        return min(self._chance.choices(usable, k=self._choices), key=self._load_of)


@dataclass(frozen=True, slots=True)
class _Table:
    """``places`` are the hashes of the ``owners`` on a ring, in their order; a table of Maglev has none."""

    members: list[Endpoint]
    places: list[int]
    owners: list[Endpoint]


class _Hashing(_Choosing):
    """Keeps a table for each priority, and finds where in it to begin; from there on the first that may be used."""

    is_sticky = True

    def __init__(self, endpoints: Iterable[Endpoint], rules: EjectionPlan, chance: Random) -> None:
        self._tables: dict[int, _Table] = {}
        super().__init__(endpoints, rules, chance)

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        super().update(endpoints)
        before, self._tables = self._tables, {}
        for level in self._levels:
            priority = level[0].priority
            members = sorted(level, key=attrgetter("where"))
            known = before.get(priority)
            is_same = known is not None and known.members == members
            self._tables[priority] = known if known is not None and is_same else _Table(members, *self._fill(members))

    def _choose(self, usable: Sequence[Endpoint], key: int | None) -> Endpoint:
        if key is None:
            return self._chance.choice(usable)
        table = self._tables[usable[0].priority]
        owners = table.owners
        size = len(owners)
        start = bisect_left(table.places, key) if table.places else key
        for at in range(start, start + size):
            endpoint = owners[at % size]
            if endpoint in usable:
                return endpoint
        return usable[0]  # there are more endpoints than entries

    @abstractmethod
    def _fill(self, members: Sequence[Endpoint]) -> tuple[list[int], list[Endpoint]]:
        """The places and the owners of a table for ``members``, which are not empty."""


class RingHash(_Hashing):
    """``min_size`` entries at least, the same number for each endpoint, and ``max_size`` at most."""

    def __init__(
        self, endpoints: Iterable[Endpoint], rules: EjectionPlan, chance: Random, min_size: int, max_size: int
    ) -> None:
        self._max_size = min(max_size, MAX_RING_SIZE)
        self._min_size = min(min_size, self._max_size)
        super().__init__(endpoints, rules, chance)

    def _fill(self, members: Sequence[Endpoint]) -> tuple[list[int], list[Endpoint]]:
        count = len(members)
        copies = max(1, min(-(-self._min_size // count), self._max_size // count))
        ring = [
            (xxh64(f"{endpoint.where}_{copy}".encode()), index)
            for index, endpoint in enumerate(members)
            for copy in range(copies)
        ]
        ring.sort()
        return [place for place, _ in ring], [members[index] for _, index in ring]


class Maglev(_Hashing):
    """``size``: entries of the table, a prime number."""

    def __init__(self, endpoints: Iterable[Endpoint], rules: EjectionPlan, chance: Random, size: int) -> None:
        self._size = min(size, MAX_TABLE_SIZE)
        super().__init__(endpoints, rules, chance)

    def _fill(self, members: Sequence[Endpoint]) -> tuple[list[int], list[Endpoint]]:
        size = self._size
        names = [endpoint.where.encode() for endpoint in members]
        at = [xxh64(name) % size for name in names]
        skips = [xxh64(name, 1) % (size - 1) + 1 for name in names]
        table: list[Endpoint | None] = [None] * size
        for entry in range(size):
            index = entry % len(members)
            place, skip = at[index], skips[index]
            while table[place] is not None:
                place = (place + skip) % size
            table[place] = members[index]
            at[index] = place
        return [], [owner for owner in table if owner is not None]


def balancer_for(plan: ClusterPlan, chance: Random, endpoints: Iterable[Endpoint] = ()) -> Balancer:
    """As the plan wants it, with ``endpoints`` as they are."""
    rules = plan.ejection
    match plan.load_balancer:
        case LoadBalancer.RANDOM:
            return RandomChoice(endpoints, rules, chance)
        case LoadBalancer.LEAST_REQUEST:
            load_of = attrgetter("cx_active" if plan.protocol is Protocol.TCP else "rq_active")
            return LeastRequest(endpoints, rules, chance, plan.least_request_choices, load_of)
        case LoadBalancer.RING_HASH:
            return RingHash(endpoints, rules, chance, *plan.ring_sizes)
        case LoadBalancer.MAGLEV:
            return Maglev(endpoints, rules, chance, plan.maglev_table_size)
        case LoadBalancer.ROUND_ROBIN:
            return Balancer(endpoints, rules)


def is_balanced_alike(one: ClusterPlan, other: ClusterPlan) -> bool:
    """Whether a balancer for the one does for the other."""
    return _terms(one) == _terms(other)


def _terms(plan: ClusterPlan) -> tuple[object, ...]:
    is_tcp = plan.protocol is Protocol.TCP
    return plan.load_balancer, is_tcp, plan.least_request_choices, plan.ring_sizes, plan.maglev_table_size
