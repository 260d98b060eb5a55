"""[x^T; y^T] = [x; y]^T: parts are joined as they lie in memory, and the join is permuted as a view.

A copy in another order of axes runs at a few GB/s; views are free, and two of them often cancel.
"""

from __future__ import annotations

from typing import Any

from depthrank.sharing.ir import Node, Region
from depthrank.sharing.lowering.rebuild import Rebuild


def join_unpermuted(r: Rebuild, node: Node, args: tuple[Any, ...]) -> Node | None:
    """A concat whose parts are all permuted alike."""
    if node.op != "cat":
        return None
    parts, axis = args
    orders = {_order(p) for p in parts} - {None}
    if len(orders) != 1:
        return _flat(r, node, parts, axis)
    (order,) = orders
    assert order is not None
    sources = [_unpermuted(r, p, order) for p in parts]
    if any(s is None for s in sources):
        return None
    rank = len(node.dims)
    inner_axis = order[axis + rank] - rank
    dims = [0] * rank
    for new, old in enumerate(order):
        dims[old] = node.dims[new]
    whole = [s for s in sources if s is not None]
    joined = _flat(r, node, whole, inner_axis) or r.new.add(
        "cat", (tuple(whole), inner_axis), node.region, dims, node.dtype
    )
    return r.permute(r.reshape(joined, dims), order)


def _order(part: Node) -> tuple[int, ...] | None:
    if part.op == "permute":
        return tuple(part.args[1])
    if part.op in ("spread", "lift") and part.args[0].op == "permute" and part.args[0].region == Region.REQUEST:
        return tuple(part.args[0].args[1])
    return None


def _unpermuted(r: Rebuild, part: Node, order: tuple[int, ...]) -> Node | None:
    """The part before it was permuted; None if it was not, or not like the others."""
    if _order(part) != order:
        return None
    source: Node = part.args[0]
    if part.op == "permute":
        return source
    inner: Node = source.args[0]
    return r.new.add(part.op, (inner,), part.region, inner.dims, inner.dtype)


def _flat(r: Rebuild, node: Node, parts: Any, axis: int) -> Node | None:
    """Where nothing stands outside the axis, parts are joined as vectors, so that equal joins become one."""
    rank = len(parts[0].dims)
    place = axis + rank
    if rank < 2 or any(n != 1 for p in parts for n in p.dims[:place]):
        return None
    joined = r.new.add(
        "cat",
        (tuple(r.reshape(p, [p.numel]) for p in parts), -1),
        node.region,
        [sum(p.numel for p in parts)],
        node.dtype,
    )
    dims = list(parts[0].dims)
    dims[place] = sum(p.dims[axis] for p in parts)
    return r.reshape(joined, dims)
