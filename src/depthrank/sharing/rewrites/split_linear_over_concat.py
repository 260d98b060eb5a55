"""W [x; y] = W_x x + W_y y, and [A; B] W' = [A W'; B W'] over any axis but the last.

Idea: the columns of a linear layer that read request-side entries are applied once per request. Parts of one region
are multiplied together, so the candidates see one product that is narrower by the request's columns.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Concat, Part, Sum, Term, Val, Value, concat, level
from depthrank.sharing.ir import Node, Region
from depthrank.sharing.rewrites.linear_terms import Read, linear_terms
from depthrank.sharing.sharer import Call, Declined, Sharer


def split_linear_over_concat(s: Sharer, call: Call) -> Value | Declined | None:
    """A linear layer of a concat, part by part."""
    if call.op != "linear" or not isinstance(call.args[0], Concat):
        return None
    x, weight, bias = call.args
    x = Concat(x.axis, tuple(level(x)), x.dims)
    if all(isinstance(p.value, Val) and p.value.region == Region.MIXED for p in x.parts):
        nodes = tuple(p.value.node for p in x.parts if isinstance(p.value, Val))
        return Declined("every part of the concat is candidate-side", nodes)
    b: Node | None = bias.node if bias is not None else None
    if x.axis != -1:
        cat = s.coalesce(x)
        parts = [Part(s.linear(p.value, weight.node, b, call.dtype), p.positions) for p in cat.parts]
        return concat(x.axis, parts, call.dims)
    return _columns(s, call, x, weight.node, b)


def _columns(s: Sharer, call: Call, x: Concat, weight: Node, bias: Node | None) -> Value:
    """The last axis is the concat's: every part meets its own columns of the weight."""
    reads: list[Read] = []
    others: list[Value] = []
    for positions, part in _in_place_order(s, x):
        own = s.take_node(weight, -1, positions)
        if isinstance(part, Sum):
            reads += [Read(t, own, len(positions)) for t in part.terms]
        elif isinstance(part, Val):
            reads.append(Read(Term((part.node,)), own, len(positions)))
        else:
            others.append(s.linear(part, own, None, call.dtype))
    terms = linear_terms(s, reads, len(call.dims))
    if bias is not None:
        terms.append(Term((s.reshape(bias, (*[1] * (len(call.dims) - 1), bias.dims[0])),)))
    total = s.simplified(terms, call.dims)
    return s.add([total, *others], call.dims) if others else total


def _in_place_order(s: Sharer, x: Concat) -> list[tuple[tuple[int, ...], Value]]:
    """The parts; tensors that only this concat reads are joined by region first, so that one lookup of columns does."""
    seen: dict[int, int] = {}
    for p in x.parts:
        for f in p.value.terms if isinstance(p.value, Sum) else ():
            for node in f.factors:
                seen[node.index] = seen.get(node.index, 0) + 1
    lone = [p for p in x.parts if isinstance(p.value, Val) and p.value.node.index not in seen]
    rest = [p for p in x.parts if p not in lone]
    merged = s.coalesce(Concat(x.axis, tuple(lone), x.dims)).parts if lone else ()
    return [(p.positions, p.value) for p in (*merged, *rest)]
