"""softmax(q_h k_h^T) v_h one head after the other: heads are read and written where they lie, and never rearranged.

Heads of a linear layer lie side by side in each row. One batched product over (row, head) would copy all four tensors
into another order of axes; a product over rows for each of a few heads takes strided operands as they are.
"""

from __future__ import annotations

from typing import Any

from depthrank.sharing.ir import Node, Region
from depthrank.sharing.lowering.rebuild import Rebuild
from depthrank.sharing.operators import split_equation

MOST_HEADS = 8
_SOFTMAX = ("aten.softmax.int", "aten._safe_softmax.default")


def attend_head_by_head(r: Rebuild, node: Node, args: tuple[Any, ...]) -> Node | None:
    """weights x values where the weights are a softmax of a product, and only that."""
    if node.op != "einsum" or node.region != Region.MIXED:
        return None
    eq, weights, values = args
    if weights.op not in _SOFTMAX or weights.args[1] != -1 or not r.read_once(weights):
        return None
    scores = weights.args[0]
    if scores.op != "einsum" or not r.read_once(scores) or scores.dtype != weights.dtype:
        return None
    first, second = _letters(scores.args[0], False), _letters(eq, True)
    if first is None or second is None:
        return None
    q, k = (r.permute(x, order) for x, order in zip(scores.args[1:], first, strict=True))
    v = r.permute(values, second[1])
    heads, queries, width = q.dims
    if any(x.region != Region.MIXED for x in (q, k, v)) or second[0] != (0, 1, 2):
        return None
    if heads > MOST_HEADS or k.dims != (heads, v.dims[1], width) or v.dims[0] != heads:
        return None
    dims = (queries, heads, v.dims[2])
    made = r.new.add("attend_by_heads", (q, k, v, weights.op == _SOFTMAX[1]), node.region, dims, node.dtype)
    return r.permute(made, (1, 0, 2))


def _letters(eq: str, values: bool) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Orders that bring both factors to (head, own axis, summed axis); ``values`` to (head, summed axis, own axis)."""
    left, right, out = split_equation(eq)
    if len(out) != 3 or len(left) != 3 or len(right) != 3:
        return None
    head, own, other = list(out)
    summed = (set(left) & set(right)) - {head}
    if head not in left or head not in right or own not in left or other not in right or len(summed) != 1:
        return None
    (s,) = summed
    if s in out:
        return None
    second = (head, s, other) if values else (head, other, s)
    return tuple(left.index(c) for c in (head, own, s)), tuple(right.index(c) for c in second)
