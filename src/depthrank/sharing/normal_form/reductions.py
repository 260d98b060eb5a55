"""Reductions, softmax, cumulative operators and normalisation along dimensions other than the batch."""

from __future__ import annotations

from typing import Any

import torch

from depthrank.sharing.layout import BATCH, Group, Layout, align, canonical, reshape
from depthrank.sharing.normal_form.batch_numbers import BatchNumber
from depthrank.sharing.normal_form.reader import Reader, rule


def _dims(reader: Reader, x: Layout, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(x.rank))
    return [d % x.rank for d in (dim if isinstance(dim, (list, tuple)) else [dim])] if x.rank else []


def _without(x: Layout, gone: list[int], keepdim: bool) -> tuple[Group, ...]:
    """Groups of the result once the axes of the ``gone`` dimensions were removed."""
    removed = [a for d in gone for a in x.groups[d]]
    kept = [a for a in range(len(x.node.dims)) if a not in removed]
    number = {a: k for k, a in enumerate(kept)} | {BATCH: BATCH}
    groups: list[Group] = []
    for d, group in enumerate(x.groups):
        if d not in gone:
            groups.append(tuple(number[a] for a in group))
        elif keepdim:
            groups.append(())
    return tuple(groups)


def _reduce(reader: Reader, x: Layout, dims: list[int], keepdim: bool, op: str, before: tuple[Any, ...] = ()) -> Layout:
    """An operator that takes a list of axes and drops them."""
    for d in dims:
        reader.forbid_batch(x, d, f"{reader.name} over")
    axes = sorted(a for d in dims for a in x.groups[d])
    groups = _without(x, dims, keepdim)
    if not axes:
        axes_args: list[int] = []
        if op in ("aten.mean.dim", "aten.amax.default", "aten.amin.default", "aten.sum.dim_IntList") and not before:
            node = x.node
            if node.dtype != reader.result_dtype():
                dtype = reader.result_dtype()
                node = reader.node("aten._to_copy.default", [node], node.dims, dtype, {"dtype": dtype})
            return Layout(node, groups)
        expanded = reshape(reader.graph, x.node, (*x.node.dims, 1))
        axes_args = [-1]
        return Layout(reader.node(op, [expanded, *before, axes_args]), groups)
    rank = len(x.node.dims)
    dims_out = [s for a, s in enumerate(x.node.dims) if a not in axes]
    if op in ("aten.sum.dim_IntList", "aten.mean.dim") and x.node.dtype != reader.result_dtype():
        dtype = reader.result_dtype()
        return Layout(
            reader.node(op, [x.node, [a - rank for a in axes], False], dims_out, dtype, {"dtype": dtype}), groups
        )
    return Layout(reader.node(op, [x.node, *before, [a - rank for a in axes]], dims_out, reader.result_dtype()), groups)


@rule("aten.sum.dim_IntList", "aten.sum.default", "aten.mean.dim", "aten.mean.default")
def total(reader: Reader, x: Layout, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Layout:
    op = "aten.sum.dim_IntList" if "sum" in reader.name else "aten.mean.dim"
    return _reduce(reader, x, _dims(reader, x, dim), keepdim, op)


@rule("aten.amax.default", "aten.amin.default")
def extreme(reader: Reader, x: Layout, dim: Any = None, keepdim: bool = False) -> Layout:
    return _reduce(reader, x, _dims(reader, x, dim), keepdim, reader.name)


@rule("aten.max.default", "aten.min.default")
def extreme_of_all(reader: Reader, x: Layout) -> Layout | BatchNumber:
    if x.batch_dim is not None:
        return BatchNumber(f"{reader.name} over the batch dimension mixes rows of the batch")
    return _reduce(reader, x, list(range(x.rank)), False, reader.name.replace("max", "amax").replace("min", "amin"))


@rule("aten.any.default", "aten.all.default", "aten.any.dim", "aten.all.dim", "aten.any.dims", "aten.all.dims")
def truth(reader: Reader, x: Layout, dim: Any = None, keepdim: bool = False) -> Layout:
    kind = "any" if ".any" in reader.name else "all"
    return _reduce(reader, x, _dims(reader, x, dim), keepdim, f"aten.{kind}.dims")


@rule("aten.logsumexp.default")
def logsumexp(reader: Reader, x: Layout, dim: Any, keepdim: bool = False) -> Layout:
    return _reduce(reader, x, _dims(reader, x, dim), keepdim, reader.name)


@rule("aten.linalg_vector_norm.default", "aten.norm.ScalarOpt_dim", "aten.norm.Scalar")
def norm(reader: Reader, x: Layout, order: Any = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Layout:
    value = 2.0 if order is None else float(order)
    return _reduce(reader, x, _dims(reader, x, dim), keepdim, "aten.linalg_vector_norm.default", (value,))


@rule("aten.var.correction", "aten.std.correction", "aten.var.dim", "aten.std.dim")
def spread(
    reader: Reader, x: Layout, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> Layout:
    if reader.name.endswith(".correction"):
        correction = 1 if correction is None else correction
    else:
        correction = 1 if unbiased else 0
    dims = _dims(reader, x, dim)
    for d in dims:
        reader.forbid_batch(x, d, f"{reader.name} over")
    axes = sorted(a for d in dims for a in x.groups[d])
    groups = _without(x, dims, keepdim)
    op = "aten.var.correction" if ".var" in reader.name else "aten.std.correction"
    rank = len(x.node.dims)
    node = reader.node(op, [x.node, [a - rank for a in axes]], kwargs={"correction": correction})
    return Layout(node, groups)


@rule("aten.var_mean.correction", "aten.var_mean.dim", "aten.std_mean.correction", "aten.std_mean.dim")
def spread_and_mean(
    reader: Reader, x: Layout, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> list[Layout]:
    first = spread(reader, x, dim, unbiased, keepdim, correction=correction)
    dims = _dims(reader, x, dim)
    axes = sorted(a for d in dims for a in x.groups[d])
    rank = len(x.node.dims)
    mean = reader.node("aten.mean.dim", [x.node, [a - rank for a in axes]])
    return [first, Layout(mean, _without(x, dims, keepdim))]


def _along(reader: Reader, x: Layout, dim: int, doing: str) -> tuple[Layout, int]:
    """A layout with one axis for ``dim``, and that axis counted from the end."""
    dim = dim % x.rank if x.rank else 0
    reader.forbid_batch(x, dim, doing)
    x = canonical(reader.graph, x)
    return x, reader.axis(x, dim)


@rule(
    "aten.softmax.int",
    "aten._softmax.default",
    "aten.log_softmax.int",
    "aten._log_softmax.default",
    "aten._safe_softmax.default",
)
def softmax(reader: Reader, x: Layout, dim: int, *args: Any, **kwargs: Any) -> Layout:
    if x.rank == 0:
        one = Layout(reshape(reader.graph, x.node, [1]), ((0,),))
        return Layout(reshape(reader.graph, softmax(reader, one, 0).node, []), ())
    x, axis = _along(reader, x, dim, "a softmax over")
    op = "aten.log_softmax.int" if "log" in reader.name else "aten.softmax.int"
    if "safe" in reader.name:
        op = reader.name
    dtype = reader.result_dtype()
    node = x.node
    if node.dtype != dtype:
        node = reader.node("aten._to_copy.default", [node], node.dims, dtype, {"dtype": dtype})
    return Layout(reader.node(op, [node, axis], node.dims, dtype), x.groups)


@rule(
    "aten.cumsum.default",
    "aten.cumprod.default",
    "aten.logcumsumexp.default",
    "aten.flip.default",
    "aten.roll.default",
)
def ordered(reader: Reader, x: Layout, *args: Any, **kwargs: Any) -> Layout:
    """Operators whose result depends on the order along a dimension."""
    words = reader.name.split(".")[1]
    if words == "roll":
        shifts, dims = args[0], (args[1] if len(args) > 1 else [])
        if not dims:
            reader.refuse("roll over the flattened batch mixes rows of the batch")
    else:
        dims = args[0] if isinstance(args[0], list) else [args[0]]
    for d in dims:
        reader.forbid_batch(x, d % x.rank, f"{words} over")
    flat = canonical(reader.graph, x)
    axes = [reader.axis(flat, d % x.rank) for d in dims]
    if words == "roll":
        node = reader.node(reader.name, [flat.node, list(shifts), axes], flat.node.dims, flat.node.dtype)
    elif words == "flip":
        node = reader.node(reader.name, [flat.node, axes], flat.node.dims, flat.node.dtype)
    elif words == "logcumsumexp":
        node = reader.node(reader.name, [flat.node, axes[0]], flat.node.dims, flat.node.dtype)
    else:
        dtype = reader.result_dtype()
        node = reader.node(reader.name, [flat.node, axes[0]], flat.node.dims, dtype, {"dtype": dtype})
    return Layout(node, flat.groups)


@rule("aten.prod.dim_int")
def prod(reader: Reader, x: Layout, dim: int, keepdim: bool = False, **kwargs: Any) -> Layout:
    x, axis = _along(reader, x, dim, "a product over")
    node = reader.node("aten.prod.dim_int", [x.node, axis])
    return Layout(node, _without(x, [dim % x.rank], keepdim))


@rule("aten.argmax.default", "aten.argmin.default")
def arg_extreme(reader: Reader, x: Layout, dim: int | None = None, keepdim: bool = False) -> Layout:
    if dim is None:
        reader.refuse(f"{reader.name} over the flattened batch mixes rows of the batch")
    x, axis = _along(reader, x, dim, f"{reader.name} over")
    return Layout(reader.node(reader.name, [x.node, axis]), _without(x, [dim % x.rank], keepdim))


@rule("aten.sort.default", "aten.sort.stable", "aten.topk.default", "aten.argsort.default", "aten.argsort.stable")
def sort(reader: Reader, x: Layout, *args: Any, **kwargs: Any) -> Any:
    """Order along a dimension: values and positions."""
    kind = reader.name.split(".")[1]
    if kind == "topk":
        k, dim, flags = args[0], (args[1] if len(args) > 1 else -1), list(args[2:])
        x, axis = _along(reader, x, dim, "topk over")
        results = reader.nodes("aten.topk.default", [x.node, k, axis, *flags])
    else:
        dim = kwargs.get("dim", next((a for a in args if isinstance(a, int) and not isinstance(a, bool)), -1))
        descending = kwargs.get("descending", args[1] if len(args) > 1 and isinstance(args[1], bool) else False)
        x, axis = _along(reader, x, dim, f"{kind} over")
        results = reader.nodes("aten.sort.stable", [x.node], {"stable": True, "dim": axis, "descending": descending})
    layouts = [Layout(n, x.groups) for n in results]
    return layouts[1] if kind == "argsort" else layouts


@rule("aten.max.dim", "aten.min.dim", "aten.median.dim", "aten.nanmedian.dim", "aten.mode.default")
def extreme_with_position(reader: Reader, x: Layout, dim: int = -1, keepdim: bool = False) -> list[Layout]:
    x, axis = _along(reader, x, dim, f"{reader.name} over")
    results = reader.nodes(reader.name, [x.node, axis])
    return [Layout(n, _without(x, [dim % x.rank], keepdim)) for n in results]


@rule("aten.kthvalue.default")
def kth_value(reader: Reader, x: Layout, k: int, dim: int = -1, keepdim: bool = False) -> list[Layout]:
    x, axis = _along(reader, x, dim, "kthvalue over")
    return [Layout(n, _without(x, [dim % x.rank], keepdim)) for n in reader.nodes(reader.name, [x.node, k, axis])]


@rule("aten.cummax.default", "aten.cummin.default")
def running_extreme(reader: Reader, x: Layout, dim: int) -> list[Layout]:
    x, axis = _along(reader, x, dim, f"{reader.name} over")
    return [Layout(n, x.groups) for n in reader.nodes(reader.name, [x.node, axis])]


@rule(
    "aten.layer_norm.default", "aten.rms_norm.default", "aten._fused_rms_norm.default", "aten.native_layer_norm.default"
)
def layer_norm(
    reader: Reader, x: Layout, shape: list[int], weight: Any = None, bias: Any = None, eps: Any = None, *args: Any
) -> Any:
    """Normalisation of the last dimensions by their own mean and variance."""
    if reader.name == "aten.rms_norm.default" or "fused_rms" in reader.name:
        eps, bias = (bias if bias is not None else eps), None
    first = x.rank - len(shape)
    for d in range(first, x.rank):
        reader.forbid_batch(x, d, "normalisation over")
    flat = canonical(reader.graph, x)
    w = weight.node if weight is not None else None
    b = bias.node if bias is not None else None
    if "rms" in reader.name:
        args_out = [flat.node, list(shape), w, eps]
        node = reader.node("aten.rms_norm.default", args_out, flat.node.dims, flat.node.dtype)
    else:
        args_out = [flat.node, list(shape), w, b, 1e-5 if eps is None else eps]
        node = reader.node("aten.layer_norm.default", args_out, flat.node.dims, flat.node.dtype)
    out = Layout(node, flat.groups)
    return [out] if "native" in reader.name or "fused" in reader.name else out


@rule("aten.group_norm.default")
def group_norm(
    reader: Reader, x: Layout, groups: int, weight: Any, bias: Any, eps: float = 1e-5, cudnn: bool = True
) -> Layout:
    flat = canonical(reader.graph, x)
    if flat.groups[0] != (BATCH,):
        reader.refuse("group_norm over a folded batch has no rule for sharing")
    w = weight.node if weight is not None else None
    b = bias.node if bias is not None else None
    return Layout(reader.node(reader.name, [flat.node, groups, w, b, eps], flat.node.dims, torch.float32), flat.groups)


@rule("aten.cdist.default")
def distances(reader: Reader, a: Layout, b: Layout, order: float = 2.0, mode: Any = None) -> Layout:
    """|a_p - b_q| for every pair of the second-last dimensions."""
    left = Layout(a.node, (*a.groups[:-1], (), a.groups[-1]))
    right = Layout(b.node, (*b.groups[:-2], (), *b.groups[-2:]))
    (x, y), groups, dims = align(reader.graph, [left, right])
    gap = Layout(reader.node("aten.sub.Tensor", [x, y], dims, x.dtype), groups)
    reader.forbid_batch(gap, gap.rank - 1, "distances over")
    axes = [k - len(dims) for k in gap.groups[-1]]
    node = reader.node("aten.linalg_vector_norm.default", [gap.node, float(order), axes])
    return Layout(node, _without(gap, [gap.rank - 1], False))


@rule("aten.cosine_similarity.default")
def cosine_similarity(reader: Reader, a: Layout, b: Layout, dim: int = 1, eps: float = 1e-8) -> Layout:
    """a . b / (max(|a|, eps) max(|b|, eps)) along one dimension."""
    rank = max(a.rank, b.rank)
    dim %= rank
    lengths = []
    for x in (a, b):
        own = dim - (rank - x.rank)
        if own < 0:
            reader.refuse("cosine_similarity along a broadcast dimension has no rule for sharing")
        reader.forbid_batch(x, own, "cosine_similarity over")
        square = _times(reader, x, x)
        total = _sum(reader, square, own)
        root = reader.node("aten.sqrt.default", [total.node], total.node.dims, total.node.dtype)
        low = reader.node("aten.clamp.default", [root, eps], root.dims, root.dtype)
        lengths.append(Layout(low, total.groups))
    dot = _sum(reader, _times(reader, a, b), dim)
    divisor = _times(reader, *lengths)
    nodes, groups, dims = align(reader.graph, [dot, divisor])
    return Layout(reader.node("aten.div.Tensor", nodes, dims, nodes[0].dtype), groups)


def _times(reader: Reader, a: Layout, b: Layout) -> Layout:
    nodes, groups, dims = align(reader.graph, [a, b])
    return Layout(reader.node("aten.mul.Tensor", nodes, dims, nodes[0].dtype), groups)


def _sum(reader: Reader, x: Layout, dim: int) -> Layout:
    axes = list(x.groups[dim])
    rank = len(x.node.dims)
    kept = [s for k, s in enumerate(x.node.dims) if k not in axes]
    node = reader.node("aten.sum.dim_IntList", [x.node, [k - rank for k in axes]], kept, x.node.dtype)
    return Layout(node, _without(x, [dim], False))
