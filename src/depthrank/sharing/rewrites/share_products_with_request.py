"""C_n R^T for all candidates n of a request = one product of the stacked C with R.

Idea: a batched product whose second factor comes with the request is one matrix product over all candidates; the
request's factor is read once and never replicated.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Val, Value
from depthrank.sharing.ir import Region
from depthrank.sharing.operators import split_equation
from depthrank.sharing.sharer import Call, Sharer


def share_products_with_request(s: Sharer, call: Call) -> Value | None:
    """A contraction of a candidate-side with a request-side tensor."""
    if call.op != "einsum":
        return None
    eq, a, b = call.args
    left, right, out = split_equation(eq)
    first, second = s.full(a), s.full(b)
    if Region.REQUEST not in (first.region, second.region):
        return None
    if second.region != Region.REQUEST:
        first, second, left, right = second, first, right, left
    if first.region not in (Region.MIXED, Region.ITEM):
        return None
    node = s.graph.add(
        "shared_einsum", (f"{left},{right}->{out}", s.lift(first), second), Region.MIXED, call.dims, call.dtype
    )
    return Val(node, call.dims)
