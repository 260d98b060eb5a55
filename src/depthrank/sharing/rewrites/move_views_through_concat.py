"""view [x; y] = [view x; view y] for reshape, permute, expand, slice and take.

Idea: flattening fields into one vector, stacking heads or picking positions does not compute anything; the parts move.
"""

from __future__ import annotations

from collections.abc import Sequence

from depthrank.sharing.algebra import Concat, Dims, Part, Sum, Val, Value, concat
from depthrank.sharing.ir import Node, product
from depthrank.sharing.sharer import Call, Sharer

Block = tuple[tuple[int, ...], tuple[int, ...]]


def move_views_through_concat(s: Sharer, call: Call) -> Value | None:
    """A view of any value; a concat that the view would interleave is written out."""
    if call.op == "reshape":
        return reshape_value(s, call.args[0], call.dims)
    if call.op == "permute":
        return permute_value(s, call.args[0], call.args[1])
    if call.op == "expand":
        return expand_value(s, call.args[0], call.dims)
    if call.op == "aten.slice.Tensor":
        x, axis, start, end, step = call.args
        return s.take(x, axis, range(start, end, step))
    if call.op == "take":
        x, axis, index = call.args
        positions = [int(i) for i in s.constant_tensor(index.node).flatten().tolist()]
        size = x.dims[axis]
        return s.take(x, axis, [p + size if p < 0 else p for p in positions])
    return None


def permute_value(s: Sharer, value: Value, order: Sequence[int]) -> Value:
    dims = tuple(value.dims[k] for k in order)
    if isinstance(value, Concat):
        rank = len(dims)
        axis = list(order).index(value.axis + rank) - rank
        return concat(axis, [Part(permute_value(s, p.value, order), p.positions) for p in value.parts], dims)
    return s.map_terms(value, dims, lambda n: s.permute(n, order))


def expand_value(s: Sharer, value: Value, dims: Dims) -> Value:
    if isinstance(value, Concat):
        if value.dims[value.axis] != dims[value.axis]:
            return Val(s.full(value), dims)
        parts = []
        for p in value.parts:
            own = list(dims)
            own[value.axis] = len(p.positions)
            parts.append(Part(expand_value(s, p.value, tuple(own)), p.positions))
        return concat(value.axis, parts, dims)
    if isinstance(value, Val):
        return Val(value.node, dims)
    return Sum(value.terms, dims)


def reshape_value(s: Sharer, value: Value, dims: Dims) -> Value:
    if value.dims == dims:
        return value
    blocks = match_blocks(value.dims, dims)
    if blocks is None:
        return Val(s.reshape(s.full(value), dims), dims)
    if isinstance(value, Concat):
        moved = _reshape_concat(s, value, dims, blocks)
        return Val(s.reshape(s.full(value), dims), dims) if moved is None else moved
    return s.map_terms(value, dims, lambda n: _reshape_node(s, n, value.dims, dims, blocks))


def match_blocks(old: Dims, new: Dims) -> list[Block] | None:
    """Smallest groups of old and new axes with equal products, sizes of one left out."""
    if 0 in old or 0 in new:
        return None
    a = [k for k, n in enumerate(old) if n != 1]
    b = [k for k, n in enumerate(new) if n != 1]
    blocks: list[Block] = []
    i = j = 0
    while i < len(a):
        left, right = [a[i]], [b[j]]
        p, q = old[a[i]], new[b[j]]
        while p != q:
            if p < q:
                i += 1
                left.append(a[i])
                p *= old[a[i]]
            else:
                j += 1
                right.append(b[j])
                q *= new[b[j]]
        blocks.append((tuple(left), tuple(right)))
        i += 1
        j += 1
    return blocks


def _reshape_node(s: Sharer, node: Node, old: Dims, new: Dims, blocks: Sequence[Block]) -> Node:
    """A node that may have size 1 along axes that stand for more: whole blocks stay so, mixed ones are written out."""
    wide = list(node.dims)
    target = [1] * len(new)
    for left, right in blocks:
        if all(node.dims[k] == 1 for k in left):
            continue
        for k in left:
            wide[k] = old[k]
        for k in right:
            target[k] = new[k]
    if tuple(wide) != node.dims:
        node = s.emit("expand", [node, wide], wide, node.dtype)
    return s.reshape(node, target)


def _reshape_concat(s: Sharer, cat: Concat, new: Dims, blocks: Sequence[Block]) -> Value | None:
    old = cat.dims
    axis = cat.axis + len(old)
    if old[axis] == 1:
        return None
    left, right = next(b for b in blocks if axis in b[0])
    if len(left) > 1 and left[0] != axis:
        return _flatten_concat(s, cat, new, left, right) if len(right) == 1 else None
    inner_old = product([old[k] for k in left if k != axis]) if len(left) > 1 else 1
    inner_new = product([new[k] for k in right[1:]])
    parts = []
    for p in cat.parts:
        flat = [q * inner_old + k for q in p.positions for k in range(inner_old)]
        starts = flat[::inner_new]
        if len(flat) % inner_new or any(
            flat[k * inner_new : (k + 1) * inner_new] != list(range(f, f + inner_new)) or f % inner_new
            for k, f in enumerate(starts)
        ):
            return None
        positions = tuple(f // inner_new for f in starts)
        dims = list(new)
        dims[right[0]] = len(positions)
        parts.append(Part(reshape_value(s, p.value, tuple(dims)), positions))
    return concat(right[0] - len(new), parts, new)


def _flatten_concat(s: Sharer, cat: Concat, new: Dims, left: Sequence[int], right: Sequence[int]) -> Value:
    """Axes merged into one where the concat's is not the first of them: its parts lie at strided positions."""
    old, axis = cat.dims, cat.axis + len(cat.dims)
    outer = product([old[k] for k in left if k < axis])
    inner = product([old[k] for k in left if k > axis])
    parts = []
    for p in cat.parts:
        places = [(o * old[axis] + q) * inner + k for o in range(outer) for q in p.positions for k in range(inner)]
        dims = list(new)
        dims[right[0]] = len(places)
        parts.append(Part(reshape_value(s, p.value, tuple(dims)), tuple(places)))
    return concat(right[0] - len(new), parts, new)
