"""``depthrank train``: logs in, an artifact out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from depthrank.cli.options import Log, SpecFile, Threads
from depthrank.cli.terminal import UsageProblem, at_terminal, say, table
from depthrank.cli.threads import set_torch_threads

if TYPE_CHECKING:
    from depthrank.training import TrainReport


def train(
    spec: SpecFile,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the artifact goes.")],
    log: Log = None,
    seed: Annotated[int, typer.Option(help="Equal seeds repeat a run.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Stop after this long and keep the best so far.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    base: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Go on from this artifact and keep its features."),
    ] = None,
    delta: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --from: write what changed as the next delta here."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Train with so many processes that share the tables' rows (needs TorchRec).")
    ] = 1,
    threads: Threads = None,
) -> None:
    """Train a ranker and write an artifact.

    Example: depthrank train demo/ranking.yaml --out demo/artifact --log lmdb:demo/events
    """
    from depthrank.schema import Spec

    if delta is not None and base is None:
        raise UsageProblem("--delta DIR: a delta is made of what changed since an artifact; name it with --from")
    loaded = Spec.load(spec)  # before torch: a mistake in the spec should not cost seconds
    set_torch_threads(threads)
    from depthrank.training import train as run
    from depthrank.training.start_processes import is_led

    report = run(
        loaded,
        log=log,
        out=out,
        seed=seed,
        minutes=minutes,
        resume=resume,
        progress=at_terminal(),
        base=base,
        processes=processes,
    )
    if is_led():
        return
    show_report(report)
    if base is not None and delta is not None:
        from depthrank.artifact import make_delta

        say(f"delta in {make_delta(base, out, delta)}")


def show_report(report: TrainReport) -> None:
    """The run in a few lines: where the artifact is, and the validation figures of every level."""
    summary = report.summary
    names = ("auc", "gauc", "ne", "logloss")
    rows = [
        [level, task, *("-" if metrics[n] is None else f"{metrics[n]:.4f}" for n in names)]
        for level, tasks in enumerate(summary["validation"]["levels"])
        for task, metrics in tasks.items()
    ]
    table("Validation (level 0 is the router)", ["level", "task", *names], rows, right=names)
    requests, seconds, epochs = summary["requests"]["train"], summary["seconds"], summary["epochs"]
    say(
        f"{report.manifest.model_id}: {requests:,} requests, {epochs} epochs, {seconds:.0f} s; artifact in {report.out}"
    )
