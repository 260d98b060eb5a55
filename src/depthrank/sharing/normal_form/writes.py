"""Writes into parts of a tensor: what stands before, what is written, what stands after."""

from __future__ import annotations

from typing import Any

import torch

from depthrank.sharing.layout import BATCH, Layout, align, canonical, plain, reshape
from depthrank.sharing.normal_form.reader import Reader, RowCount, rule
from depthrank.sharing.normal_form.selection import cast_node, cut, first_entry, joined


@rule("aten.slice_scatter.default")
def slice_scatter(
    reader: Reader, x: Layout, source: Layout, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Layout:
    """x with the source written over a slice: what stands before, the source, what stands after."""
    dim %= x.rank
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
    """x[mask] = number, as a choice; x[:, positions] = values for constant positions; no other indexed write."""
    named = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(named) == 1 and not named[0][1].node.batched and named[0][1].node.dtype != torch.bool and not accumulate:
        dim, index = named[0]
        if index.rank != 1:
            reader.refuse("a write at positions that form a matrix has no rule for sharing")
        return _put(reader, x, dim, [int(p) % x.size(dim) for p in reader.constant_tensor(index.node)], values)
    mask = indices[0]
    if len(indices) != 1 or mask is None or mask.node.dtype != torch.bool or accumulate or values.node.numel != 1:
        reader.refuse("an indexed write other than x[mask] = number has no rule for sharing")
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


@rule("aten.scatter.src", "aten.scatter.value", "aten.scatter_add.default")
def scatter(reader: Reader, x: Layout, dim: int, index: Layout, source: Any) -> Layout:
    dim %= x.rank
    reader.forbid_batch(x, dim, "scatter along")
    layouts = [x, index] + ([source] if isinstance(source, Layout) else [])
    if len({y.batch_dim for y in layouts}) != 1 or len({y.node.batched for y in layouts if y is not x}) != 1:
        reader.refuse("scatter pairs rows of the batch with another dimension")
    flats = [canonical(reader.graph, y) for y in layouts]
    base = flats[0].node
    if not base.batched and flats[1].node.batched:
        zero = reader.node("aten.mul.Scalar", [first_entry(reader, flats[1]), 0])
        zero = reader.node("aten._to_copy.default", [zero], zero.dims, base.dtype, {"dtype": base.dtype})
        base = reader.node("aten.add.Tensor", [reshape(reader.graph, zero, [1] * len(base.dims)), base])
    last = flats[2].node if isinstance(source, Layout) else source
    node = reader.node(reader.name, [base, reader.axis(flats[0], dim), flats[1].node, last], base.dims, x.node.dtype)
    return Layout(node, flats[0].groups)
