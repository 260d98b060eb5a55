"""The evaluation report: one self-contained HTML page, plotly.js embedded once, readable in light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from depthrank.evaluate.about import About
from depthrank.metrics import GAUC_LABEL

Plain = dict[str, Any]
_TASK_COLUMNS = ("auc", "gauc", "ne", "logloss", "ece", "predicted_over_observed", "rows", "positives")
_RANKING_COLUMNS = ("ndcg@10", "hr@10", "mrr", "coverage", "long_tail_share", "requests")
_GREY = "#808080"  # readable on white and on black


def render(about: About, figures: Plain) -> str:
    """The whole page. Names from data are escaped: an item or scenario name never becomes markup."""
    parts = [
        _heading(about, figures),
        _task_tables(figures),
        _ranking_table(figures),
        _depth_table(figures),
        *_plots(about, figures),
        _notes(figures),
    ]
    return page(f"Evaluation of {about.name}", get_plotlyjs(), "\n".join(parts))


def page(title: str, plotly: str, body: str) -> str:
    """A self-contained page; ``body`` is markup already."""
    return _PAGE.format(title=html.escape(title), plotly=plotly, body=body)


def _heading(about: About, figures: Plain) -> str:
    facts = figures["about"]
    text = (
        f"Model {about.model}, split {about.split}: {facts['requests']:,} requests of {facts['users']:,} users, "
        f"{number(facts['candidates_per_request'])} candidates a request ({about.candidates})."
    )
    return f"<h1>Evaluation of {html.escape(about.name)}</h1><p>{html.escape(text)}</p>"


def _task_tables(figures: Plain) -> str:
    rows = [
        [level["level"], task, *(found[c] for c in _TASK_COLUMNS)]
        for level in figures["levels"]
        for task, found in level["tasks"].items()
    ]
    intervals = [
        [task, *(_interval(found[m]) for m in ("auc", "gauc", "ne"))]
        for task, found in figures["intervals"]["tasks"].items()
    ]
    return (
        "<h2>Tasks</h2>"
        + table(("level", "task", *_TASK_COLUMNS), rows)
        + f"<p>{html.escape(GAUC_LABEL)}.</p><h3>Deepest level, 95 % intervals by bootstrap over users</h3>"
        + table(("task", "auc", "gauc", "ne"), intervals)
    )


def _ranking_table(figures: Plain) -> str:
    rows = [[level["level"], *(level["ranking"][c] for c in _RANKING_COLUMNS)] for level in figures["levels"]]
    interval = figures["intervals"]["ranking"]
    told = ", ".join(f"{name} {_interval(found)}" for name, found in interval.items())
    return "<h2>Ranking</h2>" + table(("level", *_RANKING_COLUMNS), rows) + f"<p>Deepest level: {told}.</p>"


def _depth_table(figures: Plain) -> str:
    gain = figures["deepest_over_router"]
    if not gain:
        return ""
    rows = [["ndcg@10", "", _interval(gain["ndcg@10"])]]
    rows += [[metric, task, _interval(found[metric])] for task, found in gain["tasks"].items() for metric in found]
    return "<h2>Deepest level minus router, paired by user</h2>" + table(("figure", "task", "difference"), rows)


def _plots(about: About, figures: Plain) -> Iterable[str]:
    yield plot(_reliability(figures["reliability"]))
    yield plot(_recall(figures["levels"]))
    slices = figures["slices"]
    yield plot(_by_slice(slices["history_length"], about.tasks, "history length (tokens)"))
    for column, found in slices["scenario"].items():
        yield plot(_by_slice(found, about.tasks, f"scenario: {html.escape(column)}"))
    yield plot(_by_slice(slices["item_popularity"], about.tasks, "popularity of the candidate's item"))
    yield plot(_hits_by_popularity(slices["item_popularity"]))


def _reliability(found: Plain) -> go.Figure:
    figure = go.Figure()
    top = 0.0
    for task, bins in found.items():
        top = max([top, *bins["predicted"], *bins["observed"]])
        text = [f"{count:,} rows" for count in bins["count"]]
        figure.add_scatter(
            x=bins["predicted"], y=bins["observed"], mode="lines+markers", name=html.escape(task), text=text
        )
    figure.add_scatter(x=[0, top], y=[0, top], mode="lines", line={"dash": "dot", "color": _GREY}, name="perfect")
    return layout(figure, "Reliability, deepest level", "predicted probability", "share of positives")


def _recall(levels: Sequence[Plain]) -> go.Figure:
    figure = go.Figure()
    for level in levels:
        recall = level["recall@k"]
        figure.add_scatter(
            x=list(recall), y=list(recall.values()), mode="lines+markers", name=f"level {level['level']}"
        )
    figure.update_xaxes(type="category")
    return layout(figure, "Recall of the deepest level's top 10", "k", "recall@k")


def _by_slice(found: Sequence[Plain], tasks: Sequence[str], title: str) -> go.Figure:
    figure = go.Figure()
    names = [html.escape(entry["slice"]) for entry in found]
    for task in tasks:
        text = [f"{entry['tasks'][task]['rows']:,} rows" for entry in found]
        y = [_or_none(entry["tasks"][task]["auc"]) for entry in found]
        figure.add_scatter(x=names, y=y, mode="lines+markers", name=f"AUC {html.escape(task)}", text=text)
    if found and "ndcg@10" in found[0]:
        y = [_or_none(entry["ndcg@10"]) for entry in found]
        figure.add_scatter(x=names, y=y, mode="lines+markers", name="NDCG@10", line={"dash": "dash"})
    figure.update_xaxes(type="category")
    return layout(figure, f"By {title}, deepest level", title, "")


def _hits_by_popularity(found: Sequence[Plain]) -> go.Figure:
    figure = go.Figure()
    names = [html.escape(entry["slice"]) for entry in found]
    for level in range(len(found[0]["hr@10_by_level"]) if found else 0):
        y = [_or_none(entry["hr@10_by_level"][level]) for entry in found]
        figure.add_bar(x=names, y=y, name=f"level {level}", text=[f"{e['relevant']:,} relevant" for e in found])
    title = "Relevant candidates in the top 10, by popularity of their item"
    return layout(figure, title, "popularity", "share in the top 10")


def layout(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    """Transparent, with grey text and grid, so that the page's light or dark background shows through."""
    figure.update_layout(
        title=title,
        xaxis_title=x,
        yaxis_title=y,
        height=380,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _GREY},
    )
    figure.update_xaxes(gridcolor="rgba(128,128,128,0.25)", zerolinecolor="rgba(128,128,128,0.5)")
    figure.update_yaxes(gridcolor="rgba(128,128,128,0.25)", zerolinecolor="rgba(128,128,128,0.5)")
    return figure


def plot(figure: go.Figure) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}))


def _notes(figures: Plain) -> str:
    about = figures["about"]
    notes = [f"{key}: {about[key]}" for key in ("relevant", "recall@k", "long_tail_share")]
    notes.append(f"task metrics are of {about['rows_of_task_metrics']:,} rows")
    notes += [f"no figure for {name}: {why}" for name, why in figures["absent"].items()]
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(number(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{cells}</tr>{body}</table></div>"


def _interval(found: Plain) -> str:
    return f"{number(found['estimate'])} [{number(found['low'])}, {number(found['high'])}]"


def number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else "–"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem;
  background: Canvas; color: CanvasText; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid rgba(128,128,128,.35); }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left; }}
</style>
<script>{plotly}</script>
</head>
<body>
{body}
</body>
</html>
"""
