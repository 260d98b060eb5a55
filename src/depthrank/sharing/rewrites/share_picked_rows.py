"""x_r[i_n] for all candidates n of a request r = one lookup in x_r.

Idea: a candidate that picks positions of its request's history (the k most similar, the interest it matches, its own id
among scores of a whole catalogue) reads those rows alone; the history is not written out for it.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Val, Value
from depthrank.sharing.ir import Node, Region
from depthrank.sharing.sharer import Call, Sharer


def share_picked_rows(s: Sharer, call: Call) -> Value | None:
    """Rows of a request-side tensor by candidate-side positions."""
    if call.op == "take_rows":
        x, index = call.args
        if x.region != Region.REQUEST or index.region <= Region.REQUEST:
            return None
        return Val(picked_rows(s, s.full(x), s.full(index)), call.dims)
    if call.op != "row_gather":
        return None
    x, axis, index = call.args
    if x.region != Region.REQUEST or index.region <= Region.REQUEST:
        return None
    rank = len(x.dims)
    at = axis + rank
    places = s.force(index).node
    others = [k for k in range(rank) if k != at]
    if any(places.dims[k] != 1 or index.dims[k] != x.dims[k] for k in others):
        return None  # every column picks positions of its own
    moved = s.permute(s.full(x), [at, *others])
    rows = picked_rows(s, moved, s.reshape(places, [index.dims[at]]))
    back = sorted(range(rank), key=lambda k: [at, *others][k])
    return Val(s.permute(rows, back), call.dims)


def picked_rows(s: Sharer, x: Node, index: Node) -> Node:
    """x [R, L, ..] at index [N, ..] of each candidate's own request."""
    dims = (*index.dims, *x.dims[1:])
    return s.graph.add("shared_take_rows", (x, s.lift(index)), Region.MIXED, dims, x.dtype)
