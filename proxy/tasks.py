"""Tasks that cannot be lost.

A bare ``asyncio.create_task`` may be garbage-collected while it runs, and its exception is told to nobody.
The one way to start a task outside a ``TaskGroup`` is :func:`spawn`: it keeps the task alive and logs how it
failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger("koguma.tasks")

T = TypeVar("T")

_running: set[asyncio.Task[Any]] = set()


def spawn(coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Start ``coro`` on the running loop. An exception that it does not handle is logged once, with its
    traceback; whoever awaits the task still receives it. Cancellation is a normal end.
    """
    task = asyncio.get_running_loop().create_task(coro, name=name)
    _running.add(task)
    task.add_done_callback(_finished)
    return task


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        log.error("task %s failed: %r", task.get_name(), error, exc_info=error)
