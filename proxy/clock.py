"""The time of day, for certificates and logs. Whatever measures a while uses the event loop's clock."""

from __future__ import annotations

from datetime import UTC, datetime


def wall_clock() -> datetime:
    return datetime.now(UTC)
