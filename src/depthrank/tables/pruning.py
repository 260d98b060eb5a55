"""Rows and features that do not pay leave a table, and the table gets smaller by them.

What a row earns is estimated to first order: leaving it out changes the loss by about ``gradient . row``, so the sum of
its size over held-out batches tells which rows to try. What really is lost is measured by whoever calls this, on
validation data, before anything is kept.

Legend: V rows, E embedding width.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from depthrank.tables.fused_table import FusedTable
from depthrank.tables.row_map import ABSENT, HASHED, TableSlot

FIRST_KNOWN = 2


class RowImportance:
    """Sums of ``|gradient . row|`` over batches, float64 [V]. Call ``add`` after every backward pass."""

    def __init__(self, table: FusedTable) -> None:
        self.table = table
        self.total_V = torch.zeros(table.weight.shape[0], dtype=torch.float64)

    @torch.no_grad()
    def add(self) -> None:
        """Count one batch's gradient."""
        if self.table.weight.grad is not None:
            self.total_V += (self.table.weight.grad * self.table.weight).sum(dim=1).abs().double()

    def of_features(self) -> dict[str, float]:
        """Sum over each feature's own rows; rows of the pool belong to nobody alone."""
        found: dict[str, float] = {}
        for slot, first in zip(self.table.slots, first_rows(self.table), strict=True):
            found[slot.feature] = found.get(slot.feature, 0.0) + float(
                self.total_V[first : first + slot.rows_owned].sum()
            )
        return found


def first_rows(table: FusedTable) -> list[int]:
    """Where each slot's own rows begin."""
    starts, first = [], 0
    for slot in table.slots:
        starts.append(first)
        first += slot.rows_owned
    return starts


@torch.no_grad()
def pruned(table: FusedTable, kept_V: Tensor, without: Collection[str] = ()) -> FusedTable:
    """The table without some of its rows, and without the features named in ``without``.

    kept_V: bool [V], which own rows stay; padding and unknown rows and the pool stay in any case. An id whose row
    leaves reads as no value. A feature that leaves keeps its padding row only.
    """
    slots: list[TableSlot] = []
    rows, directories = [], []
    for slot, first in zip(table.slots, first_rows(table), strict=True):
        own_V = torch.arange(first, first + slot.rows_owned)
        if slot.feature in without:
            slots.append(replace(slot, own_rows=1, pool=(0, 0), has_directory=False))
            rows.append(own_V[:1])
            continue
        keep_V = kept_V[own_V].clone()
        keep_V[:FIRST_KNOWN] = True
        rows.append(own_V[keep_V])
        if bool(keep_V.all()):
            slots.append(slot)
            directories += [_directory(table, slot)] if slot.has_directory else []
            continue
        slots.append(replace(slot, own_rows=int(keep_V.sum()), has_directory=True))
        new_row_V = torch.where(keep_V, keep_V.cumsum(0) - 1, ABSENT)
        before = _directory(table, slot).to(torch.int64)
        directories.append(torch.where(before >= 0, new_row_V[before.clamp_min(0)], before))
    pool_rows = max((s.pool[0] + s.pool[1] for s in slots), default=0)
    rows.append(torch.arange(table.row_map.num_own_rows, table.row_map.num_own_rows + pool_rows))
    smaller = FusedTable(slots, table.width)
    smaller.weight.copy_(table.weight[torch.cat(rows)])
    if directories:
        assert smaller.row_map.directory_V is not None
        smaller.row_map.directory_V.copy_(torch.cat(directories))
    return smaller.train(table.training)


def _directory(table: FusedTable, slot: TableSlot) -> Tensor:
    """Which own row each id has, whether it is written down or not, int [num_rows]."""
    if slot.has_directory:
        return table.row_map.directory(slot)
    ids_V = torch.arange(slot.num_rows)
    other = HASHED if slot.pool[1] else min(1, slot.rows_owned - 1)
    return torch.where(ids_V < slot.rows_owned, ids_V, other)
