"""Options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from depthrank.cli.terminal import UsageProblem

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

_UNITS = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def bytes_of(size: str, option: str) -> int:
    """The bytes of a size such as 256MB (units of 1024); raises UsageProblem."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?B?)", size.strip().upper())
    if found is None:
        raise UsageProblem(f"{option} {size!r}: expected a size such as 256MB, 2GB or 0")
    unit = found[2] if found[2] in _UNITS else found[2] + "B"
    return int(float(found[1]) * _UNITS[unit])
