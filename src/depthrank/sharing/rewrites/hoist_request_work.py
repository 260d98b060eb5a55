"""f(request) for every candidate = f(request) once.

Idea: an operation whose operands are constants and request-side values runs with R rows; one on item-side values runs
with catalogue rows. Where sides meet in an operation that no rewrite takes apart, request-side operands are broadcast:
for elementwise operations as they are read, for others written out, which the report names with its bytes.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Part, Val, Value, broadcast, concat
from depthrank.sharing.ir import Region
from depthrank.sharing.operators import MULTI_OUTPUT, is_pointwise
from depthrank.sharing.sharer import Call, Sharer


def hoist_request_work(s: Sharer, call: Call) -> Value | list[Value]:
    """Any operation on computed operands, in the smallest region that holds them."""
    if is_pointwise(call.op) or call.op == "multiply_add":
        return _elementwise(s, call)
    if call.op in MULTI_OUTPUT or call.op == "recurrent":
        nodes = s.emit_many(call.op, call.with_operands([s.full(v) for v in call.operands]), call.kwargs)
        return [Val(n, n.dims) for n in nodes]
    if call.op == "linear":
        return _linear(s, call)
    if call.op == "embedding":
        return _embedding(s, call)
    if call.op == "cat":
        return s.force(concat(call.args[1], _laid(call), call.dims))
    args = call.with_operands([s.full(v) for v in call.operands])
    return Val(s.emit(call.op, args, call.dims, call.dtype, call.kwargs), call.dims)


def _laid(call: Call) -> list[Part]:
    """The operands of a concatenation, each with its places."""
    parts: list[Part] = []
    start = 0
    for value in call.args[0]:
        end = start + value.dims[call.args[1]]
        parts.append(Part(value, tuple(range(start, end))))
        start = end
    return parts


def _elementwise(s: Sharer, call: Call) -> Value:
    nodes = [s.force(v).node for v in call.operands]
    dims = broadcast(*(n.dims for n in nodes))
    return Val(s.emit(call.op, call.with_operands(nodes), dims, call.dtype, call.kwargs), call.dims)


def _linear(s: Sharer, call: Call) -> Value:
    x, weight, bias = call.args
    val = s.force(x)
    node = val.node
    if node.dims[-1] != call.args[0].dims[-1]:
        node = s.full(val)
    dims = (*node.dims[:-1], call.dims[-1])
    b = bias.node if bias is not None else None
    return Val(s.emit("linear", [node, weight.node, b], dims, call.dtype), call.dims)


def _embedding(s: Sharer, call: Call) -> Value:
    weight, index, padding = call.args
    node = s.force(index).node
    dims = (*node.dims, call.dims[-1])
    return Val(s.emit("embedding", [s.full(weight), node, padding], dims, call.dtype), call.dims)


__all__ = ["Region", "hoist_request_work"]
