"""Elementwise operators, casts, batch normalisation in eval mode: every element from the elements at its place."""

from __future__ import annotations

from typing import Any

from depthrank.sharing.layout import Layout, align
from depthrank.sharing.normal_form.reader import Reader, drop_row_counts, rule

_IDENTITY_COPIES = ("memory_format", "device", "layout", "pin_memory", "non_blocking", "copy", "implicit")


@rule("pointwise")
def pointwise(reader: Reader, *args: Any, **kwargs: Any) -> Layout:
    """Any elementwise operator: operands aligned to common axes, numbers as they are."""
    drop_row_counts(reader, [*args, *kwargs.values()])
    name = reader.name
    own = {k: v for k, v in kwargs.items() if k not in _IDENTITY_COPIES and v is not None}
    operands = [a for a in args if isinstance(a, Layout)] + [v for v in own.values() if isinstance(v, Layout)]
    nodes, groups, dims = align(reader.graph, operands)
    supply = iter(nodes)
    plain_args = [next(supply) if isinstance(a, Layout) else a for a in args]
    plain_kwargs = {k: next(supply) if isinstance(v, Layout) else v for k, v in own.items()}
    if any(isinstance(v, Layout) for v in own.values()):
        reader.refuse(f"operator {name} takes a tensor by keyword")
    node = reader.node(name, plain_args, dims, reader.result_dtype(), plain_kwargs)
    return Layout(node, groups)


@rule(
    "aten.__and__.Tensor",
    "aten.__or__.Tensor",
    "aten.__xor__.Tensor",
    "aten.__and__.Scalar",
    "aten.__or__.Scalar",
    "aten.__xor__.Scalar",
)
def bitwise(reader: Reader, a: Layout, b: Any) -> Layout:
    """The operators & | ^ under their plain names."""
    word = reader.name.split("__")[1]
    nodes, groups, dims = align(reader.graph, [x for x in (a, b) if isinstance(x, Layout)])
    kind = "Tensor" if len(nodes) == 2 else "Scalar"
    args = nodes if len(nodes) == 2 else [nodes[0], b]
    return Layout(reader.node(f"aten.bitwise_{word}.{kind}", args, dims, reader.result_dtype()), groups)


@rule(
    "aten._to_copy.default",
    "aten.to.dtype",
    "aten.to.dtype_layout",
    "aten.to.device",
    "aten.to.other",
    "aten.type_as.default",
)
def cast(reader: Reader, x: Layout, *args: Any, **kwargs: Any) -> Layout:
    """A copy in another dtype; the device stays where the graph runs."""
    dtype = reader.result_dtype()
    if x.node.dtype == dtype:
        return x
    node = reader.node("aten._to_copy.default", [x.node], x.node.dims, dtype, {"dtype": dtype})
    return Layout(node, x.groups)


@rule(
    "aten.clone.default",
    "aten.alias.default",
    "aten.detach.default",
    "aten.detach_.default",
    "aten.contiguous.default",
    "aten.lift_fresh_copy.default",
    "aten.lift_fresh.default",
    "aten.positive.default",
    "aten.resolve_conj.default",
    "aten.resolve_neg.default",
)
def same(reader: Reader, x: Layout, *args: Any, **kwargs: Any) -> Layout:
    return x


@rule("aten.copy.default")
def copy(reader: Reader, into: Layout, source: Layout, *args: Any, **kwargs: Any) -> Layout:
    """The source in the dtype and shape of the target."""
    nodes, groups, dims = align(reader.graph, [source, into])
    dtype = reader.result_dtype()
    node = nodes[0]
    if node.dtype != dtype:
        node = reader.node("aten._to_copy.default", [node], node.dims, dtype, {"dtype": dtype})
    if node.dims != dims:
        node = reader.node("expand", [node, dims], dims, node.dtype)
    return Layout(node, groups)


@rule("aten.prelu.default", "aten._prelu_kernel.default")
def prelu(reader: Reader, x: Layout, weight: Layout) -> Layout:
    """where(x > 0, x, w x), the weight along dimension 1."""
    if weight.rank <= 1:
        groups = tuple(weight.groups[0] if d == 1 and weight.rank and weight.size(0) > 1 else () for d in range(x.rank))
        weight = Layout(weight.node, groups)
    (a, w), groups, dims = align(reader.graph, [x, weight])
    return Layout(reader.node("aten._prelu_kernel.default", [a, w], dims, a.dtype), groups)


@rule("aten.rrelu.default")
def leaky(reader: Reader, x: Layout, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Layout:
    """A randomized leaky ReLU in eval mode: the mean slope."""
    if training:
        reader.refuse("rrelu is random; call module.eval() before sharing")
    return Layout(reader.node("aten.leaky_relu.default", [x.node, (lower + upper) / 2], x.node.dims), x.groups)


@rule("aten._native_batch_norm_legit_no_training.default")
def batch_norm(
    reader: Reader,
    x: Layout,
    weight: Layout | None,
    bias: Layout | None,
    mean: Layout,
    var: Layout,
    momentum: float,
    eps: float,
) -> list[Layout]:
    """x * scale + shift, with scale and shift from the running statistics: constants of the model."""
    shifted = reader.node("aten.add.Tensor", [var.node, eps])
    scale = reader.node("aten.rsqrt.default", [shifted])
    if weight is not None:
        scale = reader.node("aten.mul.Tensor", [scale, weight.node])
    shift = reader.node("aten.neg.default", [reader.node("aten.mul.Tensor", [mean.node, scale])])
    if bias is not None:
        shift = reader.node("aten.add.Tensor", [shift, bias.node])
    channel = tuple((0,) if d == 1 else () for d in range(x.rank))
    (a, s, t), groups, dims = align(reader.graph, [x, Layout(scale, channel), Layout(shift, channel)])
    return [Layout(reader.node("multiply_add", [a, s, t], dims, a.dtype), groups)]


@rule(
    "aten.batch_norm.default",
    "aten._native_batch_norm_legit.default",
    "aten._native_batch_norm_legit.no_stats",
    "aten._native_batch_norm_legit_functional.default",
    "aten.native_batch_norm.default",
)
def batch_statistics(reader: Reader, *args: Any, **kwargs: Any) -> None:
    reader.refuse("batch statistics mix rows of the batch; call module.eval() before sharing")


@rule(
    "aten.dropout.default",
    "aten.native_dropout.default",
    "aten.bernoulli.default",
    "aten.bernoulli.p",
    "aten.rand.default",
    "aten.rand_like.default",
    "aten.randn.default",
    "aten.randn_like.default",
    "aten.randint.low",
    "aten.randint.default",
    "aten.randperm.default",
    "aten.normal.float_float",
    "aten.multinomial.default",
    "aten.uniform.default",
    "aten.feature_dropout.default",
    "aten.alpha_dropout.default",
)
def random(reader: Reader, *args: Any, **kwargs: Any) -> None:
    reader.refuse(f"{reader.name} is random, so no two computations of it agree; call module.eval() or remove it")
