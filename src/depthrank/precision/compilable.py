"""Layers in a format as plain operators that torch's compiler turns into the same kernels, fused with what is around.

Packed weights are opaque to an export, so here a layer says what it means and the compiler packs: bf16 as a cast and a
product, int8 as quantize and dequantize around one, which Inductor's freezing turns into oneDNN's integer product with
its neighbours (norms, activations) fused into the rounding. A scale a row (int8-dynamic) is the same with scale 1: the
rows are divided by their own scales before it, and multiplied by them after it.

Legend: M rows, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthrank.errors import ArtifactError
from depthrank.kernels import ATTENTION, attention_kernel
from depthrank.precision.attention_layer import AttentionLayer
from depthrank.precision.formats import Format, LayerChoice
from depthrank.precision.in_formats import layers_of, replaced
from depthrank.precision.int8_linear import LARGEST, MIDDLE, TINIEST

Model = TypeVar("Model", bound=nn.Module)
NARROW = 16  # torch 2.13 compiles an int8 product of 2 outputs to wrong numbers; heads are no work anyway
COMPILABLE = (Format.FP32, Format.FP32_PACKED, Format.BF16, Format.INT8_STATIC, Format.INT8_DYNAMIC)


def compilable(model: Model, choices: Mapping[str, LayerChoice]) -> Model:
    """The model in these formats, for an export; raises ArtifactError for a format that has no compiled form."""
    layers = layers_of(model)
    made: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        choice = choices.get(name, LayerChoice(Format.FP32))
        if choice.format not in COMPILABLE:
            raise ArtifactError(f"layer {name} runs in {choice.format}, which has no compiled form")
        if isinstance(layer, AttentionLayer):
            made[name] = _attention(choice.format)
        elif choice.format is Format.BF16:
            made[name] = _Bf16Linear(layer.weight)  # type: ignore[arg-type]
        elif choice.format.is_int8 and layer.out_features >= NARROW:  # type: ignore[operator]
            made[name] = _Int8Linear(layer.weight, choice.input_scale)  # type: ignore[arg-type]
    return replaced(model, made)


@cache
def _quantized_operators() -> Any:
    """torch's operators for quantize and dequantize, which are registered when their module is imported."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


class _Bf16Linear(nn.Module):
    weight_NK: Tensor

    def __init__(self, weight_NK: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_NK", weight_NK.detach().to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(torch.bfloat16), self.weight_NK).float()


class _Int8Linear(nn.Module):
    weight_NK: Tensor
    scale_N: Tensor
    zeros_N: Tensor

    def __init__(self, weight_NK: Tensor, input_scale: float | None) -> None:
        """``input_scale`` None: one a row."""
        super().__init__()
        self.input_scale = input_scale
        weight_NK = weight_NK.detach().float()
        scale_N = weight_NK.abs().amax(dim=1).clamp_min(TINIEST) / LARGEST
        self.register_buffer("weight_NK", (weight_NK / scale_N.unsqueeze(1)).round().to(torch.int8))
        self.register_buffer("scale_N", scale_N)
        self.register_buffer("zeros_N", torch.zeros(scale_N.shape[0], dtype=torch.int64))
        _quantized_operators()

    def forward(self, x: Tensor) -> Tensor:
        if self.input_scale is not None:
            return self._product(x, self.input_scale)
        scale_M1 = x.abs().amax(dim=-1, keepdim=True).clamp_min(TINIEST) / LARGEST
        return self._product(x / scale_M1, 1.0) * scale_M1

    def _product(self, x: Tensor, scale: float) -> Tensor:
        operators = torch.ops.quantized_decomposed
        of_input = (scale, MIDDLE, 0, 255, torch.uint8)
        q = operators.quantize_per_tensor(x, *of_input)
        back = operators.dequantize_per_tensor(q, *of_input)
        weight_NK = operators.dequantize_per_channel(
            self.weight_NK, self.scale_N, self.zeros_N, 0, -LARGEST - 1, LARGEST, torch.int8
        )
        return F.linear(back, weight_NK)


def _attention(format: Format) -> AttentionLayer:
    if format is Format.FP32:
        return _Attention(torch.float32)
    return _Attention(torch.bfloat16) if attention_kernel() is None else _KernelAttention(format.is_int8)


class _KernelAttention(AttentionLayer):
    """As an operator of ours, which compiled code calls."""

    def __init__(self, int8: bool) -> None:
        super().__init__()
        self.int8 = int8

    def forward(
        self, q_nHQd: Tensor, k_nHPd: Tensor, v_nHPd: Tensor, bias: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        out: Tensor = ATTENTION(q_nHQd, k_nHPd, v_nHPd, bias, causal, self.int8)
        return out


class _Attention(AttentionLayer):
    """Two products and a softmax in one dtype, without blocks: their number would be fixed in the compiled code."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(
        self, q_nHQd: Tensor, k_nHPd: Tensor, v_nHPd: Tensor, bias: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        assert bias is not None and not causal, "levels attend with a bias, and never causally"
        n, heads, queries, width = q_nHQd.shape
        keys, dtype = k_nHPd.shape[2], self.dtype
        q_bQd = (q_nHQd * width**-0.5).to(dtype).reshape(n * heads, queries, width)
        k_bPd, v_bPd = (x.to(dtype).reshape(n * heads, keys, width) for x in (k_nHPd, v_nHPd))
        bias_b1P = bias.to(dtype).expand(n, heads, 1, keys).reshape(n * heads, 1, keys)
        score_bQP = torch.baddbmm(bias_b1P, q_bQd, k_bPd.transpose(1, 2))
        out_bQd = torch.bmm(score_bQP.softmax(dim=-1), v_bPd)
        return out_bQd.view(n, heads, queries, width).to(q_nHQd.dtype)
