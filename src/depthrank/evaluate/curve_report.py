"""The page of a curve: kept gain against cost, comparisons, depth by slices, scaling; plotly.js embedded once."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from depthrank.evaluate.report import layout, number, page, plot, table

Plain = dict[str, Any]

_MARKERS = {"fixed": "square", "cascade": "triangle-up", "adaptive": "circle", "full": "star"}


def render_curve(figures: Plain) -> str:
    """The whole page; names from data are escaped."""
    about = figures["about"]
    title = f"Depth and cost of {about['name']}"
    facts = (
        f"Model {about['model']}, split {about['split']}: {about['requests']:,} requests of {about['users']:,} users, "
        f"{about['candidates_per_request']:,.0f} candidates a request. Full depth takes {about['full_ms']['warm']:.3g} "
        f"ms warm, {about['full_ms']['cold']:.3g} ms cold. Plans and prices were chosen on "
        f"{about['validation_requests']:,} validation requests. Cost: {about['cost_is']}."
    )
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(facts)}</p><p><b>{html.escape(figures['said'])}.</b></p>"]
    parts += [plot(_kept_gain(figures["points"], warm)) for warm in (True, False)]
    parts.append(_comparisons(figures["comparisons"]))
    parts.append(_points(figures["points"]))
    parts += _depth(figures["depth"], figures["points"])
    parts.append(plot(_importance(figures["importance"])))
    if figures["timing"]:
        parts.append(_timing(figures["timing"]))
    if figures["scaling"]:
        parts.append(plot(_scaling(figures["scaling"])))
    return page(title, get_plotlyjs(), "\n".join(parts))


def _kept_gain(points: Sequence[Plain], warm: bool) -> go.Figure:
    figure = go.Figure()
    cost, gain = ("cost", "kept_gain") if warm else ("cost_cold", "kept_gain_cold")
    for policy in ("cascade", "fixed", "adaptive", "full"):
        own = sorted((p for p in points if p["policy"] == policy and p[gain] is not None), key=lambda p: float(p[cost]))
        high = [_beyond(p["intervals"][gain][1], p[gain]) for p in own]
        low = [_beyond(p[gain], p["intervals"][gain][0]) for p in own]
        figure.add_scatter(
            x=[p[cost] for p in own],
            y=[p[gain] for p in own],
            error_y={"type": "data", "array": high, "arrayminus": low, "thickness": 1},
            mode="lines+markers",
            marker={"symbol": _MARKERS[policy]},
            name=policy,
            text=[html.escape(str(p.get("plan", p.get("price")))) for p in own],
        )
    figure.update_xaxes(type="log")
    state = "warm" if warm else "cold"
    return layout(figure, f"Kept gain against cost, {state} user state", "cost, fraction of full depth", "kept gain")


def _beyond(a: float | None, b: float | None) -> float:
    return 0.0 if a is None or b is None else max(0.0, a - b)


def _comparisons(found: Sequence[Plain]) -> str:
    rows = []
    for entry in found:
        if not entry["reachable"]:
            rows.append(["", entry["state"], entry["target_cost"], "the router alone costs more", "", "", "", ""])
            continue
        for rival, over in entry["over"].items():
            told = ["no such plan is as cheap", "", ""]
            if over is not None:
                told = [number(over["kept_gain"]), *(_interval(over[k]) for k in ("difference", "ndcg@10_difference"))]
            kept = _interval(entry["kept_gain"])
            rows.append([rival, entry["state"], entry["target_cost"], entry["cost"], kept, *told])
    head = (
        "rival",
        "state",
        "target cost",
        "cost",
        "adaptive keeps",
        "rival keeps",
        "difference",
        "NDCG@10 difference",
    )
    return "<h2>Adaptive against the best fixed plans and cascades at its own cost</h2>" + table(head, rows)


def _interval(found: Plain) -> str:
    bounds = [found[k] for k in ("estimate", "low", "high")]
    return "–" if None in bounds else f"{bounds[0]:+.4f} [{bounds[1]:+.4f}, {bounds[2]:+.4f}]"


def _points(points: Sequence[Plain]) -> str:
    names = ("cost", "cost_cold", "kept_gain", "kept_value", "overlap@10", "ndcg@10")
    rows = [[p["policy"], str(p.get("plan", p.get("price"))), *(p[n] for n in names)] for p in points]
    return "<h2>All points</h2>" + table(("policy", "setting", *names), rows)


def _depth(depth: Plain, points: Sequence[Plain]) -> Iterable[str]:
    yield plot(_slices(depth["history_length"], "history length (tokens)"))
    for column, found in depth["scenario"].items():
        yield plot(_slices(found, f"scenario: {html.escape(column)}"))
    adaptive = [p for p in points if p["policy"] == "adaptive"]
    figure = go.Figure()
    for level in range(1, len(adaptive[0]["candidates_scored"]) if adaptive else 1):
        scored = [p["candidates_scored"][level] for p in adaptive]
        figure.add_scatter(x=[p["price"] for p in adaptive], y=scored, mode="lines+markers", name=f"level {level}")
    figure.update_xaxes(type="log")
    yield plot(layout(figure, "Depth by price", "price (value a thread-millisecond)", "candidates a request"))


def _slices(found: Sequence[Plain], title: str) -> go.Figure:
    figure = go.Figure()
    names = [html.escape(entry["slice"]) for entry in found]
    text = [f"{entry['requests']:,} requests" for entry in found]
    figure.add_bar(x=names, y=[e["level_1_candidates"] for e in found], text=text, name="candidates at level 1")
    figure.update_xaxes(type="category")
    return layout(figure, f"Depth by {title}, at the default price", title, "candidates at level 1")


def _importance(importance: Plain) -> go.Figure:
    figure = go.Figure()
    for kind, found in importance.items():
        figure.add_bar(x=list(found), y=list(found.values()), name=f"{kind} of the gain")
    return layout(figure, "Signals that the value of depth is predicted from", "", "share of the trees' gain")


def _timing(timing: Plain) -> str:
    rows = [
        [row["mode"], row["requests"], row["predicted_ms"], row["actual_ms"], row["ratio"]] for row in timing["modes"]
    ]
    head = ("mode", "requests", "predicted ms", "engine's ms", "engine's / predicted")
    return f"<h2>Predicted cost against the engine</h2><p>{html.escape(timing['said'])}</p>" + table(head, rows)


def _scaling(found: Sequence[Plain]) -> go.Figure:
    figure = go.Figure()
    for mode in dict.fromkeys(str(p["mode"]) for p in found):
        own = [p for p in found if p["mode"] == mode]
        figure.add_scatter(
            x=[p["gflop_per_candidate"] for p in own], y=[p["ms"] for p in own], mode="lines+markers", name=mode
        )
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    return layout(figure, "Cost of a request against model size", "GFLOP a candidate, nothing shared", "ms a request")
