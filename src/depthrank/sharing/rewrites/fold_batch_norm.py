"""s (W x + b) + t = (s W) x + (s b + t): batch norm in eval mode goes into the weights of the layer before it.

Not sharing, and off unless `share(..., fold_batch_norm=True)`: the original could have it too. The report counts it.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Sum, Term, Val, Value
from depthrank.sharing.ir import Node
from depthrank.sharing.sharer import Call, Sharer


def fold_batch_norm(s: Sharer, call: Call) -> Value | None:
    """A per-column scale and shift right after a linear layer."""
    if not s.options.fold_batch_norm or call.op != "multiply_add":
        return None
    x, scale, shift = call.args
    if not isinstance(scale, Val) or any(n != 1 for n in scale.node.dims[:-1]):
        return None
    if isinstance(x, Val) and x.node.op == "linear":
        vector = s.reshape(shift.node, shift.node.dims[-1:])
        return Val(_scaled(s, x.node, scale.node, vector), call.dims)
    if not isinstance(x, Sum) or not any(t.factors[0].op == "linear" for t in x.terms):
        return None
    terms = [Term((shift.node,))]
    for term in x.terms:
        if len(term.factors) == 1 and term.factors[0].op == "linear":
            terms.append(Term((_scaled(s, term.factors[0], scale.node, None),), term.scale))
        else:
            terms.append(Term((*term.factors, scale.node), term.scale))
    return s.simplified(terms, call.dims)


def _scaled(s: Sharer, node: Node, scale: Node, shift: Node | None) -> Node:
    """The same layer with scaled rows of the weight, and the shift in its bias."""
    x, weight, bias = node.args
    rows = s.reshape(scale, (scale.dims[-1], 1))
    own = s.emit("aten.mul.Tensor", [weight, rows], weight.dims, weight.dtype)
    if bias is not None:
        bias = s.emit("aten.mul.Tensor", [bias, s.reshape(scale, scale.dims[-1:])], bias.dims, bias.dtype)
    if shift is not None:
        bias = shift if bias is None else s.emit("aten.add.Tensor", [bias, shift], shift.dims, shift.dtype)
    return s.emit("linear", [x, own, bias], node.dims, node.dtype)
