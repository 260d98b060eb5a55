"""Embedding tables: many features behind one lookup, and the row files that serving maps."""

from __future__ import annotations

from depthrank.tables.fused_table import FusedTable, rows_kept, rows_left_out
from depthrank.tables.hot_rows import HotRows
from depthrank.tables.missing_rows import note_missing, noting_missing_rows
from depthrank.tables.overlay import OverlaidRows, PackedSource, RowSet, overlaid, packed_parts, packed_source
from depthrank.tables.row_file import RowFile, write_row_file
from depthrank.tables.row_format import ROW_FORMATS, RowFormat, pack_rows, row_bytes, unpack_rows
from depthrank.tables.row_map import RowMap, TableSlot
from depthrank.tables.row_source import PackedRows, RowSource
from depthrank.tables.served_table import ServedTable, served_tables

__all__ = [
    "ROW_FORMATS",
    "FusedTable",
    "HotRows",
    "OverlaidRows",
    "PackedRows",
    "PackedSource",
    "RowFile",
    "RowFormat",
    "RowMap",
    "RowSet",
    "RowSource",
    "ServedTable",
    "TableSlot",
    "note_missing",
    "noting_missing_rows",
    "overlaid",
    "pack_rows",
    "packed_parts",
    "packed_source",
    "row_bytes",
    "rows_kept",
    "rows_left_out",
    "served_tables",
    "unpack_rows",
    "write_row_file",
]
