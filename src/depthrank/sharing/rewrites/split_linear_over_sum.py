"""W (x + y) = W x + W y, and W (a v) = a (W v) for a factor a that is the same along the last axis.

Idea: a request-side term keeps its product on the request side; a candidate's number times a request-side vector needs
the vector's product only once. This collapses the cross network of DCN (Wang et al., 2017) without a rule for it.
"""

from __future__ import annotations

from depthrank.sharing.algebra import Sum, Term, Value, broadcast, numel
from depthrank.sharing.ir import Region
from depthrank.sharing.normal_form.reader import region_of
from depthrank.sharing.rewrites.linear_terms import Read, carriers_of, linear_terms
from depthrank.sharing.sharer import Call, Declined, Sharer


def split_linear_over_sum(s: Sharer, call: Call) -> Value | Declined | None:
    """A linear layer of an unevaluated sum, term by term where that is less work."""
    if call.op != "linear" or not isinstance(call.args[0], Sum):
        return None
    x, weight, bias = call.args
    apart = sum(_work(s, t, x) for t in x.terms)
    whole = _rows(s, x.region) * numel(broadcast(*(t.dims for t in x.terms)))
    if apart > 1.1 * whole:
        nodes = tuple(f for t in x.terms for f in t.factors)
        return Declined("term by term is more work than the sum as a whole", nodes)
    terms = linear_terms(s, [Read(t, weight.node, x.dims[-1]) for t in x.terms], len(call.dims))
    if bias is not None:
        terms.append(Term((s.reshape(bias.node, (*[1] * (len(call.dims) - 1), bias.node.dims[0])),)))
    return s.simplified(terms, call.dims)


def _rows(s: Sharer, region: Region) -> int:
    """How often a region's work is done in one call."""
    return s.options.candidates if region == Region.MIXED else (1 if region == Region.REQUEST else 0)


def _work(s: Sharer, term: Term, x: Sum) -> int:
    carriers, _ = carriers_of(term, x.dims[-1])
    return _rows(s, region_of(carriers)) * numel(broadcast(*(f.dims for f in carriers))) if carriers else 0
