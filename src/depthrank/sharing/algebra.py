"""Values that are not computed yet, and the operations that keep them so.

A ``Concat`` is a concatenation that was not carried out; a ``Sum`` is a sum of products that was not multiplied out.
Both keep request-side parts apart from candidate-side parts until an operation needs the whole. ``Algebra.force``
computes a value: the only place where a request-side part is broadcast to candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from depthrank.sharing.ir import Graph, Node, Region, product
from depthrank.sharing.layout import permute as permute_node
from depthrank.sharing.layout import reshape as reshape_node
from depthrank.sharing.normal_form.reader import make_node, make_nodes, region_of
from depthrank.sharing.operators import is_pointwise

Dims = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Val:
    """A computed tensor; where its node has size 1 and ``dims`` more, it is the same along that axis."""

    node: Node
    dims: Dims

    @property
    def region(self) -> Region:
        return self.node.region

    @property
    def dtype(self) -> torch.dtype:
        return self.node.dtype


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a concat, and the places of its entries along the axis."""

    value: Value
    positions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Concat:
    """Parts laid along ``axis`` (counted from the end); together their positions cover it once."""

    axis: int
    parts: tuple[Part, ...]
    dims: Dims

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].value.dtype

    @property
    def region(self) -> Region:
        out = Region.CONSTANT
        for part in self.parts:
            out = out.join(part.value.region)
        return out


@dataclass(frozen=True, eq=False)
class Term:
    """A number times a product of tensors that broadcast together."""

    factors: tuple[Node, ...]
    scale: float = 1.0

    @property
    def region(self) -> Region:
        return region_of(list(self.factors))

    @property
    def dims(self) -> Dims:
        return broadcast(*(f.dims for f in self.factors))


@dataclass(frozen=True, eq=False)
class Sum:
    """Terms added up."""

    terms: tuple[Term, ...]
    dims: Dims

    @property
    def dtype(self) -> torch.dtype:
        return self.terms[0].factors[0].dtype

    @property
    def region(self) -> Region:
        out = Region.CONSTANT
        for term in self.terms:
            out = out.join(term.region)
        return out

    @property
    def written_out(self) -> bool:
        """Is a term as large as the whole for every candidate? Then computing with terms apart saves nothing."""
        full = product(broadcast(*(t.dims for t in self.terms)))
        return any(f.region == Region.MIXED and f.numel == full for t in self.terms for f in t.factors)


Value = Val | Concat | Sum


def broadcast(*shapes: Dims) -> Dims:
    """The sizes of operands of equal rank after broadcasting."""
    rank = max(len(s) for s in shapes)
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    return tuple(max(s[k] for s in padded) if all(s[k] for s in padded) else 0 for k in range(rank))


@dataclass(frozen=True)
class Materialised:
    """A request-side value that had to be written out for every candidate."""

    node: Node
    reason: str
    bytes_per_candidate: int


class Algebra:
    """Builds the emitted graph; every method returns a value without changing its operands."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.forced: dict[int, tuple[Value, Val]] = {}
        self.materialised: dict[int, Materialised] = {}
        self.now = ""  # the operation that is being rewritten, for the report

    # ------------------------------------------------------------------------------------------------------ emission

    def emit(
        self,
        op: str,
        args: Sequence[Any],
        dims: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> Node:
        """A node on computed operands; where regions meet, request rows are brought to candidate rows."""
        region = region_of(args)
        lifted = [self._bring(a, region, op) for a in args]
        return make_node(self.graph, op, lifted, dims, dtype, kwargs)

    def emit_many(self, op: str, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> list[Node]:
        region = region_of(args)
        return make_nodes(self.graph, op, [self._bring(a, region, op) for a in args], kwargs)

    def _bring(self, value: Any, region: Region, op: str) -> Any:
        if isinstance(value, Node):
            if value.region in (region, Region.CONSTANT):
                return value
            return self.lift(value) if is_pointwise(op) or op == "multiply_add" else self.spread(value)
        if isinstance(value, (list, tuple)):
            return [self._bring(v, region, op) for v in value]
        return value

    def lift(self, node: Node) -> Node:
        """Candidate rows of a request-side or item-side tensor; one request stays one row and broadcasts."""
        if node.region in (Region.CONSTANT, Region.MIXED):
            return node
        if node.op in ("reshape", "expand", "permute") and node.region == Region.ITEM:
            inner = self.lift(node.args[0])
            return self.graph.add(node.op, (inner, *node.args[1:]), Region.MIXED, node.dims, node.dtype)
        return self.graph.add("lift", (node,), Region.MIXED, node.dims, node.dtype)

    def spread(self, node: Node) -> Node:
        """Candidate rows written out one by one."""
        if node.region == Region.MIXED:
            return node
        if node.region == Region.ITEM:
            return self.lift(node)
        spread = self.graph.add("spread", (node,), Region.MIXED, node.dims, node.dtype)
        size = node.numel * node.dtype.itemsize
        self.materialised.setdefault(spread.index, Materialised(spread, self.now, size))
        return spread

    # ------------------------------------------------------------------------------------------------------- forcing

    def force(self, value: Value) -> Val:
        """The value as one tensor (sizes of 1 may still stand for more)."""
        if isinstance(value, Val):
            return value
        known = self.forced.get(id(value))
        if known is not None:
            return known[1]
        done = self._force_concat(value) if isinstance(value, Concat) else self._force_sum(value)
        self.forced[id(value)] = (value, done)
        return done

    def full(self, value: Value) -> Node:
        """The value as one tensor with all its sizes."""
        val = self.force(value)
        if val.node.dims == val.dims:
            return val.node
        return self.emit("expand", [val.node, val.dims], val.dims, val.dtype)

    def _force_concat(self, cat: Concat) -> Val:
        pieces: list[tuple[int, Node]] = []
        for part in cat.parts:
            forced = self.force(part.value)
            node = self._only_axis_full(forced, cat.axis)
            for start, positions in runs(part.positions):
                piece = self.take_node(node, cat.axis, tuple(range(start, start + len(positions))))
                pieces.append((positions[0], piece))
        pieces.sort(key=lambda p: p[0])
        nodes = self._join_neighbours([p[1] for p in pieces], cat.axis)
        common = list(
            broadcast(*(tuple(s if k - len(cat.dims) != cat.axis else 1 for k, s in enumerate(n.dims)) for n in nodes))
        )
        wide = []
        for n in nodes:
            want = list(common)
            want[cat.axis] = n.dims[cat.axis]
            wide.append(n if list(n.dims) == want else self.emit("expand", [n, want], want, n.dtype))
        common[cat.axis] = cat.dims[cat.axis]
        region = region_of(wide)
        if region == Region.MIXED:
            wide = [n if n.region != Region.CONSTANT else self._constant_rows(n) for n in wide]
        elif region != Region.CONSTANT:
            wide = [n if n.region != Region.CONSTANT else self._with_rows_of(n, wide) for n in wide]
        return Val(self.join(wide, cat.axis, tuple(common)), cat.dims)

    def join(self, nodes: Sequence[Node], axis: int, dims: Dims) -> Node:
        """Tensors one after the other; where nothing stands outside the axis they are joined flat, so that stacking
        fields and flattening them is one operation.
        """
        if len(nodes) == 1:
            return nodes[0]
        place = axis + len(dims)
        if (place > 0 or len(dims) > 1) and all(s == 1 for n in nodes for s in n.dims[:place]):
            flat = [self.reshape(n, [n.numel]) for n in nodes]
            joined = self.emit("cat", [flat, -1], [sum(n.numel for n in nodes)], nodes[0].dtype)
            return self.reshape(joined, dims)
        return self.emit("cat", [list(nodes), axis], dims, nodes[0].dtype)

    def _join_neighbours(self, nodes: Sequence[Node], axis: int) -> list[Node]:
        """Neighbours of one region that is not the candidates' become one tensor before they are broadcast."""
        out: list[Node] = []
        group: list[Node] = []
        ends: list[Node | None] = [*nodes, None]
        for node in ends:
            if node is not None and group and _neighbours(node, group[0], axis):
                group.append(node)
                continue
            if len(group) > 1:
                dims = replaced(group[0].dims, axis, sum(n.dims[axis] for n in group))
                out.append(self.join(group, axis, dims))
            else:
                out += group
            group = [] if node is None else [node]
        return out

    def _constant_rows(self, node: Node) -> Node:
        return self.graph.add("spread", (node,), Region.MIXED, node.dims, node.dtype)

    def _with_rows_of(self, node: Node, others: Sequence[Node]) -> Node:
        """A constant with the rows of a request-side or item-side neighbour."""
        host = next(n for n in others if n.region != Region.CONSTANT)
        return self.graph.add("rows_of", (node, host), host.region, node.dims, node.dtype)

    def _only_axis_full(self, val: Val, axis: int) -> Node:
        want = list(val.node.dims)
        want[axis] = val.dims[axis]
        return val.node if list(val.node.dims) == want else self.emit("expand", [val.node, want], want, val.dtype)

    def _force_sum(self, total: Sum) -> Val:
        by_region: dict[Region, list[Node]] = {}
        scaled: list[tuple[Node, Node, float]] = []
        for term in total.terms:
            slow = [f for f in term.factors if f.region > Region.REQUEST]
            fast = [f for f in term.factors if f.region <= Region.REQUEST]
            if slow and (fast or term.scale != 1.0 or len(slow) > 1):
                if fast:
                    scaled.append((self._multiply(slow), self._multiply(fast), term.scale))
                elif len(slow) > 1:
                    scaled.append((slow[0], self._multiply(slow[1:]), term.scale))
                else:
                    scaled.append((slow[0], self._one(slow[0]), term.scale))
            else:
                node = self.scaled(self._multiply(slow or fast), term.scale)
                by_region.setdefault(node.region, []).append(node)
        base = self._add_regions(by_region)
        for head, tail, scale in sorted(scaled, key=lambda t: -t[0].numel):
            base = self._add_product(base, head, tail, scale)
        assert base is not None
        return Val(base, total.dims)

    def _one(self, like: Node) -> Node:
        return self.reshape(self.graph.literal(torch.ones((), dtype=like.dtype)), [1] * len(like.dims))

    def _add_product(self, base: Node | None, head: Node, tail: Node, scale: float) -> Node:
        if tail.op == "reshape" and tail is self._one(head):
            return self.scaled(head, scale) if base is None else self._plus(base, head, scale)
        if base is None:
            return self.scaled(self.emit("aten.mul.Tensor", [head, tail]), scale)
        kwargs = {} if scale == 1.0 else {"value": scale}
        dims = broadcast(base.dims, head.dims, tail.dims)
        return self.emit("aten.addcmul.default", [base, head, tail], dims, head.dtype, kwargs)

    def scaled(self, node: Node, scale: float) -> Node:
        """A number times a tensor."""
        if scale == 1.0:
            return node
        if scale == -1.0:
            return self.emit("aten.neg.default", [node], node.dims, node.dtype)
        return self.emit("aten.mul.Scalar", [node, scale], node.dims, node.dtype)

    def _plus(self, base: Node, node: Node, scale: float) -> Node:
        dims = broadcast(base.dims, node.dims)
        kwargs = {} if scale == 1.0 else {"alpha": scale}
        return self.emit("aten.add.Tensor", [base, node], dims, base.dtype, kwargs)

    def _multiply(self, factors: Sequence[Node]) -> Node:
        ordered = sorted(factors, key=lambda f: (f.region, f.numel))
        out = ordered[0]
        for f in ordered[1:]:
            out = self.emit("aten.mul.Tensor", [out, f])
        return out

    def _add_regions(self, by_region: dict[Region, list[Node]]) -> Node | None:
        """Constants and request terms first, once a request; item terms next; candidates last."""
        sums = {region: self._add(nodes) for region, nodes in by_region.items()}
        once = [sums[r] for r in (Region.CONSTANT, Region.REQUEST) if r in sums]
        low = self._add(once) if once else None
        item = sums.get(Region.ITEM)
        mixed = sums.get(Region.MIXED)
        if item is not None and (mixed is not None or (low is not None and low.region == Region.REQUEST)):
            if mixed is not None:
                return self._add_low(self._add([mixed, item]), low)
            return self._add_low(item, low)
        if item is not None:
            return self._add([item, low]) if low is not None else item
        if mixed is None:
            return low
        return self._add_low(mixed, low)

    def _add_low(self, high: Node, low: Node | None) -> Node:
        """high + low, the low term as the bias of a linear product where it can be."""
        if low is None:
            return high
        vector = all(s == 1 for s in low.dims[:-1]) and low.dims[-1:] == high.dims[-1:]
        if high.op == "linear" and high.args[2] is None and vector:
            x, weight, _ = high.args
            if low.region == Region.CONSTANT:
                bias = reshape_node(self.graph, low, low.dims[-1:])
                return self.graph.add("linear", (x, weight, bias), high.region, high.dims, high.dtype)
            if low.region == Region.REQUEST and high.region == Region.MIXED:
                return self.graph.add("linear_with_request_term", (x, weight, low), Region.MIXED, high.dims, high.dtype)
        if high.op == "linear_by_request" and high.args[2] is None and low.region == Region.REQUEST:
            x, weight, _ = high.args
            wide = low if low.dims == high.dims else self.emit("expand", [low, high.dims], high.dims, low.dtype)
            return self.graph.add("linear_by_request", (x, weight, wide), Region.MIXED, high.dims, high.dtype)
        return self.emit("aten.add.Tensor", [high, low])

    def _add(self, nodes: Sequence[Node]) -> Node:
        ordered = sorted(nodes, key=lambda n: n.numel)
        out = ordered[0]
        for n in ordered[1:]:
            out = self.emit("aten.add.Tensor", [n, out])
        return out

    # ------------------------------------------------------------------------------------------------------ elements

    def take(self, value: Value, axis: int, positions: Sequence[int]) -> Value:
        """The entries at these positions along an axis."""
        size = value.dims[axis]
        if tuple(positions) == tuple(range(size)):
            return value
        dims = replaced(value.dims, axis, len(positions))
        if isinstance(value, Val):
            if value.node.dims[axis] == 1 and size != 1:
                return Val(value.node, dims)
            return Val(self.take_node(value.node, axis, tuple(positions)), dims)
        if isinstance(value, Sum):
            terms = []
            for term in value.terms:
                own = [
                    f if f.dims[axis] == 1 and size != 1 else self.take_node(f, axis, tuple(positions))
                    for f in term.factors
                ]
                terms.append(Term(tuple(own), term.scale))
            return Sum(tuple(terms), dims)
        if value.axis != axis:
            parts = tuple(Part(self.take(p.value, axis, positions), p.positions) for p in value.parts)
            return Concat(value.axis, parts, dims)
        parts_out = []
        for part in value.parts:
            where = {p: k for k, p in enumerate(part.positions)}
            hits = [(new, where[p]) for new, p in enumerate(positions) if p in where]
            if hits:
                taken = self.take(part.value, axis, [old for _, old in hits])
                parts_out.append(Part(taken, tuple(new for new, _ in hits)))
        return concat(axis, parts_out, dims)

    def take_node(self, node: Node, axis: int, positions: tuple[int, ...]) -> Node:
        size = node.dims[axis]
        if positions == tuple(range(size)):
            return node
        dims = replaced(node.dims, axis, len(positions))
        step = positions[1] - positions[0] if len(positions) > 1 else 1
        if step > 0 and positions == tuple(range(positions[0], positions[0] + step * len(positions), step)):
            end = positions[-1] + 1
            return self.graph.add(
                "aten.slice.Tensor", (node, axis, positions[0], end, step), node.region, dims, node.dtype
            )
        index = self.graph.literal(torch.tensor(positions, dtype=torch.int64))
        return self.graph.add("take", (node, axis, index), node.region, dims, node.dtype)

    def coalesce(self, cat: Concat) -> Concat:
        """Computed parts of one region become one part: one launch instead of many."""
        groups: dict[tuple[Region, Dims], list[Part]] = {}
        rest: list[Part] = []
        for part in level(cat):
            if isinstance(part.value, Val):
                shape = replaced(part.value.node.dims, cat.axis, 1)
                groups.setdefault((part.value.region, shape), []).append(part)
            else:
                rest.append(part)
        parts = [p for same in groups.values() for p in self._merge(cat, same)]
        return Concat(cat.axis, (*parts, *rest), cat.dims)

    def _merge(self, cat: Concat, parts: list[Part]) -> list[Part]:
        if len(parts) == 1:
            return parts
        vals = [p.value for p in parts]
        nodes = [self._only_axis_full(v, cat.axis) for v in vals if isinstance(v, Val)]
        dims = replaced(nodes[0].dims, cat.axis, sum(n.dims[cat.axis] for n in nodes))
        node = self.join(nodes, cat.axis, dims)
        positions = tuple(q for p in parts for q in p.positions)
        return [Part(Val(node, replaced(cat.dims, cat.axis, len(positions))), positions)]

    def _open(self, value: Value, axis: int) -> Value:
        """A concat along ``axis`` with few parts, or the tensor itself if one part is all of it."""
        if not isinstance(value, Concat) or value.axis != axis:
            return value
        merged = self.coalesce(value)
        return concat(axis, merged.parts, merged.dims)

    def split_together(self, values: Sequence[Value], axis: int) -> list[tuple[tuple[int, ...], list[Value]]]:
        """Cut values of one size along ``axis`` where any concat among them is cut: (positions, pieces) each."""
        size = max(v.dims[axis] for v in values)
        own = [self._open(v, axis) for v in values]
        labels: list[tuple[int, ...]] = [()] * size
        for v in own:
            if isinstance(v, Concat) and v.axis == axis:
                for k, part in enumerate(v.parts):
                    for p in part.positions:
                        labels[p] = (*labels[p], k)
        leader = next((v for v in own if isinstance(v, Concat) and v.axis == axis), None)
        sequence = range(size) if leader is None else [p for part in leader.parts for p in part.positions]
        order: dict[tuple[int, ...], list[int]] = {}
        for p in sequence:
            order.setdefault(labels[p], []).append(p)
        out = []
        for positions in order.values():
            pieces = [v if v.dims[axis] == 1 and size != 1 else self.take(v, axis, positions) for v in own]
            out.append((tuple(positions), pieces))
        return out

    # --------------------------------------------------------------------------------------------------------- views

    def reshape(self, node: Node, dims: Sequence[int]) -> Node:
        return reshape_node(self.graph, node, dims)

    def permute(self, node: Node, order: Sequence[int]) -> Node:
        return permute_node(self.graph, node, order)

    def map_terms(self, value: Value, dims: Dims, change: Callable[[Node], Node]) -> Value:
        """The same view of every tensor inside a value that is no concat."""
        if isinstance(value, Val):
            return Val(change(value.node), dims)
        assert isinstance(value, Sum)
        return Sum(tuple(Term(tuple(change(f) for f in t.factors), t.scale) for t in value.terms), dims)


def _neighbours(a: Node, b: Node, axis: int) -> bool:
    """Of one region other than the candidates', and of one size but for the axis?"""
    return a.region == b.region != Region.MIXED and replaced(a.dims, axis, 1) == replaced(b.dims, axis, 1)


def concat(axis: int, parts: Sequence[Part], dims: Dims) -> Value:
    """A concat, or its only part."""
    if len(parts) == 1 and parts[0].positions == tuple(range(dims[axis])):
        return parts[0].value
    return Concat(axis, tuple(parts), dims)


def level(cat: Concat) -> list[Part]:
    """The parts, those of concats along the same axis among them in the place of the whole."""
    out: list[Part] = []
    for part in cat.parts:
        if isinstance(part.value, Concat) and part.value.axis == cat.axis:
            out += [Part(p.value, tuple(part.positions[k] for k in p.positions)) for p in level(part.value)]
        else:
            out.append(part)
    return out


def replaced(dims: Dims, axis: int, size: int) -> Dims:
    out = list(dims)
    out[axis] = size
    return tuple(out)


def runs(positions: Sequence[int]) -> Iterable[tuple[int, list[int]]]:
    """Stretches of consecutive positions: (where each starts in the part, the positions)."""
    start = 0
    for k in range(1, len(positions) + 1):
        if k == len(positions) or positions[k] != positions[k - 1] + 1:
            yield start, list(positions[start:k])
            start = k


def numel(dims: Dims) -> int:
    return product(dims)
