"""The training report: one self-contained HTML page of curves, calibration and an account of time."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from depthrank.training.loop import EpochResult, Scored


def render_report(
    title: str, summary: dict[str, Any], epochs: Sequence[EpochResult], scored: Scored, probability_LNK: np.ndarray
) -> str:
    """HTML with plotly embedded once; readable in light and dark."""
    tasks = list(summary["tasks"])
    figures = [_loss_curves(epochs), *(_reliability(task, k, scored, probability_LNK) for k, task in enumerate(tasks))]
    figures.append(_time_shares(summary["time"]))
    plots = "\n".join(
        f.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}) for f in figures
    )
    return _PAGE.format(title=html.escape(title), plotly=get_plotlyjs(), table=_table(summary), plots=plots)


def _layout(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, height=380, template="plotly_white")
    return figure


def _loss_curves(epochs: Sequence[EpochResult]) -> go.Figure:
    figure = go.Figure()
    x = [e.epoch + 1 for e in epochs]
    figure.add_scatter(x=x, y=[e.train_loss for e in epochs], name="training, all levels")
    for level in range(len(epochs[0].validation_loss_L) if epochs else 0):
        figure.add_scatter(x=x, y=[e.validation_loss_L[level] for e in epochs], name=f"validation, level {level}")
    return _layout(figure, "Loss by epoch", "epoch", "loss")


def _reliability(task: str, k: int, scored: Scored, probability_LNK: np.ndarray) -> go.Figure:
    """Predicted against observed rate in ten bins of equal weight, by level."""
    figure = go.Figure()
    known = np.isfinite(scored.label_NK[:, k])
    label, weight = scored.label_NK[known, k], scored.weight_N[known]
    for level in range(probability_LNK.shape[0]):
        p = probability_LNK[level, known, k]
        order = np.argsort(p)
        share = np.cumsum(weight[order]) / max(weight.sum(), 1e-12)
        bins = np.searchsorted(np.linspace(0, 1, 11)[1:-1], share)
        used = np.unique(bins)
        mean = [np.average(p[order][bins == b], weights=weight[order][bins == b]) for b in used]
        rate = [np.average(label[order][bins == b], weights=weight[order][bins == b]) for b in used]
        figure.add_scatter(x=mean, y=rate, mode="lines+markers", name=f"level {level}")
    top = max(float(np.nanmax(probability_LNK[..., k])) if probability_LNK.size else 1.0, 1e-6)
    figure.add_scatter(x=[0, top], y=[0, top], mode="lines", line={"dash": "dot"}, name="perfect")
    return _layout(figure, f"Calibration of {task} on validation", "predicted", "observed")


def _time_shares(time: dict[str, float]) -> go.Figure:
    phases = ("data", "forward", "backward", "optimizer")
    figure = go.Figure(go.Bar(x=[100 * time[p] for p in phases], y=list(phases), orientation="h"))
    return _layout(figure, f"Training time: {time['candidates_per_s']:,.0f} candidates/s", "share of time, %", "")


def _table(summary: dict[str, Any]) -> str:
    rows = []
    for level, tasks in enumerate(summary["validation"]["levels"]):
        for task, metrics in tasks.items():
            cells = "".join(f"<td>{_number(metrics[m])}</td>" for m in ("auc", "gauc", "ne", "logloss"))
            rows.append(f"<tr><td>{level}</td><td>{html.escape(task)}</td>{cells}</tr>")
    head = "<tr><th>level</th><th>task</th><th>AUC</th><th>GAUC</th><th>NE</th><th>log loss</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>:root{{color-scheme:light dark}}body{{font:16px system-ui;max-width:60rem;margin:2rem auto;
padding:0 1rem}}table{{border-collapse:collapse}}
td,th{{padding:.3rem .8rem;border-bottom:1px solid #8884;text-align:right}}
.js-plotly-plot{{margin:1rem 0}}</style><script>{plotly}</script><h1>{title}</h1>
<p>On the candidates of the validation split. GAUC: AUC per user, weighted by the user's impressions, users with one
class left out.</p>{table}{plots}</html>"""
