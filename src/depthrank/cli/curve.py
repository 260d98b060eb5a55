"""``depthrank curve``: what depth is worth and what it costs, on held-out data."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from depthrank.cli.options import Artifact, Log, SpecFile, Threads
from depthrank.cli.terminal import note, say, table, write_json
from depthrank.cli.threads import set_torch_threads


def curve(
    artifact: Artifact,
    spec: SpecFile,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which part of the data.")] = "test",
    log: Log = None,
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write the figures as JSON (- for stdout).")] = None,
    html: Annotated[Path | None, typer.Option(metavar="F", help="Write a page with plots.")] = None,
    requests: Annotated[int, typer.Option(min=10, help="Requests to replay, of each split, at most.")] = 400,
    scaling: Annotated[bool, typer.Option("--scaling", help="Also measure cost against model size.")] = False,
    threads: Threads = None,
) -> None:
    """Draw kept gain against cost: fixed plans, top-k cascades, and the adaptive policy at many prices.

    Example: depthrank curve demo/artifact demo/ranking.yaml --html curve.html
    """
    from depthrank.schema import Spec

    loaded = Spec.load(spec)
    set_torch_threads(threads or 1)
    from depthrank.evaluate.draw_curve import draw_curve

    found = draw_curve(artifact, loaded, log, split, requests, scaling=scaling, on_phase=note)
    figures = found.to_json()
    if json is None or str(json) != "-":
        _show(figures)
    if json is not None:
        write_json({"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]), **figures}, json)
    if html is not None:
        found.write_html(html)
        note(f"the page is {html}")


def _show(figures: dict[str, Any]) -> None:
    names = ("cost", "cost_cold", "kept_gain", "kept_value", "overlap@10", "ndcg@10")
    rows = [[p["policy"], _setting(p), *(_figure(p[n]) for n in names)] for p in figures["points"]]
    table("Plans, cheapest first, and the adaptive policy by price", ["policy", "setting", *names], rows, right=names)
    for entry in figures["comparisons"]:
        for rival, over in entry.get("over", {}).items():
            if over is not None:
                d = over["difference"]
                say(
                    f"{entry['state']}, at {entry['cost']:.1%} of full cost: adaptive keeps {_figure(d['estimate'])} "
                    f"({_figure(d['low'])} to {_figure(d['high'])}) more of the gain than the best {rival} plans"
                )
    say(figures["said"])
    if figures["timing"]:
        say(figures["timing"]["said"])


def _setting(point: dict[str, Any]) -> str:
    if "price" in point:
        return f"price {point['price']:.2g}"
    plan = point["plan"]
    return plan if isinstance(plan, str) else ", ".join(str(w) for w in plan)


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "–"
