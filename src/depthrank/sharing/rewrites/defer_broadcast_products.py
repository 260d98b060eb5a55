"""a v stays (a, v) where the product would be larger than its candidate-side factor.

Idea: a candidate's number times a request-side vector, or a candidate's vector against every history position, is not
multiplied out: a linear layer takes the number outside, a sum over the shared axis becomes one matrix product.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Term, Val, Value, broadcast, numel
from depthrank.sharing.ir import Region
from depthrank.sharing.sharer import Call, Sharer


def defer_broadcast_products(s: Sharer, call: Call) -> Value | None:
    """A product of two tensors that is larger than its parts."""
    if call.op != "aten.mul.Tensor" or len(call.operands) != 2 or not call.dtype.is_floating_point:
        return None
    a, b = call.operands
    if not isinstance(a, Val) or not isinstance(b, Val) or a.dtype != call.dtype or b.dtype != call.dtype:
        return None
    if a.region.join(b.region) <= Region.REQUEST:
        return None
    grown = numel(broadcast(a.node.dims, b.node.dims))
    slow = [v for v in (a, b) if v.region == max(a.region, b.region)]
    if all(grown > v.node.numel for v in slow):
        return s.simplified([Term((a.node, b.node))], call.dims)
    return None
