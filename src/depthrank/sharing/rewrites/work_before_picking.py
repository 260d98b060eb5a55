"""W x_r[i_n] = (W x_r)[i_n], and the same for a norm of every row.

Idea: where candidates pick positions of their request's history (its k nearest, as SIM and TWIN do), the keys and
values of the whole history are projected once per request, and the picked rows are read from the projection.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Val, Value
from depthrank.sharing.ir import Node
from depthrank.sharing.rewrites.share_picked_rows import picked_rows
from depthrank.sharing.sharer import Call, Sharer

_NORMS = ("aten.layer_norm.default", "aten.rms_norm.default")


def work_before_picking(s: Sharer, call: Call) -> Value | None:
    """A linear layer or a norm over the last axis of rows that candidates pick."""
    if call.op != "linear" and not (call.op in _NORMS and len(call.args[1]) == 1):
        return None
    x = call.args[0]
    if not isinstance(x, Val) or x.dims != x.node.dims or not _is_pick(x.node):
        return None
    source, index = x.node.args
    dims = (*source.dims[:-1], call.dims[-1])
    done = s.apply(call.op, (Val(source, source.dims), *call.args[1:]), dims, call.dtype, call.kwargs)
    return Val(picked_rows(s, s.full(done), index), call.dims)


def _is_pick(node: Node) -> bool:
    """Rows of a request-side tensor whose last axis is not the picked one?"""
    return node.op == "shared_take_rows" and len(node.args[0].dims) > 1
