"""Hot rows in memory before the mapped tables of an artifact, for tables that memory does not hold."""

from __future__ import annotations

from dataclasses import replace

from depthrank.artifact.delta_apply import with_tables
from depthrank.artifact.store import Artifact
from depthrank.artifact.weights import table_path
from depthrank.tables import HotRows, OverlaidRows, RowFile, RowMap, RowSource, served_tables
from depthrank.tables.hot_rows import BYTES_BESIDE

READ_BY_REQUESTS = ("request_features", "candidate_features")
"""Rows of items are read when items are encoded, at the start and by upserts; requests read what came of it."""
FILLED_SHARE = 0.5
"""Slots that are filled at the start, by the order of the rows; traffic fills the others."""


def with_hot_rows(artifact: Artifact, num_bytes: int) -> Artifact:
    """The artifact with ``num_bytes`` of memory for hot rows, shared by the tables that requests read by their size;
    itself for 0 bytes.

    A table that would fit into its share whole stays mapped as it is: the page cache holds it. Raises ArtifactError.
    """
    folder = artifact.path / artifact.manifest.folder
    tables = served_tables(artifact.model) if num_bytes else {}
    paths = {n: table_path(folder, n.removesuffix("_features")) for n in tables if n in READ_BY_REQUESTS}
    files = {name: RowFile.open(path) for name, path in paths.items() if path.is_file()}
    total = sum(file.header.file_bytes for file in files.values())
    made = {n: hot_rows(f, tables[n].row_map, num_bytes * f.header.file_bytes // total) for n, f in files.items()}
    hot: dict[str, RowSource] = {name: source for name, source in made.items() if source is not None}
    if not hot:
        return artifact
    trained = None if artifact.trained is None else with_tables(artifact.trained, hot)
    return replace(artifact, model=with_tables(artifact.model, hot), trained=trained)


def hot_rows(file: RowFile, row_map: RowMap, num_bytes: int) -> HotRows | None:
    """As many slots before a row file as ``num_bytes`` hold, filled as ``FILLED_SHARE`` says; None where that would be
    the whole file, or nothing."""
    slots = num_bytes // (file.header.row_bytes + BYTES_BESIDE)
    if not 1 < slots < file.header.num_rows:
        return None
    source = HotRows(file, 1 << (slots.bit_length() - 1))  # of the powers of two, the one that fits
    source.fill(row_map.hottest_rows(int(FILLED_SHARE * slots)))
    return source


def hot_row_measures(artifact: Artifact) -> dict[str, float]:
    """Lookups of all tables with hot rows, how many were found in memory, and the memory; empty without such tables."""
    sources = [table.source for table in served_tables(artifact.model).values()]
    bases = [source.base if isinstance(source, OverlaidRows) else source for source in sources]
    hot = [base for base in bases if isinstance(base, HotRows)]
    if not hot:
        return {}
    return {
        "hot_row_lookups": sum(rows.stats.lookups for rows in hot),
        "hot_row_hits": sum(rows.stats.hits for rows in hot),
        "hot_row_bytes": sum(rows.resident_bytes for rows in hot),
    }
