"""From a module and an example to a program: capture, read, share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from depthrank.sharing.capture import Captured
from depthrank.sharing.cost import Work, work_of
from depthrank.sharing.inputs import Sides
from depthrank.sharing.ir import Graph, Node, Region, product
from depthrank.sharing.layout import BATCH, Layout
from depthrank.sharing.normal_form import Reader
from depthrank.sharing.normal_form.reader import make_node
from depthrank.sharing.program import Program
from depthrank.sharing.refusal import Refused
from depthrank.sharing.rewrites.read_only_needed_positions import read_only_needed_positions
from depthrank.sharing.sharer import Options, Sharer


@dataclass(frozen=True)
class NormalForm:
    """The model over pairs, batch-first: what every program of it is made from."""

    graph: Graph
    layouts: tuple[Any, ...]  # of the outputs; a value that is no tensor stands as it is
    captured: Captured
    inputs: dict[str, Node]  # by name, the unused ones too
    work: Work  # of one pair, as the model was written
    cut_operations: int  # of which only some positions are computed


def read_normal_form(captured: Captured) -> NormalForm:
    """Batch-first nodes of a captured module; raises ``Refused`` for an operation that mixes rows."""
    reader = Reader(captured)
    layouts = reader.read()
    for layout in layouts:
        if isinstance(layout, Layout) and layout.batch_dim is None and layout.node.batched:
            raise Refused("an output has no batch dimension although it depends on the input")
    reader.graph.outputs = [x.node for x in layouts if isinstance(x, Layout)]
    graph, cut = read_only_needed_positions(reader.graph)
    nodes = iter(graph.outputs)
    moved = tuple(Layout(next(nodes), x.groups) if isinstance(x, Layout) else x for x in layouts)
    inputs = {n.name: n for n in reader.graph.nodes if n.op == "input"}
    return NormalForm(graph, moved, captured, inputs, work_of([n for n in reader.graph.live() if n.batched], 1), cut)


def build_program(form: NormalForm, sides: Sides, options: Options) -> tuple[Program, Sharer]:
    """Share the normal form for one choice of bound inputs."""
    sharer = Sharer(Graph(), sides, options)
    sharer.run(form.graph)
    values: list[Any] = []
    outputs: list[Node] = []
    for layout in form.layouts:
        if isinstance(layout, Layout):
            values.append(len(outputs))
            outputs.append(_output(sharer, layout))
        else:
            values.append(("value", layout))
    sharer.graph.outputs = outputs
    used = {n.name for n in sharer.graph.live() if n.op == "input" and n.region == Region.ITEM}
    bound = tuple(n for n in sides.candidate if n in options.bound and n in used)
    spec = form.captured.output_spec
    dtypes = {name: n.dtype for name, n in form.inputs.items()}
    dims = {name: n.dims for name, n in form.inputs.items()}
    return Program(sharer.graph, sides, bound, spec, tuple(values), dtypes, dims), sharer


def _output(sharer: Sharer, layout: Layout) -> Node:
    """One output with candidate rows, in the model's own order of dimensions."""
    value = sharer.value_of(layout.node)
    node = sharer.full(value)
    if layout.batch_dim is None:  # no rows: the sizes that the model gives it
        moved = sharer.permute(node, [a for g in layout.groups for a in g] + _unnamed(layout))
        return sharer.reshape(moved, [layout.size(d) for d in range(layout.rank)])
    sharer.now = "an output of the model"
    node = sharer.spread(node) if node.region != Region.MIXED else node
    atoms = [a for g in layout.groups for a in g]
    left_out = _unnamed(layout)
    order = tuple(0 if a == BATCH else a + 1 for a in [*atoms, *left_out])
    shape = tuple(-1 if BATCH in g else product([node.dims[a] for a in g]) for g in layout.groups)
    if order == tuple(range(len(order))) and shape[1:] == node.dims and shape[:1] == (-1,):
        return node
    return make_node(sharer.graph, "logical", (node, order, shape))


def _unnamed(layout: Layout) -> list[int]:
    """Axes of size one that no dimension of the model names."""
    atoms = {a for g in layout.groups for a in g}
    return [a for a in range(len(layout.node.dims)) if a not in atoms]


__all__ = ["NormalForm", "Sequence", "build_program", "read_normal_form", "torch"]
