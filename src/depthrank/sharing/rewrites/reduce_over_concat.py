"""sum [x; y] = sum x + sum y (mean, maximum and minimum alike); over other axes, [red x; red y].

Idea: the request's share of a sum over fields or positions is a number per request. A factorization machine's
square of sum and sum of squares (Rendle, 2010) need nothing more.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Concat, Part, Value, concat
from depthrank.sharing.sharer import Call, Sharer

_COMBINE = {"aten.amax.default": "aten.maximum.default", "aten.amin.default": "aten.minimum.default"}
_REDUCTIONS = ("aten.sum.dim_IntList", "aten.mean.dim", *_COMBINE)


def reduce_over_concat(s: Sharer, call: Call) -> Value | None:
    """A reduction of a concat, part by part."""
    if call.op not in _REDUCTIONS or not isinstance(call.args[0], Concat) or call.kwargs:
        return None
    cat = s.coalesce(call.args[0])
    axes = tuple(call.args[1])
    op = "aten.sum.dim_IntList" if call.op == "aten.mean.dim" else call.op
    if cat.axis not in axes:
        shift = sum(1 for a in axes if a > cat.axis)
        axis = cat.axis + shift
        parts = []
        for p in cat.parts:
            dims = tuple(size for k, size in enumerate(p.value.dims) if k - len(cat.dims) not in axes)
            parts.append(Part(s.apply(call.op, (p.value, axes), dims, call.dtype), p.positions))
        return concat(axis, parts, call.dims)
    reduced: list[Value] = [s.apply(op, (p.value, axes), call.dims, call.dtype) for p in cat.parts]
    if call.op in _COMBINE:
        out = reduced[0]
        for other in reduced[1:]:
            out = s.apply(_COMBINE[call.op], (out, other), call.dims, call.dtype)
        return out
    total = s.add(reduced, call.dims)
    if call.op == "aten.sum.dim_IntList":
        return total
    count = 1
    for a in axes:
        count *= cat.dims[a]
    scaled: Value = s.apply("aten.mul.Scalar", (total, 1.0 / count), call.dims, call.dtype)
    return scaled
