"""What a verb says: tables and notes for a person at a terminal, plain lines in a pipe, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from depthrank.errors import DepthrankError


class UsageProblem(DepthrankError):
    """The options do not fit together."""


def at_terminal(stream: TextIO | None = None) -> bool:
    """Whether a person watches; progress is shown only then."""
    return (stream or sys.stderr).isatty()


def say(text: str = "") -> None:
    """A result line, on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """What is going on, for a person: on standard error, and only at a terminal."""
    if at_terminal():
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> None:
    """A table; ``right`` names the columns that align right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(drawn, markup=False)


def write_json(value: Any, path: Path | None) -> None:
    """Write JSON to a file, or to standard output where ``path`` is None or ``-``."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    if path is None or str(path) == "-":
        sys.stdout.write(text)
    else:
        path.write_text(text, encoding="utf-8")
