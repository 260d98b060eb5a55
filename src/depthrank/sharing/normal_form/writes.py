"""Writes into parts of a tensor: what stands before, what is written, what stands after."""

from __future__ import annotations

from typing import Any

import torch

from depthrank.sharing.ir import Node, product
from depthrank.sharing.layout import BATCH, Layout, align, canonical, plain, reshape
from depthrank.sharing.normal_form.flat_index import plainly
from depthrank.sharing.normal_form.reader import Reader, RowCount, rule
from depthrank.sharing.normal_form.rows_one_by_one import is_row_numbers
from depthrank.sharing.normal_form.selection import (
    batch_last,
    cast_node,
    cut,
    first_batch,
    first_entry,
    folded,
    joined,
    thick,
)


@rule("aten.slice_scatter.default")
def slice_scatter(
    reader: Reader, x: Layout, source: Layout, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Layout:
    """x with the source written over a slice: what stands before, the source, what stands after."""
    dim %= x.rank
    x = batch_last(x, dim)
    in_part = len(x.groups[dim]) > 1 and source.groups[dim][-1:] == (BATCH,) and source.size(dim) != x.size(dim)
    if x.holds_batch(dim) and in_part and step == 1:
        return _some_batches(reader, x, source, dim)
    if x.holds_batch(dim):
        if isinstance(start, RowCount) or (start or 0) != 0 or source.size(dim) != x.size(dim):
            reader.refuse("a write reaches particular rows of the batch")
        return _written(reader, x, source)
    size = x.size(dim)
    first = min(max((start or 0) + (size if (start or 0) < 0 else 0), 0), size)
    if step != 1:
        return _put(reader, x, dim, list(range(first, first + step * source.size(dim), step)), source)
    last = first + source.size(dim)
    parts = [cut(reader, x, dim, 0, first)] if first else []
    parts.append(source)
    if last < size:
        parts.append(cut(reader, x, dim, last, size - last))
    return _assemble(reader, x, parts, dim)


def _some_batches(reader: Reader, x: Layout, source: Layout, dim: int) -> Layout:
    """A write to all rows of some of the L of a folded batch [L * B]."""
    first = first_batch(reader, x, dim, 3)
    whole, last = thick(reader, x, dim), first + source.size(dim)
    parts = [cut(reader, whole, dim, 0, first)] if first else []
    parts.append(thick(reader, source, dim))
    if last < x.size(dim):
        parts.append(cut(reader, whole, dim, last, x.size(dim) - last))
    return folded(joined(reader, parts, dim), dim)


def _written(reader: Reader, x: Layout, source: Layout) -> Layout:
    dtype = x.node.dtype
    node = cast_node(reader, source.node, dtype)
    return Layout(node, source.groups)


def _assemble(reader: Reader, x: Layout, parts: list[Layout], dim: int) -> Layout:
    """Concatenate parts of which some may be constants without the batch."""
    lead = next((p for p in [x, *parts] if p.batch_dim is not None), None)
    if lead is not None:
        batch = lead.batch_dim
        fixed = []
        for p in parts:
            if p.batch_dim is None:
                if not p.is_one(batch if batch is not None else 0):
                    reader.refuse("a write reaches particular rows of the batch")
                groups = tuple((BATCH,) if d == batch else g for d, g in enumerate(p.groups))
                p = Layout(p.node, groups)
            fixed.append(p)
        parts = fixed
    return joined(reader, parts, dim)


@rule("aten.select_scatter.default")
def select_scatter(reader: Reader, x: Layout, source: Layout, dim: int, index: int) -> Layout:
    dim %= x.rank
    reader.forbid_batch(x, dim, "a write to one row of")
    place = index % x.size(dim)
    thick = Layout(source.node, (*source.groups[:dim], (), *source.groups[dim:]))
    parts = [cut(reader, x, dim, 0, place)] if place else []
    parts.append(thick)
    if place + 1 < x.size(dim):
        parts.append(cut(reader, x, dim, place + 1, x.size(dim) - place - 1))
    return _assemble(reader, x, parts, dim)


@rule("aten.index_put.default")
def index_put(
    reader: Reader, x: Layout, indices: list[Layout | None], values: Layout, accumulate: bool = False
) -> Layout:
    """x[mask] = number; x[:, positions] = values for constant positions; x[arange(B), own] = values; += for these."""
    named = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(named) == 1 and not named[0][1].node.batched and named[0][1].node.dtype != torch.bool:
        dim, index = named[0]
        if index.rank != 1:
            reader.refuse("a write at positions that form a matrix has no rule for sharing")
        positions = [int(p) % x.size(dim) for p in reader.constant_tensor(index.node)]
        if accumulate:
            return _added(reader, x, dim, positions, values)
        return _put(reader, x, dim, positions, values)
    if [d for d, _ in named] == [0, 1] and x.groups[0] == (BATCH,) and is_row_numbers(plainly(named[0][1].node)):
        return _put_in_own_row(reader, x, named[1][1], values, accumulate)
    mask = indices[0]
    if len(indices) != 1 or mask is None or mask.node.dtype != torch.bool or accumulate or values.node.numel != 1:
        reader.refuse("a write to entries that an index picks over the batch has no rule for sharing")
    mask = Layout(mask.node, (*mask.groups, *([()] * (x.rank - mask.rank))))
    number = plain(reshape(reader.graph, values.node, [])) if not values.node.batched else values
    number = Layout(number.node, tuple(() for _ in range(x.rank))) if not number.node.batched else number
    nodes, groups, dims = align(reader.graph, [mask, number, x])
    return Layout(reader.node("aten.where.self", nodes, dims, x.node.dtype), groups)


def _put(reader: Reader, x: Layout, dim: int, positions: list[int], values: Layout) -> Layout:
    """Written positions come from the values, the others from x: one take of both laid side by side."""
    reader.forbid_batch(x, dim, "a write to particular rows of")
    source = Layout(values.node, ((),) * (x.rank - values.rank) + values.groups)
    if any(
        d != dim and (source.size(d), source.holds_batch(d)) != (x.size(d), x.holds_batch(d)) for d in range(x.rank)
    ):
        if source.node.numel != 1 or source.node.batched:
            reader.refuse("a write that broadcasts its values has no rule for sharing")
        nodes, groups, dims = align(reader.graph, [source, x])
        source = cut(
            reader, Layout(reader.node("expand", [nodes[0], dims], dims, source.node.dtype), groups), dim, 0, 1
        )
    if source.size(dim) != len(positions):
        source = joined(reader, [source] * len(positions), dim)
    both = canonical(reader.graph, _assemble(reader, x, [x, source], dim))
    place = list(range(x.size(dim)))
    for k, p in enumerate(positions):
        place[p] = x.size(dim) + k
    taken = reader.graph.literal(torch.tensor(place, dtype=torch.int64))
    return Layout(reader.node("take", [both.node, reader.axis(both, dim), taken]), both.groups)


def _added(reader: Reader, x: Layout, dim: int, positions: list[int], values: Layout) -> Layout:
    """x with values added at constant positions, of which some may come more than once."""
    rounds: list[list[int]] = []  # places among the values, every position at most once in a round
    for k, p in enumerate(positions):
        own = next((r for r in rounds if p not in (positions[j] for j in r)), None)
        if own is None:
            rounds.append(own := [])
        own.append(k)
    nothing = reader.graph.literal(torch.zeros(x.node.dims, dtype=x.node.dtype))
    out = x
    for own in rounds:
        some = values
        if len(own) < len(positions):
            some = joined(reader, [cut(reader, values, dim, k, 1) for k in own], dim)
        more = _put(reader, Layout(nothing, x.groups), dim, [positions[k] for k in own], some)
        nodes, groups, dims = align(reader.graph, [out, more])
        out = Layout(reader.node("aten.add.Tensor", nodes, dims, x.node.dtype), groups)
    return out


def _put_in_own_row(reader: Reader, x: Layout, own: Layout, values: Layout, accumulate: bool) -> Layout:
    """x[arange(B), own] = values or += values, as a scatter along dimension 1."""
    if own.batch_dim != 0 or own.rank > 2:
        reader.refuse("a write whose rows and positions lie differently over the batch has no rule for sharing")
    flat, index = canonical(reader.graph, x), canonical(reader.graph, own)
    count, rest = index.node.numel, flat.node.dims[1:]
    index_node = reshape(reader.graph, index.node, [count, *([1] * len(rest))])
    wrapped = reader.node("aten.remainder.Scalar", [index_node, x.size(1)])
    wide = reader.node("expand", [wrapped, [count, *rest]], [count, *rest])
    source = values
    if values.batch_dim is None or not values.node.batched:
        zero = reader.node("aten.mul.Scalar", [wrapped, 0])
        zero = reader.node("aten._to_copy.default", [zero], zero.dims, x.node.dtype, {"dtype": x.node.dtype})
        lead = Layout(zero, ((BATCH,), *((k,) for k in range(len(zero.dims)))))
        nodes, groups, dims = align(reader.graph, [lead, Layout(values.node, values.groups)])
        source = Layout(reader.node("aten.add.Tensor", nodes, dims, x.node.dtype), groups)
    node = cast_node(reader, canonical(reader.graph, source).node, x.node.dtype)
    node = reshape(reader.graph, node, [count, *rest]) if node.numel == count * product(rest) else node
    full = node if node.dims == (count, *rest) else reader.node("expand", [node, [count, *rest]], [count, *rest])
    op = "aten.scatter_add.default" if accumulate else "aten.scatter.src"
    base = flat.node if flat.node.batched else _with_rows(reader, flat.node, wide)
    return Layout(reader.node(op, [base, -len(flat.node.dims), wide, full], base.dims, x.node.dtype), flat.groups)


def _with_rows(reader: Reader, constant: Node, rows: Node) -> Node:
    """A constant with the rows of another value, so that they can be written apart."""
    zero = reader.node("aten.mul.Scalar", [first_entry(reader, plain(rows)), 0])
    zero = reader.node("aten._to_copy.default", [zero], zero.dims, constant.dtype, {"dtype": constant.dtype})
    return reader.node("aten.add.Tensor", [reshape(reader.graph, zero, [1] * len(constant.dims)), constant])


@rule("aten.scatter.src", "aten.scatter.value", "aten.scatter_add.default", "aten.scatter_reduce.two")
def scatter(reader: Reader, x: Layout, dim: int, index: Layout, source: Any, *how: Any, **kwargs: Any) -> Layout:
    dim %= x.rank
    reader.forbid_batch(x, dim, "scatter along")
    layouts = [x, index] + ([source] if isinstance(source, Layout) else [])
    if len({y.batch_dim for y in layouts}) != 1 or len({y.node.batched for y in layouts if y is not x}) != 1:
        reader.refuse("scatter pairs rows of the batch with another dimension")
    flats = [canonical(reader.graph, y) for y in layouts]
    base = flats[0].node
    if not base.batched and flats[1].node.batched:
        base = _with_rows(reader, base, flats[1].node)
    last = flats[2].node if isinstance(source, Layout) else source
    args = [base, reader.axis(flats[0], dim), flats[1].node, last, *how]
    node = reader.node(reader.name, args, base.dims, x.node.dtype, kwargs)
    return Layout(node, flats[0].groups)
