"""The operators an emitted graph may hold: what each computes, and its FLOPs a row.

This table is the allow-list of the file format: a name that is not here is never looked up, let alone called. Every
implementation works on tensors and on ``torch.fx`` proxies alike, so running, tracing and shape inference share it.

Letters: R requests, V catalogue rows, N candidates, M the most candidates of one request (a padded grouping).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from depthrank.kernels import SMALL_ATTENTION, small_attention_kernel
from depthrank.sharing.ir import Node, Region, product

aten = torch.ops.aten

# Operators outside torch's own ``pointwise`` tag that are computed row by row with axes given from the end.
ROW_WISE = frozenset(
    [
        "aten._to_copy.default",
        "aten.softmax.int",
        "aten._softmax.default",
        "aten._safe_softmax.default",
        "aten.log_softmax.int",
        "aten._log_softmax.default",
        "aten.clone.default",
        "aten.sum.dim_IntList",
        "aten.mean.dim",
        "aten.amax.default",
        "aten.amin.default",
        "aten.prod.dim_int",
        "aten.any.dim",
        "aten.all.dim",
        "aten.any.dims",
        "aten.all.dims",
        "aten.var.correction",
        "aten.std.correction",
        "aten.logsumexp.default",
        "aten.linalg_vector_norm.default",
        "aten.norm.ScalarOpt_dim",
        "aten.argmax.default",
        "aten.argmin.default",
        "aten.cumsum.default",
        "aten.cumprod.default",
        "aten.flip.default",
        "aten.roll.default",
        "aten.layer_norm.default",
        "aten.rms_norm.default",
        "aten.gather.default",
        "aten.index_select.default",
        "aten.slice.Tensor",
        "aten.tril.default",
        "aten.triu.default",
        "aten._prelu_kernel.default",
        "aten.hardswish.default",
        "aten.constant_pad_nd.default",
        "aten.pad.default",
        "aten.glu.default",
        "aten.bucketize.Tensor",
        "aten.isin.Tensor_Tensor",
        "aten.conv1d.default",
        "aten.conv2d.default",
        "aten.max_pool1d.default",
        "aten.avg_pool1d.default",
        "aten.max_pool2d.default",
        "aten.avg_pool2d.default",
        "aten.adaptive_avg_pool1d.default",
        "aten.log_sigmoid.default",
        "aten.one_hot.default",
        "aten.where.ScalarOther",
        "aten.where.ScalarSelf",
        "aten.where.Scalar",
        "aten.scatter.src",
        "aten.scatter.value",
        "aten.scatter_add.default",
        "aten.searchsorted.Tensor",
        "aten.group_norm.default",
        "aten.diagonal_copy.default",
        "aten.cosine_similarity.default",
        "aten.repeat_interleave.self_int",
        "aten.masked_fill.Tensor",
        "aten.masked_fill.Scalar",
        "aten.conv1d.padding",
        "aten.conv2d.padding",
        "aten.conv3d.default",
        "aten.adaptive_avg_pool2d.default",
        "aten.fft_fft.default",
        "aten.fft_ifft.default",
        "aten.fft_rfft.default",
        "aten.fft_irfft.default",
        "aten.fft_hfft.default",
        "aten.fft_ihfft.default",
        "aten.select.int",
        "aten.logcumsumexp.default",
        "aten.scatter_reduce.two",
        "aten.linalg_matrix_exp.default",
        "aten.conv_transpose1d.default",
        "aten.conv_transpose2d.input",
        "aten.upsample_linear1d.vec",
        "aten.upsample_nearest1d.vec",
        "aten.upsample_nearest2d.vec",
        "aten.upsample_bilinear2d.vec",
        "aten.upsample_bicubic2d.vec",
        "aten.complex.default",
        "aten.polar.default",
        "aten.real.default",
        "aten.imag.default",
        "aten.angle.default",
        "aten.conj_physical.default",
    ]
)
MULTI_OUTPUT = frozenset(
    [
        "aten.sort.default",
        "aten.sort.stable",
        "aten.topk.default",
        "aten.max.dim",
        "aten.min.dim",
        "aten.gru.input",
        "aten.lstm.input",
        "aten.rnn_tanh.input",
        "aten.rnn_relu.input",
        "aten.var_mean.correction",
        "aten.kthvalue.default",
        "aten.median.dim",
        "aten.nanmedian.dim",
        "aten.mode.default",
        "aten.cummax.default",
        "aten.cummin.default",
        "aten.adaptive_max_pool1d.default",
        "aten.adaptive_max_pool2d.default",
        "aten.max_pool1d_with_indices.default",
        "aten.linalg_inv_ex.default",
        "aten.linalg_cholesky_ex.default",
        "aten.linalg_qr.default",
        "aten._linalg_det.default",
        "aten._linalg_slogdet.default",
        "aten._linalg_eigh.default",
        "aten._linalg_svd.default",
        "aten._linalg_solve_ex.default",
    ]
)
_ATEN_NAME = re.compile(r"aten\.([a-z_0-9]+)\.([A-Za-z_0-9]+)")
_NEVER = ("rand", "dropout", "bernoulli", "normal", "uniform", "multinomial", "poisson", "exponential", "geometric")


def aten_operator(name: str) -> Callable[..., Any] | None:
    """The operator of this name if it is on the allow-list: pure, deterministic, and computed row by row."""
    match = _ATEN_NAME.fullmatch(name)
    if match is None or any(word in name for word in _NEVER):
        return None
    packet = getattr(aten, match[1], None)
    op = getattr(packet, match[2], None) if packet is not None else None
    if not isinstance(op, torch._ops.OpOverload):
        return None
    if name in ROW_WISE or name in MULTI_OUTPUT:
        return op
    if (
        torch.Tag.pointwise in op.tags
        and not op._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in op.tags
    ):
        return op
    return None


def is_pointwise(name: str) -> bool:
    """Does this operator compute every element from the elements at its place?"""
    op = aten_operator(name)
    extra: tuple[str, ...] = (
        "aten._to_copy.default",
        "aten.hardswish.default",
        "aten.where.ScalarOther",
        "aten.where.ScalarSelf",
    )
    extra += ("aten.where.Scalar", "aten.log_sigmoid.default", "aten._prelu_kernel.default")
    extra += ("aten.complex.default", "aten.polar.default", "aten.real.default", "aten.imag.default")
    return op is not None and (name in extra or torch.Tag.pointwise in getattr(op, "tags", ()))


@dataclass
class Rows:
    """How rows meet in one call. ``single``: one request, so its one row broadcasts; otherwise index tensors say.

    ``request_of_candidate`` [N]; ``slots`` [R, M] names the candidates of each request (padded with 0), ``slot_of`` [N]
    is where each candidate stands in the flat ``slots``; ``item_rows`` [N] are catalogue rows; ``like`` is any tensor
    with N rows. They are tensors when the graph runs and proxies when it is traced.
    """

    single: bool
    like: Any = None
    request_of_candidate: Any = None
    slots: Any = None
    slot_of: Any = None
    item_rows: Any = None


def _lift(rows: Rows, node: Node, x: Any) -> Any:
    if node.args[0].region == Region.ITEM:
        return torch.index_select(x, 0, rows.item_rows)
    return x if rows.single else torch.index_select(x, 0, rows.request_of_candidate)


def _spread(rows: Rows, node: Node, x: Any) -> Any:
    source: Node = node.args[0]
    if source.region == Region.CONSTANT:
        return x.expand(rows.like.size(0), *source.dims)
    if source.region == Region.ITEM or not rows.single:
        return _lift(rows, node, x)
    return x.expand(rows.like.size(0), *source.dims)


def _group(rows: Rows, x: Any) -> Any:
    """[N, ...] -> [R, M, ...]"""
    if rows.single:
        return x.unsqueeze(0)
    flat: Any = torch.index_select(x, 0, rows.slots.flatten())
    return flat.unflatten(0, (rows.slots.size(0), rows.slots.size(1)))


def _ungroup(rows: Rows, x: Any) -> Any:
    """[R, M, ...] -> [N, ...]"""
    flat = x.flatten(0, 1)
    return flat if rows.single else torch.index_select(flat, 0, rows.slot_of)


def _einsum(rows: Rows, node: Node, eq: str, a: Any, b: Any) -> Any:
    left, right, out = split_equation(eq)
    za, zb = ("z" if n.batched else "" for n in node.args[1:3])
    return torch.einsum(f"{za}{left},{zb}{right}->{za or zb}{out}", a, b)


def _shared_einsum(rows: Rows, node: Node, eq: str, a: Any, b: Any) -> Any:
    left, right, out = split_equation(eq)
    if rows.single:
        return torch.einsum(f"z{left},{right}->z{out}", a, b.squeeze(0))
    return _ungroup(rows, torch.einsum(f"yz{left},y{right}->yz{out}", _group(rows, a), b))


def split_equation(eq: str) -> tuple[str, str, str]:
    inputs, out = eq.split("->")
    left, right = inputs.split(",")
    return left, right, out


def _shared_attention(rows: Rows, node: Node, q: Any, k: Any, v: Any, mask: Any, scale: Any) -> Any:
    """q [N, H, Q, E] against k, v [R, H, L, E] of each candidate's request: one product over all candidates."""
    _heads, queries, _width = node.args[0].dims
    grouped = _group(rows, q).transpose(1, 2).flatten(2, 3)  # [R, H, M*Q, E]
    bias = None
    if mask is not None:
        bias = mask
        if node.args[3].region == Region.MIXED:  # [N, H, Q, L]
            lifted = mask.expand(-1, -1, queries, -1) if node.args[3].dims[1] != queries else mask
            bias = _group(rows, lifted).transpose(1, 2).flatten(2, 3)
        elif node.args[3].dims[1] != 1:  # [R, H, Q, L] serves every candidate
            num = grouped.size(2) // queries if rows.single else rows.slots.size(1)
            bias = mask.unsqueeze(2).expand(-1, -1, num, -1, -1).flatten(2, 3)
    out: Any = F.scaled_dot_product_attention(grouped, k, v, attn_mask=bias, scale=scale)
    return _ungroup(rows, out.unflatten(2, (-1, queries)).transpose(1, 2))


def _attention(rows: Rows, node: Node, q: Any, k: Any, v: Any, mask: Any, scale: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _linear_with_request_term(rows: Rows, node: Node, x: Any, weight: Any, term: Any) -> Any:
    """x [N, .., in] @ weight.T + term [R, 1.., out]: with one request the term is the product's bias."""
    if rows.single:
        return F.linear(x, weight, term.reshape(-1))
    return F.linear(x, weight) + torch.index_select(term, 0, rows.request_of_candidate)


def _linear_by_request(rows: Rows, node: Node, x: Any, weight: Any, bias: Any) -> Any:
    """x [N, in] by its request's own weight [R, .., out, in] and bias [R, .., out]: one product for all candidates."""
    width, dims = node.args[0].dims[-1], node.args[1].dims[:-1]
    if rows.single:
        flat = None if bias is None else bias.reshape(-1)
        return F.linear(x, weight.reshape(-1, width), flat).reshape(-1, *dims)
    by_request = weight.reshape(-1, product(dims), width).transpose(1, 2)
    out = torch.matmul(_group(rows, x), by_request)
    if bias is not None:
        out = out + bias.reshape(-1, 1, product(dims))
    return _ungroup(rows, out).reshape(-1, *dims)


def _recurrent(rows: Rows, node: Node, kind: str, x: Any, states: Any, weights: Any, *flags: Any) -> Any:
    """x [B, .., L, F] through a recurrent net; states [B, .., layers, H] each; returns output, then states batch-first.

    Axes between the rows and the steps were folded with the batch: they are rows of the net.
    """
    has_biases, layers, bidirectional = flags
    lead = node.args[1].dims[:-2]
    axes = len(lead)
    batch_second = tuple(
        (s if n.batched else s.unsqueeze(0).expand(x.size(0), *n.dims)).flatten(0, axes).transpose(0, 1).contiguous()
        for s, n in zip(states, node.args[2])
    )
    hx = batch_second if kind == "lstm" else batch_second[0]
    op = {
        "gru": aten.gru.input,
        "lstm": aten.lstm.input,
        "rnn_tanh": aten.rnn_tanh.input,
        "rnn_relu": aten.rnn_relu.input,
    }
    out = op[kind](x.flatten(0, axes), hx, list(weights), has_biases, layers, 0.0, False, bidirectional, True)
    results = (out[0], *(out[k].transpose(0, 1) for k in range(1, 3 if kind == "lstm" else 2)))
    return tuple(r.unflatten(0, (-1, *lead)) for r in results) if axes else results


def _reshape(rows: Rows, node: Node, x: Any, dims: tuple[int, ...]) -> Any:
    return x.reshape(-1, *dims) if node.batched else x.reshape(dims)


def _permute(rows: Rows, node: Node, x: Any, order: tuple[int, ...]) -> Any:
    return x.permute(0, *(k + 1 for k in order)) if node.batched else x.permute(order)


def _expand(rows: Rows, node: Node, x: Any, dims: tuple[int, ...]) -> Any:
    return x.expand(-1, *dims) if node.batched else x.expand(dims)


def _take_rows(rows: Rows, node: Node, x: Any, index: Any) -> Any:
    """x [B, L, ...], index [B, ...]: for each row the entries that its own index names along the first axis."""
    source, places = node.args
    length, rest = source.dims[0], source.dims[1:]
    flat = index.reshape(-1, product(places.dims))
    flat = torch.where(flat < 0, flat + length, flat)
    wide = flat.reshape(-1, product(places.dims), *([1] * len(rest))).expand(-1, -1, *rest)
    return torch.gather(x, 1, wide).reshape(-1, *node.dims)


def _shared_take_rows(rows: Rows, node: Node, x: Any, index: Any) -> Any:
    """x [R, L, ...], index [N, ...]: for each candidate the entries of its own request that its index names."""
    source, places = node.args
    length, rest = source.dims[0], source.dims[1:]
    flat = index.reshape(-1, product(places.dims))
    flat = torch.where(flat < 0, flat + length, flat)
    if not rows.single:
        flat = flat + (rows.request_of_candidate * length).unsqueeze(1)
    picked = torch.index_select(x.reshape(-1, *rest), 0, flat.flatten())
    return picked.reshape(-1, *node.dims)


# Operators on [B, channels, places...], by their number of axes after the rows.
_WINDOWS = {"1d": 2, "2d": 3, "3d": 4}


def _extra_axes(node: Node) -> int:
    """Axes that an operator on windows has before its channels: they were folded with the batch."""
    kind = re.search(r"aten\.(?:conv(?:_transpose)?|upsample_[a-z]+|(?:adaptive_)?(?:max|avg)_pool)(\dd)", node.op)
    return len(node.args[0].dims) - _WINDOWS[kind[1]] if kind and node.args[0].batched else 0


def _folded(node: Node, axes: int, call: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator that knows one batch dimension, on rows that are folded with these axes behind them."""
    lead = node.args[0].dims[:axes]
    out = call(x.flatten(0, axes), *args, **kwargs)
    if node.op in MULTI_OUTPUT:
        return tuple(out[k].unflatten(0, (-1, *lead)) for k in range(2))
    return out.unflatten(0, (-1, *lead))


def _row_gather(rows: Rows, node: Node, x: Any, axis: int, index: Any) -> Any:
    return torch.gather(x, axis, index)


def _attend_by_heads(rows: Rows, node: Node, q: Any, k: Any, v: Any, safe: bool) -> Any:
    """q [B, H, Q, E], k and v [B, H, L, E] as they lie in memory: [B, Q, H, E], one head after the other."""
    if small_attention_kernel() is not None:
        return SMALL_ATTENTION(q, k, v, None, 1.0, safe)
    softmax: Any = aten._safe_softmax.default if safe else torch.softmax
    read = []
    for head in range(node.args[0].dims[0]):
        weights = softmax(torch.bmm(q[:, head], k[:, head].transpose(1, 2)), -1)
        read.append(torch.bmm(weights, v[:, head]))
    return torch.stack(read, 2)


def _attend_within_rows(rows: Rows, node: Node, q: Any, k: Any, v: Any, mask: Any, scale: Any) -> Any:
    """q [N, H, Q, E] against k, v [N, H, L, E] of the same row: few positions, many rows."""
    factor = node.args[0].dims[-1] ** -0.5 if scale is None else scale
    return SMALL_ATTENTION(q, k, v, mask, factor, True).transpose(1, 2)


def _look_up_together(rows: Rows, node: Node, table: Any, sizes: Any, starts: Any, indices: Any) -> Any:
    """Single ids [B] of several tables that lie one below the other: [B, k, width]."""
    ids = torch.stack(list(indices), 1)
    inside = (ids >= 0) & (ids < sizes)
    return F.embedding(torch.where(inside, ids + starts, -1), table)


def _to_logical(rows: Rows, node: Node, x: Any, order: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """The output in the order of the model: axes permuted (rows included), then merged to ``shape`` (-1 for rows)."""
    y = x.permute(order) if tuple(order) != tuple(range(len(order))) else x
    return y.reshape(shape)


Implementation = Callable[..., Any]
IMPLEMENTATIONS: dict[str, Implementation] = {
    "lift": _lift,
    "spread": _spread,
    "rows_of": lambda rows, node, x, host: x.expand(host.size(0), *node.dims),
    "einsum": _einsum,
    "shared_einsum": _shared_einsum,
    "attention": _attention,
    "shared_attention": _shared_attention,
    "linear": lambda rows, node, x, w, b: F.linear(x, w, b),
    "linear_with_request_term": _linear_with_request_term,
    "linear_by_request": _linear_by_request,
    "recurrent": _recurrent,
    "item": lambda rows, node, x, k: x[k],
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "cat": lambda rows, node, parts, axis: torch.cat(list(parts), axis),
    "take": lambda rows, node, x, axis, index: torch.index_select(x, axis, index),
    "take_rows": _take_rows,
    "shared_take_rows": _shared_take_rows,
    "row_gather": _row_gather,
    "embedding": lambda rows, node, w, index, padding: F.embedding(index, w, padding_idx=padding),
    "attend_by_heads": _attend_by_heads,
    "attend_within_rows": _attend_within_rows,
    "look_up_together": _look_up_together,
    "multiply_add": lambda rows, node, x, scale, shift: torch.addcmul(shift, x, scale),
    "sparse_product": lambda rows, node, x, y: torch.sparse.mm(x, y),
    "logical": _to_logical,
}


def run_node(node: Node, rows: Rows, args: tuple[Any, ...]) -> Any:
    """Compute (or trace) one node on the values of its arguments; raises ``KeyError`` for an unknown operator."""
    implementation = IMPLEMENTATIONS.get(node.op)
    if implementation is not None:
        return implementation(rows, node, *args)
    op = aten_operator(node.op)
    if op is None:
        raise KeyError(node.op)
    plain = [list(a) if isinstance(a, tuple) else a for a in args]
    extra = _extra_axes(node)
    return _folded(node, extra, op, *plain, **dict(node.kwargs)) if extra else op(*plain, **dict(node.kwargs))


# ---------------------------------------------------------------------------------------------------- FLOPs a row


def flops_per_row(node: Node) -> int:
    """Multiply-adds times two of the matrix products in this node, for one row (for constants: in all)."""
    flops: int = _flops(node)
    return flops


def _flops(node: Node) -> Any:
    if node.op in ("linear", "linear_with_request_term"):
        return 2 * product(node.args[0].dims) * node.args[1].dims[0]
    if node.op == "linear_by_request":
        return 2 * node.args[1].numel
    if node.op in ("einsum", "shared_einsum"):
        return 2 * _letters_product(node)
    if node.op in ("attention", "attend_by_heads", "attend_within_rows", "shared_attention"):
        q, k, v = node.args[:3]
        lead = product(q.dims[:-2])
        return 2 * lead * q.dims[-2] * k.dims[-2] * (q.dims[-1] + v.dims[-1])
    if node.op == "recurrent":
        return 2 * product(node.args[1].dims[:-1]) * sum(w.numel for w in node.args[3] if len(w.dims) == 2)
    if node.op.startswith(("aten.conv1d.", "aten.conv2d.", "aten.conv3d.")):
        weight = node.args[1]
        return 2 * product(node.dims) * product(weight.dims[1:])
    if node.op.startswith("aten.conv_transpose"):
        return 2 * product(node.args[0].dims) * product(node.args[1].dims[1:])
    return 0


def _letters_product(node: Node) -> int:
    """Multiply-adds of a contraction; where nothing is summed it is scaling, and counts as no product."""
    left, right, out = split_equation(node.args[0])
    sizes: dict[str, int] = {}
    for letters, operand in ((left, node.args[1]), (right, node.args[2])):
        for letter, size in zip(letters, operand.dims):
            sizes[letter] = max(size, sizes.get(letter, 1))
    if all(size == 1 for letter, size in sizes.items() if letter not in out):
        return 0
    return product(list(sizes.values()))


VIEWS = frozenset(("rows_of", "reshape", "permute", "expand", "aten.slice.Tensor", "item", "logical"))


def bytes_per_row(node: Node) -> int:
    """Bytes that this node reads and writes for one row, constants apart; views are free, and so is one request's
    value that stands for every candidate's row: it stays one row in the cache.
    """
    if node.op in ("input", "parameter") or node.op in VIEWS or is_one_row(node):
        return 0
    read = [n for n in node.inputs() if n.batched and n.region == node.region and not is_one_row(n)]
    return node.dtype.itemsize * node.numel + sum(n.dtype.itemsize * n.numel for n in read)


def is_one_row(node: Node) -> bool:
    """Is this a value of the request (or of nobody) that is broadcast to candidates?"""
    while node.op in VIEWS and node.region == Region.MIXED:
        node = node.args[0]
    return node.op in ("lift", "spread") and node.args[0].region in (Region.CONSTANT, Region.REQUEST)


def shape_on_meta(node: Node) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Sizes after the rows and dtype of each result, by running the node on meta tensors of two rows."""

    def stand_in(value: Any) -> Any:
        if isinstance(value, Node):
            lead = (2,) if value.batched else ()
            return torch.empty(lead + value.dims, dtype=value.dtype, device="meta")
        if isinstance(value, tuple):
            return tuple(stand_in(v) for v in value)
        return value

    places = torch.empty(2, dtype=torch.int64, device="meta")
    rows = Rows(False, places, places, torch.empty(2, 2, dtype=torch.int64, device="meta"), places, places)
    with torch.no_grad():
        out = run_node(node, rows, stand_in(node.args))
    outs = out if isinstance(out, (tuple, list)) else (out,)
    strip = 1 if node.batched else 0
    return [(tuple(int(s) for s in t.shape[strip:]), t.dtype) for t in outs]
