"""``depthrank log``: the event log's own verbs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from depthrank.cli.options import RequiredLog, SpecFile
from depthrank.cli.terminal import UsageProblem, at_terminal, note, say, table, write_json
from depthrank.errors import LogError

app = typer.Typer(help="Import, export, erase, count, back up and restore an event log.", no_args_is_help=True)


@app.command("import")
def import_(spec: SpecFile, log: RequiredLog) -> None:
    """Bring a dataset's files into the log; importing twice changes nothing.

    Example: depthrank log import demo/ranking.yaml --log lmdb:demo/events
    """
    from depthrank.events import open_log
    from depthrank.schema import Spec

    loaded = Spec.load(spec)
    from depthrank.data import import_log, load_dataset

    raw = load_dataset(loaded)
    for line in raw.notes:
        note(f"note: {line}")
    with open_log(log) as opened, _progress("importing") as progress:
        report = import_log(loaded, raw, opened, progress=progress)
    say(f"{report.events:,} events in the files: {report.appended:,} appended, {report.duplicates:,} known already")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, fed by (done, total); None in a pipe."""
    if not at_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@app.command("export")
def export(log: RequiredLog, out: Annotated[Path, typer.Option(metavar="F", help="A Parquet file to write.")]) -> None:
    """Write every event, in log order, to a Parquet file.

    Example: depthrank log export --log lmdb:demo/events --out events.parquet
    """
    from depthrank.cli.export_events import export_events
    from depthrank.events import open_log

    if out.suffix != ".parquet":
        raise UsageProblem(f"--out {out}: expected a name that ends in .parquet")
    with open_log(log, read_only=True) as opened:
        events = export_events(opened, out)
    say(f"wrote {events:,} events to {out}")


@app.command("erase")
def erase(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    log: Annotated[
        str | None, typer.Option(metavar="URL", help="The event log: lmdb:FOLDER or redis://HOST:PORT.")
    ] = None,
    backup: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="A backup that was moved or copied; may be given again.")
    ] = None,
) -> None:
    """Erase a user: every event, and its bytes in the log's files and in the backups that the log knows of.

    Example: depthrank log erase 42 --log lmdb:demo/events --backup /mnt/old/events
    """
    from depthrank.events import open_log
    from depthrank.events.erase_backup import erase_from_backup

    if log is None and not backup:
        raise UsageProblem("erase from what? give --log URL, --backup DIR, or both")
    pending: tuple[str, ...] = ()
    if log is not None:
        with open_log(log) as opened:
            result = opened.erase(user)
        pending = result.pending
        say(f"erased {result.events:,} events of user {user}, and rewrote {result.backups} backups")
    for folder in backup or ():
        say(f"erased {erase_from_backup(folder, user):,} events of user {user} from {folder}")
    if pending:
        raise LogError("the user may still be in:\n" + "\n".join(pending))


@app.command("stats")
def stats(
    log: RequiredLog,
    json: Annotated[Path | None, typer.Option(metavar="F", help="Write it as JSON (- for stdout).")] = None,
) -> None:
    """Count events, users and items, and show the size on disk.

    Example: depthrank log stats --log lmdb:demo/events
    """
    from depthrank.events import open_log

    with open_log(log, read_only=True) as opened:
        counts = dataclasses.asdict(opened.stats())
    if json is not None:
        write_json(counts, json)
    else:
        table(log, ["field", "value"], counts.items())


@app.command("backup")
def backup(folder: Annotated[Path, typer.Argument(help="A new folder.")], log: RequiredLog) -> None:
    """Write a consistent copy into a new folder while appends go on.

    Example: depthrank log backup backups/today --log lmdb:demo/events
    """
    from depthrank.events import open_log

    with open_log(log, read_only=True) as opened:
        events = opened.backup(folder)
    say(f"backed up {events:,} events to {folder}")


@app.command("restore")
def restore(folder: Annotated[Path, typer.Argument(help="A backup.")], log: RequiredLog) -> None:
    """Fill a new log from a backup, and verify it.

    Example: depthrank log restore backups/today --log lmdb:restored
    """
    from depthrank.events import EventLog

    note(f"restoring {folder} into {log}")
    with EventLog.restore(folder, log) as opened:
        events = opened.stats().events
    say(f"restored {events:,} events into {log}")
