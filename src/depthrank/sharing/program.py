"""A shared model as data: the emitted graph, its inputs by side, and how outputs are put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from depthrank.sharing.in_place import writes_in_place
from depthrank.sharing.inputs import Sides
from depthrank.sharing.ir import Graph, Node, Region, map_nodes
from depthrank.sharing.operators import Rows, run_node


@dataclass
class Program:
    """``graph.outputs`` have N rows; ``output_spec`` and ``output_values`` put them together as the model does."""

    graph: Graph
    sides: Sides
    bound: tuple[str, ...]
    output_spec: Any
    output_values: tuple[Any, ...]  # an int is the number of a graph output; a tuple ("value", x) is x
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    dims: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def nodes_of(self, region: Region) -> list[Node]:
        return [n for n in self.graph.live() if n.region == region]

    def frontier(self, region: Region) -> list[Node]:
        """Nodes of a region that other regions (or the outputs) read."""
        live = self.graph.live()
        wanted = {n.index for n in self.graph.outputs}
        for node in live:
            if node.region != region:
                wanted.update(n.index for n in node.inputs())
        return [n for n in live if n.region == region and n.index in wanted]

    def inputs_of(self, region: Region) -> list[Node]:
        return [n for n in self.graph.live() if n.op == "input" and n.region == region]

    def fold_constants(self) -> dict[int, Tensor]:
        """The values of the constants that other regions read, computed now."""
        needed = self.frontier(Region.CONSTANT)
        values: dict[int, Any] = {}
        with torch.no_grad():
            for node in self.graph.live(needed):
                if node.op == "parameter":
                    values[node.index] = self.graph.constants[node.name]
                else:
                    values[node.index] = run_node(
                        node, Rows(single=True), map_nodes(node.args, lambda n: values[n.index])
                    )
        return {n.index: values[n.index].detach().contiguous() for n in needed}

    def assemble(self, outputs: Sequence[Tensor]) -> Any:
        """The model's own output: a tensor, tuple, list or dict as it returns it."""
        if self.output_spec.is_leaf() and self.output_values == (0,):
            return outputs[0]
        leaves = [outputs[v] if isinstance(v, int) else v[1] for v in self.output_values]
        return pytree.tree_unflatten(leaves, self.output_spec)


ROW_ARGUMENTS = ("request_of_candidate", "slots", "slot_of", "item_rows")
_GROUPED = ("shared_einsum", "shared_attention", "linear_by_request")


def row_arguments(program: Program, single: bool) -> list[str]:
    """The row indices that the candidate part reads."""
    live = program.nodes_of(Region.MIXED)
    needed = []
    if not single:
        direct = any(n.op in ("lift", "spread") and n.args[0].region == Region.REQUEST for n in live)
        if direct or any(n.op in ("linear_with_request_term", "shared_take_rows") for n in live):
            needed.append("request_of_candidate")
        if any(n.op in _GROUPED for n in live):
            needed += ["slots", "slot_of"]
    if program.bound:
        needed.append("item_rows")
    return needed


class _Emitter:
    """Records nodes of one part as a torch.fx graph."""

    def __init__(self, constants: dict[int, Tensor]) -> None:
        self.graph = fx.Graph()
        self.tracer = fx.proxy.GraphAppendingTracer(self.graph)
        self.root = nn.Module()
        self.values: dict[int, Any] = {}
        self.constants = constants

    def placeholder(self, name: str) -> fx.Proxy:
        return fx.Proxy(self.graph.placeholder(_identifier(name)), self.tracer)

    def constant(self, node: Node) -> Any:
        known = self.values.get(node.index)
        if known is None:
            name = f"constant_{node.index}"
            self.root.register_buffer(name, self.constants[node.index], persistent=False)
            known = fx.Proxy(self.graph.get_attr(name), self.tracer)
            self.values[node.index] = known
        return known

    def run(self, nodes: Sequence[Node], rows: Rows, outputs: Sequence[Node]) -> None:
        def resolve(node: Node) -> Any:
            return self.constant(node) if node.region == Region.CONSTANT else self.values[node.index]

        in_place = writes_in_place(nodes, outputs)
        for node in nodes:
            if node.index in self.values:
                continue
            args = map_nodes(node.args, resolve)
            write = in_place.get(node.index)
            if write is None:
                self.values[node.index] = run_node(node, rows, args)
            else:
                self.values[node.index] = write.operator(*(args[k] for k in write.order), **dict(node.kwargs))

    def finish(self, outputs: Sequence[Any]) -> fx.GraphModule:
        self.graph.output(tuple(o.node for o in outputs))
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)


def _identifier(name: str) -> str:
    return "input_" + "".join(c if c.isalnum() else "_" for c in name)


def emit_part(program: Program, region: Region, constants: dict[int, Tensor]) -> fx.GraphModule:
    """The request part or the item part: its inputs in order -> its frontier."""
    emitter = _Emitter(constants)
    for node in program.inputs_of(region):
        emitter.values[node.index] = emitter.placeholder(node.name)
    frontier = program.frontier(region)
    emitter.run(program.nodes_of(region), Rows(single=True), frontier)
    return emitter.finish([emitter.values[n.index] for n in frontier])


def emit_candidates(program: Program, constants: dict[int, Tensor], single: bool) -> fx.GraphModule:
    """The candidate part: candidate inputs, request frontier, item tables, row indices -> outputs."""
    emitter = _Emitter(constants)
    inputs = program.inputs_of(Region.MIXED)
    for node in inputs:
        emitter.values[node.index] = emitter.placeholder(node.name)
    for region in (Region.REQUEST, Region.ITEM):
        for node in program.frontier(region):
            emitter.values[node.index] = emitter.placeholder(f"{region.name.lower()}_{node.index}")
    rows = Rows(single=single)
    for name in row_arguments(program, single):
        setattr(rows, name, emitter.placeholder(name))
    rows.like = emitter.placeholder("like")
    emitter.run(program.nodes_of(Region.MIXED), rows, program.graph.outputs)
    constant_outputs = [n for n in program.graph.outputs if n.region == Region.CONSTANT]
    for node in constant_outputs:
        emitter.constant(node)
    return emitter.finish([emitter.values[n.index] for n in program.graph.outputs])


Runner = Callable[..., Any]
