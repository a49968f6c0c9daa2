"""Guarantee: each way to choose an endpoint spreads as it promises, keeps what it promises to keep when endpoints come
and go, and leaves priorities, ejections and trials to the balancer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import pytest

from config.plan import ClusterPlan, EjectionPlan, LoadBalancer, Protocol
from proxy import strategies
from proxy.balance import Balancer, Endpoint
from proxy.strategies import MAX_RING_SIZE, MAX_TABLE_SIZE, STEPS_PER_SLICE, Maglev, RingHash, balancer_for
from proxy.xxh64 import xxh64
from tests.proxy.test_balance import endpoint

PLAN = ClusterPlan("c", "m", "s", Protocol.HTTP, (), maglev_table_size=1009)
OTHERS = [kind for kind in LoadBalancer if kind is not LoadBalancer.ROUND_ROBIN]
STICKY = [LoadBalancer.RING_HASH, LoadBalancer.MAGLEV]


def balancer(kind: LoadBalancer, *endpoints: Endpoint, **more: Any) -> Balancer:
    return built(balancer_for(replace(PLAN, load_balancer=kind, **more), Random(7), endpoints))


def built(one: Balancer) -> Balancer:
    """With all work done that an update has left."""
    while one.build():
        assert one.is_building
    assert not one.is_building
    return one


def keys(count: int) -> list[int]:
    return [xxh64(b"key %d" % number) for number in range(count)]


@pytest.mark.parametrize(
    ("data", "seed", "expected"),
    [
        (b"", 0, 0xEF46DB3751D8E999),
        (b"a", 0, 0xD24EC4F1A98C6E5B),
        (b"as", 0, 0x1C330FB2D66BE179),
        (b"asd", 0, 0x631C37CE72A97393),
        (b"asdf", 0, 0x415872F599CEA71E),
        (b"Call me Ishmael. Some years ago--never mind how long precisely-", 0, 0x02A2E85470D6FD96),
        (b"", 0xAE0543DFC725E8, 0),
    ],
)
def test_xxh64(data: bytes, seed: int, expected: int) -> None:
    if expected:
        assert xxh64(data, seed) == expected
    else:
        assert xxh64(data, seed) != xxh64(data)


@pytest.mark.parametrize("kind", LoadBalancer)
def test_what_all_have_in_common(kind: LoadBalancer) -> None:
    one = balancer(kind)
    assert one.pick(0.0) is None
    best, best_too, spare = endpoint(1), endpoint(2), endpoint(3, 1)
    one.update([spare, best, best_too])
    everything = {one.pick(0.0, (), key) for key in keys(50)}
    assert everything == {best, best_too}, "the better priority"
    assert {one.pick(0.0, (best,), key) for key in keys(20)} == {best_too}
    assert one.pick(0.0, (best, best_too)) is spare
    assert one.pick(0.0, (best, best_too, spare)) is None
    for _ in range(3):
        one.failed(best, 0.0)
    assert {one.pick(0.5, (), key) for key in keys(20)} == {best_too}
    assert one.pick(1.0, (best_too, spare)) is best, "its trial"
    assert {one.pick(1.0, (), key) for key in keys(20)} == {best_too}
    one.succeeded(best, 1.1)
    assert {one.pick(1.1, (), key) for key in keys(50)} == {best, best_too}
    for victim, _ in product((best, best_too, spare), range(3)):
        one.failed(victim, 2.0)
    assert one.pick(2.5) is not None, "panic"


@pytest.mark.parametrize("kind", LoadBalancer)
def test_another_is_preferred_where_one_is_available(kind: LoadBalancer) -> None:
    a, b = endpoint(1), endpoint(2)
    one = balancer(kind, a, b)
    assert {one.pick_other(0.0, (a,), key) for key in keys(20)} == {b}
    assert one.pick_other(0.0, (a, b), 1) in (a, b)
    for _ in range(3):
        one.failed(b, 0.0)
    assert one.pick_other(0.5, (a,), 1) is a, "not one that is ejected"


def test_random_is_even() -> None:
    one = balancer(LoadBalancer.RANDOM, *(endpoint(n) for n in range(4)))
    counts = Counter(one.pick(0.0) for _ in range(4000))
    assert all(850 < count < 1150 for count in counts.values())
    assert len(counts) == 4


@pytest.mark.parametrize(("protocol", "load"), [(Protocol.HTTP, "rq_active"), (Protocol.TCP, "cx_active")])
def test_the_least_loaded_of_some(protocol: Protocol, load: str) -> None:
    endpoints = [endpoint(n) for n in range(10)]
    plan = replace(PLAN, protocol=protocol, load_balancer=LoadBalancer.LEAST_REQUEST)
    one = balancer_for(plan, Random(7), endpoints)
    for _ in range(1000):
        picked = one.pick(0.0)
        setattr(picked, load, getattr(picked, load) + 1)
    loads = [getattr(it, load) for it in endpoints]
    assert sum(loads) == 1000
    assert max(loads) - min(loads) <= 6, "two choices keep it close"
    setattr(endpoints[0], load, 10_000)
    many = balancer_for(replace(plan, least_request_choices=50), Random(7), endpoints)
    assert endpoints[0] not in {many.pick(0.0) for _ in range(200)}


@pytest.mark.parametrize("kind", STICKY)
def test_the_same_key_stays_and_keys_are_spread(kind: LoadBalancer) -> None:
    endpoints = [endpoint(n) for n in range(5)]
    one = balancer(kind, *endpoints)
    other = balancer(kind, *reversed(endpoints))
    first = {key: one.pick(0.0, (), key) for key in keys(2000)}
    assert all(one.pick(1.0, (), key) is it for key, it in first.items())
    assert all(other.pick(0.0, (), key) is it for key, it in first.items()), "whatever their order"
    counts = Counter(first.values())
    assert len(counts) == 5
    assert all(280 < count < 540 for count in counts.values())


@pytest.mark.parametrize("kind", STICKY)
def test_without_a_key_any_will_do(kind: LoadBalancer) -> None:
    one = balancer(kind, *(endpoint(n) for n in range(3)))
    assert len({one.pick(0.0) for _ in range(50)}) == 3


@pytest.mark.parametrize(("kind", "most"), [(LoadBalancer.RING_HASH, 0.2), (LoadBalancer.MAGLEV, 0.1)])
def test_few_keys_move_when_endpoints_go_or_come(kind: LoadBalancer, most: float) -> None:
    """With fewer endpoints each has more entries of a ring, as in Envoy: so some move there, too."""
    endpoints = [endpoint(n) for n in range(5)]
    one = balancer(kind, *endpoints)
    first = {key: one.pick(0.0, (), key) for key in keys(2000)}
    gone = endpoints[2]
    one.update(it for it in endpoints if it is not gone)
    moved = [key for key, it in first.items() if it is not gone and one.pick(0.0, (), key) is not it]
    assert len(moved) <= most * 2000
    one.update(endpoints)
    assert sum(one.pick(0.0, (), key) is not it for key, it in first.items() if it is not gone) == 0
    assert len({one.pick(0.0, (), key) for key, it in first.items() if it is gone}) == 1, "it has its own back"


@pytest.mark.parametrize("kind", STICKY)
def test_keys_of_an_endpoint_that_is_ejected_are_spread_and_come_back(kind: LoadBalancer) -> None:
    endpoints = [endpoint(n) for n in range(4)]
    one = balancer(kind, *endpoints)
    first = {key: one.pick(0.0, (), key) for key in keys(1000)}
    victim = endpoints[0]
    for _ in range(3):
        one.failed(victim, 0.0)
    then = {key: one.pick(0.5, (), key) for key in first}
    assert all(then[key] is it for key, it in first.items() if it is not victim)
    assert len({then[key] for key, it in first.items() if it is victim}) == 3
    one.succeeded(victim, 0.6)
    assert all(one.pick(0.6, (), key) is it for key, it in first.items())


def test_a_ring_is_envoys() -> None:
    """E.g. 3 endpoints have 342 entries each, and the first at or behind the hash is chosen."""
    endpoints = [endpoint(n) for n in range(3)]
    ring = balancer(LoadBalancer.RING_HASH, *endpoints)
    assert isinstance(ring, RingHash)
    table = ring._tables[0]
    assert Counter(table.owners) == dict.fromkeys(endpoints, 342)
    assert table.places == sorted(table.places)
    for number in (0, 17, 341):
        place = xxh64(f"192.0.2.1:443_{number}".encode())
        assert ring.pick(0.0, (), place) is endpoints[1]
    last = table.places[-1]
    assert ring.pick(0.0, (), last + 1) is table.owners[0], "round"


def test_a_table_is_maglevs() -> None:
    """The paper's own example, by its law: each in turn takes the first free place of its permutation."""
    endpoints = [endpoint(n) for n in range(3)]
    maglev = balancer(LoadBalancer.MAGLEV, *endpoints, maglev_table_size=7)
    assert isinstance(maglev, Maglev)
    expected: dict[int, Endpoint] = {}
    orders = []
    for it in endpoints:
        name = it.where.encode()
        offset, skip = xxh64(name) % 7, xxh64(name, 1) % 6 + 1
        orders.append([(offset + step * skip) % 7 for step in range(7)])
    while len(expected) < 7:
        for it, order in zip(endpoints, orders, strict=True):
            if len(expected) < 7:
                expected[next(place for place in order if place not in expected)] = it
    assert maglev._tables[0].owners == [expected[place] for place in range(7)]
    assert [maglev.pick(0.0, (), 7 * 1000 + place) for place in range(7)] == maglev._tables[0].owners


def test_sizes_are_bounded() -> None:
    many = [endpoint(n) for n in range(3)]
    ring = balancer(LoadBalancer.RING_HASH, *many, ring_sizes=(8_000_000, 8_000_000))
    assert isinstance(ring, RingHash)
    assert MAX_RING_SIZE - 3 < len(ring._tables[0].owners) <= MAX_RING_SIZE
    small = balancer(LoadBalancer.RING_HASH, *many, ring_sizes=(2, 2))
    assert isinstance(small, RingHash)
    assert len(small._tables[0].owners) == 3, "one for each"
    assert {small.pick(0.0, (), key) for key in keys(100)} == set(many)
    assert Maglev((), EjectionPlan(), Random(1), 5_000_011)._size == MAX_TABLE_SIZE
    tiny = balancer(LoadBalancer.MAGLEV, *many, maglev_table_size=2)
    assert len({tiny.pick(0.0, (), key) for key in keys(100)}) == 2
    assert tiny.pick(0.0, tuple(many[:2]), 5) is many[2], "who has no entry is found all the same"


def test_a_table_is_kept_while_its_endpoints_stay() -> None:
    a, b, spare = endpoint(1), endpoint(2), endpoint(3, 1)
    ring = balancer(LoadBalancer.RING_HASH, a, b, spare)
    assert isinstance(ring, RingHash)
    first = ring._tables[0]
    ring.update([endpoint(4, 1), endpoint(2), endpoint(1)])
    assert ring._tables[0] is first


LARGE: dict[str, Any] = {"maglev_table_size": 8209, "ring_sizes": (2048, 2048)}
"""Not done in a slice."""


@pytest.mark.parametrize("kind", STICKY)
def test_while_a_table_is_filled_that_of_before_serves(kind: LoadBalancer) -> None:
    a, b, c, new = (endpoint(n) for n in range(4))
    one, asked = balancer(kind, a, b, c, **LARGE), keys(60)
    before = {key: one.pick(0.0, (), key) for key in asked}
    one.update([a, b, new])
    assert one.is_building
    meanwhile = {key: one.pick(0.0, (), key) for key in asked}
    assert all(it is before[key] for key, it in meanwhile.items() if before[key] is not c)
    assert set(meanwhile.values()) == {a, b}, "what has gone is passed over"
    expected = balancer(kind, a, b, new, **LARGE)
    built(one)
    after = {key: one.pick(0.0, (), key) for key in asked}
    assert after == {key: expected.pick(0.0, (), key) for key in asked}, "no other table than at once"
    assert new in after.values()


@pytest.mark.parametrize("kind", STICKY)
@pytest.mark.parametrize("usable", ["new", "gone"])
def test_where_no_table_can_serve_one_is_finished_at_once(kind: LoadBalancer, usable: str) -> None:
    """Else a request would move a moment later."""
    a, b, c, d = (endpoint(n) for n in range(4))
    one, asked = balancer(kind, *((a, b) if usable == "gone" else ()), **LARGE), keys(20)
    one.update([c, d])
    assert one.is_building
    first = {key: one.pick(0.0, (), key) for key in asked}
    assert not one.is_building
    assert {key: one.pick(0.0, (), key) for key in asked} == first
    assert set(first.values()) == {c, d}


@pytest.mark.parametrize("kind", STICKY)
def test_an_update_throws_away_what_was_begun(kind: LoadBalancer) -> None:
    a, b, c = (endpoint(n) for n in range(3))
    one, asked = balancer(kind, a, b, **LARGE), keys(60)
    before = {key: one.pick(0.0, (), key) for key in asked}
    one.update([a, b, c])
    one.update([a, b])
    assert not one.is_building, "the table of these is there"
    assert {key: one.pick(0.0, (), key) for key in asked} == before


@pytest.mark.parametrize("count", [1, 3, 200])
def test_a_table_is_filled_in_slices(count: int) -> None:
    """Of bounded work, the search for a free place included: near the end it takes thousands of steps for one entry."""
    endpoints = [endpoint(n) for n in range(count)]
    size = LARGE["maglev_table_size"]
    steps, table = 0, Counter[int]()
    names = sorted(it.where for it in endpoints)
    at = [xxh64(name.encode()) % size for name in names]
    skips = [xxh64(name.encode(), 1) % (size - 1) + 1 for name in names]
    for entry in range(size):
        one = entry % count
        while table[at[one]]:
            at[one] = (at[one] + skips[one]) % size
            steps += 1
        table[at[one]] = 1
    assert slices_of(LoadBalancer.MAGLEV, endpoints) > steps // STEPS_PER_SLICE + size // 1024


@pytest.mark.parametrize("kind", STICKY)
@pytest.mark.parametrize("count", [1, 200])
def test_a_slice_has_so_many_hashes(kind: LoadBalancer, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = 0

    def counting(data: bytes, seed: int = 0) -> int:
        nonlocal hashed
        hashed += 1
        return xxh64(data, seed)

    monkeypatch.setattr(strategies, "xxh64", counting)
    slices = slices_of(kind, [endpoint(n) for n in range(count)])
    assert hashed <= slices * STEPS_PER_SLICE // 64


def slices_of(kind: LoadBalancer, endpoints: list[Endpoint]) -> int:
    one = balancer_for(replace(PLAN, load_balancer=kind, **LARGE), Random(7), endpoints)
    return 1 + sum(1 for _ in iter(one.build, False)) + 1


@pytest.mark.parametrize("kind", OTHERS)
def test_who_changes_the_way_keeps_the_endpoints(kind: LoadBalancer) -> None:
    a, b = endpoint(1), endpoint(2)
    before = Balancer([a, b])
    for _ in range(3):
        before.failed(a, 0.0)
    after = balancer(kind, *before)
    assert list(after) == [a, b]
    assert {after.pick(0.5, (), key) for key in keys(20)} == {b}


# Responses that are errors


def rules(**more: int) -> EjectionPlan:
    return EjectionPlan(failures=0, **more)


def test_errors_in_a_row_eject() -> None:
    a, b = endpoint(1), endpoint(2)
    one = Balancer([a, b], rules(server_errors=3))
    assert one.judges_responses
    assert [one.answered(a, status, 0.0) for status in (500, 503, 200, 500, 599)] == [False] * 5
    assert one.answered(a, 500, 0.0)
    assert one.pick(0.5) is b
    assert not one.answered(a, 500, 0.5), "once"


def test_only_gateway_errors_in_a_row_eject_where_those_are_meant() -> None:
    a, b = endpoint(1), endpoint(2)
    one = Balancer([a, b], rules(gateway_errors=2))
    assert [one.answered(a, status, 0.0) for status in (502, 500, 503, 501, 504)] == [False] * 5
    assert one.answered(a, 502, 0.0)


def test_a_connection_forgives_no_response_and_a_response_forgives_all() -> None:
    a, b = endpoint(1), endpoint(2)
    one = Balancer([a, b], EjectionPlan(server_errors=2))
    one.failed(a, 0.0)
    for _ in range(2):
        one.answered(a, 500, 0.0)
    one.succeeded(a, 0.1)
    assert a.ejected_until > 0.1
    assert one.pick(1.0, (b,)) is a
    assert a.on_trial
    assert not one.answered(a, 404, 1.1)
    assert (a.ejections, a.ejected_until <= 1.1, a.consecutive_server_errors) == (0, True, 0)


def test_no_more_than_a_share_is_ejected_but_one() -> None:
    endpoints = [endpoint(n) for n in range(4)]
    one = Balancer(endpoints, EjectionPlan(failures=1, max_percent=10))
    assert [one.failed(it, 0.0) for it in endpoints] == [True, False, False, False]
    half = Balancer([endpoint(n) for n in range(4)], EjectionPlan(failures=1, max_percent=50))
    assert [half.failed(it, 0.0) for it in half] == [True, True, False, False]


def test_times_are_those_of_the_rules() -> None:
    a, b = endpoint(1), endpoint(2)
    one = Balancer([a, b], EjectionPlan(failures=1, first_s=30.0, longest_s=100.0))
    now, durations = 0.0, []
    for _ in range(3):
        one.failed(a, now)
        durations.append(a.ejected_until - now)
        now = a.ejected_until
        assert one.pick(now, (b,)) is a
    assert durations == [30.0, 60.0, 100.0]
