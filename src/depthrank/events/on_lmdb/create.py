"""Make an LMDB log where there is none, and clear what a process left that died while switching generations."""

from __future__ import annotations

from pathlib import Path

import lmdb

from depthrank.errors import LogError
from depthrank.events.on_lmdb.folder import (
    SUPERSEDED,
    folder_lock,
    generation_folder,
    new_generation_folder,
    read_pointer,
    remove_other_generations,
    switch,
)
from depthrank.events.on_lmdb.generation import TABLES
from depthrank.events.on_lmdb.insert import META_KEY
from depthrank.events.on_lmdb.records import Meta, pack_meta
from depthrank.events.on_lmdb.storage_errors import storage_error

SMALLEST_MAP_BYTES = 1 << 20


def create(folder: Path) -> None:
    """Create the log unless it exists. Raises ``LogError`` where the folder holds something else."""
    if read_pointer(folder) is not None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with folder_lock(folder):
            if read_pointer(folder) is None:  # another process may have been faster
                _write_empty(new_generation_folder(folder, 1))
                switch(folder, 1)
    except (lmdb.Error, OSError) as error:
        raise storage_error(error, folder) from error


def tidy(folder: Path) -> None:
    """Remove generations that nothing points to, unless somebody is switching right now."""
    pointer = read_pointer(folder)
    if pointer is None:
        raise LogError(f"there is no event log in {folder}")
    if not (generation_folder(folder, pointer.generation) / "data.mdb").exists():
        return  # the pointer is wrong, and what it does not name may be all there is
    if len(list(folder.glob("generation-*"))) == 1 and not _is_marked(folder, pointer.generation):
        return
    with folder_lock(folder, wait=False) as is_held:
        pointer = read_pointer(folder)
        if is_held and pointer is not None:
            remove_other_generations(folder, pointer.generation)


def _is_marked(folder: Path, generation: int) -> bool:
    try:
        return (generation_folder(folder, generation) / SUPERSEDED).read_bytes() != b"\0"
    except FileNotFoundError:  # a switch came in between, and tidies for itself
        return False


def _write_empty(path: Path) -> None:
    env = lmdb.open(str(path), map_size=SMALLEST_MAP_BYTES, max_dbs=len(TABLES))
    try:
        tables = {name: env.open_db(name.encode()) for name in TABLES}
        with env.begin(write=True) as transaction:
            transaction.put(META_KEY, pack_meta(Meta()), db=tables["meta"])
        env.sync(True)
    finally:
        env.close()
