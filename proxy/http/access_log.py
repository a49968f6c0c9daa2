"""A line for each exchange, as Envoy writes it by default, or the same as a JSON object.

Lines are collected as bytes and handed to a thread a few times a second, so that a slow disk or a reader that has gone
to sleep never holds up traffic. The queue is bounded: beyond ``MAX_QUEUED_BYTES`` lines are dropped and counted. A file
that was moved away (logrotate) is opened anew. Several processes may write to the same: they take turns, a block of
whole lines each, for a pipe takes no more than 4 KiB in one piece.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.outcome import Outcome
from proxy.wire import Field

if TYPE_CHECKING:
    from proxy.http.exchange import Exchange
    from proxy.listener import Listener
    from proxy.relay import Downstream

log = logging.getLogger("koguma.access_log")

FLUSH_INTERVAL_S = 0.25
MAX_QUEUED_BYTES = 8 * 1024 * 1024
STDOUT = "-"

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x22, 0x5C, *range(0x7F, 0xA0))}
_ESCAPES |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029)}
"""What could end a quoted value or a line, or steer a terminal. Envoy does not escape in text; a log that can be forged
is no log.
"""


class AccessLog:
    """``path`` is a file, or ``-`` for standard output; ``write_lock`` a file, never written, whose lock all who write
    there take in turn. Raises ``OSError`` if it cannot be opened.
    """

    def __init__(self, path: str, as_json: bool, write_lock: int | None = None) -> None:
        self._refused = 0  # lines; of these two, too, each is changed by one thread only
        self._unwritten = 0
        self._dropped_told = 0
        self._path = None if path == STDOUT else Path(path)
        self._as_json = as_json
        self._write_lock = write_lock
        self._lines: list[bytes] = []
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._queued_bytes = 0  # ever; each of the two is changed by one thread only
        self._written_bytes = 0
        self._fd = self._open()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._write_for_ever, name="access log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were lost: the queue was full, or writing failed."""
        return self._refused + self._unwritten

    def exchange(self, listener: Listener, exchange: Exchange) -> None:
        """Log an exchange that has ended."""
        self._add(_values(listener, exchange))

    def connection(self, listener: Listener, connection: Downstream) -> None:
        """Log a relayed connection that has ended."""
        self._add(_connection(listener, connection))

    def refusal(self, listener: Listener, status: int, version: tuple[int, int]) -> None:
        """Log what was refused before it was a request that could be told apart."""
        self._add(_refusal(listener, status, version))

    def _add(self, values: dict[str, object]) -> None:
        line = json.dumps(values) if self._as_json else _text(values)
        self._lines.append(line.encode("utf-8", "surrogateescape") + b"\n")
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_INTERVAL_S, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.dropped > self._dropped_told:
            self._dropped_told = self.dropped
            log.warning("%d lines of the access log were lost so far", self._dropped_told)
        if not self._lines:
            return
        block, count = b"".join(self._lines), len(self._lines)
        self._lines.clear()
        if self._queued_bytes - self._written_bytes + len(block) > MAX_QUEUED_BYTES:
            self._refused += count
            return
        self._queued_bytes += len(block)
        self._queue.put(block)

    def close(self) -> None:
        """Write what is left; waits a moment for whoever reads, not for ever."""
        self.flush()
        self._queue.put(None)
        self._thread.join(timeout=2.0)

    # The thread

    def _open(self) -> int:
        if self._path is None:
            return sys.stdout.fileno()
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _write_for_ever(self) -> None:
        while (block := self._queue.get()) is not None:
            try:
                self._reopen_if_moved()
                if self._write_lock is None:
                    self._write(block)
                else:
                    fcntl.lockf(self._write_lock, fcntl.LOCK_EX)  # ends with a process, however that ends
                    try:
                        self._write(block)
                    finally:
                        fcntl.lockf(self._write_lock, fcntl.LOCK_UN)
            except OSError:
                self._unwritten += block.count(b"\n")
            self._written_bytes += len(block)

    def _write(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            view = view[os.write(self._fd, view) :]

    def _reopen_if_moved(self) -> None:
        if self._path is None:
            return
        try:
            is_same = os.path.samestat(os.fstat(self._fd), self._path.stat())
        except FileNotFoundError:
            is_same = False
        if not is_same:
            fd = self._open()
            os.close(self._fd)
            self._fd = fd


def _values(listener: Listener, exchange: Exchange) -> dict[str, object]:
    """What Envoy's default format has, under the names of its JSON examples, in its order."""
    head = exchange.head
    caller = exchange.client.caller
    now = listener.now()
    started = datetime.now(UTC).timestamp() - (now - exchange.began_s)
    upstream_s = exchange.upstream_time_s
    return {
        "start_time": _time(started),
        "method": _string(head.method),
        "path": _string(head.path),
        "protocol": _protocol(head.version),
        "response_code": exchange.status,
        "response_flags": exchange.flags,
        "bytes_received": exchange.received,
        "bytes_sent": exchange.sent,
        "duration": int((now - exchange.began_s) * 1000),
        "upstream_service_time": int(upstream_s * 1000) if upstream_s is not None else None,
        "x_forwarded_for": _find(head.fields, b"x-forwarded-for"),
        "user_agent": _find(head.fields, b"user-agent"),
        "request_id": _string(exchange.request_id) if exchange.request_id is not None else None,
        "authority": _string(head.authority),
        "upstream_host": exchange.endpoint.where if exchange.endpoint is not None else None,
        "upstream_cluster": listener.plan.cluster,
        "downstream_peer_uri_san": caller.id if caller is not None else None,
        "outcome": exchange.outcome.word if exchange.outcome is not Outcome.COMPLETED else None,
    }


def _connection(listener: Listener, connection: Downstream) -> dict[str, object]:
    """As :func:`_values`, of bytes without requests."""
    duration_s = listener.now() - connection.started_s
    outcome, upstream, caller = connection.outcome or Outcome.COMPLETED, connection.upstream, connection.caller
    return dict.fromkeys(_FIELDS) | {
        "start_time": _time(datetime.now(UTC).timestamp() - duration_s),
        "response_code": 0,
        "response_flags": outcome.flag,
        "bytes_received": connection.received,
        "bytes_sent": connection.sent,
        "duration": int(duration_s * 1000),
        "upstream_host": upstream.endpoint.where if upstream is not None else None,
        "upstream_cluster": listener.plan.cluster,
        "downstream_peer_uri_san": caller.id if caller is not None else None,
        "outcome": outcome.word if outcome is not Outcome.COMPLETED else None,
    }


_FIELDS = (
    "start_time", "method", "path", "protocol", "response_code", "response_flags", "bytes_received", "bytes_sent",
    "duration", "upstream_service_time", "x_forwarded_for", "user_agent", "request_id", "authority", "upstream_host",
    "upstream_cluster", "downstream_peer_uri_san", "outcome",
)  # fmt: skip


def _refusal(listener: Listener, status: int, version: tuple[int, int]) -> dict[str, object]:
    """As :func:`_values`, where nothing is known of the request."""
    return {
        "start_time": _time(datetime.now(UTC).timestamp()),
        "method": None,
        "path": None,
        "protocol": _protocol(version),
        "response_code": status,
        "response_flags": Outcome.REQUEST_REFUSED.flag,
        "bytes_received": 0,
        "bytes_sent": 0,
        "duration": 0,
        "upstream_service_time": None,
        "x_forwarded_for": None,
        "user_agent": None,
        "request_id": None,
        "authority": None,
        "upstream_host": None,
        "upstream_cluster": listener.plan.cluster,
        "downstream_peer_uri_san": None,
        "outcome": Outcome.REQUEST_REFUSED.word,
    }


def _time(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _protocol(version: tuple[int, int]) -> str:
    return "HTTP/2" if version == (2, 0) else f"HTTP/{version[0]}.{version[1]}"


def _text(values: dict[str, object]) -> str:
    """Envoy's default line."""
    safe = {name: "-" if value is None else str(value).translate(_ESCAPES) for name, value in values.items()}
    return (
        '[{start_time}] "{method} {path} {protocol}" {response_code} {response_flags} {bytes_received} {bytes_sent} '
        '{duration} {upstream_service_time} "{x_forwarded_for}" "{user_agent}" "{request_id}" "{authority}" '
        '"{upstream_host}"'
    ).format_map(safe)


def _find(fields: Sequence[Field], wanted: bytes) -> str | None:
    return next((_string(value) for name, value in fields if name == wanted), None)


def _string(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
