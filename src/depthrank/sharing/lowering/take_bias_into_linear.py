"""(x W) + b is one kernel: what is added right after a linear layer becomes its bias."""

from __future__ import annotations

from typing import Any

from depthrank.sharing.ir import Node, Region
from depthrank.sharing.lowering.rebuild import Rebuild


def take_bias_into_linear(r: Rebuild, node: Node, args: tuple[Any, ...]) -> Node | None:
    """A sum of a linear layer that nobody else reads and one vector, a constant or the request's."""
    if node.op != "aten.add.Tensor" or node.kwargs or not all(isinstance(a, Node) for a in args):
        return None
    for high, low in (args, args[::-1]):
        if high.op != "linear" or high.args[2] is not None or not r.read_once(high) or high.dims != node.dims:
            continue
        if any(n != 1 for n in low.dims[:-1]) or low.dims[-1:] != high.dims[-1:] or low.dtype != high.dtype:
            continue
        x, weight, _ = high.args
        if low.region == Region.CONSTANT:
            bias = r.reshape(low, low.dims[-1:])
            return r.new.add("linear", (x, weight, bias), node.region, node.dims, node.dtype)
        source = low.args[0] if low.op == "lift" else low
        if source.region == Region.REQUEST and node.region == Region.MIXED:
            return r.new.add("linear_with_request_term", (x, weight, source), Region.MIXED, node.dims, node.dtype)
    return None
