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

To fill a large one takes 0.1 s and more, in which nothing else would run. So :meth:`Balancer.update` does a slice of
that work, and whoever owns the balancer calls :meth:`Balancer.build` for the others, one in each turn of the loop.
Meanwhile requests go by the table of before, which knows no new endpoint, and passes over those that have gone. Where
there is none, the first request that needs one has it finished at once: its place must not change a moment later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from random import Random

from config.plan import ClusterPlan, EjectionPlan, LoadBalancer, Protocol
from proxy.balance import Balancer, Endpoint
from proxy.xxh64 import xxh64

MAX_RING_SIZE = 65_536
"""Entries: what a policy may ask for beyond takes too long to fill."""
MAX_TABLE_SIZE = 65_537

STEPS_PER_SLICE = 8192
"""About a millisecond."""
_STEPS_PER_HASH = 64
_STEPS_PER_ENTRY = 8

_Slices = Generator[None, None, tuple[list[int], list[Endpoint]]]
_BUCKETS = 256
"""Parts of a ring that are put in order one by one."""


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

    members: frozenset[Endpoint]
    places: list[int]
    owners: list[Endpoint]


class _Hashing(_Choosing):
    """Keeps a table for each priority, and finds where in it to begin; from there on the first that may be used."""

    is_sticky = True

    def __init__(self, endpoints: Iterable[Endpoint], rules: EjectionPlan, chance: Random) -> None:
        self._tables: dict[int, _Table] = {}
        self._rest: Generator[None] | None = None
        super().__init__(endpoints, rules, chance)

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        super().update(endpoints)
        levels = {level[0].priority: frozenset(level) for level in self._levels}
        self._tables = {priority: table for priority, table in self._tables.items() if priority in levels}
        self._rest = self._fill_tables(levels)  # what was begun for other endpoints is thrown away
        self.build()

    @property
    def is_building(self) -> bool:
        return self._rest is not None

    def build(self) -> bool:
        if self._rest is not None and next(self._rest, self) is self:
            self._rest = None
        return self._rest is not None

    def _fill_tables(self, levels: dict[int, frozenset[Endpoint]]) -> Generator[None]:
        """A slice each time; the tables that are the same stay."""
        for priority, members in levels.items():
            known = self._tables.get(priority)
            if known is None or known.members != members:
                places, owners = yield from self._fill(sorted(members, key=attrgetter("where")))
                self._tables[priority] = _Table(members, places, owners)

    def _choose(self, usable: Sequence[Endpoint], key: int | None) -> Endpoint:
        if key is None:
            return self._chance.choice(usable)
        priority = usable[0].priority
        table = self._tables.get(priority)
        if table is None or table.members.isdisjoint(usable):
            while self.build():
                pass
            table = self._tables[priority]
        owners = table.owners
        size = len(owners)
        start = bisect_left(table.places, key) if table.places else key
        for at in range(start, start + size):
            endpoint = owners[at % size]
            if endpoint in usable:
                return endpoint
        return usable[0]  # there are more endpoints than entries

    @abstractmethod
    def _fill(self, members: Sequence[Endpoint]) -> _Slices:
        """Returns the places and the owners of a table for ``members``, which are not empty. Yields after each
        ``STEPS_PER_SLICE``.
        """


class RingHash(_Hashing):
    """``min_size`` entries at least, the same number for each endpoint, and ``max_size`` at most."""

    def __init__(
        self, endpoints: Iterable[Endpoint], rules: EjectionPlan, chance: Random, min_size: int, max_size: int
    ) -> None:
        self._max_size = min(max_size, MAX_RING_SIZE)
        self._min_size = min(min_size, self._max_size)
        super().__init__(endpoints, rules, chance)

    def _fill(self, members: Sequence[Endpoint]) -> _Slices:
        count = len(members)
        copies = max(1, min(-(-self._min_size // count), self._max_size // count))
        buckets: list[list[int]] = [[] for _ in range(_BUCKETS)]
        left = STEPS_PER_SLICE
        for index, endpoint in enumerate(members):
            for copy in range(copies):
                place = xxh64(f"{endpoint.where}_{copy}".encode())
                # Numbers, as so many tuples would have the garbage collector look through everything.
                buckets[place * _BUCKETS >> 64].append(place * count + index)
                left -= _STEPS_PER_HASH
                if left <= 0:
                    left = STEPS_PER_SLICE
                    yield
        places: list[int] = []
        owners: list[Endpoint] = []
        for bucket in buckets:
            bucket.sort()
            places += [entry // count for entry in bucket]
            owners += [members[entry % count] for entry in bucket]
            left -= len(bucket) * _STEPS_PER_ENTRY
            if left <= 0:
                left = STEPS_PER_SLICE
                yield
        return places, owners


class Maglev(_Hashing):
    """``size``: entries of the table, a prime number."""

    def __init__(self, endpoints: Iterable[Endpoint], rules: EjectionPlan, chance: Random, size: int) -> None:
        self._size = min(size, MAX_TABLE_SIZE)
        super().__init__(endpoints, rules, chance)

    def _fill(self, members: Sequence[Endpoint]) -> _Slices:
        size, count = self._size, len(members)
        at: list[int] = []
        skips: list[int] = []
        left = STEPS_PER_SLICE
        for endpoint in members:
            name = endpoint.where.encode()
            at.append(xxh64(name) % size)
            skips.append(xxh64(name, 1) % (size - 1) + 1)
            left -= 2 * _STEPS_PER_HASH
            if left <= 0:
                left = STEPS_PER_SLICE
                yield
        table: list[Endpoint | None] = [None] * size
        for entry in range(size):
            index = entry % count
            place, skip = at[index], skips[index]
            while table[place] is not None:
                place = (place + skip) % size
            table[place] = members[index]
            at[index] = place
            # The search takes so many steps in the mean, and ``size`` at most: to count them takes as long.
            left -= _STEPS_PER_ENTRY + size // (size - entry)
            if left <= 0:
                left = STEPS_PER_SLICE
                yield
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
