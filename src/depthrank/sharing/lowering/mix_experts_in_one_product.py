"""sum_k g_k (x * (U_k h_k + b_k)) = x * [U_1 .. U_K, b_1 .. b_K] [g_1 h_1; ..; g_K h_K; g_1; ..; g_K].

A weighted sum of linear experts is one product over their concatenated inputs: the experts' outputs, K times as large
as the result, are never written. Without a linear layer at the end of each expert the sum runs expert by expert,
which still saves writing them side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from depthrank.sharing.ir import Node, Region
from depthrank.sharing.lowering.rebuild import Rebuild, is_constant, through_reshapes
from depthrank.sharing.operators import split_equation

MOST_EXPERTS = 16


@dataclass(frozen=True)
class Expert:
    """A part of the stack: ``factor`` times a linear layer of ``hidden``."""

    factor: Node | None
    hidden: Node
    weight: Node
    bias: Node | None


def mix_experts_in_one_product(r: Rebuild, node: Node, args: tuple[Any, ...]) -> Node | None:
    """A contraction of stacked candidate-side parts with one weight a part."""
    if node.op != "einsum" or node.region != Region.MIXED:
        return None
    left, right, out = split_equation(args[0])
    stack, s, gate, g = (args[1], left, args[2], right) if len(left) > 1 else (args[2], right, args[1], left)
    if len(g) != 1 or g in out or s.replace(g, "") != out or gate.region != Region.MIXED or stack.op != "cat":
        return None
    parts, axis = stack.args
    if not r.read_once(stack) or axis + len(s) != s.index(g) or any(p.dims[axis] != 1 for p in parts):
        return None
    if not 2 <= len(parts) <= MOST_EXPERTS or any(p.region != Region.MIXED for p in parts):
        return None
    experts = [_expert(r, p) for p in parts]
    if all(e is not None for e in experts):
        made = _one_product(r, [e for e in experts if e is not None], gate)
        if made is not None:
            return r.reshape(made, node.dims)
    return None


def _expert(r: Rebuild, part: Node) -> Expert | None:
    """The part taken apart, if each step has no other reader."""
    node = part
    while node.op == "reshape" and r.read_once(node):
        node = node.args[0]
    if node.op == "aten.mul.Tensor" and r.read_once(node) and all(isinstance(a, Node) for a in node.args):
        for factor, other in (node.args, node.args[::-1]):
            inner = _linear(r, other)
            if inner is not None and factor.numel == other.numel == node.numel and factor.region == Region.MIXED:
                return Expert(factor, *inner)
        return None
    inner = _linear(r, node)
    return Expert(None, *inner) if inner is not None else None


def _linear(r: Rebuild, node: Node) -> tuple[Node, Node, Node | None] | None:
    below = through_reshapes(node)
    if below.op != "linear" or len(below.dims) != 1 or not is_constant(below.args[1]) or not r.read_once(below):
        return None
    return below.args


def _one_product(r: Rebuild, experts: list[Expert], gate: Node) -> Node | None:
    first = experts[0]
    sizes = {(e.factor.index if e.factor else -1, e.weight.dims) for e in experts}
    if len(sizes) != 1 or first.weight.dims[1] * 2 > first.weight.dims[0]:
        return None
    num, width = len(experts), first.weight.dims[1]
    hidden = r.reshape(r.emit("cat", [[e.hidden for e in experts], -1], [num * width]), [num, width])
    scaled = r.reshape(r.emit("aten.mul.Tensor", [hidden, r.reshape(gate, [num, 1])], [num, width]), [num * width])
    inputs, weights = [scaled], [e.weight for e in experts]
    if any(e.bias is not None for e in experts):
        if any(e.bias is None for e in experts):
            return None
        inputs.append(r.reshape(gate, [num]))
        weights += [r.reshape(e.bias, [first.weight.dims[0], 1]) for e in experts if e.bias is not None]
    matrix = r.emit("cat", [weights, -1], [first.weight.dims[0], sum(w.dims[1] for w in weights)])
    whole = r.emit("cat", [inputs, -1], [matrix.dims[1]]) if len(inputs) > 1 else scaled
    made = r.emit("linear", [whole, matrix, None], [matrix.dims[0]])
    if first.factor is None:
        return made
    return r.emit("aten.mul.Tensor", [first.factor, r.reshape(made, first.factor.dims)], first.factor.dims)
