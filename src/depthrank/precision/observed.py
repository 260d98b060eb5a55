"""What layers see while requests run: how many rows, and samples of their inputs, from which int8 scales are fitted.

Legend: M rows, K inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from depthrank.precision.attention_layer import AttentionLayer
from depthrank.precision.formats import LayerChoice
from depthrank.precision.in_formats import in_formats, layers_of
from depthrank.precision.int8_linear import fitted_scale

ROWS_KEPT = 512
ROWS_A_CALL = 16
ATTENTION_ERROR = 3e-5


@dataclass
class Seen:
    """One layer's calls. A shape is rows of a linear layer, or (heads, queries, keys, width, causal) of attention."""

    calls: Counter[tuple[int, ...]] = field(default_factory=Counter)
    sample: list[Tensor] = field(default_factory=list)
    largest: float = 0.0

    @property
    def rows_kept(self) -> int:
        """Rows in the sample."""
        return sum(part.shape[0] for part in self.sample)

    def input_scale(self) -> float:
        """The int8-static scale of this layer's inputs."""
        return fitted_scale(torch.cat(self.sample)) if self.sample else 1.0


@torch.inference_mode()
def output_error(layer: nn.Module, seen: Seen, choice: LayerChoice) -> float:
    """Squared error of a layer's outputs in a format on its sampled inputs, over their squared size: what a format does
    to a layer, before anything is known of what the layer does to the model. Attention: that of bf16 rounding."""
    if isinstance(layer, AttentionLayer) or not seen.sample:
        return ATTENTION_ERROR
    x_MK = torch.cat(seen.sample)
    exact, rounded = layer(x_MK), in_formats(nn.Sequential(layer), {"0": choice})(x_MK)
    return float((rounded - exact).square().sum() / exact.square().sum().clamp_min(1e-12))


@contextmanager
def observed(model: nn.Module) -> Iterator[dict[str, Seen]]:
    """Everything that runs inside is counted; layers that are never called are not in the answer."""
    found: dict[str, Seen] = {}

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> None:
            seen = found.setdefault(name, Seen())
            if isinstance(layer, AttentionLayer):
                _see_attention(seen, given, options)
            else:
                _see_rows(seen, given[0])

        return hook

    handles = [
        layer.register_forward_pre_hook(watch(name), with_kwargs=True) for name, layer in layers_of(model).items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _see_attention(seen: Seen, given: tuple[Any, ...], options: dict[str, Any]) -> None:
    q, k = given[0], given[1]
    seen.calls[(*q.shape[1:3], k.shape[2], q.shape[3], int(bool(options.get("causal"))))] += q.shape[0]


def _see_rows(seen: Seen, x: Tensor) -> None:
    x_MK = x.detach().reshape(-1, x.shape[-1])
    num_rows = x_MK.shape[0]
    seen.calls[(num_rows,)] += 1
    if not num_rows:
        return
    seen.largest = max(seen.largest, float(x_MK.abs().max()))
    if seen.rows_kept < ROWS_KEPT:
        seen.sample.append(x_MK[:: max(1, num_rows // ROWS_A_CALL)][:ROWS_A_CALL].float().clone())
