"""``depthrank fetch``: an artifact from somewhere else into the local cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthrank.cli.terminal import at_terminal, say, write_json


def fetch(
    location: Annotated[str, typer.Argument(metavar="URL", help="s3://..., gs://..., https://..., file://..., DIR")],
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write what came as JSON (- for stdout).")] = None,
) -> None:
    """Copy an artifact into the local cache, verified as it arrives, and print where it lies.

    Interrupted, it goes on where it stopped. DEPTHRANK_CACHE names the cache (default: ~/.cache/depthrank),
    DEPTHRANK_CACHE_BYTES what it may hold.

    Example: depthrank fetch s3://models/films/artifact
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from depthrank.artifact import fetch_artifact, read_manifest

    with Progress(BarColumn(), DownloadColumn(), TransferSpeedColumn(), disable=not at_terminal()) as bar:
        task = bar.add_task("fetch", total=None)
        held = fetch_artifact(location, progress=lambda done, total: bar.update(task, completed=done, total=total))
    manifest = read_manifest(held.path)
    if json is not None:
        total = sum(entry.bytes for entry in manifest.files.values())
        write_json({"model": manifest.model_id, "path": str(held.path), "bytes": total}, json)
        return
    say(str(held.path))
