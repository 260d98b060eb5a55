"""table[[i; j]] = [table[i]; table[j]].

Idea: ids of both sides that share a table are looked up apart, the request's once.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Concat, Part, Value, concat
from depthrank.sharing.sharer import Call, Sharer


def look_up_parts(s: Sharer, call: Call) -> Value | None:
    """An embedding lookup by a concat of ids."""
    if call.op != "embedding" or not isinstance(call.args[1], Concat):
        return None
    weight, index, padding = call.args
    cat = s.coalesce(index)
    parts = []
    for p in cat.parts:
        dims = (*p.value.dims, weight.dims[-1])
        parts.append(Part(s.apply("embedding", (weight, p.value, padding), dims, call.dtype), p.positions))
    return concat(cat.axis - 1, parts, call.dims)
