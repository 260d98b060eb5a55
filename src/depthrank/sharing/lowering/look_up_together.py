"""[T_1[i_1]; ..; T_k[i_k]] = T[i + offsets] with the tables one below the other: one lookup instead of k.

A lookup of a thousand short rows is mostly launch; tables are copied for it, so only small ones take part. An id
outside its own table still raises, as it does in the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from depthrank.sharing.ir import Graph, Node, Region
from depthrank.sharing.lowering.rebuild import Rebuild
from depthrank.sharing.program import Program

MOST_TABLE_BYTES = 32 << 20  # of one joined table: what is copied


def look_up_together(program: Program) -> Program:
    """Lookups of single ids in tables of one width, joined side by side; joins of all of them become views."""
    groups = list(_groups(program.graph))
    if not groups:
        return program
    member = {n.index: (g, k) for g in groups for k, n in enumerate(g)}
    joined: dict[int, Node] = {}

    def change(r: Rebuild, node: Node, args: tuple[Any, ...]) -> Node | None:
        if node.op == "cat":
            return _whole(r, node, args)
        if node.index not in member:
            return None
        group, k = member[node.index]
        key = group[0].index
        if key not in joined:
            joined[key] = _join(r, group)
        own = joined[key]
        piece = r.new.add("aten.slice.Tensor", (own, -2, k, k + 1, 1), own.region, (1, own.dims[1]), own.dtype)
        return r.reshape(piece, node.dims)

    return replace(program, graph=Rebuild(program.graph).run(change))


def _groups(graph: Graph) -> Iterator[list[Node]]:
    """Lookups by inputs of one side in tables of one width and dtype, in order, as many as fit the limit."""
    found: dict[Any, list[Node]] = {}
    for node in graph.live():
        if node.op != "embedding" or node.region not in (Region.REQUEST, Region.MIXED):
            continue
        table, index, _ = node.args
        if table.op == "parameter" and index.op == "input" and not index.dims:
            found.setdefault((node.region, node.dims, node.dtype, index.dtype), []).append(node)
    for same in found.values():
        group: list[Node] = []
        size = 0
        for node in same:
            own = node.args[0].numel * node.dtype.itemsize
            if own > MOST_TABLE_BYTES:
                continue
            if size + own > MOST_TABLE_BYTES:
                if len(group) > 1:
                    yield group
                group, size = [], 0
            group.append(node)
            size += own
        if len(group) > 1:
            yield group


def _join(r: Rebuild, group: list[Node]) -> Node:
    """The lookups [k, width] of a group."""
    tables = [_table(r, n) for n in group]
    indices = tuple(r.new.input(n.args[1].name, n.region, (), n.args[1].dtype) for n in group)
    rows = [t.dims[0] for t in tables]
    table = r.emit("cat", [tables, -2], [sum(rows), tables[0].dims[1]])
    sizes = r.new.literal(torch.tensor(rows, dtype=torch.int64))
    starts = r.new.literal(torch.tensor([sum(rows[:k]) for k in range(len(rows))], dtype=torch.int64))
    dims = (len(group), tables[0].dims[1])
    return r.new.add("look_up_together", (table, sizes, starts, indices), group[0].region, dims, table.dtype)


def _table(r: Rebuild, node: Node) -> Node:
    table: Node = node.args[0]
    return r.new.parameter(table.name, r.old.constants[table.name])


def _whole(r: Rebuild, node: Node, args: tuple[Any, ...]) -> Node | None:
    """A join of consecutive pieces of one lookup is the lookup itself, or a stretch of it."""
    parts = args[0]
    stretches: list[Node] = []
    for part in parts:
        piece = _piece(part)
        last = _piece(stretches[-1]) if stretches else None
        if piece is not None and last is not None and piece[0] is last[0] and piece[1] == last[2]:
            stretches[-1] = _stretch(r, piece[0], last[1], piece[2])
        else:
            stretches.append(part)
    if len(stretches) == len(parts) or any(len(p.dims) != 1 for p in parts):
        return None
    flat = [r.reshape(s, [s.numel]) for s in stretches]
    if len(flat) == 1:
        return r.reshape(flat[0], node.dims)
    return r.new.add("cat", (tuple(flat), -1), node.region, node.dims, node.dtype)


def _piece(node: Node) -> tuple[Node, int, int] | None:
    """(lookup, first field, behind the last field) if the node is a stretch of a joined lookup."""
    while node.op == "reshape":
        node = node.args[0]
    if node.op == "look_up_together":
        return node, 0, node.dims[0]
    if node.op == "aten.slice.Tensor" and node.args[0].op == "look_up_together" and node.args[1] == -2:
        return node.args[0], node.args[2], node.args[3]
    return None


def _stretch(r: Rebuild, lookup: Node, start: int, end: int) -> Node:
    if (start, end) == (0, lookup.dims[0]):
        return lookup
    dims = (end - start, lookup.dims[1])
    return r.new.add("aten.slice.Tensor", (lookup, -2, start, end, 1), lookup.region, dims, lookup.dtype)
