"""``depthrank inspect``: what an artifact holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from depthrank.cli.options import Artifact
from depthrank.cli.table_report import show_tables
from depthrank.cli.terminal import say, table, write_json


def inspect(
    artifact: Artifact,
    verify: Annotated[bool, typer.Option("--verify", help="Check every byte against the manifest.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write it as JSON (- for stdout).")] = None,
) -> None:
    """Show what an artifact holds: model, versions, sizes, the log position that training saw.

    Example: depthrank inspect demo/artifact --verify
    """
    from depthrank.artifact import inspect_artifact, verify_artifact

    info = inspect_artifact(artifact).to_json()
    if verify:
        verify_artifact(artifact)
    if json is not None:
        write_json(info, json)
        return
    training = {name: value for name, value in info["training"].items() if name != "tables"}
    plain = {name: value for name, value in info.items() if name != "files"} | {"training": training}
    table(str(artifact), ["field", "value"], list(_flat(plain)))
    if "tables" in info["training"]:
        show_tables(info["training"]["tables"])
    largest = sorted(info["files"].items(), key=lambda file: -file[1]["bytes"])[:10]
    rows = [[name, f"{file['bytes']:,}", file["blake3"][:16]] for name, file in largest]
    title = f"{len(info['files'])} files, the largest first"
    table(title, ["file", "bytes", "blake3"], rows, right=("bytes",))
    if verify:
        say("verified: every file is what the manifest says")


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [row for name, part in value.items() for row in _flat(part, f"{prefix}.{name}" if prefix else str(name))]
