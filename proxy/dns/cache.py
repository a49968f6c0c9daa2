"""Answers of the resolvers, kept for as long as they said. No clock: the caller says what time it is.

Bounded in number and in the size of each answer. When it is full, the answer that was kept first goes, whatever it
is: the resolvers behind it have caches of their own, so a wrong choice costs one question.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from proxy.dns.message import Packed

MAX_ENTRIES = 4096
MAX_BODY_BYTES = 4096
"""Of one answer; a larger one is asked for again each time."""
MAX_TTL_S = 3600


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: Packed
    stored_s: float
    expires_s: float


class Cache:
    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._max_entries = max_entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, now: float) -> Packed | None:
        """The answer with what is left of its TTLs."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires_s:
            del self._entries[key]
            return None
        return entry.answer.aged(int(now - entry.stored_s))

    def put(self, key: Hashable, answer: Packed, ttl_s: float, now: float) -> None:
        """Keep an answer for ``ttl_s``, at most ``MAX_TTL_S``; one that may not be kept replaces nothing."""
        if ttl_s <= 0 or len(answer.body) > MAX_BODY_BYTES:
            return
        self._entries.pop(key, None)
        if len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = _Entry(answer, now, now + min(ttl_s, MAX_TTL_S))
