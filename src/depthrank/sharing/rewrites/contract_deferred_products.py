"""sum_l a_l v_l = a^T V: a sum over a product that was not multiplied out is a matrix product.

Idea: pooling a history with candidate-side weights reads each history once per request, not once per candidate.
"""

from __future__ import annotations

from string import ascii_lowercase

from depthrank.sharing.algebra import Sum, Term, Val, Value
from depthrank.sharing.ir import Node, Region
from depthrank.sharing.sharer import Call, Sharer


def contract_deferred_products(s: Sharer, call: Call) -> Value | None:
    """Sum or mean of an unevaluated sum, term by term."""
    if call.op not in ("aten.sum.dim_IntList", "aten.mean.dim") or not isinstance(call.args[0], Sum) or call.kwargs:
        return None
    x: Sum = call.args[0]
    if x.written_out:
        return None
    axes = tuple(call.args[1])
    terms = [_contract(s, t, x, axes) for t in x.terms]
    if call.op == "aten.mean.dim":
        count = 1
        for a in axes:
            count *= x.dims[a]
        terms = [Term(t.factors, t.scale / count) for t in terms]
    return s.simplified(terms, call.dims)


def _contract(s: Sharer, term: Term, x: Sum, axes: tuple[int, ...]) -> Term:
    rank = len(x.dims)
    summed = {a + rank for a in axes}
    repeated = 1  # axes along which the whole term is the same
    for a in summed:
        if all(f.dims[a] == 1 for f in term.factors):
            repeated *= x.dims[a]
    touched = [f for f in term.factors if any(f.dims[a] != 1 for a in summed)]
    outside = [f for f in term.factors if f not in touched]
    kept = [k for k in range(rank) if k not in summed]

    def drop(node: Node) -> Node:
        return s.reshape(node, [node.dims[k] for k in kept])

    factors = [drop(f) for f in outside]
    if touched:
        fast = [f for f in touched if f.region <= Region.REQUEST]
        slow = [f for f in touched if f.region > Region.REQUEST]
        groups = [g[0] if len(g) == 1 else s._multiply(g) for g in (slow, fast) if g]
        if len(groups) == 1 and len(touched) == 2 and not fast:
            groups = list(touched)
        factors.append(_sum_of_product(s, groups, summed, kept))
    return Term(tuple(factors), term.scale * repeated)


def _sum_of_product(s: Sharer, groups: list[Node], summed: set[int], kept: list[int]) -> Node:
    if len(groups) == 1:
        (node,) = groups
        axes = [a - len(node.dims) for a in sorted(summed)]
        return s.emit("aten.sum.dim_IntList", [node, axes], [node.dims[k] for k in kept], node.dtype)
    words, nodes = [], []
    for node in groups:
        axes = [k for k in range(len(node.dims)) if node.dims[k] != 1]
        words.append("".join(ascii_lowercase[k] for k in axes))
        nodes.append(s.reshape(node, [node.dims[k] for k in axes]))
    sizes = {k: max(g.dims[k] for g in groups) for k in kept}
    out_axes = [k for k in kept if sizes[k] != 1]
    word = "".join(ascii_lowercase[k] for k in out_axes)
    dims = tuple(sizes[k] for k in out_axes)
    operands = [Val(n, n.dims) for n in nodes]
    result: Value = s.apply("einsum", (f"{words[0]},{words[1]}->{word}", *operands), dims, nodes[0].dtype)
    return s.reshape(s.full(result), [sizes[k] for k in kept])
