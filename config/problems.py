"""What is wrong, where, and how badly: the one shape in which every stage of the control path complains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One violation. ``field`` is Kuma's path (``spec.endpoints[0].port``), empty for the document as a whole."""

    file: str
    line: int
    type: str
    mesh: str
    name: str
    field: str
    message: str
    severity: Severity = Severity.ERROR

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR

    def as_text(self) -> str:
        """``FILE:LINE: KIND/NAME: FIELD: MESSAGE``; parts that are unknown are left out."""
        subject = f"{self.type}/{self.name}" if self.type or self.name else ""
        note = "warning: " if self.severity is Severity.WARNING else ""
        parts = [f"{self.file}:{self.line}", subject, self.field, f"{note}{self.message}"]
        return ": ".join(part for part in parts if part)

    def as_json(self) -> dict[str, str | int]:
        return asdict(self)


def errors(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.is_error]
