"""The checks that Kuma's policies share, in its words (``pkg/core/validators``). Paths start where the field is."""

from __future__ import annotations

from collections.abc import Iterator

from config.document import Path
from config.resources.shape import Violation


def positive(path: Path, value: float | None) -> Iterator[Violation]:
    if value is not None and value <= 0:
        yield Violation(path, "must be greater than zero when defined")


def not_negative(path: Path, value: float | None) -> Iterator[Violation]:
    if value is not None and value < 0:
        yield Violation(path, "must not be negative when defined")


def percentage(path: Path, value: int | None) -> Iterator[Violation]:
    if value is not None and not 0 <= value <= 100:
        yield Violation(path, "must be in inclusive range [0, 100]")
