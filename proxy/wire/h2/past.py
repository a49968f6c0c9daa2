"""The streams of a connection that are no more (RFC 9113 §5.1), as far as it matters how they ended.

What comes for a stream that is closed is ignored, resets it again or breaks the connection, depending on who ended it
and how; ``Connection`` has the table. Almost all end with both sides complete, and need no mention: only resets are
noted, and the streams that a client skipped. Both are bounded: of resets the oldest is forgotten, and everything up to
it is taken for reset by us from then on, which is to the peer's favour.
"""

from __future__ import annotations

from typing import Final

RESETS_REMEMBERED: Final = 1024
SKIPS_REMEMBERED: Final = 16


class PastStreams:
    """``resets``: by the stream's id, whether it was us who reset it. ``forgotten_id``: the last one whose end is not
    known any more; 0: there is none.
    """

    __slots__ = ("forgotten_id", "resets", "skips")

    def __init__(self) -> None:
        self.resets: dict[int, bool] = {}
        self.forgotten_id = 0
        self.skips: list[range] = []

    def note_reset(self, stream_id: int, by_us: bool) -> None:
        resets = self.resets
        resets[stream_id] = by_us
        if len(resets) > RESETS_REMEMBERED:
            oldest = next(iter(resets))
            del resets[oldest]
            self.forgotten_id = max(self.forgotten_id, oldest)

    def note_skip(self, first_id: int, opened_id: int) -> None:
        """The client opened another stream than the next one: those from ``first_id`` on will never be."""
        self.skips.append(range(first_id, opened_id, 2))
        if len(self.skips) > SKIPS_REMEMBERED:
            self.skips.pop(0)

    def was_skipped(self, stream_id: int) -> bool:
        return any(stream_id in skipped for skipped in self.skips)
