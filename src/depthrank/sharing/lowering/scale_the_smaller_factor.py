"""c (x y) = (c x) y: a number goes to the factor that is smaller than the product, as in scores of attention."""

from __future__ import annotations

from typing import Any

from depthrank.sharing.ir import Node
from depthrank.sharing.lowering.rebuild import Rebuild, is_constant

_SCALES = ("aten.mul.Tensor", "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar")


def scale_the_smaller_factor(r: Rebuild, node: Node, args: tuple[Any, ...]) -> Node | None:
    """A contraction that nobody else reads, times or over a number."""
    if node.op not in _SCALES or len(args) != 2 or node.kwargs or not isinstance(args[0], Node):
        return None
    product, number = args
    single = isinstance(number, (int, float)) or (is_constant(number) and number.numel == 1)
    if product.op != "einsum" or not single or product.dims != node.dims or not r.read_once(product):
        return None
    eq, a, b = product.args
    place, factor = min(((1, a), (2, b)), key=lambda x: x[1].numel)
    if factor.region != node.region or factor.numel >= node.numel or factor.dtype != node.dtype:
        return None
    other = r.reshape(number, [1] * len(factor.dims)) if isinstance(number, Node) else number
    scaled = r.new.add(node.op, (factor, other), node.region, factor.dims, node.dtype)
    operands = (scaled, b) if place == 1 else (a, scaled)
    return r.new.add("einsum", (eq, *operands), node.region, node.dims, node.dtype)
