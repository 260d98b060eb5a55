"""``depthrank doctor``: what this machine offers, and what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthrank.cli.terminal import say, table, write_json


def doctor(
    folder: Annotated[Path, typer.Argument(help="Where artifacts and logs will lie.")] = Path("."),
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write it as JSON (- for stdout).")] = None,
) -> None:
    """Check versions, processor, threads, write access and disk space, and advise. Exits 1 where something is broken.

    Example: depthrank doctor
    """
    from depthrank.cli.machine import examine

    report = examine(folder)
    if json is not None:
        write_json(report.to_json(), json)
    if json is None or str(json) != "-":
        table("Versions", ["package", "version"], report.versions.items())
        table("Machine", ["fact", "value"], report.facts.items())
        for line in report.broken:
            say(f"broken: {line}")
        for line in report.advice:
            say(f"advice: {line}")
        if not report.broken and not report.advice:
            say("all is well")
    if report.broken:
        raise typer.Exit(1)
