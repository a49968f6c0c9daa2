"""Guarantee: the same thing is said once per interval, and the memory of what was said is bounded."""

from __future__ import annotations

from proxy.throttle import Throttle


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_once_per_key_and_interval() -> None:
    clock = Clock()
    throttle = Throttle(clock, interval_s=10.0)
    assert throttle.allows("a")
    assert throttle.allows("b"), "another key"
    clock.now = 9.9
    assert not throttle.allows("a")
    clock.now = 10.0
    assert throttle.allows("a")
    clock.now = 19.9
    assert not throttle.allows("a"), "the interval starts with what was said, not with what was asked"


def test_the_memory_is_bounded() -> None:
    throttle = Throttle(Clock(), max_keys=100)
    assert all(throttle.allows(str(number)) for number in range(1000))
    assert len(throttle._last) <= 100
