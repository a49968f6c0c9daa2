"""What a peer may do on credit.

Nothing that a peer may do is wrong by itself: resets, PINGs, SETTINGS and empty frames all have their use. What gives
an attack away is that nothing useful goes with them. So each kind has an allowance, which is spent by one and earned
back by useful work (how much was done is asked for only when something is spent, so that the work itself pays nothing
for it) and by time: :meth:`Allowance.refill`, an eighth of the whole at each call.
"""

from __future__ import annotations


class Allowance:
    """``full`` to begin with, and never more. ``rate``: how many one useful deed earns."""

    __slots__ = ("full", "left", "rate", "seen")

    def __init__(self, full: int, rate: int) -> None:
        self.full = full
        self.rate = rate
        self.left = full
        self.seen = 0

    def spend(self, useful: int) -> bool:
        """One, after ``useful`` useful deeds in all. False: there was none left."""
        left = self.left + (useful - self.seen) * self.rate
        self.seen = useful
        self.left = (left if left < self.full else self.full) - 1
        return self.left >= 0

    def refill(self) -> None:
        self.left = min(self.full, self.left + self.full // 8 + 1)
