"""Bar charts as SVG, one for each family of rows.

Each block of bars is one metric of one row and has its own scale, from 0 to its greatest value: units differ from row
to row, ratios within a block are what counts. The whisker spans the least and the greatest run. Bars are labelled with
their values, and each block says whether more is better or less.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.report import subjects_of
from bench.results import Better, Metric, Outcome

WIDTH, LEFT, RIGHT = 760, 110, 190
BAR, GAP, BLOCK_HEAD, BLOCK_FOOT, MARGIN = 16, 4, 26, 12, 14
COLOURS = ("#c2410c", "#4b5563", "#94a3b8", "#cbd5e1", "#e2e8f0", "#d6d3d1", "#e7e5e4")
"""The first is Koguma's; the others stand back."""
STYLE = (
    "text{font-family:system-ui,sans-serif;font-size:12px;fill:#1f2937}"
    ".title{font-weight:600}.hint{fill:#6b7280}.name,.value{dominant-baseline:central}.name{text-anchor:end}"
)


def chart(outcomes: Sequence[Outcome]) -> str:
    """Of the rows of one family; an SVG document. Raises ``ValueError`` if nothing was measured."""
    colours = dict(zip(subjects_of(outcomes), COLOURS, strict=False))
    blocks = [
        (outcome, metric)
        for outcome in outcomes
        for metric in outcome.metrics
        if metric.better is not Better.NEITHER and _bars(outcome, metric)
    ]
    if not blocks:
        raise ValueError("nothing was measured")
    body: list[str] = []
    top = MARGIN
    for outcome, metric in blocks:
        body += _block(outcome, metric, colours, top)
        top += _height(outcome, metric)
    height = top + MARGIN - BLOCK_FOOT
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    background = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", background, *body, "</svg>", ""])


def _bars(outcome: Outcome, metric: Metric) -> list[str]:
    return [subject for subject in subjects_of([outcome]) if outcome.summary(subject, metric.name) is not None]


def _height(outcome: Outcome, metric: Metric) -> int:
    return BLOCK_HEAD + len(_bars(outcome, metric)) * (BAR + GAP) + BLOCK_FOOT


def _block(outcome: Outcome, metric: Metric, colours: dict[str, str], top: int) -> list[str]:
    summaries = {subject: outcome.summary(subject, metric.name) for subject in _bars(outcome, metric)}
    greatest = max((summary.greatest for summary in summaries.values() if summary is not None), default=0.0)
    per_unit = (WIDTH - LEFT - RIGHT) / greatest if greatest > 0 else 0.0
    better = "more is better" if metric.better is Better.MORE else "less is better"
    title = f'<tspan class="title">{escape(outcome.name)}</tspan>, {escape(metric.unit)} '
    lines = [f'<text x="{MARGIN}" y="{top + 14}">{title}<tspan class="hint">({better})</tspan></text>']
    y = top + BLOCK_HEAD
    for subject, summary in summaries.items():
        assert summary is not None
        middle = y + BAR / 2
        width = max(0.0, summary.median) * per_unit
        least, most = LEFT + max(0.0, summary.least) * per_unit, LEFT + max(0.0, summary.greatest) * per_unit
        lines.append(f'<text class="name" x="{LEFT - 8}" y="{middle:g}">{escape(subject)}</text>')
        lines.append(
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colours.get(subject, COLOURS[-1])}"/>'
        )
        if most > least:
            lines.append(f'<path d="M{least:.1f} {middle:g}H{most:.1f}" stroke="#111827" stroke-width="1.5"/>')
        label = metric.text(summary.median)
        lines.append(f'<text class="value" x="{max(LEFT + width, most) + 6:.1f}" y="{middle:g}">{label}</text>')
        y += BAR + GAP
    return lines
