"""(f x)[a:b] = f (x[a:b]) for every f that works position by position.

Idea: where only the last row of a sequence is read, only that row's query, residual and feed-forward are computed; keys
and values still see all rows. Runs on the batch-first graph before regions are looked at. A slice stops at a value that
somebody needs whole: cutting the whole is cheaper than computing a part again.
"""

from __future__ import annotations

from collections.abc import Sequence

from depthrank.sharing.ir import Graph, Node, map_nodes, product
from depthrank.sharing.normal_form.reader import make_node
from depthrank.sharing.operators import is_pointwise, split_equation

_ROUNDS = 3  # each round learns which values are needed whole anyway
_ONE_AXIS = (
    "aten.softmax.int",
    "aten._safe_softmax.default",
    "aten.log_softmax.int",
    "aten.cumsum.default",
    "aten.flip.default",
)
_REDUCTIONS = ("aten.sum.dim_IntList", "aten.mean.dim", "aten.amax.default", "aten.amin.default")


def read_only_needed_positions(graph: Graph) -> tuple[Graph, int]:
    """The graph with slices moved towards the inputs, and how many operations were cut by it."""
    whole: frozenset[int] = frozenset()
    pusher = _Pusher(graph, whole)
    for _ in range(_ROUNDS):
        pusher = _Pusher(graph, whole)
        result = pusher.run()
        alive = {n.index for n in result.live()}
        needed = frozenset(old for old, new in pusher.plain.items() if new.index in alive and old in pusher.passed)
        if needed <= whole:
            break
        whole = whole | needed
    return pusher.graph, len(pusher.passed - whole)


class _Pusher:
    def __init__(self, old: Graph, whole: frozenset[int]) -> None:
        self.old = old
        self.whole = whole
        self.graph = Graph(constants=dict(old.constants))
        self.plain: dict[int, Node] = {}  # old index -> the same value, whole
        self.origin: dict[int, int] = {}  # new index -> old index
        self.passed: set[int] = set()  # old operations that a slice moved through

    def run(self) -> Graph:
        for node in self.old.live():
            self.graph.source = node.source
            if node.op == "aten.slice.Tensor":
                x, axis, start, end, step = node.args
                new = self.cut(self.plain[x.index], axis, start, end, step)
            else:
                args = map_nodes(node.args, lambda n: self.plain[n.index])
                new = self.graph.add(node.op, args, node.region, node.dims, node.dtype, node.name, node.kwargs)
            self.plain[node.index] = new
            self.origin.setdefault(new.index, node.index)
        self.graph.outputs = [self.plain[n.index] for n in self.old.outputs]
        return self.graph

    def cut(self, node: Node, axis: int, start: int, end: int, step: int) -> Node:
        """node[start:end:step] along an axis, moved through whatever works position by position."""
        end = min(end, node.dims[axis])
        if start == 0 and step == 1 and end == node.dims[axis]:
            return node
        old = self.origin.get(node.index)
        if step == 1 and (old is None or old not in self.whole):
            moved = self._through(node, axis, start, end)
            if moved is not None:
                if old is not None:
                    self.passed.add(old)
                return moved
        dims = list(node.dims)
        dims[axis] = len(range(start, end, step))
        return self.graph.add("aten.slice.Tensor", (node, axis, start, end, step), node.region, dims, node.dtype)

    def _again(self, node: Node, args: Sequence[object], axis: int, size: int) -> Node:
        dims = list(node.dims)
        dims[axis] = size
        return self.graph.add(node.op, args, node.region, dims, node.dtype, node.name, node.kwargs)

    def _through(self, node: Node, axis: int, start: int, end: int) -> Node | None:
        size = end - start
        op = node.op
        if is_pointwise(op) or op == "multiply_add":
            args = map_nodes(node.args, lambda n: self._operand(n, axis, start, end))
            return self._again(node, args, axis, size)
        if op == "linear":
            return self._linear(node, axis, start, end)
        if op == "reshape":
            return self._reshape(node, axis, start, end)
        if op == "permute":
            x, order = node.args
            inner = order[axis + len(order)] - len(order)
            return self._again(node, (self.cut(x, inner, start, end, 1), order), axis, size)
        if op == "expand":
            x, dims = node.args
            new_dims = list(dims)
            new_dims[axis] = size
            return self._again(node, (self._operand(x, axis, start, end), tuple(new_dims)), axis, size)
        if op == "attention":
            return self._attention(node, axis, start, end)
        if op == "einsum":
            return self._einsum(node, axis, start, end)
        if op == "cat":
            return self._cat(node, axis, start, end)
        if op == "embedding" and axis < -1:
            return self._again(
                node, (node.args[0], self.cut(node.args[1], axis + 1, start, end, 1), node.args[2]), axis, size
            )
        if op in _ONE_AXIS and node.args[1] not in (axis, (axis,)):
            return self._again(node, (self.cut(node.args[0], axis, start, end, 1), *node.args[1:]), axis, size)
        if op in ("aten.layer_norm.default", "aten.rms_norm.default") and -axis > len(node.args[1]):
            return self._again(node, (self.cut(node.args[0], axis, start, end, 1), *node.args[1:]), axis, size)
        if op in _REDUCTIONS:
            x, axes = node.args[:2]
            kept = [k for k in range(len(x.dims)) if k - len(x.dims) not in axes]
            inner = kept[axis + len(node.dims)] - len(x.dims)
            return self._again(node, (self.cut(x, inner, start, end, 1), *node.args[1:]), axis, size)
        if op == "aten.slice.Tensor" and node.args[1] != axis:
            return self._again(node, (self.cut(node.args[0], axis, start, end, 1), *node.args[1:]), axis, size)
        return None

    def _operand(self, x: Node, axis: int, start: int, end: int) -> Node:
        """An operand of an elementwise operation: cut, unless it is the same along the axis."""
        if len(x.dims) < -axis or x.dims[axis] == 1:
            return x
        return self.cut(x, axis, start, end, 1)

    def _linear(self, node: Node, axis: int, start: int, end: int) -> Node:
        x, weight, bias = node.args
        if axis != -1:
            return self._again(node, (self.cut(x, axis, start, end, 1), weight, bias), axis, end - start)
        rows = self.cut(weight, -2, start, end, 1)
        own = self.cut(bias, -1, start, end, 1) if bias is not None else None
        return self._again(node, (x, rows, own), axis, end - start)

    def _attention(self, node: Node, axis: int, start: int, end: int) -> Node:
        q, k, v, mask, scale = node.args
        if axis == -1:
            return self._again(node, (q, k, self.cut(v, -1, start, end, 1), mask, scale), axis, end - start)
        q = self.cut(q, axis, start, end, 1)
        if axis == -3:
            k, v = self.cut(k, -3, start, end, 1), self.cut(v, -3, start, end, 1)
        own = self._operand(mask, axis, start, end) if mask is not None else None
        return self._again(node, (q, k, v, own, scale), axis, end - start)

    def _einsum(self, node: Node, axis: int, start: int, end: int) -> Node:
        eq, *operands = node.args
        left, right, out = split_equation(eq)
        letter = out[axis]
        new = [
            self.cut(x, w.index(letter) - len(w), start, end, 1) if letter in w else x
            for x, w in zip(operands, (left, right))
        ]
        return self._again(node, (eq, *new), axis, end - start)

    def _cat(self, node: Node, axis: int, start: int, end: int) -> Node:
        parts, along = node.args
        if along != axis:
            return self._again(node, (tuple(self.cut(p, axis, start, end, 1) for p in parts), along), axis, end - start)
        kept, first = [], 0
        for part in parts:
            low, high = max(start - first, 0), min(end - first, part.dims[axis])
            if low < high:
                kept.append(self.cut(part, axis, low, high, 1))
            first += part.dims[axis]
        return kept[0] if len(kept) == 1 else self._again(node, (tuple(kept), along), axis, end - start)

    def _reshape(self, node: Node, axis: int, start: int, end: int) -> Node | None:
        """Row-major: an axis keeps its place, or is the outermost of a split, or was merged from an outermost one."""
        from depthrank.sharing.rewrites.move_views_through_concat import match_blocks

        x = node.args[0]
        blocks = match_blocks(x.dims, node.dims)
        at = axis + len(node.dims)
        block = next((b for b in blocks or () if at in b[1]), None)
        if block is None or block[1][0] != at:
            return None
        left, right = block
        inner_new = product([node.dims[k] for k in right[1:]])
        inner_old = product([x.dims[k] for k in left[1:]])
        if (start * inner_new) % inner_old or (end * inner_new) % inner_old:
            return None
        low, high = start * inner_new // inner_old, end * inner_new // inner_old
        cut = self.cut(x, left[0] - len(x.dims), low, high, 1)
        dims = list(node.dims)
        dims[axis] = end - start
        return self.graph.add("reshape", (cut, tuple(dims)), node.region, dims, node.dtype)


__all__ = ["make_node", "read_only_needed_positions"]
