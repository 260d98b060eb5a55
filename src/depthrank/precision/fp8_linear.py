"""fp8 (e4m3) emulated: rounded as fp8 would round, multiplied in fp32. For accuracy work on a machine without fp8.

Legend: M rows, K inputs, N outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from depthrank.precision.packed_linear import FormattedLinear

MOST = float(torch.finfo(torch.float8_e4m3fn).max)
TINIEST = 1e-12


class EmulatedFp8Linear(FormattedLinear):
    """Weights rounded by output channel, inputs by row."""

    rounded_NK: Tensor

    def __init__(self, weight_NK: Tensor) -> None:
        super().__init__(weight_NK.shape[1], weight_NK.shape[0])
        self.rounded_NK = _rounded(weight_NK.detach().float())

    def product(self, x_MK: Tensor) -> Tensor:
        """[M, K] -> [M, N]."""
        return F.linear(_rounded(x_MK.float()), self.rounded_NK).to(self.out_dtype)


def _rounded(rows: Tensor) -> Tensor:
    """Each row as the nearest fp8 numbers times the row's scale."""
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(TINIEST) / MOST
    return (rows / scale).to(torch.float8_e4m3fn).float() * scale
