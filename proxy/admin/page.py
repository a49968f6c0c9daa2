"""``/``: the status page. What is wrong comes first, in words; then services, their endpoints, and listeners.

One document without a script and without anything from elsewhere, under a policy that allows neither. Every value goes
through :func:`html.escape`: names and verdicts quote what peers and files say.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

from config.plan import ClusterPlan, DnsTarget
from proxy.admin.context import AdminContext, ClusterView, ListenerView
from proxy.admin.http import HTML, SLICE, Request, Response
from proxy.admin.prometheus import failing_condition
from proxy.admin.topology import comes_by, is_ejected
from proxy.balance import Endpoint

REFRESH_S = 5
MAX_ROWS = 500
"""Of each table. The rest is counted; ``/clusters`` has it all."""
MAX_ENDPOINTS = 20
"""Shown of one service."""

STYLE = """
:root{color-scheme:light dark;--bg:#f6f4f0;--card:#fff;--ink:#23201c;--soft:#756d63;--line:#e6e0d7;--good:#2c7a4b;
--bad:#b3372b;--warn:#96690a;--accent:#8a5a33}
@media(prefers-color-scheme:dark){:root{--bg:#1a1816;--card:#24211e;--ink:#ece6dd;--soft:#a0968a;--line:#393430;
--good:#6cc48d;--bad:#f0887c;--warn:#e2b65a;--accent:#d3a074}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:76rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:.4rem 1rem;margin-bottom:1.25rem}
h1{font-size:1.5rem;letter-spacing:-.01em;margin:0;color:var(--accent)}
h2{font-size:1rem;margin:2rem 0 .6rem}
h2 small,header span{color:var(--soft);font-weight:400;font-size:.87rem}
.pill{padding:.1rem .65rem;border-radius:1rem;font-weight:600;font-size:.8rem;border:1.5px solid currentColor}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}.soft{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem}
.tile,.box{background:var(--card);border:1px solid var(--line);border-radius:.6rem}
.tile{padding:.7rem .9rem}
.tile b{display:block;font-size:1.45rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.25}
.tile span{color:var(--soft);font-size:.82rem}
.box{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th{text-align:left;font-weight:500;color:var(--soft);font-size:.78rem}
th,td{padding:.5rem .9rem;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font:.84rem ui-monospace,monospace;overflow-wrap:anywhere}
td div+div{margin-top:.3rem}
.dot::before{content:"";display:inline-block;width:.55em;height:.55em;border-radius:50%;background:currentColor;
margin-right:.5em}
footer{margin-top:2.5rem;color:var(--soft);font-size:.84rem}
a{color:var(--accent);text-decoration:none;margin-right:.9rem}a:hover{text-decoration:underline}
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = (
    (
        "content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
)

LINKS = (
    "/resources",
    "/clusters",
    "/listeners",
    "/certs",
    "/stats",
    "/stats/prometheus",
    "/config_dump",
    "/server_info",
    "/memory",
    "/help",
)


@dataclass(slots=True)
class _Service:
    cluster: ClusterView
    healthy: int
    troubled: int
    """Endpoints whose last attempt failed."""

    @property
    def rank(self) -> tuple[int, str]:
        """Worst first, then by name."""
        plan = self.cluster.plan
        return (0 if not self.healthy else 1 if self.troubled else 2, f"{plan.mesh}/{plan.service}")


@dataclass(slots=True)
class _Problem:
    what: str
    message: str
    where: str = ""


async def view(context: AdminContext, request: Request) -> Response:
    now_s = asyncio.get_running_loop().time()
    services = await _services(context, now_s)
    problems = _problems(context)
    body = "".join(
        [
            _header(context, now_s),
            _tiles(context, services, len(problems)),
            _problem_table(problems),
            _service_table(services, now_s),
            _listener_table(list(context.runtime.listeners.values())),
            _footer(context),
        ]
    )
    title = escape(f"koguma · {context.runtime.plan.proxy.name} · {context.state()}")
    document = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="{REFRESH_S}">'
        f"<style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
    return Response(document.encode("utf-8", "replace"), HTML, headers=HEADERS)


async def _services(context: AdminContext, now_s: float) -> list[_Service]:
    services: list[_Service] = []
    for number, cluster in enumerate(tuple(context.runtime.clusters.values()), start=1):
        troubled = sum(endpoint.last_verdict is not None for endpoint in cluster.balancer)
        services.append(_Service(cluster, cluster.balancer.healthy_count(now_s), troubled))
        if number % SLICE == 0:
            await asyncio.sleep(0)
    return sorted(services, key=lambda service: service.rank)


def _problems(context: AdminContext) -> list[_Problem]:
    found = [_Problem(name, why, "listener") for name, why in context.runtime.failed.items()]
    for row in context.resources():
        condition = failing_condition(row)
        if condition is not None:
            where = f"{row['file']}:{row.get('line', '')}" if row.get("file") else ""
            found.append(
                _Problem(
                    f"{row.get('type', '')}/{row.get('name', '')}",
                    str(condition.get("message") or condition.get("reason") or ""),
                    where,
                )
            )
    return found


def _header(context: AdminContext, now_s: float) -> str:
    state, proxy = context.state(), context.runtime.plan.proxy
    tone = "good" if state == "LIVE" else "warn"
    about = f"{proxy.name} · mesh {proxy.mesh} · zone {proxy.zone} · up {duration(now_s - context.started_s)}"
    return (
        f'<header><h1>koguma</h1><b class="pill {tone}">{escape(state)}</b>'
        f"<span>{escape(about)} · plan {context.reload.generation}</span></header>"
    )


def _tiles(context: AdminContext, services: list[_Service], problems: int) -> str:
    endpoints = sum(len(service.cluster.balancer) for service in services)
    healthy = sum(service.healthy for service in services)
    down = sum(not service.healthy for service in services)
    active = sum(listener.stats.downstream_cx_active for listener in context.runtime.listeners.values())
    reload = context.reload
    tiles = [
        (f"{len(services):,}", f"services, {down:,} down" if down else "services", "bad" if down else ""),
        (f"{healthy:,} / {endpoints:,}", "endpoints in use", "warn" if healthy < endpoints else ""),
        (f"{len(context.runtime.listeners):,}", "listeners", ""),
        (f"{active:,}", "connections", ""),
        (f"{reload.success:,}", f"reloads, {reload.rejected:,} refused" if reload.rejected else "reloads", ""),
        (f"{problems:,}", "problem" if problems == 1 else "problems", "bad" if problems else "good"),
    ]
    cells = (
        f'<div class="tile"><b class="{tone}">{value}</b><span>{label}</span></div>' for value, label, tone in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _problem_table(problems: list[_Problem]) -> str:
    if not problems:
        return ""
    rows = (
        _row([f'<b class="bad">{escape(one.what)}</b>', escape(one.message), f"<code>{escape(one.where)}</code>"])
        for one in problems[:MAX_ROWS]
    )
    return _table("Problems", len(problems), ("what", "why", "where"), rows)


def _service_table(services: list[_Service], now_s: float) -> str:
    rows = (_service_row(service, now_s) for service in services[:MAX_ROWS])
    return _table("Services", len(services), ("service", "TLS", "endpoints", "active|", "total|", "failed|"), rows)


def _service_row(service: _Service, now_s: float) -> str:
    cluster = service.cluster
    plan, stats = cluster.plan, cluster.stats
    tone = "bad" if not service.healthy else "warn" if service.troubled else "good"
    return _row(
        [
            f'<b class="dot {tone}">{escape(plan.service)}</b><div class="soft">{escape(plan.mesh)} · '
            f"{escape(plan.protocol)}</div>",
            _tls(plan),
            "".join(_endpoints(cluster, now_s)),
            _Number(stats.upstream_cx_active),
            _Number(stats.upstream_cx_total),
            _Number(stats.upstream_cx_connect_fail),
        ]
    )


def _tls(plan: ClusterPlan) -> str:
    if plan.tls is None:
        return '<span class="soft">plaintext</span>'
    mutual = " · mTLS" if plan.tls.client is not None else ""
    tone = "good" if plan.tls.mode.checks_chain and plan.tls.mode.checks_names else "warn"
    return f'<span class="{tone}">{escape(plan.tls.mode)}{mutual}</span>'


def _endpoints(cluster: ClusterView, now_s: float) -> Iterator[str]:
    for endpoint in list(cluster.balancer)[:MAX_ENDPOINTS]:
        yield f"<div>{_endpoint(endpoint, now_s)}</div>"
    more = len(cluster.balancer) - MAX_ENDPOINTS
    if more > 0:
        yield f'<div class="soft">and {more:,} more</div>'
    for watch in cluster.watches:
        if watch.last_error is not None:
            yield f'<div class="bad">{escape(watch.name)}: {escape(str(watch.last_error))}</div>'
    if not len(cluster.balancer) and not any(isinstance(one.target, DnsTarget) for one in cluster.plan.endpoints):
        yield '<div class="bad">the resource lists none</div>'


def _endpoint(endpoint: Endpoint, now_s: float) -> str:
    address = endpoint.where
    name = f' <span class="soft">{escape(endpoint.host)}</span>' if endpoint.is_dns and endpoint.host else ""
    priority = f' <span class="soft">priority {endpoint.priority}</span>' if endpoint.priority else ""
    shown = f"<code>{escape(address)}</code>{name}{priority}"
    verdict = endpoint.last_verdict
    if is_ejected(endpoint, now_s):
        shown += f' <span class="bad">passed over for {max(1, round(endpoint.ejected_until - now_s))} s</span>'
    if verdict is not None:
        advice = f' <span class="soft">{escape(verdict.advice)}</span>' if verdict.advice else ""
        shown += f'<br><span class="warn">{escape(verdict.message)}</span>{advice}'
    return shown


def _listener_table(listeners: list[ListenerView]) -> str:
    rows = (_listener_row(listener) for listener in listeners[:MAX_ROWS])
    headings = ("listens on", "for", "active|", "total|", "received|", "sent|")
    return _table("Listeners", len(listeners), headings, rows)


def _listener_row(listener: ListenerView) -> str:
    plan, stats = listener.plan, listener.stats
    received, sent = listener.byte_totals()
    tone = "good" if listener.listening else "bad"
    host = plan.bind.rpartition(":")[0]
    way = ", ".join((str(plan.direction), *comes_by(plan)))
    return _row(
        [
            f'<span class="dot {tone}"></span><code>{escape(host)}:{listener.port}</code>',
            f'<code>{escape(plan.cluster)}</code><div class="soft">{escape(way)}</div>',
            _Number(stats.downstream_cx_active),
            _Number(stats.downstream_cx_total),
            _Number(size(received)),
            _Number(size(sent)),
        ]
    )


def _footer(context: AdminContext) -> str:
    links = "".join(f'<a href="{path}">{path}</a>' for path in LINKS)
    since = context.started_at.isoformat(" ", timespec="seconds").removesuffix("+00:00")
    return f"<footer><p>{links}</p><p>started {escape(since)} UTC · node {escape(context.node_id)}</p></footer>"


class _Number(str):
    """A cell that is set to the right."""

    __slots__ = ()

    def __new__(cls, value: int | str) -> _Number:
        return super().__new__(cls, f"{value:,}" if isinstance(value, int) else value)


def _row(cells: Iterable[str]) -> str:
    """A table row of finished HTML."""
    return f"<tr>{''.join(_cell(cell) for cell in cells)}</tr>"


def _cell(html: str) -> str:
    return f'<td class="num">{html}</td>' if isinstance(html, _Number) else f"<td>{html}</td>"


def _table(title: str, count: int, headings: Iterable[str], rows: Iterable[str]) -> str:
    """``headings`` that end in ``|`` stand to the right, above numbers."""
    head = "".join(
        f'<th class="num">{one.removesuffix("|")}</th>' if one.endswith("|") else f"<th>{one}</th>" for one in headings
    )
    body = "".join(rows) or '<tr><td class="soft">none</td></tr>'
    shown = f"{count:,}" if count <= MAX_ROWS else f"the first {MAX_ROWS:,} of {count:,}"
    return (
        f"<h2>{title} <small>{shown}</small></h2>"
        f'<div class="box"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def duration(seconds: float) -> str:
    """``3 d 4 h``, ``5 min``, ``12 s``: two units at most."""
    left, parts = int(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        amount, left = divmod(left, length)
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2]) or "0 s"


def size(count: int) -> str:
    """Bytes for people: ``512 B``, ``1.5 KiB``."""
    value, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes everything")
