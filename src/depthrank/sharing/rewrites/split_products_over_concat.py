"""[A; B] · X = [A · X; B · X] over a free axis, and [A, B] · [X; Y] = A X + B Y over the summed axis.

Idea: keys or values that are the request's history plus one candidate row give a shared product and a product of one
row each. Where only known positions of a product of two concats are read, as DLRM reads a triangle of its dot products,
each block is a product of its own, the (user, user) block the request's, and blocks that nobody reads are not computed.
"""

from __future__ import annotations

import torch

from depthrank.sharing.algebra import Concat, Part, Val, Value, concat, numel, replaced
from depthrank.sharing.ir import Region
from depthrank.sharing.operators import split_equation
from depthrank.sharing.sharer import Call, Declined, Sharer

MOSTLY = 0.75  # blocks of two concats pay where request-side positions make up most of both


def split_products_over_concat(s: Sharer, call: Call) -> Value | Declined | None:
    """A contraction with a concat among its operands."""
    if call.op != "einsum" or not any(isinstance(v, Concat) for v in call.args[1:]):
        return None
    eq, a, b = call.args
    words = split_equation(eq)
    out = words[2]
    named = [(v, w, w[v.axis + len(w)]) for v, w in ((a, words[0]), (b, words[1])) if isinstance(v, Concat)]
    over_two_axes = len(named) == 2 and named[0][2] != named[1][2] and not s.only_picked
    if over_two_axes and min(_request_share(v) for v, _, _ in named) < MOSTLY:
        return Declined("both factors are concats over different axes", tuple(_nodes(a) + _nodes(b)))
    letter = named[0][2]
    if letter not in out and len(named) == 1 and _small_beside(named[0][0], b if named[0][0] is a else a):
        return Declined("written out, the concat is smaller than the slices of the other factor", tuple(_nodes(a)))
    zero = [v for v in (a, b) if isinstance(v, Val) and s.is_known(v, 0.0)]
    if zero:
        return Val(s.reshape(s.graph.literal(torch.zeros((), dtype=call.dtype)), [1] * len(call.dims)), call.dims)
    if len(named) == 2 and s.only_picked:
        a, b = (s.coalesce(v) if isinstance(v, Concat) else v for v in (a, b))
    with_letter = [(k, v, w) for k, (v, w) in enumerate(((a, words[0]), (b, words[1]))) if letter in w]
    values = [_at_end(s, v, w, letter) for _, v, w in with_letter]
    pieces = s.split_together(values, -1)
    results = []
    for positions, cut in pieces:
        operands = [a, b]
        new_words = [words[0], words[1]]
        for (k, _, w), piece in zip(with_letter, cut):
            operands[k] = piece
            new_words[k] = w.replace(letter, "") + letter
        dims = tuple(len(positions) if c == letter else call.dims[out.index(c)] for c in out)
        if letter not in out and any(isinstance(v, Val) and s.is_known(v, 0.0) for v in operands):
            continue
        value = s.apply("einsum", (f"{new_words[0]},{new_words[1]}->{out}", *operands), dims, call.dtype)
        results.append(Part(value, positions))
    if letter not in out:
        return s.add([p.value for p in results], call.dims)
    if all(isinstance(p.value, Val) and p.value.region == Region.MIXED for p in results) and not _saves(
        results, pieces
    ):
        return Declined("every part of the product is candidate-side", tuple(_nodes(a) + _nodes(b)))
    return concat(out.index(letter) - len(out), results, call.dims)


def _small_beside(cat: Concat, other: Value) -> bool:
    """Is a half-mixed concat no larger than the candidate-side factor, which would be cut and copied for its parts?"""
    if not isinstance(other, Val) or other.region != Region.MIXED or _request_share(cat) >= MOSTLY:
        return False
    return numel(other.node.dims) >= numel(cat.dims)


def _request_share(cat: Concat) -> float:
    """The share of a concat's positions that is not candidate-side."""
    own = sum(len(p.positions) for p in cat.parts if p.value.region <= Region.REQUEST)
    return own / max(cat.dims[cat.axis], 1)


def _saves(results: list[Part], pieces: object) -> bool:
    """Did some part become a shared product?"""
    return any(isinstance(p.value, Val) and p.value.node.op == "shared_einsum" for p in results)


def _at_end(s: Sharer, value: Value, word: str, letter: str) -> Value:
    """The operand with this letter's axis last."""
    place = word.index(letter)
    if place == len(word) - 1:
        return value
    order = (*tuple(k for k in range(len(word)) if k != place), place)
    dims = tuple(value.dims[k] for k in order)
    moved: Value = s.apply("permute", (value, order), dims, value.dtype)
    return moved


def _nodes(value: Value) -> list:  # type: ignore[type-arg]
    if isinstance(value, Concat):
        return [p.value.node for p in value.parts if isinstance(p.value, Val)]
    return [value.node] if isinstance(value, Val) else []


__all__ = ["replaced", "split_products_over_concat"]
