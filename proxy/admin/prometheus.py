"""``/stats/prometheus``: the same numbers in the exposition format (text format 0.0.4).

A name loses its thing (``cluster.a.upstream_cx_total`` becomes ``envoy_cluster_upstream_cx_total{envoy_cluster_name=
"a"}``) and counters end in ``_total``. All samples of a family must stand together, so families are the outer loop, and
the things within them come in slices.

The lines are written here: ``prometheus_client`` takes 30 µs a sample, and 10,000 services have 700,000 of them. Its
parser and its writer are the tests' judges.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from config.plan import Plan
from proxy.admin import certs
from proxy.admin.context import AdminContext
from proxy.admin.http import SLICE, Request, Response
from proxy.admin.stats import CLASSED, Row, Selection, Table, read
from proxy.stats import BUCKETS_MS, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS = (*(f"{bound:g}" if bound < 1000 else str(int(bound)) for bound in BUCKETS_MS), "+Inf")
_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_]")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def view(context: AdminContext, request: Request) -> Response:
    return Response(_write(context, Selection.parse(request)), CONTENT_TYPE)


async def _write(context: AdminContext, selection: Selection) -> AsyncGenerator[bytes, None]:
    for table in await read(context):
        for family in _families(table, selection):
            for piece in family:
                yield piece.encode()
                await asyncio.sleep(0)
    if selection.pattern is None and selection.wants("Gauges"):
        yield (await _expiries(context)).encode()
        yield _broken(context).encode()
        yield _trust(context.runtime.plan).encode()
        yield _probed(context).encode()


def _families(table: Table, selection: Selection) -> Iterator[Iterator[str]]:
    """The families of a table, each in pieces. All rows of a table have the same stats, but for classes of statuses."""
    if not table.rows:
        return
    like = table.rows[0]
    if selection.wants("Counters"):
        yield from (_counters(table, stat, selection) for stat in sorted(like.counters))
        yield from _classed(table, selection)
    if selection.wants("Gauges"):
        yield from (_gauges(table, stat, selection) for stat in sorted(like.gauges))
    if selection.wants("Histograms"):
        yield from (_histograms(table, stat, selection) for stat in sorted(like.histograms))


def _counters(table: Table, stat: str, selection: Selection) -> Iterator[str]:
    name = f"{_name(table, stat).removesuffix('_total')}_total"

    def sample(row: Row) -> str:
        value = row.counters[stat]
        return f"{name}{_braces(_label(table, row))} {value}\n" if _takes(selection, table, row, stat, value) else ""

    return _pieces(table, sample, _header(name, "counter", table, stat))


def _classed(table: Table, selection: Selection) -> Iterator[Iterator[str]]:
    """``upstream_rq_200`` and ``upstream_rq_2xx`` under Envoy's names: ``upstream_rq{envoy_response_code="200"}`` and
    ``upstream_rq_xx{envoy_response_code_class="2"}``. No ``_total``: ``upstream_rq_total`` is another number.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}  # by family and label: label's value by stat
    for stat in sorted({stat for row in table.rows for stat in row.classed}):
        parts = CLASSED.fullmatch(stat)
        assert parts is not None
        if parts["status"] is not None:
            found.setdefault((parts["stat"], "envoy_response_code"), {})[stat] = parts["status"]
        else:
            found.setdefault((f"{parts['stat']}_xx", "envoy_response_code_class"), {})[stat] = parts["class"]
    for (family, label), values in found.items():
        yield _classed_family(table, family, label, values, selection)


def _classed_family(
    table: Table, family: str, label: str, values: Mapping[str, str], selection: Selection
) -> Iterator[str]:
    name = _name(table, family)

    def samples(row: Row) -> str:
        return "".join(
            f'{name}{{{label}="{values[stat]}",{_label(table, row)}}} {value}\n'
            for stat, value in row.classed.items()
            if stat in values and _takes(selection, table, row, stat, value)
        )

    return _pieces(table, samples, _header(name, "counter", table, family))


def _gauges(table: Table, stat: str, selection: Selection) -> Iterator[str]:
    name = _name(table, stat)

    def sample(row: Row) -> str:
        value = row.gauges[stat]
        return f"{name}{_braces(_label(table, row))} {value}\n" if _takes(selection, table, row, stat, value) else ""

    return _pieces(table, sample, _header(name, "gauge", table, stat))


def _histograms(table: Table, stat: str, selection: Selection) -> Iterator[str]:
    name = _name(table, stat)
    # Most services of many are idle, and all idle ones differ in their label alone.
    idle = _histogram_lines(name, "\0", Histogram())

    def samples(row: Row) -> str:
        histogram = row.histograms[stat]
        count = histogram.count
        if not _takes(selection, table, row, stat, count):
            return ""
        label = _label(table, row)
        return _histogram_lines(name, label, histogram) if count else idle.replace("\0", label)

    return _pieces(table, samples, _header(name, "histogram", table, stat))


def _takes(selection: Selection, table: Table, row: Row, stat: str, value: int) -> bool:
    if selection.pattern is None:
        return value != 0 or not selection.used_only
    return selection.takes(table.scope(row) + stat, value != 0)


def _histogram_lines(name: str, label: str, histogram: Histogram) -> str:
    """``label`` is not empty: only things of which there are many have histograms."""
    counts = zip(_BOUNDS, accumulate(histogram.counts), strict=True)
    buckets = "".join([f'{name}_bucket{{{label},le="{bound}"}} {count}\n' for bound, count in counts])
    total = f"{name}_sum{{{label}}} {histogram.sum_ms:.10g}\n{name}_count{{{label}}} {histogram.count}\n"
    return buckets + total


def _pieces(table: Table, samples: Callable[[Row], str], header: str) -> Iterator[str]:
    """The samples of all rows, a slice at a time, under one header; nothing at all if no row has any."""
    for start in range(0, len(table.rows), SLICE):
        lines = "".join(map(samples, table.rows[start : start + SLICE]))
        if lines:
            yield header + lines
            header = ""


def _name(table: Table, stat: str) -> str:
    scope = "" if table.namespace == table.prefix else f"{table.prefix}_"
    return _NOT_IN_NAME.sub("_", f"{table.namespace}_{scope}{stat}")


def _label(table: Table, row: Row) -> str:
    return f'{table.label}="{escape(row.name)}"' if table.label is not None else ""


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _header(name: str, kind: str, table: Table, stat: str) -> str:
    described = f"{table.prefix}.<name>.{stat}" if table.label is not None else f"{table.prefix}.{stat}"
    return f"# HELP {name} {described}\n# TYPE {name} {kind}\n"


def escape(value: str) -> str:
    """A label's value, as the format wants it between quotes."""
    return value.translate(_ESCAPES)


def _family(name: str, described: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> str:
    """A gauge of several labels."""
    lines = []
    for labels, value in samples:
        shown = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{shown}}} {value:.10g}\n")
    return f"# HELP {name} {described}\n# TYPE {name} gauge\n{''.join(lines)}" if lines else ""


async def _expiries(context: AdminContext) -> str:
    return _family(
        "koguma_certificate_not_after_seconds",
        "when the certificate of a role that expires first does so, in seconds since the epoch",
        [
            (
                {"mesh": one.mesh, "service": one.service, "role": one.role, "subject": one.subject},
                one.not_after.timestamp(),
            )
            for one in await certs.expiries(context)
        ],
    )


def _broken(context: AdminContext) -> str:
    samples = []
    for row in context.resources():
        condition = failing_condition(row)
        if condition is not None:
            labels = {key: str(row.get(key, "")) for key in ("type", "mesh", "name")}
            samples.append((labels | {"reason": str(condition.get("reason", ""))}, 1))
    return _family(
        "koguma_resource_broken",
        "1 for a resource with a condition that is False; the reason is the condition's",
        samples,
    )


def _probed(context: AdminContext) -> str:
    return _family(
        "koguma_inbound_ready",
        "whether the application behind an inbound answers its service probe",
        [({"listener": name}, int(probe.is_ready)) for name, probe in context.probes.items()],
    )


def _trust(plan: Plan) -> str:
    bundles = plan.trust.by_domain
    text = _family(
        "koguma_trust_bundle_generation",
        "the number of the last change of a trust domain's bundle",
        [({"trust_domain": name}, plan.trust_generations.get(name, 0)) for name in bundles],
    )
    text += _family(
        "koguma_trust_bundle_not_after_seconds",
        "when the last CA certificate of a trust domain expires, in seconds since the epoch",
        [({"trust_domain": name}, bundle.expires.timestamp()) for name, bundle in bundles.items()],
    )
    identity = plan.identity
    if identity is not None and identity.not_after is not None:
        text += _family(
            "koguma_identity_not_after_seconds",
            "when the certificate of this proxy's identity expires, in seconds since the epoch",
            [({"spiffe_id": identity.id}, identity.not_after.timestamp())],
        )
        text += _family(
            "koguma_identity_renewal_failing",
            "1 while the agent or the files that renew this proxy's identity are of no use",
            [({"spiffe_id": identity.id}, int(bool(identity.fault)))],
        )
    return text


def failing_condition(row: dict[str, object]) -> dict[str, object] | None:
    """The first condition of a row of ``/resources`` whose status is ``False``."""
    status = row.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    for condition in conditions if isinstance(conditions, list) else ():
        if isinstance(condition, dict) and condition.get("status") == "False":
            return condition
    return None
