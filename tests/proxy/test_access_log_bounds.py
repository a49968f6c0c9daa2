"""Lines of the access log that cannot be kept or written are lost, counted and said; traffic never waits for them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from proxy.http import access_log
from proxy.http.access_log import AccessLog


def write(path: str, *blocks: bytes) -> AccessLog:
    """Hand over each block by itself, as the timer does, then close."""

    async def run() -> AccessLog:
        log = AccessLog(path, as_json=False)
        for block in blocks:
            log._lines.append(block)
            log.flush()
        log.close()
        return log

    return asyncio.run(run())


def test_what_does_not_fit_the_queue_is_dropped_and_said(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "MAX_QUEUED_BYTES", 10)
    monkeypatch.setattr(logging.getLogger("koguma"), "propagate", True)
    path = tmp_path_factory.mktemp("log") / "access.log"
    log = write(str(path), b"x" * 11 + b"\n", b"short\n")
    assert log.dropped == 1
    assert path.read_bytes() == b"short\n"
    assert "1 lines of the access log were lost" in caplog.text


def test_what_cannot_be_written_is_counted() -> None:
    assert write("/dev/full", b"one\n", b"two\n").dropped == 2
