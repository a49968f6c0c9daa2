"""Log lines: their two forms, that nobody can forge one, and that a reader who stops reading stalls nobody."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from typing import TextIO

import pytest

from proxy import logs

log = logging.getLogger("koguma.test")


class Output:
    """A configured log whose lines can be read once it is closed."""

    def __init__(self, level: str, fmt: logs.Format) -> None:
        self.stream = io.StringIO()
        self.setup = logs.configure(level, fmt, self.stream)

    def lines(self) -> list[str]:
        self.setup.close()
        return self.stream.getvalue().split("\n")[:-1]


@pytest.fixture
def text_log() -> Iterator[Output]:
    output = Output("info", "text")
    yield output
    output.setup.close()


@pytest.fixture
def json_log() -> Iterator[Output]:
    output = Output("debug", "json")
    yield output
    output.setup.close()


def test_text(text_log: Output) -> None:
    log.info("%s answers", "api")
    log.debug("not at this level")
    log.warning("careful")
    first, second = text_log.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info koguma\.test api answers", first)
    assert second.endswith("Z warning koguma.test careful")


def test_json_with_fields(json_log: Output) -> None:
    logs.event(log, "reloaded", "100 % done", added=2, problems=[{"line": 3}], where=object)
    log.debug("plain")
    first, second = map(json.loads, json_log.lines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "logger": "koguma.test",
        "message": "100 % done",
        "event": "reloaded",
        "added": 2,
        "problems": [{"line": 3}],
        "where": "<class 'object'>",
    }
    assert set(second) == {"time", "level", "logger", "message"}


def test_an_event_has_a_level(json_log: Output) -> None:
    logs.event(log, "rejected", "no", level=logging.ERROR)
    assert json.loads(json_log.lines()[0])["level"] == "error"


def test_no_line_can_be_forged(text_log: Output) -> None:
    log.info("a\nb\r\x1b[31mred\x00\x85\u2028\u202e\x9b\tc")
    (line,) = text_log.lines()
    assert line.endswith(r"a\nb\r\x1b[31mred\x00\x85\u2028\u202e\x9b\tc")


def test_no_json_line_can_be_forged(json_log: Output) -> None:
    evil = 'a\n{"event":"ready"}\x1b\x7f\u2028\u202e'
    log.info(evil, extra={"endpoint": evil})
    (line,) = json_log.lines()
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["endpoint"] == evil


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_a_traceback_is_one_line(fmt: logs.Format) -> None:
    output = Output("info", fmt)
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        log.exception("it failed")
    (line,) = output.lines()
    assert "Traceback (most recent call last)" in line
    assert "it failed" in line


def test_a_message_that_cannot_be_formatted_is_said_so(text_log: Output) -> None:
    record = log.makeRecord(log.name, logging.INFO, __file__, 1, "%d", ("no number",), None)
    text_log.setup.handle(record)  # not through the logger: pytest listens there, and does not forgive it
    assert "a message of koguma.test could not be formatted" in text_log.lines()[0]


def test_a_line_has_a_length(json_log: Output) -> None:
    log.info("x" * (logs.MAX_LINE_CHARS - 1000), extra={"event": "as long as may be"})
    log.info("x" * logs.MAX_LINE_CHARS, extra={"event": "long"})
    whole, line = json_log.lines()
    assert len(json.loads(whole)["message"]) == logs.MAX_LINE_CHARS - 1000
    assert len(line) < 2000
    assert "[cut: the line had 65" in json.loads(line)["message"]


def test_arguments_are_taken_as_they_are_now(text_log: Output) -> None:
    changing = ["before"]
    log.info("%s", changing)
    changing[0] = "after"
    assert "before" in text_log.lines()[0]


def test_off_is_silent() -> None:
    output = Output("off", "text")
    log.critical("nothing")
    assert output.lines() == []


def test_an_unknown_level() -> None:
    with pytest.raises(ValueError, match='"loud" is not a log level: trace, debug, info'):
        logs.configure("loud", "text")


@pytest.mark.parametrize(
    ("level", "name"), [(5, "trace"), (1, "trace"), (10, "debug"), (25, "info"), (30, "warning"), (60, "off")]
)
def test_level_names(level: int, name: str) -> None:
    assert logs.level_name(level) == name


def test_close_gives_the_loggers_back(text_log: Output) -> None:
    root = logging.getLogger("koguma")
    assert not root.propagate
    text_log.setup.close()
    text_log.setup.close()
    assert root.propagate
    assert text_log.setup not in root.handlers
    assert not any(thread.name == "koguma-log" for thread in threading.enumerate())


def test_a_reader_who_does_not_read_stalls_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_QUEUED_LINES", 100)
    monkeypatch.setattr(logs, "FLUSH_TIMEOUT_S", 5.0)
    reading, writing = os.pipe()
    stream: TextIO = os.fdopen(writing, "w", buffering=1)
    setup = logs.configure("info", "text", stream)
    for number in range(2000):  # 2 MB into a pipe that holds 64 KiB
        log.info("%d %s", number, "x" * 1000)
    assert setup.dropped > 1000
    collected: list[bytes] = []

    def read_all() -> None:
        with os.fdopen(reading, "rb") as file:
            collected.append(file.read())

    reader = threading.Thread(target=read_all)
    reader.start()
    setup.close()
    stream.close()
    reader.join()
    lines = collected[0].decode().splitlines()
    lost = [int(match[1]) for line in lines if (match := re.search(r"(\d+) log lines were dropped", line))]
    assert sum(lost) == setup.dropped
    assert len(lines) - len(lost) == 2000 - setup.dropped


def test_a_closed_stream_is_no_error() -> None:
    output = Output("info", "text")
    output.stream.close()
    log.info("to nobody")
    output.setup.close()
    assert output.setup.dropped == 1
