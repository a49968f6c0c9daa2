"""Which path is which view, who may ask for it, and the help text that lists them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import isawaitable

from proxy.admin import certs, dump, process, prometheus, stats, topology
from proxy.admin.context import AdminContext
from proxy.admin.http import Refusal, Request, Response, text

View = Callable[[AdminContext, Request], Response | Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    view: View
    help: str
    changes: bool = False
    """Needs POST, and must not come from another site's page."""
    reads: bool = True
    """Shows what runs: numbers of all workers are asked for first."""


async def _page(context: AdminContext, request: Request) -> Response:
    from proxy.admin import page  # here: machines never ask for it, and HTML's entities take half a megabyte

    return await page.view(context, request)


def _help(context: AdminContext, request: Request) -> Response:
    return text(f"admin commands are:\n{_commands()}")


def _stats(context: AdminContext, request: Request) -> Response:
    if request.query.get("format") == "prometheus":
        return prometheus.view(context, request)
    return stats.view(context, request)


ROUTES: dict[str, Route] = {
    "/": Route(_page, "status page"),
    "/certs": Route(certs.view, "print certs on machine"),
    "/clusters": Route(topology.clusters, "upstream cluster status (format=text|json, filter=REGEX)"),
    "/config_dump": Route(dump.view, "dump the plan that runs, without secrets (resource=SECTION)"),
    "/drain_listeners": Route(
        process.drain_listeners, "drain listeners (graceful, inboundonly, skip_exit)", True, False
    ),
    "/healthcheck/fail": Route(process.healthcheck_fail, "cause the server to fail health checks", True, False),
    "/healthcheck/ok": Route(process.healthcheck_ok, "cause the server to pass health checks", True, False),
    "/help": Route(_help, "print out list of admin commands", reads=False),
    "/listeners": Route(topology.listeners, "print listener info (format=text|json)"),
    "/logging": Route(process.change_logging, "query/change logging levels (level, paths, NAME)", True, False),
    "/memory": Route(process.memory, "print current memory usage"),
    "/quitquitquit": Route(process.quit_now, "exit the server", True, False),
    "/ready": Route(process.ready, "print server state, return 200 if LIVE, otherwise return 503", reads=False),
    "/reset_counters": Route(process.reset_counters, "reset all counters to zero", True, False),
    "/resources": Route(process.resources, "print the resources with their status"),
    "/server_info": Route(process.server_info, "print server version/status information", reads=False),
    "/stats": Route(_stats, "print server stats (format=text|json|prometheus, filter=REGEX, type, usedonly)"),
    "/stats/prometheus": Route(
        prometheus.view, "print server stats in prometheus format (filter=REGEX, type, usedonly)"
    ),
}


def find(request: Request) -> Route:
    """Raises :class:`Refusal`: 404 with the help text, or 405."""
    path = request.path if request.path == "/" else request.path.rstrip("/")
    route = ROUTES.get(path)
    if route is None:
        raise Refusal(404, f"invalid path. admin commands are:\n{_commands()}")
    if route.changes and request.method != "POST":
        raise Refusal(405, f"Method {request.method} not allowed, POST required.", allow="POST")
    if request.method not in ("GET", "HEAD", "POST"):
        raise Refusal(405, f"Method {request.method} not allowed, GET required.", allow="GET, HEAD")
    return route


async def answer(route: Route, context: AdminContext, request: Request) -> Response:
    """Raises :class:`Refusal`."""
    if route.reads:
        await context.refresh()
    response = route.view(context, request)
    return await response if isawaitable(response) else response


def _commands() -> str:
    return "".join(f"  {path}{' (POST)' * route.changes}: {route.help}\n" for path, route in ROUTES.items())
