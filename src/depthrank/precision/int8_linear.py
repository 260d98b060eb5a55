"""Linear layers on 8-bit integers: weights by output channel, inputs unsigned around 128.

``x ~ s (q - 128)`` and ``W ~ t_N W8``, so ``x W^T ~ s t_N (q W8^T - 128 sum_K W8)``: the last term is known ahead
and goes in as a bias, which is cheaper than oneDNN's own zero point. Unsigned inputs, because oneDNN has no fast kernel
for signed ones here (measured: thousands of times slower). The scale s is one a layer (static) or one a row (dynamic).

Legend: M rows, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from depthrank.precision.packed_linear import PACKED_FOR_ROWS, FormattedLinear

MIDDLE = 128
LARGEST = 127
TINIEST = 1e-12
CLIPS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


class Int8Linear(FormattedLinear):
    """What static and dynamic scales share: packed weights and the known part of the sum."""

    packed: Tensor
    scale_N: Tensor
    known_N: Tensor
    zeros_N: Tensor
    shift: Tensor

    def __init__(self, weight_NK: Tensor) -> None:
        super().__init__(weight_NK.shape[1], weight_NK.shape[0])
        weight_NK = weight_NK.detach().float()
        self.scale_N = weight_NK.abs().amax(dim=1).clamp_min(TINIEST) / LARGEST
        rounded_NK = (weight_NK / self.scale_N.unsqueeze(1)).round_()
        self.known_N = rounded_NK.sum(dim=1) * self.scale_N * -MIDDLE
        self.zeros_N = torch.zeros(self.out_features, dtype=torch.int64)
        self.shift = torch.tensor(MIDDLE + 0.5)  # rounds to nearest when the cast cuts off
        self.packed = torch.ops.onednn.qlinear_prepack(rounded_NK.to(torch.int8), [PACKED_FOR_ROWS, self.in_features])

    def _multiply(self, q_MK: Tensor, scale: float, known_N: Tensor, dtype: torch.dtype) -> Tensor:
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            q_MK, scale, 0, self.packed, self.scale_N, self.zeros_N, known_N, 1.0, 0, dtype, "none", [], ""
        )
        return out


class Int8StaticLinear(Int8Linear):
    """One input scale, from calibration; what lies beyond it is clipped."""

    def __init__(self, weight_NK: Tensor, input_scale: float) -> None:
        super().__init__(weight_NK)
        self.input_scale = input_scale
        self.known_N = self.known_N * input_scale

    def product(self, x_MK: Tensor) -> Tensor:
        """[M, K] -> [M, N]."""
        spread_MK = torch.add(self.shift, x_MK, alpha=1.0 / self.input_scale)
        q_MK = spread_MK.clamp_(0.0, 255.0).to(torch.uint8)
        return self._multiply(q_MK, self.input_scale, self.known_N, self.out_dtype)


class Int8DynamicLinear(Int8Linear):
    """One input scale a row: the row's largest magnitude, whatever the other rows are."""

    def product(self, x_MK: Tensor) -> Tensor:
        """[M, K] -> [M, N]."""
        x_MK = x_MK.float()
        scale_M1 = x_MK.abs().amax(dim=1, keepdim=True).clamp_min_(TINIEST).div_(LARGEST)
        q_MK = torch.addcmul(self.shift, x_MK, scale_M1.reciprocal()).to(torch.uint8)
        return self._multiply(q_MK, 1.0, self.known_N, torch.float32).mul_(scale_M1).to(self.out_dtype)


def fitted_scale(x_MK: Tensor, clips: Sequence[float] = CLIPS) -> float:
    """The input scale with the least squared error on sampled rows: the largest magnitude, or somewhat less of it."""
    most = float(x_MK.abs().max()) if x_MK.numel() else 1.0
    if most <= 0:
        return 1.0

    def error(scale: float) -> float:
        back_MK = (x_MK / scale).round_().clamp_(-MIDDLE, LARGEST).mul_(scale)
        return float((back_MK - x_MK).square().sum())

    return min((most * clip / LARGEST for clip in clips), key=error)
