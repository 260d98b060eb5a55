"""Embedding tables: many features behind one lookup, and the row files that serving maps."""

from __future__ import annotations

from depthrank.tables.fused_table import FusedTable, TableSlot

__all__ = ["FusedTable", "TableSlot"]
