"""The only way in which a test waits: ask until it is so, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.05


def until(ask: Callable[[], T], what: str, *, within_s: float = 10.0) -> T:
    """The first true answer of ``ask``; an AssertionError that names ``what`` and the last answer after
    ``within_s``.

    An OSError counts as "not yet": the thing asked may not listen so far.
    """
    deadline = time.monotonic() + within_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            answer = ask()
            last: object = answer
            if answer:
                return answer
        except OSError as error:
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}; last answer: {last!r}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)


def holds(ask: Callable[[], bool], what: str, *, for_s: float) -> None:
    """``ask`` stays true for ``for_s``: for claims that something does *not* happen."""
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        assert ask(), f"ceased to hold: {what}"
        time.sleep(LONGEST_PAUSE_S)
