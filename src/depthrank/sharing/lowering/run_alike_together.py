"""f(x_1), .., f(x_k) = f([x_1; ..; x_k]) for an elementwise f, and W_1 x, .., W_k x = [W_1; ..; W_k] x.

Operations alike that do not need each other run as one: hundreds of products of field pairs are a few launches. What
they made is read in pieces, and pieces laid side by side again are the whole, so that nothing is copied on the way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from depthrank.sharing.ir import Graph, Node, Region
from depthrank.sharing.lowering.rebuild import Rebuild, through_reshapes
from depthrank.sharing.operators import VIEWS, is_pointwise
from depthrank.sharing.program import Program

FEWEST = 4  # of a group
WIDEST = 64  # entries of a member: a wider one costs more to lay beside others than its launch


@dataclass(frozen=True)
class Piece:
    """Row ``place`` of a node [K, width] that a group made."""

    whole: Node
    place: int


def run_alike_together(program: Program) -> Program:
    """The program with its groups of operations alike joined."""
    groups = _groups(program.graph)
    if not groups:
        return program
    return replace(program, graph=_Joined(program.graph, groups).walk())


def _groups(graph: Graph) -> dict[int, list[Node]]:
    """For every node of a group, the group."""
    level: dict[int, int] = {}
    found: dict[Any, list[Node]] = defaultdict(list)
    for node in graph.live():
        below = max((level[n.index] for n in node.inputs()), default=0)
        level[node.index] = below + (node.op not in VIEWS and node.op != "lift")
        key = _key(node)
        if key is not None:
            found[(level[node.index], *key)].append(node)
    return {n.index: group for group in found.values() if len(group) >= FEWEST for n in group}


def _key(node: Node) -> Any:
    """What operations must have in common to run as one; None for one that runs alone."""
    if node.region not in (Region.REQUEST, Region.MIXED) or not 1 <= node.numel <= WIDEST:
        return None
    if node.op == "linear":
        x, weight, bias = node.args
        plain = weight.region == Region.CONSTANT and len(weight.dims) == 2 and x.numel == weight.dims[1]
        source = through_reshapes(x).index
        return ("linear", node.region, source, bias is None, node.dtype) if plain and bias is None else None
    if not is_pointwise(node.op) or any(isinstance(a, tuple) for a in node.args):
        return None
    operands = [a for a in node.args if isinstance(a, Node)]
    if any(a.numel not in (1, node.numel) for a in operands) or all(a.region == Region.CONSTANT for a in operands):
        return None
    signature = tuple(
        (a.numel == node.numel, _side(a), a.dtype) if isinstance(a, Node) else (type(a).__name__, repr(a))
        for a in node.args
    )
    return (node.op, node.region, node.numel, signature, node.kwargs, node.dtype)


def _side(node: Node) -> str:
    """Where an operand is computed; one request's value that is read by candidates is stacked on its own side."""
    return "request" if node.op == "lift" and node.args[0].region == Region.REQUEST else node.region.name


class _Joined(Rebuild):
    """Walks the nodes in an order in which every group finds all that it reads."""

    def __init__(self, old: Graph, groups: dict[int, list[Node]]) -> None:
        super().__init__(old)
        self._groups = groups

    def walk(self) -> Graph:
        for root in self.old.live():
            waiting = [root]
            while waiting:
                node = waiting[-1]
                if node.index in self.made:
                    waiting.pop()
                    continue
                members = self._groups.get(node.index, [node])
                missing = [n for m in members for n in m.inputs() if n.index not in self.made]
                if missing:
                    waiting += missing
                    continue
                waiting.pop()
                self.new.source = node.source
                if len(members) > 1:
                    self._join(members)
                else:
                    self.made[node.index] = self._alone(node)
        self.new.outputs = [self.made[n.index] for n in self.old.outputs]
        return self.new

    def _arguments(self, node: Node) -> tuple[Any, ...]:
        def known(value: Any) -> Any:
            if isinstance(value, Node):
                return self.made[value.index]
            return tuple(known(v) for v in value) if isinstance(value, tuple) else value

        return tuple(known(a) for a in node.args)

    def _alone(self, node: Node) -> Node:
        args = self._arguments(node)
        if node.op == "cat" and node.region != Region.ITEM and all(len(p.dims) == 1 for p in args[0]):
            parts = self._side_by_side(args[0])
            if len(parts) < len(args[0]):
                return self._laid(parts, node.region)
        return self._copy(node, args)

    def _join(self, members: Sequence[Node]) -> None:
        first = members[0]
        num, width = len(members), first.numel
        if first.op == "linear":
            self._join_linears(members)
            return
        columns = list(zip(*(self._arguments(m) for m in members), strict=True))
        args = [self._stacked(c) if isinstance(c[0], Node) else c[0] for c in columns]
        whole = self.new.add(first.op, args, first.region, (num, width), first.dtype, kwargs=first.kwargs)
        self._hand_out(members, whole)

    def _hand_out(self, members: Sequence[Node], whole: Node) -> None:
        for place, member in enumerate(members):
            self.made[member.index] = self.reshape(self._row(whole, place, place + 1), member.dims)

    def _join_linears(self, members: Sequence[Node]) -> None:
        """Products of one tensor with several weights: one product, its columns handed out."""
        x, weights = self._arguments(members[0])[0], [self._arguments(m)[1] for m in members]
        outs = [w.dims[0] for w in weights]
        weight = self.emit("cat", [weights, -2], [sum(outs), weights[0].dims[1]])
        flat = self.reshape(x, [weight.dims[1]])
        whole = self.new.add("linear", (flat, weight, None), members[0].region, (sum(outs),), members[0].dtype)
        if len(set(outs)) == 1:
            self._hand_out(members, self.reshape(whole, [len(outs), outs[0]]))
            return
        start = 0
        for member, out in zip(members, outs, strict=True):
            args = (whole, -1, start, start + out, 1)
            piece = self.new.add("aten.slice.Tensor", args, whole.region, (out,), whole.dtype)
            self.made[member.index] = self.reshape(piece, member.dims)
            start += out

    # ------------------------------------------------------------------------------------------------------- pieces

    def _row(self, whole: Node, start: int, end: int) -> Node:
        if (start, end) == (0, whole.dims[0]):
            return whole
        dims = (end - start, whole.dims[1])
        return self.new.add("aten.slice.Tensor", (whole, -2, start, end, 1), whole.region, dims, whole.dtype)

    def _piece(self, node: Node) -> Piece | None:
        """Which row of a tensor [K, width] this is."""
        below = through_reshapes(node)
        if below.op == "aten.slice.Tensor" and len(below.dims) == 2 and below.args[1] == -2 and below.args[4] == 1:
            source = below.args[0]
            return Piece(source, below.args[2]) if below.dims[0] == 1 and source.dims[1] == below.dims[1] else None
        return None

    def _side_by_side(self, nodes: Sequence[Node]) -> list[Node]:
        """The same entries with consecutive rows of one tensor as one stretch of it."""
        out: list[Node] = []
        stretch: tuple[Node, int, int] | None = None
        for node in [*nodes, None]:
            piece = self._piece(node) if node is not None else None
            if piece is not None and stretch is not None:
                whole, start, end = stretch
                if piece.whole is whole and piece.place == end:
                    stretch = (whole, start, end + 1)
                    continue
            if stretch is not None:
                row = self._row(*stretch)
                out.append(self.reshape(row, [row.numel]))
                stretch = None
            if piece is not None:
                stretch = (piece.whole, piece.place, piece.place + 1)
            elif node is not None:
                out.append(node)
        return out

    def _laid(self, parts: Sequence[Node], region: Region) -> Node:
        if len(parts) == 1:
            return parts[0]
        return self.new.add("cat", (tuple(parts), -1), region, (sum(p.numel for p in parts),), parts[0].dtype)

    def _stacked(self, operands: Sequence[Node]) -> Node:
        """Operands of one size as rows [K, width], or [1, width] if they are all the same."""
        first = operands[0]
        if all(o is first for o in operands):
            return self.reshape(first, [1, first.numel])
        if _side(first) == "request":
            inner = self._stacked([o.args[0] for o in operands])
            return self.new.add("lift", (inner,), Region.MIXED, inner.dims, inner.dtype)
        num, width = len(operands), first.numel
        pieces = [p for p in (self._piece(o) for o in operands) if p is not None]
        if len(pieces) == num and len({p.whole.index for p in pieces}) == 1 and not _ascending(pieces):
            places = self.new.literal(torch.tensor([p.place for p in pieces], dtype=torch.int64))
            whole = pieces[0].whole
            return self.new.add("take", (whole, -2, places), whole.region, (num, width), whole.dtype)
        parts = self._side_by_side([self.reshape(o, [width]) for o in operands])
        return self.reshape(self._laid(parts, first.region), [num, width])


def _ascending(pieces: Sequence[Piece]) -> bool:
    return all(b.place == a.place + 1 for a, b in pairwise(pieces))
