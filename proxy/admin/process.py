"""The process itself: whether it is ready, what it is and holds; and the requests that change something."""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from importlib.metadata import PackageNotFoundError, version

from proxy.admin.context import AdminContext
from proxy.admin.http import Refusal, Request, Response, json_response, text
from proxy.logs import LEVELS, ROOT, level_name

LOGGING_USAGE = (
    "usage: /logging?<name>=<level> (change single level)\n"
    "usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n"
    "usage: /logging?level=<level> (change all levels)\n"
    f"levels: {' '.join(LEVELS)}\n"
)


def ready(context: AdminContext, request: Request) -> Response:
    state = context.state()
    return text(f"{state}\n", 200 if state == "LIVE" else 503)


def server_info(context: AdminContext, request: Request) -> Response:
    proxy = context.runtime.plan.proxy
    uptime = f"{int(asyncio.get_running_loop().time() - context.started_s)}s"
    labels = dict(proxy.labels)
    return json_response(
        {
            "version": f"koguma/{package_version()}/Clean/RELEASE/{ssl.OPENSSL_VERSION.replace(' ', '-')}",
            "state": context.state(),
            "uptime_current_epoch": uptime,
            "uptime_all_epochs": uptime,
            "started_at": context.started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "hot_restart_version": "disabled",
            "command_line_options": {"concurrency": context.concurrency} | dict(context.options),
            "node": {
                "id": context.node_id,
                "cluster": proxy.name,
                "metadata": {"mesh": proxy.mesh, "zone": proxy.zone, "labels": labels},
                "locality": {"zone": proxy.zone},
                "user_agent_name": "koguma",
                "user_agent_version": package_version(),
                "python_version": sys.version.split()[0],
            },
        }
    )


def resources(context: AdminContext, request: Request) -> Response:
    return json_response({"resources": context.resources()})


def package_version() -> str:
    try:
        return version("koguma")
    except PackageNotFoundError:  # run from a source tree
        return "0.0.0-dev"


def memory(context: AdminContext, request: Request) -> Response:
    """Envoy's fields, of which those about its allocator are zero here, and Python's own count."""
    held = context.memory()
    return json_response(
        {
            "allocated": str(held.allocated),
            "heap_size": str(held.heap),
            "pageheap_unmapped": "0",
            "pageheap_free": "0",
            "total_thread_cache": "0",
            "total_physical_bytes": str(held.physical),
            "python_allocated_blocks": str(held.blocks),
        }
    )


async def quit_now(context: AdminContext, request: Request) -> Response:
    await context.actions.quit()
    return text("OK\n")


async def drain_listeners(context: AdminContext, request: Request) -> Response:
    await context.actions.drain_listeners(
        inbound_only=request.flag("inboundonly"),
        graceful=request.flag("graceful"),
        skip_exit=request.flag("skip_exit"),
    )
    return text("OK\n")


async def healthcheck_fail(context: AdminContext, request: Request) -> Response:
    await context.actions.healthcheck(fail=True)
    return text("OK\n")


async def healthcheck_ok(context: AdminContext, request: Request) -> Response:
    await context.actions.healthcheck(fail=False)
    return text("OK\n")


async def reset_counters(context: AdminContext, request: Request) -> Response:
    context.reload.reset_counters()
    context.dns.reset_counters()
    await context.runtime.reset_counters()
    return text("OK\n")


async def change_logging(context: AdminContext, request: Request) -> Response:
    """``?level=L``, ``?NAME=L`` or ``?paths=NAME:L,NAME:L``; nothing asked: the levels as they are. All or nothing."""
    try:
        changes = _asked_levels(request.query)
    except ValueError as error:
        raise Refusal(400, f"error: {error}\n\n{LOGGING_USAGE}{_active_loggers()}") from error
    await context.actions.set_levels(changes)
    return text(_active_loggers())


def _asked_levels(query: dict[str, str]) -> dict[str, int]:
    """Logger names to levels. Raises ``ValueError`` with Envoy's words."""
    if not query:
        return {}
    if len(query) > 1:
        raise ValueError("invalid number of parameters")
    ((key, value),) = query.items()
    if key == "level":
        return dict.fromkeys(_loggers(), _level(value))
    if key == "paths":
        pairs = [pair.rpartition(":") for pair in value.split(",")]
        if not all(name and level for name, _, level in pairs):
            raise ValueError("empty logger name or empty logger level")
        return {_logger(name): _level(level) for name, _, level in pairs}
    return {_logger(key): _level(value)}


def _level(name: str) -> int:
    if name not in LEVELS:
        raise ValueError("unknown logger level")
    return LEVELS[name]


def _logger(name: str) -> str:
    """``upstream`` may stand for ``koguma.upstream``."""
    for full in (name, f"{ROOT}.{name}"):
        if full in _loggers():
            return full
    raise ValueError("unknown logger name")


def _loggers() -> list[str]:
    return [ROOT, *sorted(name for name in logging.root.manager.loggerDict if name.startswith(f"{ROOT}."))]


def _active_loggers() -> str:
    lines = (f"  {name}: {level_name(logging.getLogger(name).getEffectiveLevel())}\n" for name in _loggers())
    return f"active loggers:\n{''.join(lines)}"
