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
from depthrank.tables.row_map import TableSlot, check_ids
from depthrank.tables.row_source import MANY_ROWS, PackedRows, RowSource


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
        self._first_row_I = self.row_map.first_row_I
        self._start_F = torch.tensor([slot.start for slot in self.slots], dtype=torch.int64) * self.row_map.num_salts
        self._is_plain = self.single_valued and self.row_map.is_exact
        self._bags = torch.zeros(0, self._num_features, dtype=torch.int64)

    def forward(self, ids_nI: Tensor) -> Tensor:
        """One vector a feature, float32 [n, F, E]; ``ids_nI`` integer [n, I], 0 where there is no value."""
        check_ids(ids_nI)
        if self._is_plain:
            rows_nF, source = ids_nI + self._first_row_I, self.source
            if isinstance(source, PackedRows) and source.form == "fp32" and rows_nF.numel() < MANY_ROWS:
                return torch.embedding(
                    source.packed_VB, rows_nF
                )  # no view to and fro: an eighth of the time of one row
            return source.rows(rows_nF.view(-1)).view(-1, self._num_features, self.width)
        return self._pooled(ids_nI)

    def _pooled(self, ids_nI: Tensor) -> Tensor:
        """Means over the ids of each feature that are there, and over their salts."""
        n, salts = ids_nI.shape[0], self.row_map.num_salts
        rows_nIS = (ids_nI + self._first_row_I) if self.row_map.is_exact else self.rows_of(ids_nI)
        if n > self._bags.shape[0]:
            first_n1 = torch.arange(2 * n).unsqueeze(1) * (self._num_columns * salts)
            self._bags = first_n1 + self._start_F
        summed = self.source.pooled(rows_nIS.flatten(), self._bags[:n].flatten())
        summed_nFE = summed.view(n, self._num_features, self.width)
        if self.single_valued:
            return summed_nFE.div_(salts)
        count_nF = torch.matmul((ids_nI != 0).to(torch.float32), self.pool_IF).clamp_min_(1.0).mul_(salts)
        return summed_nFE.div_(count_nF.unsqueeze(-1))


def served_tables(model: nn.Module) -> dict[str, ServedTable]:
    """The served tables of a model by the name of what holds them (``item_features``)."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, ServedTable)}
    return {name.removesuffix(".table"): table for name, table in found.items()}
