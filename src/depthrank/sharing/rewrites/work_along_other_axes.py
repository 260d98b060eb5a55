"""f over axis a of a concat along axis b != a: f [x; y] = [f x; f y].

Idea: a softmax over positions of stacked heads or fields works part by part.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Concat, Part, Val, Value, concat
from depthrank.sharing.ir import Region
from depthrank.sharing.sharer import Call, Declined, Sharer

_ALONG_ONE_AXIS = (
    "aten.softmax.int",
    "aten._safe_softmax.default",
    "aten.log_softmax.int",
    "aten.cumsum.default",
    "aten.cumprod.default",
    "aten.logcumsumexp.default",
)


def work_along_other_axes(s: Sharer, call: Call) -> Value | Declined | None:
    """An operator along one axis of a concat along another."""
    if call.op not in _ALONG_ONE_AXIS or not isinstance(call.args[0], Concat):
        return None
    cat = s.coalesce(call.args[0])
    if call.args[1] == cat.axis:
        return Declined(
            f"{call.op} needs the whole concat", tuple(p.value.node for p in cat.parts if isinstance(p.value, Val))
        )
    if all(p.value.region == Region.MIXED for p in cat.parts):
        return None
    parts = []
    for p in cat.parts:
        args = (p.value, *call.args[1:])
        parts.append(Part(s.apply(call.op, args, p.value.dims, call.dtype, call.kwargs), p.positions))
    return concat(cat.axis, parts, call.dims)
