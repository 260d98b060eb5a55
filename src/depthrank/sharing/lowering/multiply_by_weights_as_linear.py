"""einsum(W, x) with a constant W is a linear layer: W in rows of outputs, x with its summed axes last.

The summed axes keep the order in which x lies in memory, so W is rearranged once instead of x at every call.
"""

from __future__ import annotations

from typing import Any

from depthrank.sharing.ir import Node, Region, product
from depthrank.sharing.lowering.rebuild import Rebuild, is_constant
from depthrank.sharing.operators import split_equation


def multiply_by_weights_as_linear(r: Rebuild, node: Node, args: tuple[Any, ...]) -> Node | None:
    """A contraction of a constant with a tensor that has rows, without axes that run along both and stay."""
    if node.op != "einsum" or is_constant(args[1]) == is_constant(args[2]):
        return None
    left, right, out = split_equation(args[0])
    weight, w, x, v = (args[1], left, args[2], right) if is_constant(args[1]) else (args[2], right, args[1], left)
    if x.region == Region.CONSTANT or len(set(w)) != len(w) or len(set(v)) != len(v):
        return None
    summed = [c for c in v if c not in out]
    own = [c for c in w if c in out]
    if set(w) & set(v) & set(out) or set(summed) != {c for c in w if c not in out} or not summed or not own:
        return None
    size = dict(zip(w, weight.dims)) | {c: n for c, n in zip(v, x.dims) if n != 1}
    if any(size[c] != n for c, n in (*zip(w, weight.dims), *zip(v, x.dims))):
        return None
    summed.sort(key=lambda c: _place_in_memory(x, v.index(c)))
    free = [c for c in v if c in out]
    inputs = r.permute(x, [v.index(c) for c in (*free, *summed)])
    flat = r.reshape(inputs, [*(size[c] for c in free), product([size[c] for c in summed])])
    rows = r.permute(weight, [w.index(c) for c in (*own, *summed)])
    matrix = r.reshape(rows, [product([size[c] for c in own]), flat.dims[-1]])
    made = r.emit("linear", [flat, matrix, None], [*flat.dims[:-1], matrix.dims[0]])
    apart = r.reshape(made, [size[c] for c in (*free, *own)])
    return r.permute(apart, [[*free, *own].index(c) for c in out])


def _place_in_memory(x: Node, axis: int) -> int:
    return int(x.args[1][axis]) if x.op == "permute" else axis
