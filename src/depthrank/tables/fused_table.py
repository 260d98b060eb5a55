"""All features of one side in one table: one lookup for all of them, pooled per feature.

Which row an id reads, row_map.py says: rows of its own for frequent ids, a shared pool for the others. In each feature
id 0 is padding (it contributes nothing), id 1 the unknown value. A feature with several id columns is the mean of its
non-zero ids. One lookup of all features costs one launch (FEASIBILITY: 4-40x an EmbeddingBagCollection for
single-valued features). This form trains; ``ServedTable`` reads what it wrote.

Legend: n rows, I id columns, S salts, F features, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthrank.tables.row_format import RowFormat, pack_rows
from depthrank.tables.row_map import RowMap, TableSlot

DRAWN_AT_ONCE = 1 << 16

RowsKept = Callable[[int], range]
"""Which rows of a new table a process keeps, of how many there are."""

_ROWS_KEPT: ContextVar[RowsKept | None] = ContextVar("rows_kept", default=range)


@contextmanager
def rows_left_out() -> Iterator[None]:
    """Tables built meanwhile have the shape of their rows and no memory for them: they are about to be replaced."""
    with _rows(None):
        yield


@contextmanager
def rows_kept(kept: RowsKept) -> Iterator[None]:
    """Tables built meanwhile hold a part of their rows, with the values that these rows have in a whole table."""
    with _rows(kept):
        yield


@contextmanager
def _rows(kept: RowsKept | None) -> Iterator[None]:
    before = _ROWS_KEPT.set(kept)
    try:
        yield
    finally:
        _ROWS_KEPT.reset(before)


def drawn_rows(num_rows: int, width: int, deviation: float) -> Tensor:
    """The rows of a new table, or those of them that are kept here; normal, piece by piece, so that a process that
    keeps a part draws the same numbers as one that keeps all and never holds them."""
    which = _ROWS_KEPT.get()
    if which is None:
        return torch.empty(num_rows, width, device="meta")
    kept = which(num_rows)
    rows = torch.empty(len(kept), width)
    for first in range(0, num_rows, DRAWN_AT_ONCE):
        piece = torch.randn(min(DRAWN_AT_ONCE, num_rows - first), width) * deviation
        here = range(max(first, kept.start), min(first + len(piece), kept.stop))
        if here:
            rows[here.start - kept.start : here.stop - kept.start] = piece[here.start - first : here.stop - first]
    return rows


class TableColumns(nn.Module):
    """What both forms of a table share: its slots, and which id columns each feature pools."""

    pool_IF: Tensor

    def __init__(self, slots: Sequence[TableSlot], width: int) -> None:
        super().__init__()
        self.slots = tuple(slots)
        self.width = width
        self.row_map = RowMap(slots)
        pool_IF = torch.zeros(self.num_ids, len(self.slots))
        for f, slot in enumerate(self.slots):
            pool_IF[slot.start : slot.stop, f] = 1.0
        self.register_buffer("pool_IF", pool_IF, persistent=False)
        self.single_valued = all(slot.stop - slot.start == 1 for slot in self.slots)

    @property
    def num_ids(self) -> int:
        """Number of id columns I."""
        return self.slots[-1].stop if self.slots else 0

    @property
    def num_features(self) -> int:
        """Number of features F."""
        return len(self.slots)

    def rows_of(self, ids_nI: Tensor) -> Tensor:
        """Which rows are read for ids [n, I]: int64 [n, I, S]."""
        return self.row_map(ids_nI)  # type: ignore[no-any-return]


class FusedTable(TableColumns):
    """Embeds id columns [n, I] into one vector a feature [n, F, E]; rows start with ``deviation``, or 1/sqrt(E)."""

    def __init__(self, slots: Sequence[TableSlot], width: int, deviation: float | None = None) -> None:
        super().__init__(slots, width)
        rows = drawn_rows(self.num_rows, width, width**-0.5 if deviation is None else deviation)
        self.weight = nn.Parameter(rows)

    @property
    def num_rows(self) -> int:
        """Rows of the whole table."""
        return max(self.row_map.num_rows, 1)

    def embed(self, rows: Tensor) -> Tensor:
        """The rows asked for, float [..., E]; ``rows`` int64 [...]."""
        return F.embedding(rows, self.weight)

    def forward(self, ids_nI: Tensor) -> Tensor:
        """One vector a feature, float [n, F, E]; ``ids_nI`` integer [n, I], 0 where there is no value."""
        present_nI = (ids_nI != 0).to(self.weight.dtype)
        rows_nIS = self.row_map(ids_nI)
        if rows_nIS.shape[2] == 1:
            embedded_nIE = self.embed(rows_nIS.squeeze(2))
        else:
            embedded_nIE = self.embed(rows_nIS).mean(dim=2)
        embedded_nIE = embedded_nIE * present_nI.unsqueeze(-1)
        if self.single_valued:
            return embedded_nIE
        summed_nFE = torch.einsum("nie,if->nfe", embedded_nIE, self.pool_IF)
        count_nF = (present_nI @ self.pool_IF).clamp_min(1.0)
        return summed_nFE / count_nF.unsqueeze(-1)

    @torch.no_grad()
    def packed(self, form: RowFormat) -> Tensor:
        """Its rows as they are stored, padding rows zero."""
        self.weight[self.row_map.padding_rows()] = 0.0
        return pack_rows(self.weight, form)
