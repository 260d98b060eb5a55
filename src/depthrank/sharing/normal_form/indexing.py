"""Advanced indexing: constant positions, rows of a table, and places that each row names for itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from depthrank.sharing.ir import Node, product
from depthrank.sharing.layout import BATCH, Group, Layout, align, canonical, plain, reshape
from depthrank.sharing.normal_form.flat_index import own_part_of_flat_index
from depthrank.sharing.normal_form.reader import Reader, rule
from depthrank.sharing.normal_form.rows_one_by_one import is_row_numbers, pick_in_row


@rule("aten.index_select.default")
def index_select(reader: Reader, x: Layout, dim: int, index: Layout) -> Layout:
    dim %= x.rank
    if x.groups[dim] == (BATCH,) and is_row_numbers(index.node):
        return x
    reader.forbid_batch(x, dim, "index_select along")
    if index.node.batched and not x.node.batched and x.batch_dim is None:
        return _index_one(reader, x, dim, index)
    if index.node.batched:
        reader.refuse("index_select along a dimension by an index that depends on the input; use gather")
    flat = canonical(reader.graph, x)
    return Layout(reader.node("take", [flat.node, reader.axis(flat, dim), index.node]), flat.groups)


@rule("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index(reader: Reader, x: Layout, indices: list[Layout | None]) -> Layout:
    """Advanced indexing: a constant list along one dimension, a table row, or each row's own position."""
    named = [(d, i) for d, i in enumerate(indices) if i is not None]
    if any(i.node.dtype == torch.bool for _, i in named):
        reader.refuse("a boolean index gives a result whose size depends on the values")
    if len(named) == 1:
        picked = pick_in_row(reader, x, named[0][1]) if named[0][0] == 0 else None
        return _index_one(reader, x, *named[0]) if picked is None else picked
    if any(x.groups[d] == (BATCH,) and is_row_numbers(i.node) for d, i in named):
        return _index_of_each_row(reader, x, named)
    if not x.node.batched and x.batch_dim is None and [d for d, _ in named] == list(range(len(named))):
        return _table_rows(reader, *_flattened(reader, x, [i for _, i in named]), 0)
    if all(not i.node.batched for _, i in named) and all(not x.holds_batch(d) for d, _ in named):
        return _index_block(reader, x, named)
    return reader.refuse("an index picks particular rows of the batch")


def _index_of_each_row(reader: Reader, x: Layout, named: list[tuple[int, Layout]]) -> Layout:
    """x[arange(B), own], x[own, arange(B)], x[arange(B), :, own], x[arange(B), own, other]: each row's own places."""
    own = [d for d, _ in named if not x.holds_batch(d)]
    rest = [d for d in range(x.rank) if not x.holds_batch(d) and d not in own]
    flat = canonical(reader.graph, Layout(x.node, tuple(x.groups[d] for d in (x.batch_dim or 0, *own, *rest))))
    sizes, indices = [x.size(d) for d in own], [dict(named)[d] for d in own]
    node = reshape(reader.graph, flat.node, [product(sizes), *flat.node.dims[len(own) :]])
    place = _flat_place(reader, sizes, indices) if len(own) > 1 else indices[0]
    out = _index_own_row(reader, plain(node), [dict(named)[x.batch_dim or 0], place], place)
    dims = [d for d, _ in named]
    where = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    own_rank = out.rank - len(rest)
    index_groups, rest_groups = out.groups[:own_rank], out.groups[own_rank:]
    return Layout(out.node, (*rest_groups[:where], *index_groups, *rest_groups[where:]))


def _index_one(reader: Reader, x: Layout, dim: int, index: Layout) -> Layout:
    if x.holds_batch(dim):
        if is_row_numbers(index.node):
            return x
        within = own_part_of_flat_index(reader, x, index) if dim == 0 else None
        if within is not None:
            thick = Layout(x.node, ((BATCH,), x.groups[0][1:], *x.groups[1:]))
            return _index_own_row(reader, thick, [within], within)
        reader.refuse("an index picks particular rows of the batch")
    if not x.node.batched and x.batch_dim is None:
        moved = canonical(reader.graph, x, [dim, *(d for d in range(x.rank) if d != dim)])
        return _table_rows(reader, moved, index, dim)
    if index.node.batched or index.batch_dim is not None:
        reader.refuse("an index that depends on the input pairs every row with every other; use gather")
    flat = canonical(reader.graph, x)
    flat_index = reshape(reader.graph, index.node, [index.node.numel])
    wrapped = _wrap(reader, flat_index, x.size(dim))
    node = reader.node("take", [flat.node, reader.axis(flat, dim), wrapped])
    axis = flat.groups[dim][0]
    own = [index.size(d) for d in range(index.rank)]
    node = reshape(reader.graph, node, [*node.dims[:axis], *own, *node.dims[axis + 1 :]])
    shift = len(own) - 1
    groups: list[Group] = []
    for d, g in enumerate(flat.groups):
        if d == dim:
            groups += [(axis + k,) for k in range(len(own))]
        else:
            groups.append(tuple(a + shift if a > axis else a for a in g))
    return Layout(node, tuple(groups))


def _wrap(reader: Reader, index: Node, size: int) -> Node:
    """Negative positions count from the end."""
    raised = reader.node("aten.add.Tensor", [index, size])
    return reader.node("aten.where.self", [reader.node("aten.lt.Scalar", [index, 0]), raised, index])


def _table_rows(reader: Reader, table: Layout, index: Layout, dim: int) -> Layout:
    """table[index]: a lookup; the dimensions of the index stand where the indexed one stood."""
    flat = canonical(reader.graph, index)
    width = list(table.node.dims[1:])
    rows = reshape(reader.graph, table.node, [table.node.dims[0], table.node.numel // max(table.node.dims[0], 1)])
    wrapped = _wrap(reader, flat.node, table.node.dims[0])
    node = reader.node("embedding", [rows, wrapped, None], [*flat.node.dims, rows.dims[1]], rows.dtype)
    node = reshape(reader.graph, node, [*flat.node.dims, *width])
    lead = len(flat.node.dims)
    rest = [(lead + k,) for k in range(len(width))]
    return Layout(node, (*rest[:dim], *flat.groups, *rest[dim:]))


def _flattened(reader: Reader, table: Layout, indices: list[Layout]) -> tuple[Layout, Layout]:
    """table[i, j] as a lookup of i * columns + j in a table of rows * columns."""
    flat = canonical(reader.graph, table)
    own, rest = flat.node.dims[: len(indices)], flat.node.dims[len(indices) :]
    merged = reshape(reader.graph, flat.node, [product(own), *rest])
    return plain(merged), _flat_place(reader, own, indices)


def _flat_place(reader: Reader, sizes: Sequence[int], indices: list[Layout]) -> Layout:
    """The row-major place that one index for each of these sizes names."""
    nodes, groups, dims = align(reader.graph, indices)
    place: Node | None = None
    for size, node in zip(sizes, nodes):
        wrapped = _wrap(reader, node, size)
        if place is not None:
            wrapped = reader.node("aten.add.Tensor", [reader.node("aten.mul.Scalar", [place, size]), wrapped], dims)
        place = wrapped
    assert place is not None
    return Layout(place, groups)


def _index_own_row(reader: Reader, x: Layout, indices: list[Layout], own: Layout) -> Layout:
    """x[arange(B), own], or own of more dimensions than one: each row reads positions of its own."""
    flat = canonical(reader.graph, x)
    if flat.groups[0] != (BATCH,):
        reader.refuse("an index pairs rows of the batch in a way that has no rule for sharing")
    nodes, groups, places = align(reader.graph, indices)
    index = _wrap(reader, nodes[indices.index(own)], x.size(1))
    dims = [*places, *flat.node.dims[1:]]
    if index.batched:
        node = reader.node("take_rows", [flat.node, index], dims, x.node.dtype)
    else:
        picked = reader.node("take", [flat.node, reader.axis(flat, 1), reshape(reader.graph, index, [index.numel])])
        node = reshape(reader.graph, picked, dims)
    rest = [(len(places) + k,) for k in range(len(flat.node.dims) - 1)]
    return Layout(node, (*groups, *rest))


def _index_block(reader: Reader, x: Layout, named: list[tuple[int, Layout]]) -> Layout:
    """Several constant indices on neighbouring dimensions: one flat index over their product."""
    dims = [d for d, _ in named]
    if dims != list(range(dims[0], dims[0] + len(dims))):
        reader.refuse("advanced indices on separated dimensions have no rule for sharing")
    nodes, groups, _sizes = align(reader.graph, [i for _, i in named])
    flat_index: Node | None = None
    for (d, _), node in zip(named, nodes):
        wrapped = _wrap(reader, node, x.size(d))
        if flat_index is None:
            flat_index = wrapped
        else:
            scaled = reader.node("aten.mul.Tensor", [flat_index, x.size(d)])
            flat_index = reader.node("aten.add.Tensor", [scaled, wrapped])
    assert flat_index is not None
    flat = canonical(reader.graph, x)
    axes = [flat.groups[d][0] for d in dims]
    total = 1
    for d in dims:
        total *= x.size(d)
    merged = reshape(reader.graph, flat.node, [*flat.node.dims[: axes[0]], total, *flat.node.dims[axes[-1] + 1 :]])
    less = len(dims) - 1
    new_groups = [
        tuple(a - less if a > axes[-1] else a for a in g) for d, g in enumerate(flat.groups) if d not in dims[1:]
    ]
    return _index_one(reader, Layout(merged, tuple(new_groups)), dims[0], Layout(flat_index, groups))
