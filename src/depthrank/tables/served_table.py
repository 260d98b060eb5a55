"""The table of a side as serving reads it: ids to rows, rows from a ``RowSource``, one lookup for all features.

The source is one attribute, read once a call: whoever publishes changed rows puts an overlay in its place, and a call
sees the old rows or the new ones, never both. Padding rows are zeros in every file, so that no mask is needed.

Legend: n rows, I id columns, S salts, F features, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from depthrank.errors import ArtifactError
from depthrank.tables.fused_table import TableColumns
from depthrank.tables.row_map import ID_TYPES, TableSlot, check_ids
from depthrank.tables.row_source import PackedRows, RowSource


class ServedTable(TableColumns):
    """``FusedTable`` without parameters: equal to it up to the rounding of the row format.

    Raises ArtifactError where the source has not the rows that the slots need.
    """

    def __init__(self, slots: Sequence[TableSlot], width: int, source: RowSource) -> None:
        super().__init__(slots, width)
        needed = max(self.row_map.num_rows, 1)
        if (source.num_rows, source.width) != (needed, width):
            raise ArtifactError(
                f"the table has {source.num_rows} rows of width {source.width}; its features need {needed} of {width}"
            )
        if bool(source.rows(self.row_map.padding_rows()).any()):
            raise ArtifactError("the table's padding rows are not zeros: it was not written by depthrank")
        self.source = source
        # Plain attributes: a module finds its buffers slowly, and a lookup of one row takes a few microseconds in all.
        self._num_features, self._num_columns = len(self.slots), self.num_ids
        # Row numbers of 32 bits, where they fit, are half the bytes to add up and to read.
        self._first_row_I = dict.fromkeys(ID_TYPES, self.row_map.first_row_I)
        if needed < 1 << 30:
            self._first_row_I[torch.int32] = self.row_map.first_row_I.to(torch.int32)
        widths = {slot.stop - slot.start for slot in self.slots}
        self._ids_each = widths.pop() if len(widths) == 1 else 0  # of every feature; 0: it differs
        self._scale_F1 = 1.0 / (self.pool_IF.sum(0).unsqueeze(1) * self.row_map.num_salts)
        self._start_F = torch.tensor([slot.start for slot in self.slots], dtype=torch.int64) * self.row_map.num_salts
        self._is_plain = self.single_valued and self.row_map.is_exact
        self._bags = {kind: torch.zeros(0, self._num_features, dtype=kind) for kind in (torch.int32, torch.int64)}

    def forward(self, ids_nI: Tensor) -> Tensor:
        """One vector a feature, float32 [n, F, E]; ``ids_nI`` integer [n, I], 0 where there is no value."""
        first_row_I = self._first_row_I.get(ids_nI.dtype)
        if first_row_I is None or ids_nI.dim() != 2:
            check_ids(ids_nI)
        assert first_row_I is not None
        if not self._is_plain:
            return self._pooled(ids_nI, first_row_I)
        source, rows_nF = self.source, ids_nI + first_row_I
        if type(source) is PackedRows:
            return source.embedded(rows_nF)
        return source.rows(rows_nF.view(-1)).view(-1, self._num_features, self.width)

    def _pooled(self, ids_nI: Tensor, first_row_I: Tensor) -> Tensor:
        """Means over the ids of each feature that are there, and over their salts."""
        n, salts = ids_nI.shape[0], self.row_map.num_salts
        rows_nIS = (ids_nI + first_row_I) if self.row_map.is_exact else self.rows_of(ids_nI)
        summed = self.source.pooled(rows_nIS.flatten(), self._offsets(n, rows_nIS.dtype))
        summed_nFE = summed.view(n, self._num_features, self.width)
        least = 1 if self.single_valued or not n else int(ids_nI.amin())
        if least > 0:  # all are there: nothing is to be counted
            return summed_nFE.mul_(1.0 / (self._ids_each * salts) if self._ids_each else self._scale_F1)
        present_nI = (ids_nI.clamp_max(1) if least == 0 else ids_nI != 0).to(torch.float32)
        if self._ids_each:
            count_nF = present_nI.view(n, self._num_features, self._ids_each).sum(2)
        else:
            count_nF = torch.matmul(present_nI, self.pool_IF)
        return summed_nFE.div_(count_nF.clamp_min_(1.0).mul_(salts).unsqueeze(-1))

    def _offsets(self, n: int, kind: torch.dtype) -> Tensor:
        """Where the bag of each row and feature begins, [n * F]."""
        if n > self._bags[kind].shape[0]:
            first_n1 = torch.arange(2 * n).unsqueeze(1) * (self._num_columns * self.row_map.num_salts)
            self._bags[kind] = (first_n1 + self._start_F).to(kind)
        return self._bags[kind][:n].flatten()


def served_tables(model: nn.Module) -> dict[str, ServedTable]:
    """The served tables of a model by the name of what holds them (``item_features``)."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, ServedTable)}
    return {name.removesuffix(".table"): table for name, table in found.items()}
