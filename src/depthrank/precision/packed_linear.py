"""Linear layers with weights laid out once for oneDNN, in fp32 or bf16.

Eager: no compiler is needed. A product over no rows gives no rows, as oneDNN does not take one.

Legend: M rows, K inputs, N outputs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

PACKED_FOR_ROWS = 256  # the layout that oneDNN is asked for; any number of rows may be multiplied with it


class FormattedLinear(nn.Module):
    """A linear layer without bias in some format: [..., K] -> [..., N] in ``out_dtype``.

    ``out_dtype`` is fp32 unless the reader of the output is known to round it anyway (``in_formats``).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.out_dtype = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        """The product with the layer's weights."""
        x_MK = x.reshape(-1, self.in_features)
        shape = (*x.shape[:-1], self.out_features)
        if x_MK.shape[0] == 0:
            return x.new_zeros(shape, dtype=self.out_dtype)
        return self.product(x_MK).view(shape)

    def product(self, x_MK: Tensor) -> Tensor:
        """[M, K] -> [M, N], M > 0."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> FormattedLinear:
        """Itself: nothing changes it, and packed weights cannot be copied."""
        return self


class PackedLinear(FormattedLinear):
    """fp32 or bf16 weights, packed; sums are fp32 in both."""

    packed: Tensor

    def __init__(self, weight_NK: Tensor, dtype: torch.dtype) -> None:
        super().__init__(weight_NK.shape[1], weight_NK.shape[0])
        self.dtype = dtype
        own = weight_NK.detach().to(dtype).contiguous()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(own, PACKED_FOR_ROWS)

    def product(self, x_MK: Tensor) -> Tensor:
        """[M, K] -> [M, N]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x_MK.to(self.dtype).contiguous(), self.packed, None, "none", [], ""
        )
        return out.to(self.out_dtype)


@cache
def multiplies_bf16() -> bool:
    """Whether oneDNN multiplies bf16 on this machine: on x86 it needs AVX-512 (or AVX-NE-CONVERT)."""
    try:
        PackedLinear(torch.zeros(2, 2), torch.bfloat16).product(torch.zeros(1, 2))
    except RuntimeError:
        return False
    return True
