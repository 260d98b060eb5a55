"""Where rows come from, as a lookup sees it: row numbers in, float32 rows out, whatever stands behind.

Everything that serves rows satisfies ``RowSource``: packed rows in memory or mapped from a file (here), hot rows in
front of a mapped file, an overlay of changed rows, a shard elsewhere.

Legend: n row numbers, m row numbers of all bags, b bags, D width, V rows, B elements of a packed row.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from depthrank.errors import DataError
from depthrank.tables.row_format import RowFormat, stored_dtype, stored_width

MANY_ROWS = 4_096  # from here on rows come from memory, and bags, which prefetch, are twice as fast as an embedding
_BYTE_BAGS = torch.ops.quantized.embedding_bag_byte_rowwise_offsets.default
_HALF_BYTE_BAGS = torch.ops.quantized.embedding_bag_4bit_rowwise_offsets.default


class RowSource(Protocol):
    """V rows of width D. Row numbers are int32 or int64, from 0 to V - 1; anything else is a DataError."""

    @property
    def num_rows(self) -> int: ...
    @property
    def width(self) -> int: ...
    def rows(self, row_n: Tensor) -> Tensor:
        """Rows float32 [n, D]."""
        ...

    def pooled(self, row_m: Tensor, offset_b: Tensor) -> Tensor:
        """Sums of bags, float32 [b, D]; bag i holds ``row_m[offset_b[i] : offset_b[i + 1]]``, the last one the rest."""
        ...


class PackedRows:
    """Rows in one tensor, packed [V, B] (row_format.py); a mapped tensor is read where it lies, never copied."""

    def __init__(self, packed_VB: Tensor, form: RowFormat, width: int) -> None:
        assert packed_VB.dtype == stored_dtype(form) and packed_VB.shape[1] == stored_width(form, width)
        self.packed_VB, self.form, self._width = packed_VB, form, width
        self._one_each = {kind: torch.arange(0, dtype=kind) for kind in (torch.int32, torch.int64)}
        self._is_float, self._is_fp32 = form in ("fp32", "bf16"), form == "fp32"
        self._kernel = {"int8": _BYTE_BAGS, "int4": _HALF_BYTE_BAGS}.get(form, self._float_bags)

    @property
    def num_rows(self) -> int:
        return self.packed_VB.shape[0]

    @property
    def width(self) -> int:
        return self._width

    def rows(self, row_n: Tensor) -> Tensor:
        """Rows float32 [n, D]; quantised or many ones as bags of one row, which torch prefetches and unpacks."""
        try:
            if self._is_float and row_n.shape[0] < MANY_ROWS:
                found_nD = torch.embedding(self.packed_VB, row_n)
                return found_nD if self.form == "fp32" else found_nD.float()
            count, kind = row_n.shape[0], row_n.dtype
            one_each = self._one_each[kind]
            if count != one_each.shape[0]:  # most calls are of one size
                self._one_each[kind] = one_each = torch.arange(count, dtype=kind)
            return self._kernel(self.packed_VB, row_n, one_each)
        except (RuntimeError, IndexError, KeyError) as error:
            check_row_numbers(row_n, self.num_rows)
            raise error

    def embedded(self, row_nF: Tensor) -> Tensor:
        """As ``rows``, float32 [n, F, D]; one row of all features costs a few microseconds, so here is no call more
        than it takes."""
        if self._is_fp32 and row_nF.numel() < MANY_ROWS:
            try:
                return torch.embedding(self.packed_VB, row_nF)
            except (RuntimeError, IndexError) as error:
                check_row_numbers(row_nF.flatten(), self.num_rows)
                raise error
        return self.rows(row_nF.view(-1)).view(-1, row_nF.shape[1], self._width)

    def pooled(self, row_m: Tensor, offset_b: Tensor) -> Tensor:
        """Sums of bags, float32 [b, D]; those of bf16 rows are rounded to bf16 once more by torch."""
        try:
            return self._kernel(self.packed_VB, row_m, offset_b.to(row_m.dtype))
        except (RuntimeError, IndexError) as error:
            check_row_numbers(row_m, self.num_rows)
            raise error

    def packed_rows(self, row_n: Tensor) -> Tensor:
        """Packed rows [n, B], copied."""
        return self.packed_VB[row_n.to(torch.int64)]

    @staticmethod
    def _float_bags(packed_VB: Tensor, row_m: Tensor, offset_b: Tensor) -> Tensor:
        return torch.embedding_bag(packed_VB, row_m, offset_b)[0].float()


def check_row_numbers(row_n: Tensor, num_rows: int) -> None:
    """Raise DataError unless these are whole numbers from 0 to ``num_rows - 1``; kernels refuse others, less well."""
    if row_n.dtype not in (torch.int64, torch.int32) or row_n.dim() != 1:
        raise DataError(f"row numbers are {row_n.dtype} {list(row_n.shape)}; expected int64 or int32 [n]")
    if not row_n.shape[0]:
        return
    low, high = (int(x) for x in torch.aminmax(row_n))
    if low < 0 or high >= num_rows:
        raise DataError(f"row numbers {low} to {high} asked of a table of {num_rows} rows (0 to {num_rows - 1})")
