"""Ids enter a table when they have been seen often enough, and leave when they have gone quiet, while training runs.

Every id starts in the pool. Once training has looked it up ``admit`` times it gets a free row of its own, which starts
as the mean of the pool rows that it read until then: the model says the same before and after. An id that was not seen
for ``quiet_steps`` steps goes back to the pool, and its row is free for another. Where no row is free, the id waits.

For data whose traffic is known before training the plan decides at once; this is for vocabularies that move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from depthrank.tables.fused_table import FusedTable
from depthrank.tables.pruning import FIRST_KNOWN, first_rows
from depthrank.tables.row_map import HASHED, TableSlot

EVERY_STEPS = 10


@dataclass(frozen=True)
class Moves:
    """What one round did, over all features. ``fresh_rows``: rows of the table that now belong to another id."""

    entered: int
    left: int
    waiting: int
    fresh_rows: Tensor


def admitting(slots: tuple[TableSlot, ...]) -> tuple[TableSlot, ...]:
    """The slots of a plan with a directory where ids hash, so that who owns a row may change."""
    return tuple(replace(slot, has_directory=True) if slot.pool[1] else slot for slot in slots)


class Admission:
    """Counts what one table is asked for, and moves ids in and out of its rows."""

    def __init__(self, table: FusedTable, *, admit: int, quiet_steps: int) -> None:
        self.table, self.admit, self.quiet_steps = table, admit, quiet_steps
        self.slots = [slot for slot in table.slots if slot.has_directory]
        self._seen = {slot: torch.zeros(slot.num_rows, dtype=torch.int64) for slot in self.slots}
        self._last_step = {slot: torch.zeros(slot.num_rows, dtype=torch.int64) for slot in self.slots}
        self.step = 0
        for slot in self.slots:
            table.row_map.directory(slot)[:FIRST_KNOWN] = torch.arange(FIRST_KNOWN, dtype=torch.int32)

    def count(self, ids_nI: Tensor) -> None:
        """Note the ids of a training batch."""
        for slot in self.slots:
            ids_n = ids_nI[:, slot.start : slot.stop].flatten().to(torch.int64)
            self._seen[slot] += torch.bincount(ids_n, minlength=slot.num_rows)[: slot.num_rows]
            self._last_step[slot][ids_n] = self.step

    @torch.no_grad()
    def move(self) -> Moves:
        """Let quiet ids leave, then let the most seen ones enter the rows that are free."""
        entered, left, waiting, fresh = 0, 0, 0, []
        starts = dict(zip(self.table.slots, first_rows(self.table), strict=True))
        for slot in self.slots:
            directory = self.table.row_map.directory(slot)
            quiet = (directory >= FIRST_KNOWN) & (self._last_step[slot] < self.step - self.quiet_steps)
            directory[quiet] = HASHED
            self._seen[slot][quiet] = 0
            left += int(quiet.sum())
            free = torch.ones(slot.rows_owned, dtype=torch.bool)
            free[directory[directory >= 0].to(torch.int64)] = False
            rows = free.nonzero().squeeze(1)
            ids = ((directory == HASHED) & (self._seen[slot] >= self.admit)).nonzero().squeeze(1)
            ids = ids[ids >= FIRST_KNOWN]
            order = torch.argsort(self._seen[slot][ids], descending=True, stable=True)
            chosen = ids[order][: len(rows)]
            waiting += len(ids) - len(chosen)
            entered += len(chosen)
            rows = rows[: len(chosen)]
            self.table.weight[starts[slot] + rows] = self._pooled(slot, chosen)
            directory[chosen] = rows.to(torch.int32)
            fresh.append(starts[slot] + rows)
        return Moves(entered, left, waiting, torch.cat(fresh) if fresh else torch.zeros(0, dtype=torch.int64))

    def _pooled(self, slot: TableSlot, ids: Tensor) -> Tensor:
        """What the ids read now: the mean of their pool rows."""
        columns = torch.zeros(len(ids), self.table.num_ids, dtype=torch.int64)
        columns[:, slot.start] = ids
        return self.table.weight[self.table.rows_of(columns)[:, slot.start]].mean(dim=1)
