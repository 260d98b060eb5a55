"""cat(x, y) stays [x; y].

Idea: a concat of request-side and candidate-side tensors is written out only if an operation cannot take it apart.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Part, Value, concat
from depthrank.sharing.sharer import Call, Sharer


def keep_concat_unwritten(s: Sharer, call: Call) -> Value | None:
    """A concatenation, as parts; a concat along the same axis inside is opened."""
    if call.op != "cat":
        return None
    from depthrank.sharing.algebra import Concat

    parts: list[Part] = []
    start = 0
    axis = call.args[1]
    for value in call.args[0]:
        size = value.dims[axis]
        if isinstance(value, Concat) and value.axis == axis:
            parts += [Part(p.value, tuple(q + start for q in p.positions)) for p in value.parts]
        else:
            parts.append(Part(value, tuple(range(start, start + size))))
        start += size
    return concat(axis, parts, call.dims)
