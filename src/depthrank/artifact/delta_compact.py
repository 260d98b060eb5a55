"""Tables with overlays written out as one row file each, in the local cache, where all processes map the same ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
from torch import Tensor

from depthrank.artifact.cache import Cache
from depthrank.artifact.delta_apply import with_tables
from depthrank.artifact.manifest import MANIFEST_NAME
from depthrank.artifact.store import Artifact
from depthrank.tables import HotRows, OverlaidRows, RowFile, RowSource, packed_parts, served_tables, write_row_file

DUE_SHARE = 0.05
"""Compaction is worth its writing once so many of a table's rows lie in its overlay."""
SHARE_OF_TIME = 0.04
"""How much of a core compaction takes beside requests: it has time, they have not. Where none come it rests less."""
PART_ROWS = 1 << 11  # at once, so that a request meets less than a millisecond of it


def compaction_is_due(artifact: Artifact) -> bool:
    """Whether the overlay of a table has become large."""
    sources = (table.source for table in served_tables(artifact.model).values())
    return any(s.row_C.shape[0] > DUE_SHARE * s.num_rows for s in sources if isinstance(s, OverlaidRows))


def compacted(artifact: Artifact, cache: Cache | None = None, pause: Callable[[float], None] = time.sleep) -> Artifact:
    """The artifact with its overlays written in; itself where it has none. Scores are the same bit for bit.

    Raises ArtifactError and StorageFullError where the cache cannot hold the files; the artifact serves on then.
    """
    sources = {name: table.source for name, table in served_tables(artifact.model).items()}
    written = {name: source for name, source in sources.items() if isinstance(source, OverlaidRows)}
    if not written:
        return artifact
    cache = cache or Cache()
    while (held := cache.find(artifact.identity)) is None:
        with cache.building(artifact.identity) as folder:
            if folder is None:
                continue
            for name, source in written.items():
                parts = _paced(packed_parts(source, PART_ROWS), pause)
                write_row_file(folder / f"{name}.rows", parts, source.form, source.width, source.num_rows)
            (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(artifact.delta))
    fresh = {name: _behind(source, RowFile.open(held.path / f"{name}.rows")) for name, source in written.items()}
    trained = None if artifact.trained is None else with_tables(artifact.trained, fresh)
    return replace(artifact, model=with_tables(artifact.model, fresh), trained=trained)


def _behind(source: OverlaidRows, file: RowFile) -> RowSource:
    """The rows of the new file, with hot rows in memory where the table had some."""
    return source.base.over(file) if isinstance(source.base, HotRows) else file.source()


def _paced(parts: Iterator[Tensor], pause: Callable[[float], None]) -> Iterator[Tensor]:
    """The parts, with pauses in between."""
    started = time.monotonic()
    for part in parts:
        yield part
        pause((time.monotonic() - started) * (1 / SHARE_OF_TIME - 1))
        started = time.monotonic()
