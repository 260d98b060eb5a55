"""m and 0 = 0, v * 0 = 0: what a constant mask hides is not computed.

Idea: a causal mask is a constant, so history rows provably never read the candidate: their part of the mask is a known
constant, and attention leaves hidden keys out. Only masks that are constants of the model count.
Given up: where the hidden value is infinite or NaN, 0 times it would be NaN in the original.
"""

from __future__ import annotations

import torch

from depthrank.sharing.algebra import Concat, Part, Val, Value, concat, replaced
from depthrank.sharing.ir import Region
from depthrank.sharing.sharer import Call, Sharer

_AND = ("aten.bitwise_and.Tensor", "aten.logical_and.default", "aten.mul.Tensor")


def drop_masked_parts(s: Sharer, call: Call) -> Value | None:
    """A product with a constant that is zero over whole rows of the second-last axis: those rows are zero."""
    if call.op not in _AND or len(call.operands) != 2 or len(call.dims) < 2:
        return None
    a, b = call.operands
    if isinstance(a, Concat) or isinstance(b, Concat):
        return None
    mask, other = (a, b) if a.region == Region.CONSTANT else (b, a)
    if not isinstance(mask, Val) or mask.region != Region.CONSTANT or other.region == Region.CONSTANT:
        return None
    if s.is_known(mask, 0.0):
        return Val(s.reshape(s.graph.literal(torch.zeros((), dtype=call.dtype)), [1] * len(call.dims)), call.dims)
    if mask.dims != call.dims or mask.node.dims[-2] != call.dims[-2] or call.dims[-2] == 1:
        return None
    tensor = s.known_mask(mask.node)
    if tensor is None:
        return None
    hidden = (tensor == 0).transpose(-1, -2).flatten(0, -2).all(dim=0)
    zero_rows = tuple(k for k, h in enumerate(hidden.tolist()) if h)
    if not zero_rows:
        return None
    zero = Val(
        s.reshape(s.graph.literal(torch.zeros((), dtype=call.dtype)), [1] * len(call.dims)),
        replaced(call.dims, -2, len(zero_rows)),
    )
    if len(zero_rows) == call.dims[-2]:
        return zero
    rest = tuple(k for k in range(call.dims[-2]) if k not in zero_rows)
    pieces = tuple(v if v.dims[-2] == 1 else s.take(v, -2, rest) for v in call.operands)
    value = s.apply(call.op, pieces, replaced(call.dims, -2, len(rest)), call.dtype, call.kwargs)
    return concat(-2, [Part(zero, zero_rows), Part(value, rest)], call.dims)
