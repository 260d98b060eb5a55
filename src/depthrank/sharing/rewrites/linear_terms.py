"""A linear layer over terms: one product for each distinct tensor, however many columns or signs read it.

W (r * v) = (W diag r) v: a request's vectors times a candidate's go into weights of the request, so that DIN's first
layer over [t, h, t - h, t * h] is one product of all candidates with one matrix a request.
sum_k W_k (s_k r_k) = sum_k s_k (W_k r_k) for a candidate's numbers s_k and the request's vectors r_k: one product of
all candidates with a matrix of the request.
W1 t + W2 h + W3 (t - h) is (W1 + W3) t + (W2 - W3) h: weights are added at compile time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from depthrank.sharing.algebra import Dims, Term, replaced
from depthrank.sharing.ir import Node, Region
from depthrank.sharing.sharer import Sharer

Group = tuple[Node, tuple[Node, ...], Node]  # a vector, what else its term holds, the weight that reads it
FEW = 4  # numbers of which a product is not worth its launch


@dataclass(frozen=True)
class Read:
    """A term whose last axis has ``width`` entries, and the weight [out, width] that reads them."""

    term: Term
    weight: Node
    width: int


def linear_terms(s: Sharer, reads: Sequence[Read], rank: int) -> list[Term]:
    """The terms of sum_i W_i x_i; tensors that are read twice are multiplied once."""
    groups: dict[tuple[int, ...], Group] = {}
    by_request: dict[int, tuple[Node, Node]] = {}  # a candidate's vector -> the request's own weight for it
    out: list[Term] = []
    for read in reads:
        carriers, rest = carriers_of(read.term, read.width)
        weight = s.scaled(read.weight, read.term.scale)
        pair = _vector_and_request(carriers) if not rest else None
        if pair is not None:
            own = _request_weight(s, pair[1], weight)
            known = by_request.get(pair[0].index)
            if known is not None and known[1].dims == own.dims:
                own = s.emit("aten.add.Tensor", [known[1], own], own.dims, own.dtype)
            by_request[pair[0].index] = (pair[0], own)
            continue
        if not carriers:  # the same number at every entry: the weight's row sums
            sums = s.emit("aten.sum.dim_IntList", [weight, [-1]], [weight.dims[0]], weight.dtype)
            out.append(Term((*rest, s.reshape(sums, (*[1] * (rank - 1), weight.dims[0])))))
            continue
        vector = carriers[0] if len(carriers) == 1 else s._multiply(carriers)
        key = (vector.index, -1, *sorted(f.index for f in rest))
        if key in groups:
            weight = s.emit("aten.add.Tensor", [groups[key][2], weight], weight.dims, weight.dtype)
        groups[key] = (vector, rest, weight)
    for vector, own in by_request.values():
        alone = groups.pop((vector.index, -1), None)
        if alone is not None:  # W v + W_r v = (W + W_r) v
            own = s.emit("aten.add.Tensor", [own, alone[2]], own.dims, own.dtype)
        x = s.lift(s.reshape(vector, vector.dims[-1:]))
        out.append(Term((s.graph.add("linear_by_request", (x, own, None), Region.MIXED, own.dims[:-1], x.dtype),)))
    return out + _products(s, list(groups.values()))


def _vector_and_request(carriers: Sequence[Node]) -> tuple[Node, Node] | None:
    """A candidate's vector times a request's [.., L, D], of which each row would be multiplied out."""
    if len(carriers) != 2:
        return None
    slow, fast = sorted(carriers, key=lambda f: -f.region)
    if slow.region <= Region.REQUEST or fast.region != Region.REQUEST:
        return None
    if any(n != 1 for n in slow.dims[:-1]) or fast.numel == fast.dims[-1]:
        return None
    return slow, fast


def _request_weight(s: Sharer, request: Node, weight: Node) -> Node:
    """W diag(r_l) for every row l of the request: [.., L, out, in]."""
    rows = s.reshape(request, (*request.dims[:-1], 1, request.dims[-1]))
    return s.emit("aten.mul.Tensor", [rows, weight], (*request.dims[:-1], *weight.dims), weight.dtype)


def carriers_of(term: Term, width: int) -> tuple[list[Node], tuple[Node, ...]]:
    """Factors that vary along the last axis, and the others."""
    carriers = [f for f in term.factors if f.dims[-1] == width]
    return carriers, tuple(f for f in term.factors if f not in carriers)


def _products(s: Sharer, groups: Sequence[Group]) -> list[Term]:
    """One product a region and shape for tensors that stand alone; one each for those with other factors."""
    alone: dict[tuple[Region, Dims], list[tuple[Node, Node]]] = {}
    numbered = _numbered(groups)
    out: list[Term] = [_numbers_times_request(s, numbered)] if numbered else []
    for vector, rest, weight in groups:
        if numbered and any(vector is v and rest is r for v, r, _ in numbered):
            continue
        if rest:
            out.append(Term((*rest, linear_node(s, vector, weight))))
        else:
            alone.setdefault((vector.region, vector.dims[:-1]), []).append((vector, weight))
    for pairs in alone.values():
        vectors, weights = [p[0] for p in pairs], [p[1] for p in pairs]
        out.append(Term((linear_node(s, joined(s, vectors), joined(s, weights)),)))
    return out


def _numbered(groups: Sequence[Group]) -> list[Group]:
    """Request-side vectors of one size, each times one candidate-side number, where there are many."""
    found = [
        (vector, rest, weight)
        for vector, rest, weight in groups
        if len(rest) == 1 and rest[0].numel == 1 and rest[0].region == Region.MIXED
        and vector.region == Region.REQUEST and vector.numel == vector.dims[-1]
    ]  # fmt: skip
    alike: list[Group] = [g for g in found if g[0].dims == found[0][0].dims and g[2].dims == found[0][2].dims]
    return alike if len(alike) > FEW else []


def _numbers_times_request(s: Sharer, numbered: Sequence[Group]) -> Term:
    """s [K] times the request's [K, out]."""
    vectors, rests, weights = zip(*numbered)
    num, (out, width) = len(numbered), weights[0].dims
    rank = len(vectors[0].dims)
    flat = [s.reshape(v, [width]) for v in vectors]
    stacked = s.reshape(s.emit("cat", [flat, -1], [num * width], flat[0].dtype), [num, width])
    matrices = [s.reshape(w, [1, out, width]) for w in weights]
    matrix = s.emit("cat", [matrices, -3], [num, out, width], weights[0].dtype)
    rows = s.emit("einsum", ["ki,koi->ko", stacked, matrix], [num, out], flat[0].dtype)
    numbers = s.emit("cat", [[s.reshape(r[0], [1]) for r in rests], -1], [num], flat[0].dtype)
    made = s.graph.add("shared_einsum", ("k,ko->o", numbers, rows), Region.MIXED, [out], flat[0].dtype)
    return Term((s.reshape(made, [1] * (rank - 1) + [out]),))


def joined(s: Sharer, nodes: Sequence[Node]) -> Node:
    """Tensors side by side along the last axis."""
    if len(nodes) == 1:
        return nodes[0]
    dims = replaced(nodes[0].dims, -1, sum(n.dims[-1] for n in nodes))
    return s.emit("cat", [list(nodes), -1], dims, nodes[0].dtype)


def linear_node(s: Sharer, x: Node, weight: Node) -> Node:
    dense = weight
    if weight.op in ("aten.slice.Tensor", "permute"):
        dense = s.emit(
            "aten.clone.default", [weight], weight.dims, weight.dtype, {"memory_format": torch.contiguous_format}
        )
    return s.emit("linear", [x, dense, None], (*x.dims[:-1], weight.dims[0]), x.dtype)
