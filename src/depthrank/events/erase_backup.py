"""Take a user out of a backup: written anew without the user's events, then put in its place.

The backup is whole at every moment under its name or under ``.NAME.before-erasure``, from which an interrupted erasure
goes on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from depthrank.errors import LogError
from depthrank.events.backup import Contents, read_backup, write_backup
from depthrank.events.batch import EventBatch, Int64


def erase_from_backup(folder: Path, user: str) -> int:
    """Remove a user's events, and the ids that only they used; returns how many events went (0: nothing was written).

    Raises LogError where the folder is no whole backup or cannot be replaced; it holds all it held then.
    """
    folder = folder.absolute()
    before = folder.with_name(f".{folder.name}.before-erasure")
    try:
        if before.exists() and not folder.exists():
            before.rename(folder)
        contents = read_backup(folder)
        kept_items, kept_actions, removed = _used_by_others(contents, user)
        if not removed:
            shutil.rmtree(before, ignore_errors=True)
            return 0
        fresh = folder.with_name(f".{folder.name}.without")
        shutil.rmtree(fresh, ignore_errors=True)
        _write(contents, fresh, user, kept_items, kept_actions)
        shutil.rmtree(before, ignore_errors=True)
        folder.rename(before)
        fresh.rename(folder)
        shutil.rmtree(before)
        _sync(folder.parent)
    except OSError as error:
        raise LogError(f"the backup {folder} cannot be written anew: {error}") from error
    return removed


def _used_by_others(contents: Contents, user: str) -> tuple[set[str], set[str], int]:
    """Items and actions that events of other users name, and how many events are the user's."""
    items, actions, removed = set[str](), set[str](), 0
    for batch in contents.batches():
        for who, item, action in zip(batch.user, batch.item, batch.action, strict=True):
            if who == user:
                removed += 1
            else:
                items.add(item)
                actions.add(action)
    return items, actions, removed


def _write(contents: Contents, target: Path, user: str, items: set[str], actions: set[str]) -> None:
    """Codes stay: an id that nobody uses leaves the empty string in its place."""
    write_backup(
        target,
        [item if item in items else "" for item in contents.items],
        [action if action in actions else "" for action in contents.actions],
        contents.manifest.next_position,
        _without(contents.batches(), user),
        enumerate(contents.upserts()),
    )


def _without(batches: Iterator[EventBatch], user: str) -> Iterator[EventBatch]:
    for batch in batches:
        rows = np.flatnonzero([who != user for who in batch.user])
        if len(rows):
            columns: dict[str, Any] = {f.name: _take(getattr(batch, f.name), rows) for f in fields(batch)}
            yield EventBatch(**columns)


def _take(column: Any, rows: Int64) -> Any:
    """Some rows of a column: an array's, a list's, or None."""
    if isinstance(column, np.ndarray):
        return column[rows]
    return None if column is None else [column[row] for row in rows.tolist()]


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
