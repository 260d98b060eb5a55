"""``depthrank evaluate``: an artifact against held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from depthrank.cli.options import Artifact, Log, SpecFile, Threads
from depthrank.cli.terminal import note, say, table, write_json
from depthrank.cli.threads import set_torch_threads


def evaluate(
    artifact: Artifact,
    spec: SpecFile,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which part of the data.")] = "test",
    log: Log = None,
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write the figures as JSON (- for stdout).")] = None,
    html: Annotated[Path | None, typer.Option(metavar="F", help="Write a report with plots.")] = None,
    threads: Threads = None,
) -> None:
    """Measure an artifact on held-out requests: AUC, GAUC, NE, NDCG@10 and more, per task and per level.

    Example: depthrank evaluate demo/artifact demo/ranking.yaml --json evaluation.json
    """
    from depthrank.schema import Spec

    loaded = Spec.load(spec)
    set_torch_threads(threads)
    from depthrank.evaluate import evaluate as run

    evaluation = run(artifact, loaded, log=log, split=split)
    figures = evaluation.to_json()
    if json is None or str(json) != "-":
        tasks = figures["tasks"]
        names = ("auc", "gauc", "ne", "logloss")
        rows = [[task, *(_figure(values.get(n)) for n in names)] for task, values in tasks.items()]
        table(f"Tasks ({split})", ["task", *names], rows, right=names)
        table(
            "Ranking", ["metric", "value"], [[k, _figure(v)] for k, v in figures["ranking"].items()], right=("value",)
        )
        say("gauc: AUC per user, weighted by the user's impressions, users with one class left out")
        for name, why in figures["absent"].items():
            say(f"no figure for {name}: {why}")
    if json is not None:
        write_json(figures, json)
    if html is not None:
        evaluation.write_html(html)
        note(f"the report is {html}")


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)
