"""Encoded columns of one side become T tokens of width D: one fused lookup, one linear map and a SwiGLU beside it.

Legend: n rows, I id columns, F float columns, S features in the table, E table width, T tokens, D width.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from depthrank.model.blocks import SwiGLU, norm
from depthrank.model.config import MAX_BINNED, SideConfig
from depthrank.model.float_inputs import FloatInputs
from depthrank.tables import FusedTable, ServedTable

SMALL = 0.01  # standard deviation of a small table at the start: a rare id says nothing until it has learned something


class FeatureTokens(nn.Module):
    """Tokens [n, T, D] of a side; a side without columns is one learned token, the same for all rows."""

    def __init__(
        self,
        side: SideConfig,
        *,
        table_width: int,
        width: int,
        num_tokens: int,
        hidden: int,
        bins: int = 0,
        feature_dropout: float = 0.0,
        small_tables: bool = False,
        linear: type[nn.Linear] = nn.Linear,
    ) -> None:
        super().__init__()
        self.width, self.num_tokens = width, num_tokens
        usual = bins if side.num_floats <= MAX_BINNED else 0
        self.floats = FloatInputs(side.num_floats, usual if side.bins is None else side.bins)
        self.num_inputs = len(side.slots) * table_width + self.floats.num_inputs
        deviation = SMALL if small_tables else None
        table = FusedTable(side.slots, table_width, deviation) if side.slots else None
        self.table: FusedTable | ServedTable | None = table
        self.feature_dropout = feature_dropout
        # The constant input stands in for a bias in the first map only, so that a side may be empty.
        self.constant = nn.Parameter(torch.randn(width) * width**-0.5)
        self.linear = linear(self.num_inputs, num_tokens * width, bias=False) if self.num_inputs else None
        self.mlp = SwiGLU(self.num_inputs, hidden, num_tokens * width, linear) if self.num_inputs else None
        self.norm = norm(width)

    def forward(self, ids_nI: Tensor, floats_nF: Tensor) -> Tensor:
        """Tokens, float [n, T, D], from integer ids [n, I] and float columns [n, F]."""
        return self.tokens(self.inputs(ids_nI, floats_nF))

    def inputs(self, ids_nI: Tensor, floats_nF: Tensor) -> Tensor:
        """What the tokens are made of: embeddings and float inputs side by side, float [n, X]."""
        inputs = [self.floats(floats_nF.to(self.constant.dtype))]
        if self.table is not None:
            inputs.insert(0, self._dropped(self.table(ids_nI)).flatten(1))
        return torch.cat(inputs, dim=1)

    def without_table(self) -> FeatureTokens:
        """The same layers without the table, which ``tokens`` does not read: what an export takes."""
        copied = copy.copy(self)
        copied._modules = {name: part for name, part in self._modules.items() if name != "table"}
        return copied

    def tokens(self, x_nX: Tensor) -> Tensor:
        """Tokens, float [n, T, D], from inputs [n, X]."""
        n = x_nX.shape[0]
        tokens_nTD = self.constant.expand(n, self.num_tokens, self.width)
        if self.linear is not None and self.mlp is not None:
            mixed_nTD = (self.linear(x_nX) + self.mlp(x_nX)).view(n, self.num_tokens, self.width)
            tokens_nTD = tokens_nTD + mixed_nTD
        return self.norm(tokens_nTD)  # type: ignore[no-any-return]

    def _dropped(self, embedded_nSE: Tensor) -> Tensor:
        """In training, whole features of a row left out at random: no id alone may carry a prediction."""
        if not (self.training and self.feature_dropout):
            return embedded_nSE
        kept_nS = torch.rand(embedded_nSE.shape[:2], device=embedded_nSE.device) >= self.feature_dropout
        return embedded_nSE * kept_nS.unsqueeze(-1)
