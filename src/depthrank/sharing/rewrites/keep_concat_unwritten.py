"""cat(x, y) stays [x; y]; cat along a of [x; y] and [z; w] along b is [cat(x, z); cat(y, w)] along b.

Idea: a concat of request-side and candidate-side tensors is written out only if an operation cannot take it apart.
Halves of rotary keys, joined along the width, stay apart by position so.
"""

from __future__ import annotations

from collections.abc import Sequence

from depthrank.sharing.algebra import Concat, Part, Value, concat, replaced
from depthrank.sharing.ir import Region
from depthrank.sharing.sharer import Call, Sharer


def keep_concat_unwritten(s: Sharer, call: Call) -> Value | None:
    """A concatenation, as parts; a concat along the same axis inside is opened."""
    if call.op != "cat":
        return None
    values, axis = call.args
    other = _other_axis(values, axis)
    if other is not None:
        return _exchanged(s, call, other)
    parts: list[Part] = []
    start = 0
    for value in values:
        size = value.dims[axis]
        if isinstance(value, Concat) and value.axis == axis:
            parts += [Part(p.value, tuple(q + start for q in p.positions)) for p in value.parts]
        else:
            parts.append(Part(value, tuple(range(start, start + size))))
        start += size
    return concat(axis, parts, call.dims)


def _other_axis(values: Sequence[Value], axis: int) -> int | None:
    """The axis along which all of them are concats whose parts are of several regions, if it is another one."""
    if len(values) < 2 or not all(isinstance(v, Concat) for v in values):
        return None
    axes = {v.axis for v in values if isinstance(v, Concat)}
    regions = [{p.value.region for p in v.parts} for v in values if isinstance(v, Concat)]
    if len(axes) != 1 or axes == {axis} or any(r == {Region.MIXED} for r in regions):
        return None
    return axes.pop()


def _exchanged(s: Sharer, call: Call, other: int) -> Value:
    values, axis = call.args
    parts = []
    for positions, pieces in s.split_together(values, other):
        dims = replaced(call.dims, other, len(positions))
        parts.append(Part(s.apply("cat", (tuple(pieces), axis), dims, call.dtype), positions))
    return concat(other, parts, call.dims)
