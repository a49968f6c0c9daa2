"""Guarantee: clients are counted by who they are, and strangers without end cost a bounded number of counters."""

from __future__ import annotations

from proxy.peer_counts import MAX_PEERS, OTHERS, REQUESTS, SENT, PeerCounts


def test_each_identity_has_its_own() -> None:
    counts: dict[tuple[str, str], int] = {}
    peers = PeerCounts(counts)
    peers.count("spiffe://a/x", REQUESTS)
    peers.count("spiffe://a/x", REQUESTS)
    peers.count("spiffe://a/x", SENT, 10)
    peers.count("spiffe://a/y", REQUESTS)
    assert counts == {("spiffe://a/x", REQUESTS): 2, ("spiffe://a/x", SENT): 10, ("spiffe://a/y", REQUESTS): 1}


def test_beyond_the_limit_all_count_as_one() -> None:
    counts: dict[tuple[str, str], int] = {}
    peers = PeerCounts(counts, max_peers=2)
    for number in range(5):
        peers.count(f"spiffe://a/{number}", REQUESTS)
    peers.count("spiffe://a/0", REQUESTS)
    assert counts == {("spiffe://a/0", REQUESTS): 2, ("spiffe://a/1", REQUESTS): 1, (OTHERS, REQUESTS): 3}


def test_strangers_without_end() -> None:
    counts: dict[tuple[str, str], int] = {}
    peers = PeerCounts(counts)
    for number in range(MAX_PEERS + 10):
        peers.count(f"spiffe://a/{number}", REQUESTS)
    assert len(counts) == MAX_PEERS + 1
    assert counts[OTHERS, REQUESTS] == 10
