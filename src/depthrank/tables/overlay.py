"""Rows in front of other rows: a few that changed, over a base that stays mapped where it lies.

A lookup reads the base, as if nothing had changed, and then the changed rows among those it asked for. What changed is
known from one bit a row, so that a lookup without a changed row costs one more gather of bits.

The result is that of a table with the rows written in, bit for bit: single rows are unpacked row by row, and bags with
a changed row are summed by the same kernel, over their packed rows gathered side by side.

Legend: n row numbers, m row numbers of all bags, b bags, C changed rows, D width, V rows, B elements of a packed row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from depthrank.errors import ArtifactError
from depthrank.tables.hot_rows import HotRows
from depthrank.tables.row_format import RowFormat
from depthrank.tables.row_source import PackedRows, RowSource

PART_ROWS = 1 << 16


@runtime_checkable
class PackedSource(RowSource, Protocol):
    """Rows that can be had as they are stored."""

    @property
    def form(self) -> RowFormat: ...
    def packed_rows(self, row_n: Tensor) -> Tensor:
        """Packed rows [n, B], copied."""
        ...


class RowSet:
    """A set of rows of a table of V: a bit a row, row i at bit i % 8 of byte i // 8."""

    def __init__(self, row_C: Tensor, num_rows: int) -> None:
        self._bits = torch.zeros(num_rows // 8 + 1, dtype=torch.uint8)
        for bit in range(8):
            rows = row_C[(row_C & 7) == bit]
            self._bits[rows >> 3] |= 1 << bit

    def holds(self, row_n: Tensor) -> Tensor:
        """Which of these rows are in the set, bool, of any shape; rows are those of the table."""
        row_n = row_n.to(torch.int64)
        return ((self._bits[row_n >> 3] >> (row_n & 7).to(torch.uint8)) & 1).to(torch.bool)


class OverlaidRows:
    """``base`` with the rows ``row_C`` (int64, ascending) replaced by those of ``changed``, in this order."""

    def __init__(self, base: PackedSource, row_C: Tensor, changed: PackedRows) -> None:
        assert (changed.num_rows, changed.width, changed.form) == (row_C.shape[0], base.width, base.form)
        assert not isinstance(base, OverlaidRows), "overlays are merged, not stacked"
        self.base, self.row_C, self.changed = base, row_C, changed
        self._set = RowSet(row_C, base.num_rows)

    @property
    def num_rows(self) -> int:
        return self.base.num_rows

    @property
    def width(self) -> int:
        return self.base.width

    @property
    def form(self) -> RowFormat:
        return self.base.form

    def rows(self, row_n: Tensor) -> Tensor:
        """Rows float32 [n, D]."""
        x_nD = self.base.rows(row_n)
        at, place = self._found(row_n)
        if at.shape[0]:
            x_nD[at] = self.changed.rows(place)
        return x_nD

    def pooled(self, row_m: Tensor, offset_b: Tensor) -> Tensor:
        """Sums of bags, float32 [b, D]."""
        x_bD = self.base.pooled(row_m, offset_b)
        at, place = self._found(row_m)
        if not at.shape[0]:
            return x_bD
        packed_mB = self.base.packed_rows(row_m)
        packed_mB[at] = self.changed.packed_rows(place)
        gathered = PackedRows(packed_mB, self.form, self.width)
        return gathered.pooled(torch.arange(row_m.shape[0]), offset_b)

    def packed_rows(self, row_n: Tensor) -> Tensor:
        """Packed rows [n, B]."""
        packed_nB = self.base.packed_rows(row_n)
        at, place = self._found(row_n)
        packed_nB[at] = self.changed.packed_rows(place)
        return packed_nB

    def _found(self, row_n: Tensor) -> tuple[Tensor, Tensor]:
        """Where changed rows are asked for, and their places among the changed."""
        at = self._set.holds(row_n).nonzero().squeeze(1)
        return at, torch.searchsorted(self.row_C, row_n[at].to(torch.int64))


def overlaid(source: PackedSource, row_C: Tensor, changed: PackedRows) -> OverlaidRows:
    """``source`` with some rows replaced; over an overlay, one overlay with both, in which the new rows win."""
    if not isinstance(source, OverlaidRows):
        return OverlaidRows(source, row_C, changed)
    kept = torch.isin(source.row_C, row_C, invert=True).nonzero().squeeze(1)
    rows = torch.cat((source.row_C[kept], row_C))
    packed = torch.cat((source.changed.packed_rows(kept), changed.packed_VB))
    order = rows.argsort()
    return OverlaidRows(source.base, rows[order], PackedRows(packed[order], source.form, source.width))


def packed_source(source: RowSource) -> PackedSource:
    """The source of a table as one that gives packed rows; raises ArtifactError for rows that lie elsewhere."""
    if not isinstance(source, PackedSource):
        raise ArtifactError(f"the rows of {type(source).__name__} lie elsewhere: a delta is applied where they are")
    return source


def packed_parts(source: PackedSource, part_rows: int = PART_ROWS) -> Iterator[Tensor]:
    """All packed rows in order, in parts [up to part_rows, B]; hot rows are passed by, so that they stay hot."""
    if isinstance(source, HotRows):
        source = source.mapped
    elif isinstance(source, OverlaidRows) and isinstance(source.base, HotRows):
        source = OverlaidRows(source.base.mapped, source.row_C, source.changed)
    for first in range(0, source.num_rows, part_rows):
        yield source.packed_rows(torch.arange(first, min(first + part_rows, source.num_rows)))
