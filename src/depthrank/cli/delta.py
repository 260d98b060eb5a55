"""``depthrank delta``: what changed since an artifact, made, looked at, and written in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthrank.cli.options import Artifact
from depthrank.cli.terminal import say, table, write_json

app = typer.Typer(help="Make, show and apply deltas of an artifact.", no_args_is_help=True)
Json = Annotated[Path | None, typer.Option(metavar="F", help="Write it as JSON (- for stdout).")]


@app.command()
def make(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The artifact that is being served.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The artifact of a later training run of the same shape.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder of BASE's deltas; the next number is taken.")],
    json: Json = None,
) -> None:
    """Write what changed from BASE (with the deltas already in DIR) to NEW as the next delta.

    Example: depthrank delta make demo/artifact demo/artifact-later --out demo/deltas
    """
    from depthrank.artifact import make_delta, read_delta

    folder = make_delta(base, new, out)
    plain = {"path": str(folder), **read_delta(folder).to_json()}
    if json is not None:
        write_json(plain, json)
        return
    rows = ", ".join(f"{t['rows']:,} of {t['of']:,} rows of {name}" for name, t in plain["tables"].items())
    say(f"{folder}: {rows or 'no rows'}, {len(plain['dense'])} dense weights, {plain['bytes']:,} bytes")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DELTAS", help="A folder of deltas.")],
    json: Json = None,
) -> None:
    """Verify the deltas of a folder and show what each changes.

    Example: depthrank delta show demo/deltas
    """
    from depthrank.artifact import delta_folders, read_delta

    found = [{"path": str(path), **read_delta(path).to_json()} for path in delta_folders(folder)]
    if json is not None:
        write_json(found, json)
        return
    rows = [
        [d["sequence"], d["base_model"], sum(c["rows"] for c in d["tables"].values()), len(d["dense"]), d["bytes"]]
        for d in found
    ]
    numbers = ("rows", "dense weights", "bytes")
    table(str(folder), ["number", "of", *numbers], rows, right=numbers)


@app.command()
def apply(
    artifact: Artifact,
    deltas: Annotated[Path, typer.Option("--deltas", metavar="DIR", help="The folder of its deltas; all are applied.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the artifact with them written in goes.")],
) -> None:
    """Write an artifact with its deltas written in: a new base.

    Example: depthrank delta apply demo/artifact --deltas demo/deltas --out demo/artifact-2
    """
    from depthrank.artifact import Contents, apply_deltas, load_artifact, save_artifact

    a = apply_deltas(load_artifact(artifact, verify="all"), deltas)
    manifest = a.manifest
    position = manifest.log_position if a.delta is None else a.delta.log_position
    contents = Contents(
        a.spec, a.model, a.encoder, a.items, a.users, position, manifest.log_url, manifest.training, adaptive=a.adaptive
    )
    saved = save_artifact(out, contents)
    say(f"{saved.model_id}: {manifest.model_id} with {a.sequence} deltas; artifact in {out}")
