"""``depthrank init``: a first ranking.yaml from a folder of files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthrank.cli.terminal import UsageProblem, say


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the Parquet, CSV or TSV files are.")],
    out: Annotated[Path | None, typer.Option(metavar="F", help="Default: ranking.yaml in the folder.")] = None,
    main: Annotated[str | None, typer.Option(metavar="FILE", help="The file to learn from.")] = None,
    user: Annotated[str | None, typer.Option(metavar="COLUMN", help="Its column of user ids.")] = None,
    item: Annotated[str | None, typer.Option(metavar="COLUMN", help="Its column of item ids (or lists).")] = None,
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="Its column of times.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a first ranking.yaml: which file is what, features and tasks, every guess with its reason.

    Example: depthrank init logs/
    """
    from depthrank.data.guess import Named, first_spec
    from depthrank.schema import Spec

    path = out or folder / "ranking.yaml"
    if path.exists() and not force:
        raise UsageProblem(f"{path} exists: --force replaces it, --out F writes elsewhere")
    found = first_spec(folder, Named(main, user, item, time))
    path.write_text(found.text, encoding="utf-8")
    spec = Spec.load(path)
    say(f"{path}: {len(spec.features)} features, tasks {', '.join(spec.tasks)}. Guesses to check first:")
    for note in (*found.notes, "what clicks and other feedback tell must be no feature; see the comments"):
        say(f"  - {note}")
    say(f"then: depthrank train {path} --out {path.parent / 'artifact'}")
