"""Selection and assembly: slices, gathers, concatenation and writes into parts."""

from __future__ import annotations

from typing import Any

import torch

from depthrank.sharing.ir import Node
from depthrank.sharing.layout import BATCH, Group, Layout, canonical, reshape
from depthrank.sharing.normal_form.flat_index import plainly
from depthrank.sharing.normal_form.reader import Reader, RowCount, rule
from depthrank.sharing.normal_form.rows_one_by_one import RowOf, one_row


@rule("aten.slice.Tensor", "aten.narrow.default")
def slice_(reader: Reader, x: Layout, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Layout:
    dim %= x.rank
    if reader.name.startswith("aten.narrow"):
        end = start + end
    size, times_batch = reader.result_sizes()[dim]
    if x.holds_batch(dim):
        x = batch_last(x, dim)
        if size == x.size(dim) and times_batch and step == 1:
            return x
        return _some_batches(reader, x, dim, size, times_batch and step == 1)
    if isinstance(start, RowCount) or isinstance(end, RowCount):
        reader.refuse("a slice depends on the number of rows")
    if size == x.size(dim) and step == 1:
        return x
    first = 0 if start is None else (start + x.size(dim) if start < 0 else start)
    return cut(reader, x, dim, first, size, step)


def batch_last(x: Layout, dim: int) -> Layout:
    """A constant that is one number everywhere folds the batch in any order: here with the rows last."""
    node = plainly(x.node)
    is_one_number = node.numel == 1 or (node.op == "expand" and node.args[0].numel == 1)
    if x.node.batched or not is_one_number or not x.holds_batch(dim):
        return x
    group = (*(a for a in x.groups[dim] if a != BATCH), BATCH)
    return Layout(x.node, (*x.groups[:dim], group, *x.groups[dim + 1 :]))


def thick(reader: Reader, x: Layout, dim: int) -> Layout:
    """A dimension that folds others before the batch, as two: those, and the batch."""
    groups = (*x.groups[:dim], x.groups[dim][:-1], (BATCH,), *x.groups[dim + 1 :])
    return canonical(reader.graph, Layout(x.node, groups))


def folded(x: Layout, dim: int) -> Layout:
    """The other way round."""
    merged = x.groups[dim] + x.groups[dim + 1]
    return Layout(x.node, (*x.groups[:dim], merged, *x.groups[dim + 2 :]))


def first_batch(reader: Reader, x: Layout, dim: int, place: int) -> int:
    """Where a slice along a folded batch begins, in batches; the number stands in the captured call."""
    assert reader.current is not None
    raw = reader.current.args[place] if len(reader.current.args) > place else 0
    start = getattr(raw, "meta", {}).get("val", raw)
    count, times_batch = (0, True) if start is None or start == 0 else reader.size_of(start)
    if not times_batch or x.groups[dim][-1] != BATCH:
        reader.refuse("a slice reads particular rows of the batch")
    return count


def _some_batches(reader: Reader, x: Layout, dim: int, size: int, whole: bool) -> Layout:
    """A slice of a folded batch [L * B] that takes all rows of some of the L."""
    if not whole or len(x.groups[dim]) < 2 or x.groups[dim][-1] != BATCH:
        reader.refuse("a slice reads particular rows of the batch")
    return folded(cut(reader, thick(reader, x, dim), dim, first_batch(reader, x, dim, 2), size), dim)


def cut(reader: Reader, x: Layout, dim: int, first: int, size: int, step: int = 1) -> Layout:
    """``size`` entries of a dimension from ``first``, every ``step``."""
    x = canonical(reader.graph, x)
    axis = reader.axis(x, dim)
    dims = list(x.node.dims)
    dims[axis] = size
    end = first + (size - 1) * step + 1 if size else first
    node = reader.node("aten.slice.Tensor", [x.node, axis, first, end, step], dims, x.node.dtype)
    return Layout(node, x.groups)


@rule("aten.select.int")
def select(reader: Reader, x: Layout, dim: int, index: Any) -> Layout | RowOf:
    dim %= x.rank
    rows = reader.captured.batch
    if x.groups[dim] == (BATCH,) and isinstance(rows, int) and isinstance(index, int):
        return one_row(x, dim, index % rows)
    reader.forbid_batch(x, dim, "select reads one row of")
    if isinstance(index, RowCount):
        reader.refuse("a selected position depends on the number of rows")
    one = cut(reader, x, dim, index % x.size(dim), 1)
    axis = one.groups[dim][0]
    node = reshape(reader.graph, one.node, [s for a, s in enumerate(one.node.dims) if a != axis])
    groups = [tuple(a - 1 if a > axis else a for a in g) for d, g in enumerate(one.groups) if d != dim]
    return Layout(node, tuple(groups))


@rule(
    "aten.split.Tensor",
    "aten.split_with_sizes.default",
    "aten.chunk.default",
    "aten.split.sizes",
    "aten.tensor_split.sections",
)
def split(reader: Reader, x: Layout, sizes: Any, dim: int = 0) -> list[Layout]:
    dim %= x.rank
    assert reader.current is not None
    if x.holds_batch(dim):
        return _whole_batches(reader, x, dim, [reader.size_of(v.shape[dim]) for v in reader.current.meta["val"]])
    parts = [reader.size_of(v.shape[dim])[0] for v in reader.current.meta["val"]]
    out, first = [], 0
    for size in parts:
        out.append(cut(reader, x, dim, first, size))
        first += size
    return out


def _whole_batches(reader: Reader, x: Layout, dim: int, sizes: list[tuple[int, bool]]) -> list[Layout]:
    """Pieces along a dimension that folds others before the batch, each of whole batches."""
    if x.groups[dim][-1] != BATCH or any(not times_batch for _, times_batch in sizes):
        reader.forbid_batch(x, dim, "splitting")
    if len(sizes) == 1:
        return [x]
    out, first = [], 0
    for size, _ in sizes:
        out.append(folded(cut(reader, thick(reader, x, dim), dim, first, size), dim))
        first += size
    return out


@rule("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def cat(reader: Reader, tensors: list[Layout], dim: int = 0) -> Layout:
    return joined(reader, tensors, dim)


def joined(reader: Reader, tensors: list[Layout], dim: int) -> Layout:
    """Tensors one after the other along a dimension that is not the batch."""
    kept = [x for x in tensors if not (x.rank == 1 and x.size(0) == 0 and not x.holds_batch(0))]
    dim %= kept[0].rank
    kept = [x for x in kept if x.holds_batch(dim) or x.size(dim)] or kept[:1]
    if any(x.holds_batch(dim) for x in kept):
        return _stacked_before_rows(reader, kept, dim)
    dtype = reader.result_dtype()
    flats = [canonical(reader.graph, x) for x in kept]
    others = [Layout(x.node, tuple(() if d == dim else g for d, g in enumerate(x.groups))) for x in kept]
    if any(x.groups != flats[0].groups for x in flats):
        return _cat_aligned(reader, kept, others, dim, dtype)
    axis = reader.axis(flats[0], dim)
    nodes = [cast_node(reader, x.node, dtype) for x in flats]
    return Layout(_cat(reader, nodes, axis, dtype), flats[0].groups)


def _stacked_before_rows(reader: Reader, tensors: list[Layout], dim: int) -> Layout:
    """[x; y] of whole batches: heads laid along the batch dimension, a new axis before the rows."""
    if any(x.groups[dim][-1:] != (BATCH,) for x in tensors):
        reader.forbid_batch(next(x for x in tensors if x.holds_batch(dim)), dim, "concatenation along")
    apart = [Layout(x.node, (*x.groups[:dim], x.groups[dim][:-1], (BATCH,), *x.groups[dim + 1 :])) for x in tensors]
    return folded(joined(reader, apart, dim), dim)


def _cat(reader: Reader, nodes: list[Node], axis: int, dtype: torch.dtype) -> Node:
    if len(nodes) == 1:
        return nodes[0]
    dims = list(nodes[0].dims)
    dims[axis] = sum(n.dims[axis] for n in nodes)
    return reader.node("cat", [nodes, axis], dims, dtype)


def cast_node(reader: Reader, node: Node, dtype: torch.dtype) -> Node:
    return (
        node
        if node.dtype == dtype
        else reader.node("aten._to_copy.default", [node], node.dims, dtype, {"dtype": dtype})
    )


def _cat_aligned(reader: Reader, kept: list[Layout], others: list[Layout], dim: int, dtype: torch.dtype) -> Layout:
    """Parts that hold the batch differently (constants among them): common axes first, then concatenate."""
    lead: tuple[Group, ...] | None = None
    rank = kept[0].rank
    with_batch = next((x for x in kept if x.batch_dim is not None), kept[0])
    folded = with_batch.batch_dim is not None and len(with_batch.groups[with_batch.batch_dim]) > 1
    if folded:
        reader.refuse("concatenation of tensors that fold the batch differently")
    nodes: list[Node] = []
    for x in kept:
        flat = canonical(reader.graph, x)
        axes = [flat.groups[d][0] for d in range(rank) if not flat.holds_batch(d)]
        if with_batch.batch_dim is not None and x.batch_dim is None:
            reader.refuse("concatenation of tensors that fold the batch differently")
        nodes.append(cast_node(reader, flat.node, dtype))
        assert axes == list(range(len(axes)))
        lead = flat.groups
    assert lead is not None
    axis = lead[dim][0] - len(nodes[0].dims)
    return Layout(_cat(reader, nodes, axis, dtype), lead)


@rule("aten.hstack.default", "aten.vstack.default")
def side_by_side(reader: Reader, tensors: list[Layout]) -> Layout:
    """hstack joins along dimension 1 (0 for vectors)."""
    if reader.name == "aten.vstack.default":
        return joined(reader, tensors, 0)
    return joined(reader, tensors, 1 if tensors[0].rank > 1 else 0)


@rule("aten.column_stack.default")
def columns(reader: Reader, tensors: list[Layout]) -> Layout:
    """Vectors become columns."""
    return joined(reader, [Layout(x.node, (*x.groups, ())) if x.rank == 1 else x for x in tensors], 1)


@rule("aten.stack.default")
def stack(reader: Reader, tensors: list[Layout], dim: int = 0) -> Layout:
    place = dim % (tensors[0].rank + 1)
    return joined(reader, [Layout(x.node, (*x.groups[:place], (), *x.groups[place:])) for x in tensors], place)


@rule("aten.gather.default")
def gather(reader: Reader, x: Layout, dim: int, index: Layout, **kwargs: Any) -> Layout:
    dim %= x.rank
    reader.forbid_batch(x, dim, "gather along")
    if index.batch_dim != x.batch_dim:
        reader.refuse("gather pairs rows of the batch with another dimension")
    a, b = canonical(reader.graph, x), canonical(reader.graph, index)
    if a.node.batched != b.node.batched:
        wide = a if a.node.batched else b
        thin = b if wide is a else a
        zero = reader.node("aten.mul.Scalar", [first_entry(reader, wide), 0])
        zero = reader.node("aten._to_copy.default", [zero], zero.dims, thin.node.dtype, {"dtype": thin.node.dtype})
        raised = reader.node("aten.add.Tensor", [reshape(reader.graph, zero, [1] * len(thin.node.dims)), thin.node])
        a, b = (a, Layout(raised, b.groups)) if wide is a else (Layout(raised, a.groups), b)
    sizes = [b.node.dims[b.groups[d][0]] for d in range(b.rank) if not b.holds_batch(d)]
    node = reader.node("row_gather", [a.node, reader.axis(a, dim), b.node], sizes, x.node.dtype)
    return Layout(node, b.groups)


def first_entry(reader: Reader, x: Layout) -> Node:
    """One number a row, to lend its rows to a constant."""
    flat = reshape(reader.graph, x.node, [x.node.numel])
    return reader.node("aten.slice.Tensor", [flat, -1, 0, 1, 1], [1], flat.dtype)


@rule("aten.tril.default", "aten.triu.default")
def triangle(reader: Reader, x: Layout, diagonal: int = 0) -> Layout:
    for d in (x.rank - 2, x.rank - 1):
        reader.forbid_batch(x, d, f"{reader.name} over")
    flat = canonical(reader.graph, x)
    return Layout(reader.node(reader.name, [flat.node, diagonal], flat.node.dims, x.node.dtype), flat.groups)


@rule("aten.nonzero.default", "aten.masked_select.default", "aten.unique.default", "aten._unique2.default")
def data_dependent(reader: Reader, *args: Any, **kwargs: Any) -> None:
    reader.refuse(f"{reader.name} gives a result whose size depends on the values")
