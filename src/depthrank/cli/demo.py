"""``depthrank demo``: the whole way on MovieLens-100K, from ratings to a served ranking that reacts to an event."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from depthrank.cli.options import Threads
from depthrank.cli.serve import DEFAULT_PORT
from depthrank.cli.terminal import at_terminal, say
from depthrank.cli.threads import set_torch_threads
from depthrank.cli.train import show_report


def demo(
    no_serve: Annotated[bool, typer.Option("--no-serve", help="End by itself instead of leaving a server.")] = False,
    folder: Annotated[Path, typer.Option(help="Where everything it makes goes.")] = Path("demo"),
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="The server's port; another if it is taken.")
    ] = DEFAULT_PORT,
    minutes: Annotated[float | None, typer.Option(help="Train at most this long (default: as the spec says).")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds repeat a run.")] = 0,
    threads: Threads = None,
) -> None:
    """Train on MovieLens-100K, rank a thousand films for a person, serve, post an event, and see the ranking move.

    Example: depthrank demo --no-serve
    """
    from depthrank.cli.movielens import TERMS, cached_wheel, write_dataset
    from depthrank.cli.served_artifact import free_port, served_artifact

    say(TERMS + "\n")
    write_dataset(folder, cached_wheel(say=say))
    say(f"1. data: {folder}/items.parquet, users.parquet, events.parquet, ranking.yaml")
    artifact, log = folder / "artifact", f"lmdb:{folder / 'events'}"
    set_torch_threads(threads)
    _train(folder, artifact, log, minutes, seed)

    from depthrank.cli.demo_story import Films, rank_in_process, tell

    films = Films.read(folder)
    in_process = rank_in_process(artifact, log, films)
    with served_artifact(artifact, log, free_port(port)) as server:
        say(f"4. serving at {server.address}")
        tell(server.address, films, in_process)
        if no_serve:
            say("done; the server stops (--no-serve)")
            return
        say(f"the server keeps running at {server.address} (open it in a browser; Ctrl-C stops it)")
        server.wait()


def _train(folder: Path, artifact: Path, log: str, minutes: float | None, seed: int) -> None:
    from depthrank.schema import Spec
    from depthrank.training import train

    shutil.rmtree(artifact, ignore_errors=True)
    say("2. training (the log keeps its events from run to run; importing them again changes nothing)")
    report = train(
        Spec.load(folder / "ranking.yaml"), log=log, out=artifact, seed=seed, minutes=minutes, progress=at_terminal()
    )
    show_report(report)
