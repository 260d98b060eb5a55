"""softmax(q_n K^T) V for all candidates n of a request = one attention with all queries against one K, V.

Idea: keys and values that come with the request are read once; the candidates' queries are stacked along the query
axis. Keys that are [history; candidate] are taken apart into scores, a joint softmax and two products.
"""

from __future__ import annotations

import math

import torch

from depthrank.sharing.algebra import Concat, Val, Value
from depthrank.sharing.ir import Region
from depthrank.sharing.sharer import Call, Declined, Sharer

MOST_QUERIES = 4  # more query rows a candidate than this, and written-out scores cost more than fused attention saves


def share_attention_keys(s: Sharer, call: Call) -> Value | Declined | None:
    """Attention whose keys and values are the request's, or partly so."""
    if call.op != "attention":
        return None
    q, k, v, mask, scale = call.args
    partly = isinstance(q, Concat) and q.axis == -2 and any(p.value.region <= Region.REQUEST for p in q.parts)
    if partly and (k.region <= Region.REQUEST or _hides_candidates(s, call)):
        return _by_queries(s, call)
    if isinstance(k, Concat) and isinstance(v, Concat) and k.axis == v.axis == -2:
        seen = _visible(s, mask, k.dims[-2])
        if len(seen) < k.dims[-2]:
            own = (q, s.take(k, -2, seen), s.take(v, -2, seen), s.take(mask, -1, seen), scale)
            out: Value = s.apply("attention", own, call.dims, call.dtype)
            return out
        if q.dims[-2] > MOST_QUERIES:
            return Declined(
                "keys are partly candidate-side and there are many queries a candidate: scores would be written out"
            )
        return _joint_softmax(s, call)
    keys, values = s.full(k), s.full(v)
    query = s.full(q)
    if not (keys.region == values.region == Region.REQUEST and query.region > Region.REQUEST):
        return None
    bias = s.full(mask) if mask is not None else None
    if bias is not None and bias.region == Region.ITEM:
        bias = s.lift(bias)
    args = (s.lift(query), keys, values, bias, scale)
    return Val(s.graph.add("shared_attention", args, Region.MIXED, call.dims, call.dtype), call.dims)


def _hides_candidates(s: Sharer, call: Call) -> bool:
    """Does a constant mask keep every request-side query from every candidate-side key?"""
    q, k, _, mask, _ = call.args
    if mask is None or not isinstance(k, Concat) or k.axis != -2 or mask.dims[-2] != q.dims[-2]:
        return False
    own = [p for part in q.parts if part.value.region <= Region.REQUEST for p in part.positions]
    seen = set(_visible(s, s.take(mask, -2, own), k.dims[-2]))
    return all(part.value.region <= Region.REQUEST for part in k.parts if seen & set(part.positions))


def _visible(s: Sharer, mask: Value | None, length: int) -> list[int]:
    """Key positions that the mask, as far as it is a known constant, does not hide from all queries."""
    if mask is None or mask.dims[-1] != length:
        return list(range(length))
    hidden_value = False if mask.dtype == torch.bool else -math.inf
    if isinstance(mask, Concat) and mask.axis == -1:
        out: list[int] = []
        for part in mask.parts:
            out += [part.positions[k] for k in _visible(s, part.value, len(part.positions))]
        return sorted(out)
    if not isinstance(mask, Val) or mask.region != Region.CONSTANT or mask.node.dims[-1] not in (1, length):
        return list(range(length))
    tensor = s.known_mask(mask.node)
    if tensor is None:
        return list(range(length))
    hidden = (tensor == hidden_value).flatten(0, -2).all(dim=0).expand(length)
    return [k for k, h in enumerate(hidden.tolist()) if not h]


def _by_queries(s: Sharer, call: Call) -> Value:
    """Queries of different regions on their own."""
    from depthrank.sharing.algebra import Part, concat, replaced

    q, k, v, mask, scale = call.args
    given = [q] if mask is None or mask.dims[-2] == 1 else [q, mask]
    parts = []
    for positions, pieces in s.split_together(given, -2):
        own_mask = pieces[1] if len(pieces) > 1 else mask
        dims = replaced(call.dims, -2, len(positions))
        seen = _visible(s, own_mask, k.dims[-2])
        keys, values = s.take(k, -2, seen), s.take(v, -2, seen)
        cut_mask = s.take(own_mask, -1, seen) if own_mask is not None and own_mask.dims[-1] != 1 else own_mask
        parts.append(
            Part(s.apply("attention", (pieces[0], keys, values, cut_mask, scale), dims, call.dtype), positions)
        )
    return concat(-2, parts, call.dims)


def _joint_softmax(s: Sharer, call: Call) -> Value:
    """Scores against every part of the keys, one softmax over all of them, products with every part of the values."""
    q, k, v, mask, scale = call.args
    heads, queries, width = q.dims
    dims = (heads, queries, k.dims[-2])
    factor = 1.0 / math.sqrt(width) if scale is None else scale
    scaled = s.apply("aten.mul.Scalar", (q, factor), q.dims, call.dtype)
    scores = s.apply("einsum", ("hqd,hld->hql", scaled, k), dims, call.dtype)
    if mask is not None:
        if mask.dtype == torch.bool:
            lowest = s.reshape(s.graph.literal(torch.tensor(-math.inf, dtype=call.dtype)), [1, 1, 1])
            scores = s.apply("aten.where.self", (mask, scores, Val(lowest, dims)), dims, call.dtype)
        else:
            scores = s.apply("aten.add.Tensor", (scores, mask), dims, call.dtype)
    weights = s.apply("aten._safe_softmax.default", (scores, -1), dims, call.dtype)
    out: Value = s.apply("einsum", ("hql,hld->hqd", weights, v), call.dims, call.dtype)
    return out
