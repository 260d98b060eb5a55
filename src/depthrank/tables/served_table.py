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
from depthrank.tables.row_source import RowSource


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
        starts_F = torch.tensor([slot.start for slot in self.slots], dtype=torch.int64) * self.row_map.num_salts
        self.register_buffer("bag_start_F", starts_F, persistent=False)

    bag_start_F: Tensor

    def forward(self, ids_nI: Tensor) -> Tensor:
        """One vector a feature, float32 [n, F, E]; ``ids_nI`` integer [n, I], 0 where there is no value."""
        check_ids(ids_nI)
        n, num_features, source = ids_nI.shape[0], len(self.slots), self.source
        rows_nIS = self.rows_of(ids_nI)
        salts = rows_nIS.shape[2]
        if self.single_valued and salts == 1:
            return source.rows(rows_nIS.flatten()).view(n, num_features, self.width)
        bag_nF = torch.arange(n).unsqueeze(1) * (ids_nI.shape[1] * salts) + self.bag_start_F
        summed_nFE: Tensor = source.pooled(rows_nIS.flatten(), bag_nF.flatten()).view(n, num_features, self.width)
        if self.single_valued:
            return summed_nFE.div_(salts)
        count_nF: Tensor = ((ids_nI != 0).float() @ self.pool_IF).clamp_min(1.0) * salts
        return summed_nFE.div_(count_nF.unsqueeze(-1))


def served_tables(model: nn.Module) -> dict[str, ServedTable]:
    """The served tables of a model by the name of what holds them (``item_features``)."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, ServedTable)}
    return {name.removesuffix(".table"): table for name, table in found.items()}
