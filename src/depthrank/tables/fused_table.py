"""All features of one side in one table: one lookup for all of them, pooled per feature.

Rows of feature f start at ``offset_f``; in each feature id 0 is padding (it contributes nothing), id 1 the unknown
value. A feature with several id columns is the mean of its non-zero ids. One lookup of all features costs one launch
(FEASIBILITY: 4-40x an EmbeddingBagCollection for single-valued features).

Legend: n rows, I id columns, F features, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TableSlot:
    """The id columns [start, stop) of a feature and the rows its ids may name."""

    feature: str
    num_rows: int
    start: int
    stop: int


class FusedTable(nn.Module):
    """Embeds id columns [n, I] into one vector a feature [n, F, E]."""

    column_offset_I: Tensor
    pool_IF: Tensor

    def __init__(self, slots: Sequence[TableSlot], width: int) -> None:
        super().__init__()
        self.slots = tuple(slots)
        self.width = width
        offsets = torch.zeros(self.num_ids, dtype=torch.int64)
        pool_IF = torch.zeros(self.num_ids, len(self.slots))
        first_row = 0
        for f, slot in enumerate(self.slots):
            offsets[slot.start : slot.stop] = first_row
            pool_IF[slot.start : slot.stop, f] = 1.0
            first_row += slot.num_rows
        self.register_buffer("column_offset_I", offsets, persistent=False)
        self.register_buffer("pool_IF", pool_IF, persistent=False)
        self.single_valued = all(slot.stop - slot.start == 1 for slot in self.slots)
        self.weight = nn.Parameter(torch.randn(max(first_row, 1), width) * width**-0.5)

    @property
    def num_ids(self) -> int:
        """Number of id columns I."""
        return self.slots[-1].stop if self.slots else 0

    @property
    def num_features(self) -> int:
        """Number of features F."""
        return len(self.slots)

    def forward(self, ids_nI: Tensor) -> Tensor:
        """One vector a feature, float [n, F, E]; ``ids_nI`` integer [n, I], 0 where there is no value."""
        present_nI = (ids_nI != 0).to(self.weight.dtype)
        rows_nI = ids_nI.to(torch.int64) + self.column_offset_I
        embedded_nIE = F.embedding(rows_nI, self.weight) * present_nI.unsqueeze(-1)
        if self.single_valued:
            return embedded_nIE
        summed_nFE = torch.einsum("nie,if->nfe", embedded_nIE, self.pool_IF)
        count_nF = (present_nI @ self.pool_IF).clamp_min(1.0)
        return summed_nFE / count_nF.unsqueeze(-1)
