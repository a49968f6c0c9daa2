"""Log lines on stderr: one line an event, as text or as JSON, that nobody can forge and that never stalls traffic.

A record is formatted where it is made, so that its arguments cannot change afterwards; the line goes into a bounded
queue, and a thread of its own writes it. Should whoever reads stderr stop reading, that thread blocks and nothing
else does: the queue fills, further lines are dropped and counted, and the count is the first thing that is said once
lines pass again. (``logging.handlers.QueueListener`` would do most of it, but it blocks for ever when it is told to
stop while the queue is full.)

What came from outside may stand in a message. Everything that could end a line, move a cursor or reorder text is
escaped, in both formats, tracebacks included.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO

Format = Literal["text", "json"]

ROOT = "koguma"
LOGGERS = (ROOT, "asyncio")
"""The loggers whose lines we write: ours, and the event loop's complaints about our callbacks."""

LEVELS = {
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "off": logging.CRITICAL + 10,
}
"""Envoy's level names."""

MAX_QUEUED_LINES = 10_000
MAX_LINE_CHARS = 64 * 1024
FLUSH_TIMEOUT_S = 2.0

_CONTROL = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROL}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else came in through ``extra``."""


def level_name(level: int) -> str:
    """The name of the nearest level at or below ``level``; ``trace`` for anything lower."""
    return next((name for name, value in reversed(LEVELS.items()) if value <= level), "trace")


def escape(text: str) -> str:
    """``text`` with control, line-ending and direction-changing characters as ``\\n``, ``\\x1b``, ``\\u202e``."""
    return text.translate(_ESCAPES)


def event(logger: logging.Logger, name: str, message: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """A structured line: ``message`` for people, ``{"event": name, **fields}`` beside it in JSON.

    Raises ``KeyError`` for a field that every record has already (``module``, ``process``, ...).
    """
    logger.log(level, "%s", message, extra={"event": name, **fields})


def set_levels(levels: Mapping[str, int]) -> None:
    """By name of the logger."""
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def configure(level: str, fmt: Format, stream: TextIO | None = None, *, worker: int | None = None) -> LogSetup:
    """Send the lines of ``LOGGERS`` to ``stream`` (stderr), and nowhere else, until :meth:`LogSetup.close`. ``worker``
    is the number of this process among several, which its lines then carry.

    Raises ``ValueError`` for a level that is none of ``LEVELS``.
    """
    if level not in LEVELS:
        raise ValueError(f'"{level}" is not a log level: {", ".join(LEVELS)}')
    formatter = JsonFormatter() if fmt == "json" else TextFormatter()
    return LogSetup(LEVELS[level], formatter, stream or sys.stderr, worker)


class TextFormatter(logging.Formatter):
    """``2026-11-21T22:56:00.123Z info koguma.upstream message``, with ``[2]`` after the logger for worker 2."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        worker = getattr(record, "worker", None)
        name = record.name if worker is None else f"{record.name}[{worker}]"
        return escape(f"{_time(record)} {level_name(record.levelno)} {name} {message}")


class JsonFormatter(logging.Formatter):
    """One object: ``time``, ``level``, ``logger``, ``message``, then whatever ``extra`` held, ``exception`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": level_name(record.levelno),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _OWN_FIELDS)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # ASCII only: no character in it can act on a terminal


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LogSetup(logging.Handler):
    """What :func:`configure` installed."""

    def __init__(self, level: int, formatter: logging.Formatter, stream: TextIO, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker
        # Each of these has one writing thread, or the handler's lock around it.
        self._refused = 0
        self._told = 0
        self._unwritten = 0
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_QUEUED_LINES)
        self.setFormatter(formatter)
        logging.addLevelName(LEVELS["trace"], "TRACE")
        self._before = {name: logging.getLogger(name).level for name in LOGGERS}
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.setLevel(level if name == ROOT else max(level, logging.WARNING))
            logger.propagate = False
            logger.addHandler(self)
        # A daemon: a reader of stderr that never reads must not keep the process from ending.
        self._writer = threading.Thread(target=self._write, name="koguma-log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except (TypeError, ValueError):
            line = f"{_time(record)} error {ROOT}.logs a message of {record.name} could not be formatted"
        if len(line) > MAX_LINE_CHARS:
            # A cut JSON object would be none, so the text format says what was too long.
            line = self.format(logging.makeLogRecord(_too_long(record, len(line))))
        self._put(line)

    def format(self, record: logging.LogRecord) -> str:
        if self._worker is not None:
            record.worker = self._worker
        return super().format(record)

    @property
    def dropped(self) -> int:
        """Lines that found the queue full or the stream closed."""
        return self._refused + self._unwritten

    def _put(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._refused += 1

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            lost = self._refused - self._told
            self._told += lost
            try:
                if lost:
                    self._stream.write(self._loss(lost) + "\n")
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # the stream is gone; there is nobody to tell
                self._unwritten += 1

    def _loss(self, lost: int) -> str:
        fields = {
            "name": f"{ROOT}.logs",
            "levelno": logging.WARNING,
            "msg": f"{lost} log lines were dropped: stderr was not read",
        }
        return self.format(logging.makeLogRecord(fields))

    def close(self) -> None:
        """Write what waits, for at most ``FLUSH_TIMEOUT_S``, and let go of the loggers. May be called twice."""
        for name, level in self._before.items():
            logger = logging.getLogger(name)
            if self in logger.handlers:
                logger.removeHandler(self)
                logger.setLevel(level)
                logger.propagate = True
        if self._writer.is_alive():
            try:
                self._lines.put(None, timeout=FLUSH_TIMEOUT_S)
            except queue.Full:
                return super().close()
            self._writer.join(FLUSH_TIMEOUT_S)
        super().close()


def _too_long(record: logging.LogRecord, length: int) -> dict[str, object]:
    beginning = record.getMessage()[:1024]
    return {
        "name": record.name,
        "levelno": record.levelno,
        "created": record.created,
        "msg": f"{beginning} [cut: the line had {length} characters]",
    }
