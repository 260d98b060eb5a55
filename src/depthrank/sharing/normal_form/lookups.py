"""Embedding lookups, recurrent nets, convolutions, and tensors made from nothing."""

from __future__ import annotations

from typing import Any

import torch

from depthrank.sharing.ir import Node, Region
from depthrank.sharing.layout import BATCH, Layout, canonical, plain, reshape
from depthrank.sharing.normal_form.reader import Reader, RowCount, drop_row_counts, rule
from depthrank.sharing.normal_form.rows_one_by_one import ROW_NUMBERS
from depthrank.sharing.normal_form.views import repeated


@rule("aten.embedding.default")
def embedding(reader: Reader, weight: Layout, index: Layout, padding_idx: int = -1, *args: Any) -> Layout:
    """Rows of a constant table by an index of any shape."""
    padding = None if padding_idx < 0 else padding_idx
    if weight.node.batched:
        reader.refuse("the table of an embedding lookup depends on the input")
    node = reader.node(
        "embedding", [weight.node, index.node, padding], [*index.node.dims, weight.node.dims[1]], weight.node.dtype
    )
    return Layout(node, (*index.groups, (len(index.node.dims),)))


@rule("aten.embedding_renorm.default")
def renormalised(reader: Reader, *args: Any) -> None:
    reader.refuse(
        "an embedding with max_norm writes to its table in forward; renormalise the table once, drop max_norm"
    )


@rule("aten.embedding_bag.padding_idx", "aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
def embedding_bag(
    reader: Reader,
    weight: Layout,
    index: Layout,
    offsets: Any,
    scale_grad: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Layout | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> list[Any]:
    """Bags of equal length only: [B, L] indices, or [B * bags, L], so a sum, mean or maximum over L."""
    length = offsets.step if isinstance(offsets, RowSteps) else None
    if length is None or index.rank != 1 or not index.holds_batch(0) or index.size(0) % length:
        reader.refuse("embedding_bag with bags of unequal length; pad them to [B, L]")
    if index.groups[0][0] != BATCH:
        reader.refuse("embedding_bag over a batch that is folded inside out")
    bags = [index.size(0) // length] if index.size(0) > length else []
    flat = reshape(reader.graph, canonical(reader.graph, index).node, [*bags, length])
    rows = reader.node("embedding", [weight.node, flat, None], [*flat.dims, weight.node.dims[1]], weight.node.dtype)
    dims = [*bags, weight.node.dims[1]]
    if per_sample_weights is not None:
        factor = reshape(reader.graph, per_sample_weights.node, [*flat.dims, 1])
        rows = reader.node("aten.mul.Tensor", [rows, factor], rows.dims, rows.dtype)
    if padding_idx is not None and padding_idx >= 0:
        rows = _masked_bag(reader, rows, flat, padding_idx, mode)
        count_mask = True
    else:
        count_mask = False
    if mode == 2:
        out = reader.node("aten.amax.default", [rows, [-2]], dims, rows.dtype)
        if count_mask:  # a bag of nothing but padding is zero
            empty = reader.node("aten.eq.Scalar", [out, -float("inf")], dims, torch.bool)
            out = reader.node("aten.masked_fill.Scalar", [out, empty, 0.0], dims, rows.dtype)
    else:
        op = "aten.mean.dim" if mode == 1 and not count_mask else "aten.sum.dim_IntList"
        out = reader.node(op, [rows, [-2]], dims, rows.dtype)
    if mode == 1 and count_mask:
        keep = reader.node("aten.ne.Scalar", [flat, padding_idx], flat.dims, torch.bool)
        count = reader.node("aten.sum.dim_IntList", [keep, [-1]])
        some = reader.node("aten.clamp.default", [count, 1], bags, count.dtype)
        out = reader.node("aten.div.Tensor", [out, reshape(reader.graph, some, [*bags, 1])], dims, rows.dtype)
    return [Layout(out, ((BATCH, 0), (1,)) if bags else ((BATCH,), (0,))), None, None, None]


def _masked_bag(reader: Reader, rows: Node, index: Node, padding: int, mode: int) -> Node:
    keep = reader.node("aten.ne.Scalar", [index, padding], index.dims, torch.bool)
    if mode == 2:
        wide = reshape(reader.graph, keep, [*keep.dims, 1])
        return reader.node("aten.where.ScalarOther", [wide, rows, -float("inf")], rows.dims, rows.dtype)
    factor = reader.node("aten._to_copy.default", [keep], keep.dims, rows.dtype, {"dtype": rows.dtype})
    return reader.node(
        "aten.mul.Tensor", [rows, reshape(reader.graph, factor, [*factor.dims, 1])], rows.dims, rows.dtype
    )


class RowSteps:
    """arange(0, B * step, step): where each row's bag starts."""

    def __init__(self, step: int) -> None:
        self.step = step


@rule("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def arange(reader: Reader, *args: Any, **kwargs: Any) -> Any:
    """A range; over the batch it is the row number, allowed only to pick each row's own entries."""
    ((size, times_batch),) = reader.result_sizes()
    if not times_batch:
        drop_row_counts(reader, args)
        tensor = torch.arange(*args, **{k: v for k, v in kwargs.items() if k == "dtype"})
        return plain(reader.graph.literal(tensor))
    step = args[2] if len(args) > 2 else 1
    start = args[0] if len(args) > 1 else 0
    for_bags = all("embedding_bag" in str(user.target) for user in reader.current.users)  # type: ignore[union-attr]
    if start == 0 and isinstance(step, int) and for_bags:
        return RowSteps(step)
    if size == 1 and start == 0 and isinstance(step, int):
        numbers = reader.graph.input(ROW_NUMBERS, Region.MIXED, (), torch.int64)
        own = numbers if step == 1 else reader.node("aten.mul.Scalar", [numbers, step], [], torch.int64)
        return Layout(own, ((BATCH,),))
    return reader.refuse("a range over the batch numbers its rows")


@rule(
    "aten.tril_indices.default",
    "aten.triu_indices.default",
    "aten.eye.default",
    "aten.eye.m",
    "aten.linspace.default",
    "aten.logspace.default",
    "aten.hann_window.default",
)
def computed(reader: Reader, *args: Any, **kwargs: Any) -> Layout:
    """A constant that torch computes from numbers alone."""
    drop_row_counts(reader, args)
    own = {k: v for k, v in kwargs.items() if k == "dtype" and v is not None}
    assert reader.current is not None
    return plain(reader.graph.literal(reader.current.target(*args, **own)))  # type: ignore[operator]


@rule(
    "aten.zeros.default",
    "aten.ones.default",
    "aten.full.default",
    "aten.zeros_like.default",
    "aten.ones_like.default",
    "aten.full_like.default",
    "aten.new_zeros.default",
    "aten.new_ones.default",
    "aten.new_full.default",
    "aten.scalar_tensor.default",
    "aten.fill.Scalar",
    "aten.fill.Tensor",
    "aten.empty.memory_format",
    "aten.new_empty.default",
    "aten.empty_like.default",
)
def filled(reader: Reader, *args: Any, **kwargs: Any) -> Layout:
    """A tensor of one number; if it has the batch among its sizes it stays a constant without rows."""
    name = reader.name
    number: Any = 1.0 if ".ones" in name or ".new_ones" in name else 0.0
    if "full" in name or "fill." in name:
        number = args[2] if name == "aten.new_full.default" else args[1]
    if name == "aten.scalar_tensor.default":
        number = args[0]
    drop_row_counts(reader, [number])
    sizes = reader.result_sizes()
    if isinstance(number, Layout):
        if number.node.batched or number.node.numel != 1:
            reader.refuse("a tensor is filled with a number that depends on the input")
        node = reshape(reader.graph, number.node, [])
    else:
        node = _number(reader, number, as_wide_as_another="like" in name or ".new_" in name or "fill." in name)
    groups: list[tuple[int, ...]] = []
    dims: list[int] = []
    for size, times_batch in sizes:
        group: list[int] = []
        if times_batch:
            group.append(BATCH)
        if size != 1:
            group.append(len(dims))
            dims.append(size)
        groups.append(tuple(group))
    if dims:
        ones = reshape(reader.graph, node, [1] * len(dims))
        node = reader.node("expand", [ones, tuple(dims)], dims, node.dtype)
    return Layout(node, tuple(groups))


def _number(reader: Reader, number: float, as_wide_as_another: bool) -> Node:
    """A number in the dtype of the result; where that follows an operand, as exact as it is when that is widened."""
    dtype = reader.result_dtype()
    node = reader.graph.literal(torch.full((), number, dtype=dtype))
    if not as_wide_as_another or not dtype.is_floating_point or float(reader.constant_tensor(node)) == number:
        return node
    exact = reader.graph.literal(torch.full((), number, dtype=torch.float64))
    return reader.node("aten._to_copy.default", [exact], [], dtype, {"dtype": dtype})


@rule("aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input", "aten.lstm.input")
def recurrent(
    reader: Reader,
    x: Layout,
    states: Any,
    weights: list[Layout],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Layout]:
    """A recurrent net over each row's own sequence."""
    if train and dropout > 0:
        reader.refuse("recurrent dropout is random; call module.eval() before sharing")
    kind = reader.name.split(".")[1]
    batch_dim, time_dim = (0, 1) if batch_first else (1, 0)
    if x.rank != 3 or not x.holds_batch(batch_dim):
        reader.refuse("a recurrent net whose batch is not the batch of pairs")
    rows = _fold(x, batch_dim)
    moved = canonical(reader.graph, Layout(x.node, (x.groups[batch_dim], x.groups[time_dim], x.groups[2])))
    given = states if isinstance(states, list) else [states]
    initial: list[Node] = []
    for s in given:
        if _fold(s, 1) != rows:
            reader.refuse("the initial state of a recurrent net does not have the batch in dimension 1")
        initial.append(canonical(reader.graph, Layout(s.node, (s.groups[1], s.groups[0], s.groups[2]))).node)
    flags = [has_biases, layers, bidirectional]
    args = [kind, moved.node, initial, [w.node for w in weights], *flags]
    results = reader.nodes("recurrent", args)
    lead = len(rows) - 1
    first, second = (lead,), (lead + 1,)
    own = moved.groups[0]
    order = (own, first, second) if batch_first else (first, own, second)
    return [Layout(results[0], order), *(Layout(r, (first, own, second)) for r in results[1:])]


def _fold(x: Layout, dim: int) -> list[int]:
    """The sizes that a dimension is made of, the batch as ``BATCH``."""
    return [BATCH if a == BATCH else x.atom_size(a) for a in x.groups[dim] if a == BATCH or x.atom_size(a) != 1]


@rule("aten.glu.default")
def glu(reader: Reader, x: Layout, dim: int = -1) -> Layout:
    reader.forbid_batch(x, dim % x.rank, "glu over")
    flat = canonical(reader.graph, x)
    return Layout(reader.node("aten.glu.default", [flat.node, reader.axis(flat, dim % x.rank)]), flat.groups)


@rule("aten.one_hot.default")
def one_hot(reader: Reader, x: Layout, classes: int = -1) -> Layout:
    if classes < 0:
        reader.refuse("one_hot without num_classes takes its width from the largest value in the batch")
    node = reader.node("aten.one_hot.default", [x.node, classes], [*x.node.dims, classes], torch.int64)
    return Layout(node, (*x.groups, (len(x.node.dims),)))


@rule("aten.bucketize.Tensor", "aten.searchsorted.Tensor", "aten.isin.Tensor_Tensor")
def against_constants(reader: Reader, first: Layout, second: Layout, **kwargs: Any) -> Layout:
    """Each value against a constant list."""
    values, table = (second, first) if "searchsorted" in reader.name else (first, second)
    if table.node.batched or isinstance(values, RowCount):
        reader.refuse(f"{reader.name} against a list that depends on the input")
    node = reader.node(reader.name, [first.node, second.node], values.node.dims, reader.result_dtype(), kwargs)
    return Layout(node, values.groups)


@rule("aten.repeat_interleave.self_int")
def repeat_interleave(reader: Reader, x: Layout, repeats: int, dim: int | None = None, **kwargs: Any) -> Layout:
    """Every entry several times in a row: a new axis behind it; behind the batch too, where no row is moved."""
    if dim is None:
        if x.rank != 1:
            reader.refuse("repeat_interleave of the flattened batch")
        dim = 0
    dim %= x.rank
    thin = Layout(x.node, (*x.groups[: dim + 1], (), *x.groups[dim + 1 :]))
    wide = repeated(reader, thin, dim + 1, repeats)
    merged = wide.groups[dim] + wide.groups[dim + 1]
    return Layout(wide.node, (*wide.groups[:dim], merged, *wide.groups[dim + 2 :]))
