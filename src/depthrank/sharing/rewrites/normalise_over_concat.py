"""LayerNorm [x; y]: means and squared deviations of parts combine (Chan et al., 1983), then (v - m) s = s v - (m s) 1.

Idea: with r's own mean u and sum of squared deviations S, sum (r - m)^2 = S + d_r (u - m)^2. The request's part of the
result is a candidate's number times a request-side vector, so a linear layer after it still splits.
Given up: one more rounding than the fused kernel; the two-pass form keeps it stable.
"""

from __future__ import annotations

import torch

from depthrank.sharing.algebra import Concat, Part, Val, Value, concat
from depthrank.sharing.ir import Node, Region
from depthrank.sharing.sharer import Call, Declined, Sharer


def normalise_over_concat(s: Sharer, call: Call) -> Value | Declined | None:
    """LayerNorm over the last axis of a concat along it."""
    if call.op != "aten.layer_norm.default" or not isinstance(call.args[0], Concat):
        return None
    x, shape, weight, bias, eps = call.args
    if x.axis != -1:
        if -x.axis <= len(shape):
            return None
        cat = s.coalesce(x)
        parts = []
        for p in cat.parts:
            args = (p.value, shape, weight, bias, eps)
            parts.append(Part(s.apply(call.op, args, p.value.dims, call.dtype), p.positions))
        return concat(x.axis, parts, call.dims)
    if len(shape) != 1:
        return None
    cat = s.coalesce(x)
    if not any(isinstance(p.value, Val) and p.value.region <= Region.REQUEST for p in cat.parts):
        return Declined("no part of the normalised concat is request-side")
    return _normalise(s, call, cat)


def _normalise(s: Sharer, call: Call, cat: Concat) -> Value:
    width = call.dims[-1]
    one = (*call.dims[:-1], 1)
    nodes = [(s.full(p.value), p.positions) for p in cat.parts]
    sums = [s.emit("aten.sum.dim_IntList", [n, [-1]]) for n, _ in nodes]
    total = s.force(s.add([Val(s.reshape(t, (*t.dims, 1)), one) for t in sums], one)).node
    mean = s.emit("aten.mul.Scalar", [total, 1.0 / width])
    squares: list[Value] = []
    for (node, positions), own_sum in zip(nodes, sums):
        if node.region > Region.REQUEST:
            deviation = s.emit("aten.sub.Tensor", [node, mean])
            squares.append(
                _column(
                    s, s.emit("aten.sum.dim_IntList", [s.emit("aten.mul.Tensor", [deviation, deviation]), [-1]]), one
                )
            )
            continue
        own_mean = s.reshape(s.emit("aten.mul.Scalar", [own_sum, 1.0 / len(positions)]), (*own_sum.dims, 1))
        deviation = s.emit("aten.sub.Tensor", [node, own_mean])
        squares.append(
            _column(s, s.emit("aten.sum.dim_IntList", [s.emit("aten.mul.Tensor", [deviation, deviation]), [-1]]), one)
        )
        shift = s.emit("aten.sub.Tensor", [own_mean, mean])
        squares.append(Val(s.emit("aten.mul.Scalar", [s.emit("aten.mul.Tensor", [shift, shift]), len(positions)]), one))
    spread = s.force(s.add(squares, one)).node
    variance = s.emit("aten.mul.Scalar", [spread, 1.0 / width])
    inverse = s.emit("aten.rsqrt.default", [s.emit("aten.add.Scalar", [variance, call.args[4]])])
    return _scaled_parts(s, call, cat, mean, inverse)


def _column(s: Sharer, node: Node, dims: tuple[int, ...]) -> Val:
    return Val(s.reshape(node, (*node.dims, 1)), dims)


def _scaled_parts(s: Sharer, call: Call, cat: Concat, mean: Node, inverse: Node) -> Value:
    _, _, weight, bias, _ = call.args
    rank = len(call.dims)
    parts = []
    for p in cat.parts:
        dims = p.value.dims
        centred: Value = s.apply("aten.sub.Tensor", (p.value, Val(mean, dims)), dims, call.dtype)
        out: Value = s.apply("aten.mul.Tensor", (centred, Val(inverse, dims)), dims, call.dtype)
        for op, constant in (("aten.mul.Tensor", weight), ("aten.add.Tensor", bias)):
            if constant is not None:
                own = s.take_node(s.full(constant), -1, p.positions)
                vector = Val(s.reshape(own, (*[1] * (rank - 1), len(p.positions))), dims)
                out = s.apply(op, (out, vector), dims, call.dtype)
        parts.append(Part(out, p.positions))
    return concat(-1, parts, call.dims)


__all__ = ["normalise_over_concat", "torch"]
