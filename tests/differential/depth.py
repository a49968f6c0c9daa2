"""How long the laws are tried: shortly by default, ``KOGUMA_LAWS=deep`` for a long night."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

DEEP = os.environ.get("KOGUMA_LAWS") == "deep"


def laws(examples: int) -> settings:
    """``examples`` by default, a hundred times as many when deep."""
    return settings(
        max_examples=examples * (100 if DEEP else 1),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
