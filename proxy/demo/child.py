"""``koguma run`` in a process of its own, as an operator would start it; seen through its log and admin interface."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

SOURCE_ROOT = Path(__file__).resolve().parents[2]
START_S = 15.0
EVENT_S = 10.0
STOP_S = 10.0


class ChildError(Exception):
    """The process did not do what was expected of it; the message ends with the last lines of its log."""


def command(*arguments: str) -> list[str]:
    """``-P``: a folder named ``proxy`` where the user happens to be is not ours."""
    return [sys.executable, "-P", "-m", "proxy", *arguments]


def environment() -> dict[str, str]:
    """Ours, without the ``KUMA_*`` that would lead the child to other resources."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KUMA_")}
    return {**kept, "PYTHONPATH": str(SOURCE_ROOT)}


class Proxy:
    """Runs from entry to exit, whatever happens in between."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = ["run", *arguments, "--admin-port", "0", "--log-format", "json"]
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._tail: deque[str] = deque(maxlen=20)
        self.admin = ""
        """``address:port``, once ready."""

    def __enter__(self) -> Proxy:
        self._process = subprocess.Popen(
            command(*self._arguments),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us: we end the child
        )
        self._reader = threading.Thread(target=self._read, name="log", daemon=True)
        self._reader.start()
        try:
            self.admin = str(self.wait_for("ready", START_S)["admin"])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, event: str, within_s: float = EVENT_S) -> dict[str, Any]:
        """The next log line with this event."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                entry = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ChildError(f'no "{event}" within {within_s:g} s\n{self._last_lines()}') from None
            if entry is None:
                code = self._process.wait(STOP_S)
                raise ChildError(f'the proxy ended with exit code {code} before "{event}"\n{self._last_lines()}')
            if entry.get("event") == event:
                return entry

    def ask(self, path: str) -> Any:
        """JSON from the admin interface."""
        connection = http.client.HTTPConnection(self.admin, timeout=EVENT_S)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise ChildError(f"no answer from the admin interface: {exc}\n{self._last_lines()}") from exc
        finally:
            connection.close()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise ChildError(f"still running {STOP_S:g} s after SIGTERM\n{self._last_lines()}") from None

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._tail.append(line.rstrip("\n"))
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # not an event; it is shown if things go wrong
            if isinstance(entry, dict):
                self._events.put(entry)
        self._events.put(None)

    def _last_lines(self) -> str:
        return "\n".join(f"  | {line}" for line in self._tail)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(STOP_S)
        assert self._process.stderr is not None
        self._process.stderr.close()
