"""``depthrank doctor``: what this machine offers, and what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthrank.cli.terminal import say, table, write_json


def doctor(
    folder: Annotated[Path, typer.Argument(help="Where artifacts and logs will lie.")] = Path("."),
    peaks: Annotated[bool, typer.Option("--peaks", help="Also measure products and copies (seconds).")] = False,
    artifact: Annotated[Path | None, typer.Option(metavar="DIR", help="Also verify this artifact.")] = None,
    log: Annotated[str | None, typer.Option(metavar="URL", help="Also open this event log.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write it as JSON (- for stdout).")] = None,
) -> None:
    """Check versions, processor, threads, limits, clock and disk, and say in plain words what to change.

    Exits 1 where something is broken.

    Example: depthrank doctor
    """
    from depthrank.cli.machine import examine

    report = examine(folder, peaks=peaks, artifact=artifact, log=log)
    if json is not None:
        write_json(report.to_json(), json)
    if json is None or str(json) != "-":
        table("Versions", ["package", "version"], report.versions.items())
        table("Machine", ["fact", "value"], report.facts.items())
        for finding in report.findings:
            say(f"{finding.severity}: {finding.what}")
            say(f"  why it matters: {finding.why}")
            say(f"  what to do: {finding.fix}")
        if not report.findings:
            say("all is well")
    if report.broken:
        raise typer.Exit(1)
