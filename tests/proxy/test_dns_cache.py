"""Guarantee: an answer is kept for its TTL and no longer, tells how much of that is left, and the cache stays small."""

from __future__ import annotations

from dns.rdatatype import RdataType

from proxy.dns.cache import MAX_BODY_BYTES, MAX_ENTRIES, MAX_TTL_S, Cache
from proxy.dns.message import FAILED, Packed, pack_records

ANSWER = pack_records(RdataType.A, [bytes(4)], 100)
WITH_TTL = Packed(0, (1, 0, 0), ANSWER.body, ttls=(6,))


def ttl_of(answer: Packed | None) -> int:
    assert answer is not None
    return int.from_bytes(answer.body[6:10], "big")


def test_kept_until_the_ttl_is_over() -> None:
    cache = Cache()
    cache.put("a", WITH_TTL, 100, now=1000.0)
    assert cache.get("b", 1000.0) is None
    assert [ttl_of(cache.get("a", now)) for now in (1000.0, 1000.9, 1001.0, 1099.9)] == [100, 100, 99, 1]
    assert cache.get("a", 1100.0) is None
    assert len(cache) == 0


def test_what_may_not_be_kept() -> None:
    cache = Cache()
    cache.put("zero", WITH_TTL, 0, now=0.0)
    cache.put("large", Packed(0, (1, 0, 0), bytes(MAX_BODY_BYTES + 1)), 100, now=0.0)
    assert len(cache) == 0
    cache.put("full", Packed(0, (1, 0, 0), bytes(MAX_BODY_BYTES)), 100, now=0.0)
    assert len(cache) == 1


def test_no_answer_is_kept_for_ever() -> None:
    cache = Cache()
    cache.put("a", WITH_TTL, 2.0**31, now=0.0)
    assert cache.get("a", MAX_TTL_S - 0.1) is not None
    assert cache.get("a", float(MAX_TTL_S)) is None


def test_the_oldest_makes_room() -> None:
    cache = Cache(max_entries=2)
    for now, key in enumerate("abac"):
        cache.put(key, WITH_TTL, 100, float(now))
    assert [key for key in "abc" if cache.get(key, 4.0) is not None] == ["a", "c"], "a was kept anew after b"
    assert len(cache) == 2


def test_no_more_are_kept_than_the_limit() -> None:
    cache = Cache()
    for number in range(MAX_ENTRIES + 1):
        cache.put(number, WITH_TTL, 100, 0.0)
    assert len(cache) == MAX_ENTRIES


def test_a_failure_has_no_ttl_to_run_down() -> None:
    cache = Cache()
    cache.put("a", FAILED, 100, 0.0)
    assert cache.get("a", 50.0) is FAILED
