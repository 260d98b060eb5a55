"""Which elementwise operations may overwrite an operand: the emitted part reuses a buffer that nobody reads any more.

A fresh result of some megabytes costs three to four times as much as the same arithmetic in place, for its pages and
cache lines. Views share the buffer of what they view, so a buffer is free only when every view of it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from depthrank.sharing.ir import Node
from depthrank.sharing.operators import is_pointwise

aten = torch.ops.aten

_IN_PLACE: dict[str, Any] = {
    "aten.add.Tensor": aten.add_.Tensor,
    "aten.add.Scalar": aten.add_.Scalar,
    "aten.sub.Tensor": aten.sub_.Tensor,
    "aten.sub.Scalar": aten.sub_.Scalar,
    "aten.mul.Tensor": aten.mul_.Tensor,
    "aten.mul.Scalar": aten.mul_.Scalar,
    "aten.div.Tensor": aten.div_.Tensor,
    "aten.div.Scalar": aten.div_.Scalar,
    "aten.addcmul.default": aten.addcmul_.default,
    "aten.relu.default": aten.relu_.default,
    "aten.sigmoid.default": aten.sigmoid_.default,
    "aten.tanh.default": aten.tanh_.default,
    "aten.silu.default": aten.silu_.default,
    "aten.exp.default": aten.exp_.default,
    "aten.neg.default": aten.neg_.default,
    "aten.sqrt.default": aten.sqrt_.default,
    "aten.rsqrt.default": aten.rsqrt_.default,
    "aten.pow.Tensor_Scalar": aten.pow_.Scalar,
    "aten.clamp.default": aten.clamp_.default,
    "aten.masked_fill.Scalar": aten.masked_fill_.Scalar,
}
_COMMUTES = ("aten.add.Tensor", "aten.mul.Tensor")
_FRESH = (
    "linear",
    "linear_with_request_term",
    "linear_by_request",
    "einsum",
    "attend_by_heads",
    "shared_einsum",
    "cat",
    "embedding",
    "look_up_together",
    "multiply_add",
    "aten.softmax.int",
    "aten.sum.dim_IntList",
    "aten.mean.dim",
    "aten.layer_norm.default",
)
_VIEWS = ("reshape", "permute", "aten.slice.Tensor", "logical")


@dataclass(frozen=True)
class Write:
    """The operator that writes into its first argument, and the order in which it takes the node's arguments."""

    operator: Callable[..., Any]
    order: tuple[int, ...]


def writes_in_place(nodes: Sequence[Node], outputs: Sequence[Node]) -> dict[int, Write]:
    """Nodes, in the order they run, that can overwrite an operand; ``outputs`` are read after all of them."""
    owner: dict[int, int] = {}  # a node -> the node whose buffer it lies in
    for node in nodes:
        if node.op in _VIEWS:
            owner[node.index] = owner.get(node.args[0].index, -1)
        else:
            owner[node.index] = node.index if _fresh(node) else -1
    last_read: dict[int, int] = {}
    for step, node in enumerate(nodes):
        for source in node.inputs():
            last_read[owner.get(source.index, -1)] = step
    for node in outputs:
        last_read[owner.get(node.index, -1)] = len(nodes)
    found: dict[int, Write] = {}
    for step, node in enumerate(nodes):
        for order in _orders(node):
            target = node.args[order[0]]
            buffer = owner.get(target.index, -1)
            if buffer < 0 or last_read[buffer] > step or not _fits(node, target):
                continue
            if sum(owner.get(n.index, -1) == buffer for n in node.inputs()) > 1:
                continue
            found[node.index] = Write(_IN_PLACE[node.op], order)
            break
    return found


def _fresh(node: Node) -> bool:
    """Does this operation always write a buffer of its own?"""
    return node.op in _FRESH or node.op in _IN_PLACE or (is_pointwise(node.op) and node.op in _ALWAYS_COPY)


_ALWAYS_COPY = ("aten.rsub.Scalar", "aten.where.self", "aten.gelu.default", "aten.leaky_relu.default")


def _orders(node: Node) -> list[tuple[int, ...]]:
    if node.op not in _IN_PLACE:
        return []
    straight = tuple(range(len(node.args)))
    swapped = node.op in _COMMUTES and not node.kwargs
    orders = [straight, (1, 0)] if swapped else [straight]
    possible = [o for o in orders if isinstance(node.args[o[0]], Node)]
    return sorted(possible, key=lambda o: _permuted(node.args[o[0]]))


def _permuted(node: Node) -> bool:
    """Does it lie in memory in another order of axes? Then whoever flattens it next must copy it."""
    while node.op in _VIEWS:
        if node.op == "permute":
            return True
        node = node.args[0]
    return False


def _fits(node: Node, target: Node) -> bool:
    """The same rows, sizes and dtype, and no entry that stands for several."""
    return target.region == node.region and target.dims == node.dims and target.dtype == node.dtype
