"""The truth that sharing is held to: the original on replicated pairs, vmap over candidates, and counted FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from .entry import Inputs, ZooModel

FP32_TOLERANCE, FP64_TOLERANCE = 1e-5, 1e-11


def padded(inputs: Inputs, rows: int) -> Inputs:
    """The same inputs with the first candidate repeated (or a zero one made up) to ``rows`` rows."""
    missing = rows - inputs.num_candidates

    def extend(column: Tensor) -> Tensor:
        one = column[:1] if len(column) else column.new_ones(1, *column.shape[1:])
        return torch.cat([column, one.expand(missing, *column.shape[1:])])

    candidate = {name: extend(column) for name, column in inputs.candidate.items()}
    first = inputs.request_of_candidate[:1] if inputs.num_candidates else inputs.request_of_candidate.new_zeros(1)
    return Inputs(inputs.request, candidate, torch.cat([inputs.request_of_candidate, first.expand(missing)]))


def pairwise(model: ZooModel, module: nn.Module, inputs: Inputs) -> Any:
    """The original's output on replicated pairs; batches it cannot score (none, one) are padded and cut again."""
    rows = inputs.num_candidates
    enough = 2 if model.alone_fails else 1
    if rows >= enough:
        args, kwargs = model.call_arguments(*inputs.pairs())
        return module(*args, **kwargs)
    args, kwargs = model.call_arguments(*padded(inputs, enough).pairs())
    return tree_map(lambda out: out[:rows], module(*args, **kwargs))


def by_vmap(model: ZooModel, module: nn.Module, inputs: Inputs) -> Any:
    """The original as a batch of one, mapped over candidates with the one request held still."""
    request = {name: column[:1] for name, column in inputs.request.items()}

    def score(candidate: dict[str, Tensor]) -> Any:
        one_row = {name: column.unsqueeze(0) for name, column in candidate.items()}
        args, kwargs = model.call_arguments(request, one_row)
        return tree_map(lambda out: out.squeeze(0) if out.dim() else out, module(*args, **kwargs))

    return torch.func.vmap(score)(inputs.candidate)


def largest_difference(ours: Any, truth: Any) -> float:
    """max |a - b| / max(1, max |b|) over all outputs; infinite where shapes, dtypes or structure differ."""
    a_leaves, b_leaves = tree_leaves(ours), tree_leaves(truth)
    if len(a_leaves) != len(b_leaves):
        return float("inf")
    worst = 0.0
    for a, b in zip(a_leaves, b_leaves, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if b.numel():
            gap = (a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1.0)
            worst = max(worst, float("inf") if gap.isnan() else float(gap))
    return worst


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two products per query and key of every head: scores, and the weighted sum."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[-2] * (width + value[-1])


def recurrent_flops(steps: Any, weight_input: Any, weight_hidden: Any, *_: Any, **__: Any) -> int:
    """Gates of one direction: input and hidden projections at every step (``steps`` is [L, B, inputs])."""
    length, batch, inputs = steps
    return 2 * length * batch * weight_input[0] * (inputs + weight_hidden[1])


COUNTED_HERE = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten.mkldnn_rnn_layer: recurrent_flops,
}


def counted_flops(call: Callable[[], Any]) -> int:
    """FLOPs of the matrix products that ``call`` really runs, attention and LSTM kernels of the CPU included.

    torch's fused encoder layer counts as nothing, so it is off meanwhile.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=COUNTED_HERE) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())
