"""Products: linear layers, matrix products, einsum and attention, as contractions over named axes."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters
from typing import Any

import torch

from depthrank.sharing.ir import Node, product
from depthrank.sharing.layout import BATCH, Layout, align, permute, plain, reshape
from depthrank.sharing.normal_form.reader import Reader, drop_row_counts, rule

_LETTERS = ascii_letters.replace("y", "").replace("z", "")  # y and z name the rows when a product runs


@rule("aten.linear.default")
def linear(reader: Reader, x: Layout, weight: Layout, bias: Layout | None = None) -> Layout:
    """x @ weight.T + bias over the last dimension."""
    reader.forbid_batch(x, x.rank - 1, "a linear layer over")
    if weight.node.batched or weight.rank != 2 or (bias is not None and bias.node.batched):
        reader.refuse("the weight of a linear layer depends on the input")
    last = x.groups[-1]
    axes = [a for a in range(len(x.node.dims)) if a not in last]
    node = permute(reader.graph, x.node, [*axes, *last])
    lead = [x.node.dims[a] for a in axes]
    node = reshape(reader.graph, node, [*lead, x.size(x.rank - 1)])
    w = _plain_constant(reader, weight)
    b = _plain_constant(reader, bias) if bias is not None else None
    out = reader.node("linear", [node, w, b], [*lead, w.dims[0]], x.node.dtype)
    number = {a: k for k, a in enumerate(axes)} | {BATCH: BATCH}
    groups = tuple(tuple(number[a] for a in g) for g in x.groups[:-1])
    return Layout(out, (*groups, (len(axes),)))


def _plain_constant(reader: Reader, layout: Layout) -> Node:
    """A constant with its axes in logical order, one a dimension."""
    order = [a for g in layout.groups for a in g]
    rest = [a for a in range(len(layout.node.dims)) if a not in order]
    node = permute(reader.graph, layout.node, [*order, *rest])
    return reshape(reader.graph, node, [layout.size(d) for d in range(layout.rank)])


def contract(reader: Reader, a: Layout, b: Layout, left: str, right: str, out: str) -> Layout:
    """einsum(left,right->out) over logical dimensions; labels of size one broadcast."""
    labels = list(dict.fromkeys(left + right))
    virtual = []
    for layout, own in ((a, left), (b, right)):
        if len(set(own)) != len(own):
            reader.refuse("a product takes a diagonal")
        virtual.append(Layout(layout.node, tuple(layout.groups[own.index(x)] if x in own else () for x in labels)))
    homes = [{labels[d] for d in range(v.rank) if v.holds_batch(d)} for v in virtual]
    if homes[0] and homes[1] and homes[0] != homes[1]:
        reader.refuse("rows of the batch are multiplied with other rows (in-batch product)")
    for label in homes[0] | homes[1]:
        if label not in out:
            reader.refuse("a product sums over the batch dimension, which mixes its rows")
    aligned, groups, dims = align(reader.graph, virtual)
    letters = {axis: _LETTERS[axis] for axis in range(len(dims))}
    nodes: list[Node] = []
    words: list[str] = []
    for node in aligned:
        kept = [k for k in range(len(dims)) if node.dims[k] == dims[k]]
        nodes.append(reshape(reader.graph, node, [node.dims[k] for k in kept]))
        words.append("".join(letters[k] for k in kept))
    result_groups: list[tuple[int, ...]] = []
    result_axes: list[int] = []
    for label in out:
        group: list[int] = []
        for atom in groups[labels.index(label)]:
            if atom == BATCH:
                group.append(BATCH)
            else:
                group.append(len(result_axes))
                result_axes.append(atom)
        result_groups.append(tuple(group))
    word = "".join(letters[k] for k in result_axes)
    if all(c in word for w in words for c in w):  # nothing is summed: an outer product, or scaling
        node = _multiplied(reader, nodes, words, word, [dims[k] for k in result_axes])
    else:
        node = _einsum(reader, nodes, words, word, [dims[k] for k in result_axes])
    return Layout(node, tuple(result_groups))


def _multiplied(reader: Reader, nodes: Sequence[Node], words: Sequence[str], out: str, dims: Sequence[int]) -> Node:
    """A product in which every letter stays, as elements times elements."""
    operands = []
    for node, word in zip(nodes, words):
        moved = permute(reader.graph, node, sorted(range(len(word)), key=lambda k: out.index(word[k])))
        operands.append(reshape(reader.graph, moved, [n if c in word else 1 for c, n in zip(out, dims)]))
    return reader.node("aten.mul.Tensor", operands, dims, reader.result_dtype())


def _einsum(reader: Reader, nodes: Sequence[Node], words: Sequence[str], out: str, dims: Sequence[int]) -> Node:
    """One contraction; with a constant matrix it is a linear layer."""
    dtype = reader.result_dtype()
    for k in (0, 1):
        x, w, word, weight_word = nodes[1 - k], nodes[k], words[1 - k], words[k]
        if w.batched or not x.batched:
            continue
        summed = [c for c in weight_word if c not in out]
        made = [c for c in weight_word if c in out]
        if len(summed) == 1 and len(made) <= 1 and summed[0] in word and not (made and made[0] in word):
            rest = [c for c in word if c != summed[0]]
            moved = permute(reader.graph, x, [word.index(c) for c in [*rest, summed[0]]])
            order = [weight_word.index(c) for c in [*made, summed[0]]]
            matrix = reshape(
                reader.graph,
                permute(reader.graph, w, order),
                [w.dims[order[0]] if made else 1, x.dims[word.index(summed[0])]],
            )
            lead = list(moved.dims[:-1])
            node = reader.node("linear", [moved, matrix, None], [*lead, matrix.dims[0]], dtype)
            have = [*rest, *made]
            if not made:
                node = reshape(reader.graph, node, lead)
            return permute(reader.graph, node, [have.index(c) for c in out])
    return reader.node("einsum", [f"{words[0]},{words[1]}->{out}", nodes[0], nodes[1]], dims, dtype)


@rule("aten.matmul.default", "aten.bmm.default", "aten.mm.default", "aten.mv.default", "aten.dot.default")
def matmul(reader: Reader, a: Layout, b: Layout) -> Layout:
    if any(_is_sparse(reader, x) for x in (a, b)):
        sparse: Layout = sparse_product(reader, a, b)
        return sparse
    return contract(reader, a, b, *_matmul_words(a.rank, b.rank))


def _matmul_words(rank_a: int, rank_b: int) -> tuple[str, str, str]:
    """Labels of torch.matmul: leading dimensions aligned from the right, M x K times K x N."""
    n = max(rank_a, rank_b, 2) - 2
    lead = "ABCDEFGHIJ"[:n]
    left = "k" if rank_a == 1 else lead[n - (rank_a - 2) :] + "mk"
    right = "k" if rank_b == 1 else lead[n - (rank_b - 2) :] + "kn"
    out = lead + ("" if rank_a == 1 else "m") + ("" if rank_b == 1 else "n")
    return left, right, out


@rule("aten._sparse_mm.default")
def sparse_product(reader: Reader, a: Layout, b: Layout) -> Layout:
    """A sparse matrix of the model times a dense one of it: embeddings propagated over a graph."""
    if not _is_sparse(reader, a) or b.node.batched or a.batch_dim is not None or b.batch_dim is not None:
        reader.refuse("a sparse tensor meets values of the batch; densify it, or propagate before looking rows up")
    dense = _plain_constant(reader, b)
    dims = [a.size(0), *dense.dims[1:]]
    return plain(reader.node("sparse_product", [a.node, dense], dims, dense.dtype))


def _is_sparse(reader: Reader, x: Layout) -> bool:
    tensor = reader.graph.constants.get(x.node.name) if x.node.op == "parameter" else None
    return tensor is not None and tensor.layout != torch.strided


@rule("aten.addmm.default", "aten.baddbmm.default", "aten.addbmm.default", "aten.addmv.default")
def add_product(reader: Reader, base: Layout, a: Layout, b: Layout, *, beta: float = 1, alpha: float = 1) -> Layout:
    if reader.name == "aten.addbmm.default":
        reader.refuse("addbmm sums over the batch")
    out = matmul(reader, a, b)
    if alpha != 1:
        out = Layout(reader.node("aten.mul.Scalar", [out.node, alpha], out.node.dims, out.node.dtype), out.groups)
    if beta != 1:
        base = Layout(reader.node("aten.mul.Scalar", [base.node, beta], base.node.dims, base.node.dtype), base.groups)
    nodes, groups, dims = align(reader.graph, [out, base])
    return Layout(reader.node("aten.add.Tensor", nodes, dims, out.node.dtype), groups)


@rule("aten.einsum.default")
def einsum(reader: Reader, equation: str, operands: list[Layout], **kwargs: Any) -> Layout:
    text = _without_ellipsis(equation.replace(" ", ""), [x.rank for x in operands])
    inputs, _, out = text.partition("->")
    words = inputs.split(",")
    if "->" not in text:
        joined = "".join(words)
        out = "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    layouts = list(operands)
    for k, word in enumerate(words):
        layouts[k], words[k] = _diagonals(reader, layouts[k], word)
    if len(layouts) == 1:
        return _single_einsum(reader, layouts[0], words[0], out)
    while len(layouts) > 1:
        later = set(out).union(*words[2:])
        both = dict.fromkeys(words[0] + words[1])
        middle = out if len(layouts) == 2 else "".join(c for c in both if c in later)
        layouts[:2] = [contract(reader, layouts[0], layouts[1], words[0], words[1], middle)]
        words[:2] = [middle]
    return layouts[0]


def _without_ellipsis(text: str, ranks: Sequence[int]) -> str:
    """The equation with letters for the dimensions that ``...`` stands for, aligned from the right."""
    if "..." not in text:
        return text
    inputs, _, out = text.partition("->")
    words = inputs.split(",")
    free = [c for c in ascii_letters if c not in text]
    counts = [rank - len(w.replace("...", "")) for w, rank in zip(words, ranks)]
    most = max(n for n, w in zip(counts, words) if "..." in w)
    letters = "".join(free[:most])
    named = [w.replace("...", letters[most - n :]) for w, n in zip(words, counts)]
    if "->" not in text:
        joined = inputs.replace("...", "").replace(",", "")
        out = "..." + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    return ",".join(named) + "->" + out.replace("...", letters)


def _diagonals(reader: Reader, x: Layout, word: str) -> tuple[Layout, str]:
    """A letter that stands twice takes the diagonal of its dimensions."""
    from depthrank.sharing.normal_form.views import diagonal

    while len(set(word)) != len(word):
        twice = next(c for c in word if word.count(c) > 1)
        first = word.index(twice)
        second = word.index(twice, first + 1)
        x = diagonal(reader, x, 0, first, second)
        word = "".join(c for k, c in enumerate(word) if k not in (first, second)) + twice
    return x, word


def _single_einsum(reader: Reader, x: Layout, word: str, out: str) -> Layout:
    summed = [d for d, c in enumerate(word) if c not in out]
    for d in summed:
        reader.forbid_batch(x, d, "einsum summing over")
    axes = [a for d in summed for a in x.groups[d]]
    if axes:
        rank = len(x.node.dims)
        dims = [s for a, s in enumerate(x.node.dims) if a not in axes]
        node = reader.node("aten.sum.dim_IntList", [x.node, [a - rank for a in axes]], dims, x.node.dtype)
        number = {a: k for k, a in enumerate(a for a in range(rank) if a not in axes)} | {BATCH: BATCH}
        x = Layout(node, tuple(tuple(number[a] for a in g) for d, g in enumerate(x.groups) if d not in summed))
        word = "".join(c for c in word if c in out)
    return Layout(x.node, tuple(x.groups[word.index(c)] for c in out))


@rule("aten.scaled_dot_product_attention.default")
def attention(
    reader: Reader,
    query: Layout,
    key: Layout,
    value: Layout,
    attn_mask: Layout | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Layout:
    """softmax(q k^T scale + mask) v with every leading dimension but the batch as heads."""
    drop_row_counts(reader, [dropout_p, scale])
    if dropout_p > 0:
        reader.refuse("attention dropout is random; call module.eval() before sharing")
    if enable_gqa:
        key, value = (_repeated_heads(reader, x, query) for x in (key, value))
    for x in (query, key, value):
        for dim in (-2, -1):
            reader.forbid_batch(x, x.rank + dim, "attention over")
    if is_causal:
        causal = torch.ones(query.size(query.rank - 2), key.size(key.rank - 2), dtype=torch.bool).tril()
        attn_mask = plain(reader.graph.literal(causal))
    if attn_mask is not None:
        for dim in (-2, -1):
            reader.forbid_batch(attn_mask, attn_mask.rank + dim, "an attention mask over")
    return _attention(reader, query, key, value, attn_mask, scale)


def _repeated_heads(reader: Reader, x: Layout, query: Layout) -> Layout:
    """Every head of the keys as often as query heads share it."""
    from depthrank.sharing.normal_form.lookups import repeat_interleave

    times = query.size(query.rank - 3) // x.size(x.rank - 3)
    return x if times == 1 else repeat_interleave(reader, x, times, x.rank - 3)


def _attention(reader: Reader, q: Layout, k: Layout, v: Layout, mask: Layout | None, scale: float | None) -> Layout:
    lead = max(q.rank, k.rank, v.rank, mask.rank if mask else 0) - 2
    given = [x for x in (q, k, v, mask) if x is not None]
    virtual = []
    for place, x in enumerate(given):
        groups: list[tuple[int, ...]] = [()] * (lead - (x.rank - 2)) + list(x.groups[:-2])
        tail: list[tuple[int, ...]] = [()] * (2 * len(given))
        tail[2 * place : 2 * place + 2] = x.groups[-2:]
        virtual.append(Layout(x.node, (*groups, *tail)))
    aligned, groups_out, dims = align(reader.graph, virtual)
    head_axes = [a for g in groups_out[:lead] for a in g if a != BATCH]
    heads = product([dims[a] for a in head_axes])
    operands = []
    for place, (x, node) in enumerate(zip(given, aligned)):
        own = [dims[a] for g in groups_out[lead + 2 * place : lead + 2 * place + 2] for a in g]
        last_two = [x.size(x.rank - 2), x.size(x.rank - 1)]
        head_sizes = [node.dims[a] for a in head_axes]
        node = reshape(reader.graph, node, [*head_sizes, *own])
        if any(s != 1 for s in head_sizes) or place < 3:
            wide = [dims[a] for a in head_axes]
            if head_sizes != wide:
                node = reader.node("expand", [node, (*wide, *own)], (*wide, *own), node.dtype)
            operands.append(reshape(reader.graph, node, [heads, *last_two]))
        else:
            operands.append(reshape(reader.graph, node, [1, *last_two]))
    mask_node = operands[3] if mask is not None else None
    out_dims = [heads, q.size(q.rank - 2), v.size(v.rank - 1)]
    node = reader.node("attention", [*operands[:3], mask_node, scale], out_dims, q.node.dtype)
    node = reshape(reader.graph, node, [*[dims[a] for a in head_axes], *out_dims[1:]])
    number = {a: n for n, a in enumerate(head_axes)} | {BATCH: BATCH}
    groups_final = [tuple(number[a] for a in g) for g in groups_out[:lead]]
    return Layout(node, (*groups_final, (len(head_axes),), (len(head_axes) + 1,)))


@rule("aten.bilinear.default")
def bilinear(reader: Reader, a: Layout, b: Layout, weight: Layout, bias: Layout | None = None) -> Layout:
    """a^T W_o b + bias_o over the last dimensions."""
    lead = "ABCDEFGH"[: a.rank - 1]
    inner = contract(reader, a, weight, lead + "i", "oij", lead + "oj")
    out = contract(reader, inner, b, lead + "oj", lead + "j", lead + "o")
    if bias is None:
        return out
    nodes, groups, dims = align(reader.graph, [out, bias])
    return Layout(reader.node("aten.add.Tensor", nodes, dims, out.node.dtype), groups)
