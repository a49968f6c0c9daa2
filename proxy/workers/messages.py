"""What the supervisor asks of a worker, and what comes back.

Each request has a number, and gets an answer: pieces, the last of which says so, or a failure. They are worked on at
the same time; only changes of what runs wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy import logs
from proxy.assembly import Settings
from proxy.workers.difference import Difference, Stage


@dataclass(frozen=True, slots=True)
class Setup:
    """The first request: who the worker is. ``write_lock`` is the descriptor of the lock of the access log."""

    number: int
    settings: Settings
    log_level: str
    log_format: logs.Format
    write_lock: int


@dataclass(frozen=True, slots=True)
class Apply:
    """Make a plan of the last one, what was staged, and this; run it. Answer: the listeners that could not be opened,
    and why.
    """

    difference: Difference


@dataclass(frozen=True, slots=True)
class Look:
    """Answer: slices of what changed since the last look, then a :class:`proxy.workers.report.Summary`."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Answered when it is done."""


@dataclass(frozen=True, slots=True)
class StopListening:
    inbound_only: bool


@dataclass(frozen=True, slots=True)
class ResetCounters:
    pass


@dataclass(frozen=True, slots=True)
class SetLevels:
    levels: Mapping[str, int]


Command = Setup | Stage | Apply | Look | Drain | StopListening | ResetCounters | SetLevels


@dataclass(frozen=True, slots=True)
class Request:
    number: int
    command: Command


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of an answer; ``last``: there is no other."""

    number: int
    value: object = None
    last: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """Instead of an answer. ``expected``: the text is for people, and the worker is as it was before."""

    number: int
    text: str
    expected: bool
