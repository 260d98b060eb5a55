"""Windows over positions: convolution, pooling, padding, unfolding of each row's own sequence or map."""

from __future__ import annotations

from typing import Any

import torch

from depthrank.sharing.ir import Node
from depthrank.sharing.layout import Layout, canonical, plain, reshape
from depthrank.sharing.normal_form.products import linear
from depthrank.sharing.normal_form.reader import Reader, rule


@rule(
    "aten.conv1d.default",
    "aten.conv2d.default",
    "aten.conv3d.default",
    "aten.conv1d.padding",
    "aten.conv2d.padding",
    "aten.max_pool1d.default",
    "aten.avg_pool1d.default",
    "aten.max_pool2d.default",
    "aten.avg_pool2d.default",
    "aten.adaptive_avg_pool1d.default",
    "aten.adaptive_avg_pool2d.default",
    "aten.conv_transpose1d.default",
    "aten.conv_transpose2d.input",
    "aten.upsample_linear1d.vec",
    "aten.upsample_nearest1d.vec",
    "aten.upsample_nearest2d.vec",
    "aten.upsample_bilinear2d.vec",
    "aten.upsample_bicubic2d.vec",
)
def windows(reader: Reader, x: Layout, *args: Any, **kwargs: Any) -> Layout:
    """Convolution, pooling and interpolation of [B, C, ...]: each row on its own."""
    if reader.name.startswith(("aten.conv1d", "aten.conv2d", "aten.conv3d")) and _reads_one_place(*args):
        return _by_channels(reader, x, *args[:2])
    flat = _rows_first(reader, x)
    node = reader.node(reader.name, [flat.node, *_constants(reader, args)], kwargs=kwargs)
    return Layout(node, flat.groups)


def _reads_one_place(
    weight: Layout, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> bool:
    """Is the window one place wide, and every place read once?"""
    steps = stride if isinstance(stride, (list, tuple)) else [stride]
    around = padding if isinstance(padding, (list, tuple)) else [padding]
    alone = all(n == 1 for n in weight.node.dims[2:]) and len(weight.node.dims) > 2
    return alone and groups == 1 and all(n == 1 for n in steps) and all(n in (0, "valid", "same") for n in around)


def _by_channels(reader: Reader, x: Layout, weight: Layout, bias: Layout | None = None) -> Layout:
    """A convolution that reads one place is a linear layer over the channels."""
    matrix = plain(reshape(reader.graph, weight.node, weight.node.dims[:2]))
    last = Layout(x.node, (x.groups[0], *x.groups[2:], x.groups[1]))
    out = linear(reader, last, matrix, bias)
    return Layout(out.node, (out.groups[0], out.groups[-1], *out.groups[1:-1]))


@rule("aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default", "aten.max_pool1d_with_indices.default")
def windows_with_places(reader: Reader, x: Layout, *args: Any) -> list[Layout]:
    flat = _rows_first(reader, x)
    return [Layout(n, flat.groups) for n in reader.nodes(reader.name, [flat.node, *args])]


def _rows_first(reader: Reader, x: Layout) -> Layout:
    """[B, C, ...]; in [B * titles, C, ...] the folded axes stand before the channels."""
    flat = canonical(reader.graph, x)
    if not flat.holds_batch(0):
        reader.refuse(f"{reader.name} whose batch is not the batch of pairs")
    return flat


def _constants(reader: Reader, args: tuple[Any, ...]) -> list[Any]:
    plain_args = [a.node if isinstance(a, Layout) else a for a in args]
    if any(isinstance(a, Node) and a.batched for a in plain_args):
        reader.refuse("the weight of a convolution depends on the input")
    return plain_args


@rule("aten.pad.default", "aten.constant_pad_nd.default")
def pad(reader: Reader, x: Layout, widths: list[int], *args: Any) -> Layout:
    """Padding of the last dimensions, by a number or by repeating positions."""
    count = len(widths) // 2
    for k in range(count):
        if widths[2 * k] or widths[2 * k + 1]:
            reader.forbid_batch(x, x.rank - 1 - k, "padding")
    mode = args[0] if args and isinstance(args[0], str) else "constant"
    value = args[-1] if args and not isinstance(args[-1], str) else 0.0
    flat = canonical(reader.graph, x)
    if mode == "constant":
        while len(widths) >= 2 and not any(widths[-2:]):
            widths = widths[:-2]
        if len(widths) > 2 * len(flat.node.dims):
            reader.refuse("padding of a dimension that folds the batch has no rule for sharing")
        return Layout(reader.node("aten.constant_pad_nd.default", [flat.node, widths, value or 0.0]), flat.groups)
    for k in range(count):
        dim = x.rank - 1 - k
        places = _padded_places(mode, x.size(dim), widths[2 * k], widths[2 * k + 1])
        flat = taken(reader, flat, dim, places)
    return flat


def _padded_places(mode: str, size: int, before: int, after: int) -> list[int]:
    """Which position stands where after padding."""
    out = []
    for p in range(-before, size + after):
        if mode == "replicate":
            out.append(min(max(p, 0), size - 1))
        elif mode == "circular":
            out.append(p % size)
        else:  # reflect
            out.append(size - 1 - abs(size - 1 - abs(p)))
    return out


def taken(reader: Reader, x: Layout, dim: int, places: list[int]) -> Layout:
    """The entries of a dimension at constant positions; ``x`` is canonical."""
    index = reader.graph.literal(torch.tensor(places, dtype=torch.int64))
    return Layout(reader.node("take", [x.node, reader.axis(x, dim), index]), x.groups)


@rule("aten.unfold.default")
def unfold(reader: Reader, x: Layout, dim: int, size: int, step: int) -> Layout:
    """Sliding windows: the dimension counts windows, a last dimension the places inside."""
    dim %= x.rank
    reader.forbid_batch(x, dim, "unfolding")
    flat = canonical(reader.graph, x)
    count = (x.size(dim) - size) // step + 1
    wide = taken(reader, flat, dim, [w * step + k for w in range(count) for k in range(size)])
    axis = wide.groups[dim][0]
    dims = wide.node.dims
    node = reshape(reader.graph, wide.node, [*dims[:axis], count, size, *dims[axis + 1 :]])
    groups = tuple(tuple(a + 1 if a > axis else a for a in g) for g in wide.groups)
    return Layout(node, (*groups, (axis + 1,)))


@rule("aten.instance_norm.default")
def instance_norm(
    reader: Reader,
    x: Layout,
    weight: Layout | None,
    bias: Layout | None,
    mean: Any,
    var: Any,
    own_statistics: bool,
    momentum: float,
    eps: float,
    cudnn: bool = True,
) -> Layout:
    """Each channel of each row by its own mean and variance over the other dimensions."""
    if not own_statistics:
        reader.refuse("instance_norm with running statistics has no rule for sharing")
    flat = _rows_first(reader, x)
    lead = len(flat.groups[0]) - 1
    channels, rest = flat.node.dims[lead], list(flat.node.dims[lead + 1 :])
    node = reader.node("aten.layer_norm.default", [flat.node, rest, None, None, eps], flat.node.dims, flat.node.dtype)
    for op, constant in (("aten.mul.Tensor", weight), ("aten.add.Tensor", bias)):
        if constant is not None:
            own = reshape(reader.graph, constant.node, [channels, *([1] * len(rest))])
            node = reader.node(op, [node, own], node.dims, node.dtype)
    return Layout(node, flat.groups)
