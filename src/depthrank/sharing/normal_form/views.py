"""Views: atoms are regrouped, nothing is computed."""

from __future__ import annotations

from typing import Any

from depthrank.sharing.layout import BATCH, Layout, canonical, regroup, reshape
from depthrank.sharing.normal_form.reader import Reader, rule
from depthrank.sharing.normal_form.rows_one_by_one import RowOf


@rule(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.reshape.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.view_copy.default",
)
def view(reader: Reader, x: Layout, *args: Any, **kwargs: Any) -> Layout:
    return regroup(reader.graph, x, reader.result_sizes())


@rule("aten.permute.default")
def permute(reader: Reader, x: Layout, order: list[int]) -> Layout:
    return Layout(x.node, tuple(x.groups[d % x.rank] for d in order))


@rule("aten.transpose.int", "aten.swapaxes.default", "aten.t.default", "aten.numpy_T.default", "aten.mT.default")
def transpose(reader: Reader, x: Layout, first: int | None = None, second: int | None = None) -> Layout:
    if first is None or second is None:
        first, second = (-2, -1) if x.rank >= 2 else (0, 0)
    groups = list(x.groups)
    a, b = first % x.rank, second % x.rank
    groups[a], groups[b] = groups[b], groups[a]
    return Layout(x.node, tuple(groups))


@rule("aten.movedim.intlist", "aten.movedim.int")
def movedim(reader: Reader, x: Layout, source: Any, target: Any) -> Layout:
    sources = [s % x.rank for s in (source if isinstance(source, list) else [source])]
    targets = [t % x.rank for t in (target if isinstance(target, list) else [target])]
    order: list[int | None] = [None] * x.rank
    for s, t in zip(sources, targets):
        order[t] = s
    rest = iter([d for d in range(x.rank) if d not in sources])
    return Layout(x.node, tuple(x.groups[next(rest) if d is None else d] for d in order))


@rule("aten.unsqueeze.default")
def unsqueeze(reader: Reader, x: Layout, dim: int) -> Layout:
    place = dim % (x.rank + 1)
    return Layout(x.node, (*x.groups[:place], (), *x.groups[place:]))


@rule("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims")
def squeeze(reader: Reader, x: Layout, dims: Any = None) -> Layout:
    """Dimensions of size one go; the batch stays even where one row is scored."""
    if dims is None:
        chosen = set(range(x.rank))
    else:
        chosen = {d % x.rank for d in (dims if isinstance(dims, list) else [dims])} if x.rank else set()
    return Layout(x.node, tuple(g for d, g in enumerate(x.groups) if d not in chosen or not x.is_one(d)))


@rule("aten.expand.default", "aten.broadcast_to.default", "aten.expand_as.default")
def expand(reader: Reader, x: Layout, *args: Any, **kwargs: Any) -> Layout:
    """Repeat along dimensions of size one; along the batch it costs nothing and stays unreplicated."""
    sizes = reader.result_sizes()
    x = Layout(x.node, ((),) * (len(sizes) - x.rank) + x.groups)
    for dim, (size, times_batch) in enumerate(sizes):
        if not x.is_one(dim) or (size == 1 and not times_batch):
            continue
        if times_batch and (size != 1 or x.batch_dim is not None):
            reader.refuse("a tensor is repeated along a second batch dimension (in-batch interaction)")
        x = _spread_over_batch(x, dim) if times_batch else repeated(reader, x, dim, size)
    return x


def _spread_over_batch(x: Layout, dim: int) -> Layout:
    return Layout(x.node, (*x.groups[:dim], (BATCH,), *x.groups[dim + 1 :]))


def repeated(reader: Reader, x: Layout, dim: int, size: int) -> Layout:
    dims = (*x.node.dims, 1)
    node = reshape(reader.graph, x.node, dims)
    node = reader.node("expand", [node, (*x.node.dims, size)], (*x.node.dims, size), node.dtype)
    return Layout(node, (*x.groups[:dim], (len(dims) - 1,), *x.groups[dim + 1 :]))


@rule("aten.repeat.default", "aten.tile.default")
def repeat(reader: Reader, x: Layout, repeats: list[Any]) -> Layout:
    """Repeat whole dimensions: an outer repetition in front of each."""
    sizes = reader.result_sizes()
    x = Layout(x.node, ((),) * (len(sizes) - x.rank) + x.groups)
    for dim, (size, times_batch) in enumerate(sizes):
        if times_batch and not x.holds_batch(dim):
            if not x.is_one(dim) or size != 1 or x.batch_dim is not None:
                reader.refuse("a tensor is repeated along a second batch dimension (in-batch interaction)")
            x = _spread_over_batch(x, dim)
            continue
        times = size // x.size(dim)
        if times == 1:
            continue
        spread = Layout(x.node, (*x.groups[:dim], (), *x.groups[dim:]))
        spread = repeated(reader, spread, dim, times)
        merged = spread.groups[dim] + spread.groups[dim + 1]
        x = Layout(spread.node, (*spread.groups[:dim], merged, *spread.groups[dim + 2 :]))
    return x


@rule("aten.unbind.int")
def unbind(reader: Reader, x: Layout, dim: int = 0) -> list[Layout | RowOf]:
    from depthrank.sharing.normal_form.selection import select

    assert reader.current is not None
    return [select(reader, x, dim, k) for k in range(len(reader.current.meta["val"]))]


@rule("aten.diagonal.default", "aten.diagonal_copy.default")
def diagonal(reader: Reader, x: Layout, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Layout:
    """The diagonal of two dimensions, as the last dimension."""
    a, b = dim1 % x.rank, dim2 % x.rank
    for dim in (a, b):
        reader.forbid_batch(x, dim, "a diagonal along")
    rest = [d for d in range(x.rank) if d not in (a, b)]
    x = canonical(reader.graph, x, [*rest, a, b])
    node = reader.node("aten.diagonal_copy.default", [x.node, offset, -2, -1])
    groups = tuple(x.groups[d] for d in rest)
    return Layout(node, (*groups, (len(node.dims) - 1,)))
