"""What each client of a zone egress did there, by its SPIFFE ID.

Identities come from certificates, and whoever issues those decides how many there are: beyond ``MAX_PEERS`` the rest
counts as one, :data:`OTHERS`.
"""

from __future__ import annotations

MAX_PEERS = 1000
OTHERS = "others"

CONNECTIONS, DENIED, REQUESTS = "cx_total", "rbac_denied", "rq_total"
RECEIVED, SENT = "rx_bytes_total", "tx_bytes_total"


class PeerCounts:
    """Counts into ``counts``, whose keys are (identity, what is counted)."""

    __slots__ = ("_counts", "_known", "_max_peers")

    def __init__(self, counts: dict[tuple[str, str], int], max_peers: int = MAX_PEERS) -> None:
        self._counts = counts
        self._known: set[str] = set()
        self._max_peers = max_peers

    def count(self, identity: str, what: str, by: int = 1) -> None:
        if identity not in self._known:
            if len(self._known) < self._max_peers:
                self._known.add(identity)
            else:
                identity = OTHERS
        key = (identity, what)
        self._counts[key] = self._counts.get(key, 0) + by
