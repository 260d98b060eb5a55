"""f([x; y], z) = [f(x, z_x); f(y, z_y)] for an elementwise f.

Idea: a request-side part stays request-side through activations, masks, scalings and casts.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Concat, Part, Val, Value, concat, replaced
from depthrank.sharing.ir import Region
from depthrank.sharing.operators import is_pointwise
from depthrank.sharing.sharer import Call, Declined, Sharer


def push_elementwise_through_concat(s: Sharer, call: Call) -> Value | Declined | None:
    """An elementwise operation on a concat, part by part, if any part then stays off the candidate side."""
    if not (is_pointwise(call.op) or call.op == "multiply_add"):
        return None
    cats = [v for v in call.operands if isinstance(v, Concat)]
    if not cats:
        return None
    axis = cats[0].axis
    parts = []
    for positions, pieces in s.split_together(call.operands, axis):
        dims = replaced(call.dims, axis, len(positions))
        parts.append(Part(s.apply(call.op, call.with_operands(pieces), dims, call.dtype, call.kwargs), positions))
    if all(isinstance(p.value, Val) and p.value.region == Region.MIXED for p in parts):
        return Declined(
            "every part of the result is candidate-side", tuple(p.value.node for p in parts if isinstance(p.value, Val))
        )
    return concat(axis, parts, call.dims)
