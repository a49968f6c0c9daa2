"""Guarantee: machines agree on virtual IPs without talking, nothing moves, and nobody inherits an address that somebody
may still have in a cache.
"""

from __future__ import annotations

import json
import os
import random
from ipaddress import IPv4Address, ip_address, ip_network
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import vips, vipstate
from config.vips import REST_S, TAKEN_BY_THE_MACHINE, Assigned, Claim, Lease, Ledger, Owner, parse_pools

WIDE = parse_pools("242.0.0.0/8")
NARROW = parse_pools("127.9.0.0/28")
"""14 addresses: collisions are the rule."""


def owner(name: str) -> Owner:
    return Owner("default", name)


def claims(*names: str) -> list[Claim]:
    return [Claim(owner(name)) for name in names]


def names(count: int) -> list[str]:
    return [f"s{number}" for number in range(count)]


def of(assigned: Assigned, name: str) -> str:
    (address,) = assigned.addresses[owner(name)]
    return str(address)


def all_of(assigned: Assigned) -> dict[str, str]:
    return {one.name: str(found[0]) for one, found in assigned.addresses.items() if found}


def restarted(ledger: Ledger, directory: Path, pools: str = "127.9.0.0/28") -> Ledger:
    vipstate.save(directory, ledger.leases)
    return Ledger(parse_pools(pools), vipstate.load(directory))


# Derivation


def test_the_addresses_of_today_are_those_of_tomorrow() -> None:
    """A change of the derivation would move every fleet: these are for ever."""
    assigned = Ledger(WIDE).assign(
        [
            Claim(Owner("default", "httpbin")),
            Claim(Owner("default", "httpbin", "kuma-system")),
            Claim(Owner("m2", "a")),
        ],
        0.0,
    )
    assert [str(found[0]) for found in assigned.addresses.values()] == [
        "242.250.231.15",
        "242.33.24.148",
        "242.140.141.22",
    ]


def test_machines_agree_whatever_the_order() -> None:
    wanted = claims(*names(500))
    first = Ledger(parse_pools("127.9.0.0/22")).assign(wanted, 0.0)
    for seed in range(5):
        shuffled = random.Random(seed).sample(wanted, len(wanted))
        assert Ledger(parse_pools("127.9.0.0/22")).assign(shuffled, 1e9).addresses == first.addresses
    assert len(set(all_of(first).values())) == 500


def test_of_two_that_meet_the_older_has_the_first_draw() -> None:
    alone = {name: of(Ledger(NARROW).assign(claims(name), 0.0), name) for name in names(40)}
    by_address: dict[str, list[str]] = {}
    for name, address in alone.items():
        by_address.setdefault(address, []).append(name)
    one, other = next(pair for pair in by_address.values() if len(pair) > 1)[:2]
    for elder, younger in ((one, other), (other, one)):
        both = Ledger(NARROW).assign([Claim(owner(younger), 2.0), Claim(owner(elder), 1.0)], 0.0)
        assert of(both, elder) == alone[elder]
        assert of(both, younger) != alone[younger]


@pytest.mark.parametrize("cidr", ["127.0.0.0/8", "127.0.0.0/24", "127.0.0.0/28"])
def test_addresses_that_the_machine_uses_are_never_given(cidr: str) -> None:
    network = ip_network(cidr)
    given = all_of(Ledger(parse_pools(cidr)).assign(claims(*names(2000)), 0.0)).values()
    taken = {ip_address(address) for address in given}
    assert not taken & TAKEN_BY_THE_MACHINE
    assert not taken & {network.network_address, network.broadcast_address}


@pytest.mark.parametrize(("cidr", "count"), [("127.9.0.0/28", 14), ("127.9.0.8/31", 2), ("127.9.0.8/32", 1)])
def test_every_address_of_a_cidr_is_used(cidr: str, count: int) -> None:
    assigned = Ledger(parse_pools(cidr)).assign(claims(*names(count + 3)), 0.0)
    assert len(set(all_of(assigned).values())) == count
    assert len(assigned.faults) == 3


def test_an_owner_has_so_many_draws_and_then_the_addresses_in_order() -> None:
    (pool,) = WIDE
    network = ip_network("242.0.0.0/8")
    candidates = list(islice(vips._Pool(network).candidates(owner("a")), vips.MAX_DRAWS + 3))
    assert pool == network
    assert len(set(candidates[: vips.MAX_DRAWS])) == vips.MAX_DRAWS, "of so many addresses another each time"
    assert [str(one) for one in candidates[vips.MAX_DRAWS :]] == ["242.0.0.1", "242.0.0.2", "242.0.0.3"]


def test_no_more_addresses_are_looked_at_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of IPv6 there would be no end."""
    assert ip_network("242.0.0.0/8").num_addresses <= vips.MAX_SCANNED, "all of Kuma's CIDR"
    monkeypatch.setattr(vips, "MAX_SCANNED", 100)
    candidates = vips._Pool(ip_network("fd00:242::/64")).candidates(owner("a"))
    assert len(list(islice(candidates, 1000))) == vips.MAX_DRAWS + 100


def test_both_families() -> None:
    assigned = Ledger(parse_pools("fd00:242::/64, 127.9.0.0/28")).assign(claims("a"), 0.0)
    four, six = assigned.addresses[owner("a")]
    assert four in ip_network("127.9.0.0/28")
    assert six in ip_network("fd00:242::/64")


@pytest.mark.parametrize("text", ["", "242.0.0.0/33", "here", "10.0.0.0/8,", "10.0.0.0/8,11.0.0.0/8"])
def test_bad_cidrs(text: str) -> None:
    with pytest.raises(ValueError, match=r"^\.MeshExternalServiceCIDR is invalid"):
        parse_pools(text)


# Nothing moves


def test_newcomers_do_not_move_anybody() -> None:
    ledger = Ledger(NARROW)
    before = all_of(ledger.assign(claims("s9", "s4", "s7"), 0.0))
    after = all_of(ledger.assign(claims(*names(12)), 1.0))
    assert {name: after[name] for name in before} == before


def test_restarts_do_not_move_anybody(tmp_path: Path) -> None:
    ledger = Ledger(NARROW)
    ledger.assign(claims("s9"), 0.0)
    ledger.assign(claims("s9", "s4"), 0.0)
    before = all_of(ledger.assign(claims(*names(14)), 0.0))
    assert all_of(restarted(ledger, tmp_path).assign(claims(*reversed(names(14))), 9.0)) == before


def test_a_service_that_comes_back_has_its_address_again(tmp_path: Path) -> None:
    ledger = Ledger(NARROW)
    before = all_of(ledger.assign(claims(*names(10)), 0.0))
    ledger.assign(claims("s1", "s2"), 10.0)
    ledger = restarted(ledger, tmp_path)
    ledger.assign(claims("s1", "s2", "new"), 20.0)
    assert all_of(ledger.assign(claims(*names(10)), 30.0)) == before


def test_an_address_rests_before_somebody_else_gets_it() -> None:
    ledger = Ledger(NARROW)
    old = all_of(ledger.assign(claims(*names(14)), 0.0))
    ledger.assign(claims(*names(13)), 100.0)
    refused = ledger.assign(claims(*names(13), "new"), 99.0 + REST_S)
    assert refused.addresses[owner("new")] == ()
    (fault,) = refused.faults[owner("new")]
    assert fault.is_error
    assert fault.message == (
        "could not allocate vip for MeshExternalService new: No addresses left in 127.9.0.0/28 "
        "(1 rest, since their services went less than a day ago)"
    )
    assert of(ledger.assign(claims(*names(13), "new"), 100.0 + REST_S), "new") == old["s13"]


def test_whoever_cannot_run_or_be_read_keeps_its_address() -> None:
    ledger = Ledger(NARROW)
    ledger.assign(claims("a", "b", "c"), 0.0)
    ledger.assign(claims("a"), 1.0, also_there=[owner("b")])
    assert {lease.owner.name: lease.released for lease in ledger.leases} == {"a": None, "b": None, "c": 1.0}
    ledger.assign([], 2.0, others_are_gone=False)
    assert {lease.owner.name: lease.released for lease in ledger.leases} == {"a": None, "b": None, "c": 1.0}


def test_exhaustion_hurts_the_newcomers_only() -> None:
    ledger = Ledger(NARROW)
    before = all_of(ledger.assign(claims(*names(14)), 0.0))
    after = ledger.assign(claims(*names(16)), 1.0)
    assert all_of(after) == before
    assert sorted(one.name for one in after.faults) == ["s14", "s15"]
    ledger.assign(claims(*names(16)[:13], "s14", "s15"), 2.0)
    assert ledger.assign(claims(*names(16)[:13], "s14"), 3.0 + REST_S).faults == {}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vips, "MAX_RESTING", 10)
    ledger = Ledger(WIDE)
    for turn in range(50):
        ledger.assign(claims(f"s{turn}"), float(turn))
    assert [lease.released for lease in ledger.leases if lease.released is not None] == [
        float(t) for t in range(40, 50)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.sampled_from(names(12))), max_size=12), st.integers(0, 99))
def test_whatever_comes_and_goes(sets: list[set[str]], seed: int) -> None:
    """Law: within the rest, an address belongs to one owner, and an owner to one address."""
    ledger, seen = Ledger(NARROW), {}
    for turn, present in enumerate(sets):
        order = random.Random(seed).sample(sorted(present), len(present))
        for name, address in all_of(ledger.assign(claims(*order), float(turn))).items():
            assert seen.setdefault(name, address) == address
    assert len(set(seen.values())) == len(seen)


# What the status asks for


def wish(name: str, address: str, created: float = 1.0) -> Claim:
    return Claim(owner(name), created, IPv4Address(address))


def test_a_given_address_is_respected() -> None:
    ledger = Ledger(NARROW)
    assert of(ledger.assign([*claims(*names(10)), wish("a", "127.9.0.5")], 0.0), "a") == "127.9.0.5"
    assert of(ledger.assign([wish("b", "10.1.2.3")], 0.0), "b") == "10.1.2.3", "outside of the CIDR, too"
    assert of(ledger.assign(claims("a"), 0.0), "a") == "127.9.0.5", "and it stays when it is no longer given"


def test_of_two_that_want_the_same_the_older_has_it() -> None:
    assigned = Ledger(NARROW).assign([wish("a", "127.9.0.5", 2.0), wish("b", "127.9.0.5", 1.0)], 0.0)
    assert of(assigned, "b") == "127.9.0.5"
    (fault,) = assigned.faults[owner("a")]
    assert (fault.field, fault.is_error) == ("status.vip.ip", False)
    assert fault.message == '127.9.0.5 is the VIP of MeshExternalService "b" in mesh "default": this one gets another'
    assert of(assigned, "a") != "127.9.0.5"


def test_nobody_is_driven_out() -> None:
    ledger = Ledger(NARROW)
    held = of(ledger.assign(claims("a"), 0.0), "a")
    assigned = ledger.assign([*claims("a"), wish("b", held)], 1.0)
    assert of(assigned, "a") == held
    assert owner("b") in assigned.faults


def test_who_moves_by_wish_leaves_an_address_that_rests() -> None:
    ledger = Ledger(parse_pools("127.9.0.8/30"))
    left = of(ledger.assign(claims("a"), 0.0), "a")
    other = next(str(host) for host in ip_network("127.9.0.8/30").hosts() if str(host) != left)
    assert of(ledger.assign([wish("a", other)], 1.0), "a") == other
    assert ledger.assign([wish("a", other), *claims("b")], 2.0).addresses[owner("b")] == ()
    assert of(ledger.assign([wish("a", other), *claims("b")], 1.0 + REST_S), "b") == left


def test_an_address_outside_the_cidr_is_given_up(tmp_path: Path) -> None:
    ledger = Ledger(WIDE)
    ledger.assign([*claims("a"), wish("b", "10.1.2.3")], 0.0)
    ledger = restarted(ledger, tmp_path)
    assigned = ledger.assign([*claims("a"), wish("b", "10.1.2.3")], 1.0)
    assert ip_address(of(assigned, "a")) in NARROW[0]
    assert of(assigned, "b") == "10.1.2.3"


# The file


def test_the_file_is_what_the_documents_say(tmp_path: Path) -> None:
    leases = [Lease(Owner("m", "a", "ns"), ip_address("242.1.2.3")), Lease(owner("b"), ip_address("fd00::1"), 86400.5)]
    vipstate.save(tmp_path, leases)
    assert json.loads((tmp_path / vipstate.FILE_NAME).read_text()) == {
        "version": 1,
        "leases": [
            {"mesh": "m", "name": "a", "namespace": "ns", "ip": "242.1.2.3", "released": None},
            {"mesh": "default", "name": "b", "namespace": "", "ip": "fd00::1",
             "released": "1970-01-02T00:00:00.500000+00:00"},
        ],
    }  # fmt: skip
    assert vipstate.load(tmp_path) == leases
    assert [path.name for path in tmp_path.iterdir()] == [vipstate.FILE_NAME], "nothing is left beside it"


def test_no_file_is_no_leases(tmp_path: Path) -> None:
    assert vipstate.load(tmp_path) == []


LEASE = b'{"mesh": "m", "name": "n", "namespace": "", "ip": "::1", "released": null}'
DAMAGED = {
    "empty": b"",
    "half": b'{"version": 1, "leases": [',
    "not an object": b"[]",
    "no address": b'{"version": 1, "leases": [' + LEASE.replace(b"::1", b"x") + b"]}",
    "wrong type": b'{"version": 1, "leases": [' + LEASE.replace(b'"m"', b"1") + b"]}",
    "not text": b"\xff\xfe",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_said_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / vipstate.FILE_NAME).write_bytes(content)
    with pytest.raises(vipstate.DamagedError, match=r"vips\.json"):
        vipstate.load(tmp_path)
    assert vipstate.set_aside(tmp_path).read_bytes() == content
    assert vipstate.load(tmp_path) == []


def test_no_more_of_a_file_is_read_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / vipstate.FILE_NAME
    vipstate.save(tmp_path, [Lease(owner("a"), ip_address("127.9.0.3"))])
    size = path.stat().st_size
    monkeypatch.setattr(vipstate, "MAX_STATE_BYTES", size)
    assert len(vipstate.load(tmp_path)) == 1
    with path.open("a") as file:
        file.write(" ")
    with pytest.raises(vipstate.DamagedError, match=f"is larger than {size} bytes"):
        vipstate.load(tmp_path)
    os.truncate(path, 1 << 40)  # a hole: whoever reads it whole has no memory for it
    with pytest.raises(vipstate.DamagedError, match=f"is larger than {size} bytes"):
        vipstate.load(tmp_path)


def test_a_file_of_a_later_version_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / vipstate.FILE_NAME).write_text('{"version": 2, "leases": []}')
    with pytest.raises(vipstate.StateError, match="has version 2, and this program knows 1") as caught:
        vipstate.load(tmp_path)
    assert not isinstance(caught.value, vipstate.DamagedError)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(vipstate.StateError, match="cannot be written"):
        vipstate.save(tmp_path / "no", [])
    (tmp_path / vipstate.FILE_NAME).mkdir()
    with pytest.raises(vipstate.StateError, match="cannot be read"):
        vipstate.load(tmp_path)


def test_a_file_that_says_the_same_twice(tmp_path: Path) -> None:
    same = ip_address("127.9.0.3")
    twice = [
        Lease(owner("a"), same),
        Lease(owner("b"), same),
        Lease(owner("a"), ip_address("127.9.0.4")),
    ]
    ledger = Ledger(NARROW, twice)
    found = all_of(ledger.assign(claims("a", "b"), 0.0))
    assert found["a"] == "127.9.0.3"
    assert len(set(found.values())) == 2
