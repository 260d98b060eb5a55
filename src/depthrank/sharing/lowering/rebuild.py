"""A graph copied node by node, with a pass deciding what stands in the place of each node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from depthrank.sharing.ir import Graph, Node, Region, map_nodes
from depthrank.sharing.layout import permute as permute_node
from depthrank.sharing.layout import reshape as reshape_node
from depthrank.sharing.normal_form.reader import make_node
from depthrank.sharing.program import Program

Change = Callable[["Rebuild", Node, tuple[Any, ...]], Node | None]


class Rebuild:
    """``new`` grows as ``run`` walks the live nodes of ``old``; ``uses`` counts the readers of a new node."""

    def __init__(self, old: Graph) -> None:
        self.old = old
        self.new = Graph(constants=dict(old.constants))
        self.made: dict[int, Node] = {}
        self._readers = Counter(n.index for node in old.live() for n in node.inputs())
        self._readers.update(n.index for n in old.outputs)
        self._uses: Counter[int] = Counter()

    def run(self, change: Change) -> Graph:
        """``change(rebuild, node, args)`` gets an old node with its arguments in the new graph; None copies it."""
        for node in self.old.live():
            self.new.source = node.source
            args = map_nodes(node.args, lambda n: self.made[n.index])
            own = None if node.region == Region.ITEM else change(self, node, args)
            made = own or self._copy(node, args)
            assert (made.dims, made.dtype, made.region) == (node.dims, node.dtype, node.region), (node, made)
            self.made[node.index] = made
            self._uses[made.index] += self._readers[node.index]
        self.new.outputs = [self.made[n.index] for n in self.old.outputs]
        return self.new

    def _copy(self, node: Node, args: tuple[Any, ...]) -> Node:
        if node.op == "parameter":
            return self.new.parameter(node.name, self.old.constants[node.name])
        if node.op == "reshape" and node.region != Region.ITEM:
            return self.reshape(args[0], node.dims)
        if node.op == "permute" and node.region != Region.ITEM:
            return self.permute(args[0], args[1])
        return self.new.add(node.op, args, node.region, node.dims, node.dtype, node.name, node.kwargs)

    def read_once(self, node: Node) -> bool:
        """Does a single node read this one? Then a pass may take it apart without computing it twice."""
        return self._uses[node.index] <= 1

    def emit(self, op: str, args: Sequence[Any], dims: Sequence[int] | None = None, **kwargs: Any) -> Node:
        """A new node; sizes are inferred unless given, the dtype is that of the first operand if they are."""
        dtype = None
        if dims is not None:
            dtype = next(n for a in args for n in ([a] if isinstance(a, Node) else a) if isinstance(n, Node)).dtype
        return make_node(self.new, op, args, dims, dtype, kwargs)

    def reshape(self, node: Node, dims: Sequence[int]) -> Node:
        return reshape_node(self.new, node, dims)

    def permute(self, node: Node, order: Sequence[int]) -> Node:
        """Axes in another order; a permute of a permute is one, and one that moves nothing is other axes."""
        if node.op == "permute":
            node, order = node.args[0], [node.args[1][k] for k in order]
        wide = [k for k in order if node.dims[k] != 1]
        if wide == sorted(wide):  # only axes of size one move
            return self.reshape(node, [node.dims[k] for k in order])
        return permute_node(self.new, node, order)


def rebuilt(program: Program, change: Change) -> Program:
    """The same program with every node passed through ``change``."""
    return replace(program, graph=Rebuild(program.graph).run(change))


def through_reshapes(node: Node) -> Node:
    """The node that was only given other axes."""
    while node.op == "reshape":
        node = node.args[0]
    return node


def is_constant(node: Any) -> bool:
    return isinstance(node, Node) and node.region == Region.CONSTANT
