"""A linear map that is also quick for a single row: the request side of a served request is one.

With ``torch.set_float32_matmul_precision("medium")`` a product goes through oneDNN, which pays for many rows; of one
row it takes two to four times as long as a product of elements and a sum (docs/log.md). The BLAS of "highest" is the
fastest of the three.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOST_WEIGHTS = 1 << 18  # above, the products of elements no longer fit the cache


class RowLinear(nn.Linear):
    """``nn.Linear`` without a bias; the same up to rounding, so not for rows that must come out alike alone and among
    others (items)."""

    def __init__(self, width_in: int, width_out: int, bias: bool = False) -> None:
        assert not bias, "no layer here has one"
        super().__init__(width_in, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width_in] -> [..., width_out]."""
        if (
            x.dim() == 2
            and x.shape[0] == 1
            and not torch.is_grad_enabled()
            and self.weight.numel() <= MOST_WEIGHTS
            and torch.get_float32_matmul_precision() != "highest"
        ):
            return (self.weight * x).sum(1).unsqueeze(0)
        return super().forward(x)
