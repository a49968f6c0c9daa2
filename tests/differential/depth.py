"""How long the laws are tried: shortly by default; ``KOGUMA_LAWS=100`` tries a hundred times as many examples."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("KOGUMA_LAWS", "1"))


def laws(examples: int) -> settings:
    """``examples`` by default."""
    return settings(
        max_examples=examples * FACTOR,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
