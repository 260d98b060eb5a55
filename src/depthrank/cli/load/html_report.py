"""The page of a load: goodput per step, latency by percentile, latency over time; plotly.js embedded once."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from depthrank.cli.load.outcomes import Outcomes
from depthrank.evaluate.report import layout, page, plot, table

Plain = dict[str, Any]
PERCENTILES = 1 - np.geomspace(1, 1e-4, 60)


@dataclass(frozen=True)
class Shown:
    """A step's figures and what they were made from."""

    name: str
    figures: Plain
    outcomes: Outcomes


def render_load(title: str, facts: Mapping[str, Any], steps: Sequence[Shown]) -> str:
    """The whole page; text from a server is escaped."""
    lines = "".join(f"<p><b>{html.escape(str(k))}</b>: {html.escape(str(v))}</p>" for k, v in facts.items())
    parts = [f"<h1>{html.escape(title)}</h1>{lines}"]
    parts += [
        f"<p><b>{html.escape(step.name)}: {html.escape(w)}</b></p>" for step in steps for w in step.figures["warnings"]
    ]
    if len(steps) > 1:
        parts.append(plot(_goodput(steps)))
    parts += [plot(_percentiles(steps)), plot(_over_time(steps[-1])), _table(steps)]
    return page(title, get_plotlyjs(), "\n".join(parts))


def _goodput(steps: Sequence[Shown]) -> go.Figure:
    figure = go.Figure()
    offered = [step.figures["offered_rps"] for step in steps]
    figure.add_scatter(x=offered, y=offered, mode="lines", line={"dash": "dot", "width": 1}, name="offered")
    for name, key in (("goodput", "goodput_rps"),):
        figure.add_scatter(x=offered, y=[s.figures[key] for s in steps], mode="lines+markers", name=name)
    figure.add_scatter(x=offered, y=[s.figures["p99_ms"] for s in steps], mode="lines+markers", name="p99", yaxis="y2")
    figure.update_layout(yaxis2={"overlaying": "y", "side": "right", "title": "p99, ms", "type": "log"})
    return layout(figure, "Goodput and p99 by offered load", "offered, requests a second", "requests a second")


def _percentiles(steps: Sequence[Shown]) -> go.Figure:
    """Latency against 1 / (1 - percentile), which stretches the tail, as HDR plots do."""
    figure = go.Figure()
    for step in steps:
        histogram = step.outcomes.latency
        values = [histogram.get_value_at_percentile(100 * p) / 1e3 for p in PERCENTILES]
        figure.add_scatter(x=list(1 / (1 - PERCENTILES)), y=values, mode="lines", name=html.escape(step.name))
    ticks = {
        "tickvals": [1, 2, 10, 100, 1_000, 10_000],
        "ticktext": ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"],
    }
    figure.update_xaxes(type="log", **ticks)
    figure.update_yaxes(type="log")
    return layout(figure, "Latency by percentile, from the intended send time", "percentile", "ms")


def _over_time(step: Shown) -> go.Figure:
    line = step.outcomes.time_line()
    figure = go.Figure()
    for name in ("p50_ms", "p99_ms"):
        figure.add_scatter(x=line["second"], y=line[name], mode="lines", name=name.removesuffix("_ms"))
    for name in ("due", "good"):
        figure.add_scatter(x=line["second"], y=line[name], mode="lines", line={"dash": "dot"}, name=name, yaxis="y2")
    figure.update_layout(
        yaxis2={"overlaying": "y", "side": "right", "title": "requests a second", "rangemode": "tozero"}
    )
    return layout(figure, f"Over time: {html.escape(step.name)}", "second of the intended send time", "ms")


def _table(steps: Sequence[Shown]) -> str:
    columns = ("offered_rps", "goodput_rps", "p50_ms", "p99_ms", "p999_ms", "errors", "degraded", "core_s_per_1000")
    rows = [
        [step.name, *(_cell(step.figures[c]) for c in columns), _cell(step.figures["client_lag_p99_ms"])]
        for step in steps
    ]
    return table(["step", *columns, "client lag p99"], rows)


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:,.6g}"
