"""How often the same thing may be said: once per key and interval, with a bounded memory of keys."""

from __future__ import annotations

from collections.abc import Callable


class Throttle:
    __slots__ = ("_interval_s", "_last", "_max_keys", "_now")

    def __init__(self, now: Callable[[], float], interval_s: float = 10.0, max_keys: int = 4096) -> None:
        self._now = now
        self._interval_s = interval_s
        self._max_keys = max_keys
        self._last: dict[str, float] = {}

    def allows(self, key: str) -> bool:
        now = self._now()
        last = self._last.get(key)
        if last is not None and now - last < self._interval_s:
            return False
        if len(self._last) >= self._max_keys:
            self._last.clear()
        self._last[key] = now
        return True
