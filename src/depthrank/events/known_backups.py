"""Which backups were made of a log: a list of folders beside it, so that an erasure can reach them."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from depthrank.errors import LogError
from depthrank.events.erase_backup import erase_from_backup

logger = logging.getLogger("depthrank.events")
LIST_NAME = "backups.json"


def known_backups(log_folder: Path) -> list[Path]:
    """The folders that backups were written to. Raises LogError where the list is damaged."""
    path = log_folder / LIST_NAME
    try:
        return [Path(text) for text in msgspec.json.decode(path.read_bytes(), type=list[str])]
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise LogError(f"{path}, the list of this log's backups, cannot be read: {error}") from error


def remember_backup(log_folder: Path, backup: Path) -> None:
    """Add a folder to the list. Where that cannot be written the backup stays good, and a warning says it."""
    path = log_folder / LIST_NAME
    listed = [*known_backups(log_folder), backup.absolute()]
    fresh = path.with_suffix(".new")
    try:
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(sorted({str(p) for p in listed}))))
        fresh.replace(path)
    except OSError as error:
        logger.warning("the backup %s is not noted in %s (%s): erase from it by hand", backup, path, error)


def erase_from_backups(backups: list[Path], user: str) -> tuple[int, tuple[str, ...]]:
    """Erase a user from each; returns how many held the user, and what could not be done, with what to do."""
    held, pending = 0, []
    for backup in backups:
        if not backup.exists() and not backup.with_name(f".{backup.name}.before-erasure").exists():
            pending.append(
                f"backup {backup.name}: it is not where it was made; depthrank log erase USER --backup FOLDER, or, "
                f"where it was deleted, take it out of {LIST_NAME}"
            )
            continue
        try:
            held += erase_from_backup(backup, user) > 0
        except LogError as error:
            logger.error("a user was not erased from a backup: %s", error)
            pending.append(f"backup {backup.name}: it cannot be written anew now; erase the user again later")
    return held, tuple(pending)
