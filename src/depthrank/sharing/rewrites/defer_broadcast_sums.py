"""r + c stays (r + c), and a (x + y) = a x + a y for a factor a of the request side or a number.

Idea: a sum of a request-side and a candidate-side tensor is not added until somebody needs it whole; a linear layer,
a sum or a bias can then take the terms apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from depthrank.sharing.algebra import Concat, Sum, Term, Val, Value, broadcast, numel
from depthrank.sharing.ir import Node, Region
from depthrank.sharing.sharer import Call, Sharer

_SUMS = ("aten.add.Tensor", "aten.sub.Tensor", "aten.add.Scalar", "aten.sub.Scalar", "aten.rsub.Scalar")
_PRODUCTS = (
    "aten.mul.Tensor",
    "aten.mul.Scalar",
    "aten.neg.default",
    "aten.div.Tensor",
    "aten.div.Scalar",
    "multiply_add",
)


def defer_broadcast_sums(s: Sharer, call: Call) -> Value | None:
    """Addition and scaling on unevaluated sums."""
    if not call.dtype.is_floating_point or any(isinstance(v, Concat) for v in call.operands):
        return None
    if any(v.dtype != call.dtype for v in call.operands):
        return None
    if not s.sole_reader and any(isinstance(v, Sum) and v.written_out for v in call.operands):
        # others need it whole, and terms apart would be computed twice
        whole = [s.force(v) if isinstance(v, Sum) and v.written_out else v for v in call.operands]
        forced: Value = s.apply(call.op, call.with_operands(whole), call.dims, call.dtype, call.kwargs)
        return forced
    if call.op in _SUMS and call.kwargs.get("alpha", 1) == 1 and len(call.args) == 2:
        return _sum(s, call)
    if call.op in _PRODUCTS and not call.kwargs:
        return _scale(s, call)
    return None


def _sum(s: Sharer, call: Call) -> Value | None:
    values = [_value(s, a, call) for a in call.args]
    if not any(isinstance(v, Sum) for v in values) and not _worth(values):
        return None
    if any(isinstance(v, Sum) and v.written_out for v in values) and not _bias(values):
        return None
    signs = {"aten.sub.Tensor": (1, -1), "aten.sub.Scalar": (1, -1), "aten.rsub.Scalar": (-1, 1)}.get(call.op, (1, 1))
    terms = [Term(t.factors, t.scale * sign) for v, sign in zip(values, signs) for t in _terms(v)]
    return s.simplified(terms, call.dims)


def _bias(values: Sequence[Value]) -> bool:
    """Is all but one value of the request side?"""
    return sum(v.region > Region.REQUEST for v in values) <= 1


def _worth(values: Sequence[Value]) -> bool:
    """Two regions meet, neither of them constant; or both operands broadcast to something larger."""
    regions = {v.region for v in values}
    if Region.CONSTANT in regions:
        return False
    nodes = [v.node for v in values if isinstance(v, Val)]
    grown = broadcast(*(n.dims for n in nodes))
    return len(regions) > 1 or (Region.MIXED in regions and all(n.dims != grown for n in nodes))


def _scale(s: Sharer, call: Call) -> Value | None:
    if call.op == "multiply_add":
        return _multiply_add(s, call)
    if not any(isinstance(a, Sum) for a in call.args):
        return None
    if call.op == "aten.neg.default":
        return _times_number(s, call.args[0], -1.0, call)
    first, second = call.args
    divide = "div" in call.op
    if divide and not isinstance(first, Sum):
        return None
    total, other = (first, second) if isinstance(first, Sum) else (second, first)
    if isinstance(other, Sum) and not divide:
        return _of_two_terms(s, total, other, call)
    if isinstance(other, (int, float)):
        return _times_number(s, total, 1.0 / other if divide else float(other), call) if other else None
    if isinstance(other, Val) and not divide and other.node.numel > numel(broadcast(*(t.dims for t in total.terms))):
        small: Value = s.apply(call.op, (s.force(total), other), call.dims, call.dtype)
        return small
    if not isinstance(other, Val) or (other.region > Region.REQUEST and _wide(other, total, call)):
        return None
    factor = s.emit("aten.reciprocal.default", [other.node], other.node.dims, call.dtype) if divide else other.node
    return s.simplified([Term((*t.factors, factor), t.scale) for t in total.terms], call.dims)


def _of_two_terms(s: Sharer, a: Sum, b: Sum, call: Call) -> Value | None:
    """(x r) (y t) = (x y) (r t), x and y of candidates, r and t of the request, if x y is smaller than the whole."""
    if len(a.terms) != 1 or len(b.terms) != 1:
        return None
    factors = (*a.terms[0].factors, *b.terms[0].factors)
    slow = [f.dims for f in factors if f.region > Region.REQUEST]
    if not slow or numel(broadcast(*slow)) == numel(broadcast(*(f.dims for f in factors))):
        return None
    return s.simplified([Term(factors, a.terms[0].scale * b.terms[0].scale)], call.dims)


def _multiply_add(s: Sharer, call: Call) -> Value | None:
    """Batch norm in eval mode on a sum: constants scale every term and join the request side."""
    x, scale, shift = call.args
    if not isinstance(x, Sum):
        return None
    terms = [_scaled_term(s, t, scale.node) for t in x.terms]
    return s.simplified([*terms, Term((shift.node,))], call.dims)


def _scaled_term(s: Sharer, term: Term, scale: Node) -> Term:
    """A constant times a term; a request's own weight takes it in, once a request."""
    first = term.factors[0]
    if len(term.factors) == 1 and first.op == "linear_by_request" and first.args[2] is None:
        x, weight, _ = first.args
        if scale.numel == scale.dims[-1] == first.dims[-1]:
            own = s.emit("aten.mul.Tensor", [weight, s.reshape(scale, (scale.numel, 1))], weight.dims, weight.dtype)
            node = s.graph.add("linear_by_request", (x, own, None), Region.MIXED, first.dims, first.dtype)
            return Term((node,), term.scale)
    return Term((*term.factors, scale), term.scale)


def _times_number(s: Sharer, total: Sum, number: float, call: Call) -> Value:
    return s.simplified([Term(t.factors, t.scale * number) for t in total.terms], call.dims)


def _wide(value: Val, total: Sum, call: Call) -> bool:
    """Would distributing a candidate-side factor multiply everything out?

    It does where the factor varies along the last axis, or where a term is written out for every candidate already.
    """
    return value.node.dims[-1:] != (1,) or call.dims[-1:] == (1,) or total.written_out


def _value(s: Sharer, value: Any, call: Call) -> Value:
    if isinstance(value, (Val, Sum, Concat)):
        return value
    return Val(s.number(float(value), len(call.dims), call.dtype), call.dims)


def _terms(value: Value) -> list[Term]:
    return list(value.terms) if isinstance(value, Sum) else [Term((value.node,))] if isinstance(value, Val) else []
