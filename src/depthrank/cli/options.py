"""Options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Artifact = Annotated[Path, typer.Argument(metavar="DIR", help="The artifact that `depthrank train` wrote.")]
SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="The ranking.yaml.")]
Log = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The event log: lmdb:FOLDER or redis://HOST:PORT. Default: the folder `events` beside the artifact "
        "when training, and the log that the artifact names afterwards.",
    ),
]
RequiredLog = Annotated[
    str, typer.Option("--log", metavar="URL", help="The event log: lmdb:FOLDER or redis://HOST:PORT.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads for torch. Default: one a usable core.")]
