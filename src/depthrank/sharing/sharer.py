"""Apply the rewrites to a batch-first graph: every operation once, in order, on values that may stay uncomputed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from depthrank.sharing.algebra import Algebra, Concat, Dims, Part, Sum, Term, Val, Value, broadcast, concat
from depthrank.sharing.inputs import Sides
from depthrank.sharing.ir import Graph, Node, Region
from depthrank.sharing.layout import Layout
from depthrank.sharing.normal_form.reader import FAULT, FAULTS, constant_tensor
from depthrank.sharing.refusal import Faulty

_LARGEST_MASK = 1 << 24  # elements


@dataclass(frozen=True)
class Declined:
    """A rewrite looked at an operation and left it: why, and the nodes that stood in the way."""

    reason: str
    nodes: tuple[Node, ...] = ()


@dataclass
class Decision:
    """What happened to one operation of the model."""

    rewrite: str
    op: str
    source: str
    reason: str = ""  # empty if it was applied
    nodes: tuple[str, ...] = ()


@dataclass
class Options:
    """``bound`` names candidate inputs that are catalogue columns; costs are weighed at N = ``candidates``."""

    bound: frozenset[str] = frozenset()
    candidates: int = 1000
    fold_batch_norm: bool = False
    without: frozenset[str] = frozenset()  # rewrites left out, for ablations


class Sharer(Algebra):
    """Values of the normal-form graph, computed by the first rewrite that takes each operation."""

    def __init__(self, graph: Graph, sides: Sides, options: Options) -> None:
        super().__init__(graph)
        self.sides = sides
        self.options = options
        self.values: dict[int, Value | list[Value]] = {}
        self.decisions: list[Decision] = []
        self.sole_reader = True  # does nobody else read the operands of the current operation?
        self.only_picked = False  # are known positions all that is read of the current operation's result?
        self._masks: dict[int, torch.Tensor | None] = {}

    # ------------------------------------------------------------------------------------------------------- driving

    def run(self, normal: Graph) -> None:
        """Evaluate every live node of the normal form."""
        live = normal.live()
        readers = Counter(n.index for node in live for n in node.inputs())
        picked = _only_picked(live, normal.outputs)
        for node in live:
            self.graph.source = node.source
            self.sole_reader = all(readers[n.index] == 1 for n in node.inputs() if n.batched)
            self.only_picked = node.index in picked
            self.now = f"{node.op} at {node.source}" if node.source else node.op
            try:
                self.values[node.index] = self._evaluate(normal, node)
            except FAULTS as error:
                why = f"a rewrite of {node.op} failed with {type(error).__name__}: {error}; {FAULT}"
                raise Faulty(why, repr(node), node.source) from error

    def value_of(self, node: Node) -> Value:
        value = self.values[node.index]
        assert not isinstance(value, list)
        return value

    def _evaluate(self, normal: Graph, node: Node) -> Any:
        if node.op == "input":
            return self._input(node)
        if node.op == "parameter":
            tensor = normal.constants[node.name]
            literal = node.name.startswith("literal.")
            return Val(self.graph.literal(tensor) if literal else self.graph.parameter(node.name, tensor), node.dims)
        args = tuple(self._argument(a) for a in node.args)
        if node.op == "item":
            return args[0][node.args[1]]
        return self.apply(node.op, args, node.dims, node.dtype, dict(node.kwargs))

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Node):
            return self.values[value.index]
        if isinstance(value, tuple):
            return tuple(self._argument(v) for v in value)
        return value

    def apply(
        self, op: str, args: Sequence[Any], dims: Dims, dtype: torch.dtype, kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The value of one operation: the first rewrite that takes it, else all operands written out."""
        from depthrank.sharing.rewrites import PIPELINE

        if op == "linear":
            args = (args[0], *(Val(self.full(v), v.dims) if v is not None else None for v in args[1:]))
        call = Call(op, tuple(args), tuple(dims), dtype, kwargs or {})
        for name, rewrite in PIPELINE:
            if name in self.options.without:
                continue
            result = rewrite(self, call)
            if result is None:
                continue
            if isinstance(result, Declined):
                self._record(name, call, result.reason, result.nodes)
                continue
            self._record(name, call)
            return result
        raise AssertionError(f"no rewrite took {op}")

    def _record(self, name: str, call: Call, reason: str = "", nodes: tuple[Node, ...] = ()) -> None:
        self.decisions.append(Decision(name, call.op, self.graph.source, reason, tuple(map(repr, nodes))))

    def _input(self, node: Node) -> Value:
        name = node.name
        if name in self.sides.packed:
            mine, theirs = self.sides.packed[name], self.sides.candidate_columns(name)
            request = self.graph.input(name, Region.REQUEST, (len(mine),), node.dtype)
            other = self.graph.input(name, self._candidate_region(name), (len(theirs),), node.dtype)
            parts = [Part(Val(request, request.dims), mine), Part(Val(other, other.dims), theirs)]
            return Concat(-1, tuple(parts), node.dims)
        region = Region.REQUEST if name in self.sides.request else self._candidate_region(name)
        return Val(self.graph.input(name, region, node.dims, node.dtype), node.dims)

    def _candidate_region(self, name: str) -> Region:
        return Region.ITEM if name in self.options.bound else Region.MIXED

    # --------------------------------------------------------------------------------------------------- for rewrites

    def linear(self, x: Value, weight: Node, bias: Node | None, dtype: torch.dtype) -> Value:
        """A linear layer of a value, by the rewrites."""
        dims = (*x.dims[:-1], weight.dims[0])
        b = Val(bias, bias.dims) if bias is not None else None
        out: Value = self.apply("linear", (x, Val(weight, weight.dims), b), dims, dtype)
        return out

    def add(self, values: Sequence[Value], dims: Dims) -> Value:
        """The sum of values, kept unevaluated where regions differ."""
        terms: list[Term] = []
        for v in values:
            if isinstance(v, Sum):
                terms += v.terms
            else:
                terms.append(Term((self.force(v).node,)))
        return self.simplified(terms, dims)

    def simplified(self, terms: Sequence[Term], dims: Dims) -> Value:
        """A sum with like terms added: same region and sizes, or the same request-side factor."""
        plain: dict[tuple[Region, Dims], Term] = {}
        scaled: dict[tuple[int, ...], Term] = {}
        rest: list[Term] = []
        for term in (self._tidy(t) for t in terms):
            if len(term.factors) == 1:
                (node,) = term.factors
                key = (node.region, node.dims)
                plain[key] = self._joined(plain[key], term) if key in plain else term
                continue
            fast, slow = term.factors[-1], term.factors[:-1]
            if len(slow) > 1 or fast.region == Region.MIXED:
                rest.append(term)
                continue
            mark = (fast.index, int(slow[0].region), *slow[0].dims)
            if mark in scaled:
                head = self._joined(Term(scaled[mark].factors[:1], scaled[mark].scale), Term(slow, term.scale))
                scaled[mark] = Term((head.factors[0], fast), head.scale)
            else:
                scaled[mark] = term
        out = [*plain.values(), *scaled.values(), *rest]
        if len(out) == 1 and len(out[0].factors) == 1 and out[0].scale == 1.0:
            return Val(out[0].factors[0], dims)
        return Sum(tuple(out), dims)

    def _joined(self, a: Term, b: Term) -> Term:
        """Two tensors of one region and size, added."""
        (x,), (y,) = a.factors, b.factors
        if a.scale == b.scale:
            return Term((self._plus(x, y, 1.0),), a.scale)
        if a.scale == 1.0:
            return Term((self._plus(x, y, b.scale),))
        if b.scale == 1.0:
            return Term((self._plus(y, x, a.scale),))
        return Term((self._plus(self.scaled(x, a.scale), y, b.scale),))

    def _tidy(self, term: Term) -> Term:
        """Factors multiplied where that makes nothing larger, slowest first; numbers go to the request side."""
        by_region: dict[Region, list[Node]] = {}
        for f in term.factors:
            by_region.setdefault(Region.REQUEST if f.region == Region.CONSTANT else f.region, []).append(f)
        low = [self._multiply(fs) for r, fs in by_region.items() if r == Region.REQUEST]
        item = self._merged(by_region.get(Region.ITEM, []))
        mixed = self._merged(by_region.get(Region.MIXED, []))
        scale = term.scale
        alone = low and low[0].region == Region.REQUEST and len(mixed) == 1 and not item
        if alone and broadcast(mixed[0].dims, low[0].dims) == mixed[0].dims:
            return Term((self._multiply([mixed[0], low[0]]),), scale)
        return Term((*mixed, *item, *low), scale)

    def _merged(self, factors: list[Node]) -> list[Node]:
        """Factors of one region, multiplied if the product is no larger than the largest of them."""
        if len(factors) < 2:
            return factors
        dims = broadcast(*(f.dims for f in factors))
        return [self._multiply(factors)] if any(f.dims == dims for f in factors) else factors

    def number(self, value: float, rank: int, dtype: torch.dtype) -> Node:
        """A number as a constant of this rank, kept in double precision until constants are folded."""
        exact = self.graph.literal(torch.tensor(value, dtype=torch.float64))
        cast = (
            self.emit("aten._to_copy.default", [exact], [], dtype, {"dtype": dtype})
            if dtype != torch.float64
            else exact
        )
        return self.reshape(cast, [1] * rank)

    def known_mask(self, node: Node) -> torch.Tensor | None:
        """The value of a constant that no training step can change: it is made of literals, integers and masks."""
        if node.index not in self._masks:
            fixed = all(n.op != "parameter" or self._is_fixed(n) for n in self.graph.live([node]))
            self._masks[node.index] = self.constant_tensor(node) if fixed else None
        return self._masks[node.index]

    def _is_fixed(self, node: Node) -> bool:
        """A literal, an integer or boolean buffer, or a mask: a buffer of zero and one, or of zero and -inf."""
        if node.name.startswith("literal.") or not node.dtype.is_floating_point:
            return True
        tensor = self.graph.constants[node.name]
        if tensor.layout != torch.strided or tensor.requires_grad or tensor.dim() < 2 or tensor.numel() > _LARGEST_MASK:
            return False
        ones, zeros, hidden = (int((tensor == number).sum()) for number in (1.0, 0.0, -math.inf))
        return zeros > 0 and max(ones, hidden) > 0 and zeros + max(ones, hidden) == tensor.numel()

    def is_known(self, value: Val, number: float) -> bool:
        """Is this value a constant equal to the number everywhere?"""
        if value.region != Region.CONSTANT:
            return False
        tensor = self.known_mask(value.node)
        return tensor is not None and bool((tensor == number).all())

    def constant_tensor(self, node: Node) -> torch.Tensor:
        """The value of a constant node now (positions, say)."""
        return constant_tensor(self.graph, node)


@dataclass(frozen=True, eq=False)
class Call:
    """One operation on values: what a rewrite sees."""

    op: str
    args: tuple[Any, ...]
    dims: Dims
    dtype: torch.dtype
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def operands(self) -> list[Value]:
        return [v for v in flat(self.args) if isinstance(v, (Val, Concat, Sum))]

    def with_operands(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments with other operands in the same places."""
        supply = iter(values)
        return tuple(_put(a, supply) for a in self.args)


def _only_picked(live: Sequence[Node], outputs: Sequence[Node]) -> set[int]:
    """Nodes of which every reader, views apart, takes known positions."""
    read_whole = {n.index for n in outputs}
    for node in reversed(live):
        is_view = node.op in ("reshape", "permute") and node.index not in read_whole
        if node.op != "take" and not is_view:
            read_whole.update(n.index for n in node.inputs())
    return {n.index for n in live} - read_whole


def flat(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        return [x for v in value for x in flat(v)]
    return [value]


def _put(value: Any, supply: Any) -> Any:
    if isinstance(value, (Val, Concat, Sum)):
        return next(supply)
    if isinstance(value, tuple):
        return tuple(_put(v, supply) for v in value)
    return value


__all__ = ["Call", "Decision", "Declined", "Layout", "Options", "Sharer", "concat", "flat"]
