"""Read a captured graph into batch-first nodes, one rule an operator.

A rule receives the operands as ``Layout`` (or lists of them, or plain values) and returns the layout of the result.
What a rule may touch is decided by where the batch lies: an operator that would mix rows is refused here, with the
node and the model's line, before any rewriting starts. ``RowCount`` stands for a number that depends on the batch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import fx

from depthrank.sharing.ir import Graph, Node, Region, map_nodes, nodes_in
from depthrank.sharing.layout import BATCH, Layout, Size, plain
from depthrank.sharing.normal_form.batch_numbers import is_batch_number, of_batch_number
from depthrank.sharing.normal_form.rows_one_by_one import (
    RowOf,
    is_row_numbers,
    joined_rows,
    of_one_row,
    rows_in,
    stacked_rows,
)
from depthrank.sharing.operators import Rows, run_node, shape_on_meta
from depthrank.sharing.refusal import Refused, source_line

if TYPE_CHECKING:
    from depthrank.sharing.capture import Captured

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


class RowCount:
    """A number computed from the batch size; only shapes may use it."""


ROW_COUNT = RowCount()
_IGNORED: tuple[str, ...] = (
    "aten._assert_tensor_metadata.default",
    "aten._assert_scalar.default",
    "aten._assert_async.msg",
)
_IGNORED += ("aten.sym_size.int", "aten.sym_numel.default", "aten.sym_constrain_range_for_size.default")
_IGNORED += ("aten._local_scalar_dense.default", "aten.item.default", "aten.sym_constrain_range.default")
FAULT = "a fault of the compiler: report the model, and use the original meanwhile"
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of these operators."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


class Reader:
    """Walks a captured graph once; ``graph`` collects the batch-first nodes, ``outputs`` their layouts."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.graph = Graph()
        self.values: dict[str, Any] = {}
        self.current: fx.Node | None = None

    def read(self) -> list[Any]:
        """The layouts of the outputs (or plain values); raises ``Refused`` with node and source line."""
        self._read_placeholders()
        for node in self.captured.nodes:
            self.current = node
            self.graph.source = source_line(node.meta.get("stack_trace"))
            try:
                self.values[node.name] = self._read_node(node)
            except Refused as refusal:
                if refusal.node:
                    raise
                reason = f"{refusal.reason}; {because}" if (because := self.captured.fixed_because) else refusal.reason
                raise Refused(reason, f"{node.name} = {node.target}", self.graph.source) from None
            except FAULTS as error:
                reason = f"the rule of {node.target} failed with {type(error).__name__}: {error}; {FAULT}"
                raise Refused(reason, f"{node.name} = {node.target}", self.graph.source) from error
        outputs = [self._value(o) for o in self.captured.outputs]
        for number in filter(is_batch_number, outputs):
            of_batch_number("output", [number])
        if any(rows_in(outputs)):
            raise Refused("an output is one row of the batch", "the module's output")
        return outputs

    def _read_placeholders(self) -> None:
        for placeholder in (n for n in self.captured.program.graph.nodes if n.op == "placeholder"):
            if placeholder.name in self.captured.inputs:
                val = placeholder.meta["val"]
                if any(not isinstance(s, int) for s in val.shape[1:]):
                    raise Refused("an input has a second dynamic dimension", placeholder.name)
                name = self.captured.inputs[placeholder.name]
                node = self.graph.input(name, Region.MIXED, tuple(val.shape[1:]), val.dtype)
                self.values[placeholder.name] = plain(node)
            elif placeholder.name in self.captured.tensors:
                name, tensor = self.captured.tensors[placeholder.name]
                self.values[placeholder.name] = plain(self.graph.parameter(name, tensor))
            else:
                self.values[placeholder.name] = placeholder.meta.get("val")

    def _value(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.values[value.name]
        if isinstance(value, (list, tuple)):
            return [self._value(v) for v in value]
        return value

    def _read_node(self, node: fx.Node) -> Any:
        val = node.meta.get("val")
        if str(node.target) in ("aten._local_scalar_dense.default", "aten.item.default"):
            return self._number(self._value(node.args[0]))
        if isinstance(val, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return ROW_COUNT
        args = [self._value(a) for a in node.args]
        kwargs = {k: self._value(v) for k, v in node.kwargs.items()}
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = str(node.target)
        if name in _IGNORED:
            return None
        if any(map(is_batch_number, args)):
            shifted = of_batch_number(name, args)
            if not isinstance(shifted, Layout):
                return shifted
            args[0] = shifted
        handler = RULES.get(name) or _by_tag(name)
        if handler is not None and any(rows_in([args, list(kwargs.values())])):
            return self._whole_again(args) or of_one_row(args, kwargs, partial(handler, self))
        if handler is not None:
            return handler(self, *args, **kwargs)
        return self.refuse(f"operator {name} has no rule for sharing")

    def _whole_again(self, args: list[Any]) -> Layout | None:
        """The batch that all its rows, one by one, are laid together to."""
        dim = args[1] if len(args) > 1 else 0
        if self.name == "aten.stack.default":
            return stacked_rows(args[0], dim, self.captured.batch)
        return joined_rows(args[0], self.captured.batch) if self.name == "aten.cat.default" and dim == 0 else None

    def _number(self, x: Layout | RowOf) -> Layout | int:
        """item() of a parameter stays a tensor of the model; of the number of a row in a loop over rows, it is that."""
        if isinstance(x, RowOf):
            return (
                x.row
                if is_row_numbers(x.layout.node)
                else self.refuse("item() makes a Python number of a value of the batch")
            )
        if x.node.batched or x.batch_dim is not None:
            self.refuse("item() makes a Python number of a value of the batch")
        return x

    def refuse(self, reason: str) -> NoReturn:
        raise Refused(reason)

    # ------------------------------------------------------------------------------------------------ for the rules

    @property
    def name(self) -> str:
        assert self.current is not None
        return str(self.current.target)

    def result_sizes(self, which: int | None = None) -> list[Size]:
        """Sizes of the current operator's result, each as (how many, times the batch?)."""
        assert self.current is not None
        val = self.current.meta["val"]
        return [self.size_of(s) for s in (val if which is None else val[which]).shape]

    def result_dtype(self, which: int | None = None) -> torch.dtype:
        assert self.current is not None
        val = self.current.meta["val"]
        return (val if which is None else val[which]).dtype  # type: ignore[no-any-return]

    def size_of(self, size: Any) -> Size:
        if isinstance(size, int):
            rows = self.captured.batch
            if isinstance(rows, int) and size and size % rows == 0:
                return size // rows, True
            return size, False
        expression = size.node.expr
        if expression.is_Integer:
            return int(expression), False
        quotient = expression / self.captured.batch
        if not quotient.is_Integer:
            self.refuse(f"a dimension has size {expression}, which is no multiple of the batch")
        return int(quotient), True

    def node(
        self,
        op: str,
        args: Sequence[Any],
        dims: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> Node:
        """A new node; its region is the join of its inputs, its sizes are inferred unless given."""
        return make_node(self.graph, op, args, dims, dtype, kwargs)

    def nodes(self, op: str, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> list[Node]:
        """All results of an operator that has several, each as its own node."""
        return make_nodes(self.graph, op, args, kwargs)

    def constant_tensor(self, node: Node) -> torch.Tensor:
        """The value of a constant now (positions, say)."""
        return constant_tensor(self.graph, node)

    def dim(self, layout: Layout, dim: int) -> int:
        return dim % layout.rank if layout.rank else 0

    def forbid_batch(self, layout: Layout, dim: int, doing: str) -> None:
        if layout.holds_batch(dim):
            self.refuse(f"{doing} the batch dimension mixes rows of the batch")

    def axis(self, layout: Layout, dim: int) -> int:
        """The (negative) axis of a canonical layout's logical dimension."""
        return layout.groups[dim][0] - len(layout.node.dims)


def make_node(
    graph: Graph,
    op: str,
    args: Sequence[Any],
    dims: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    kwargs: dict[str, Any] | None = None,
    region: Region | None = None,
) -> Node:
    frozen_kwargs = tuple(sorted((kwargs or {}).items()))
    if region is None:
        region = region_of(args)
    if dims is None or dtype is None:
        trial = Node(-1, op, tuple(_frozen(a) for a in args), region, (), torch.float32, "", "", frozen_kwargs)
        ((found_dims, found_dtype), *_) = shape_on_meta(trial)
        dims = found_dims if dims is None else dims
        dtype = found_dtype if dtype is None else dtype
    return graph.add(op, args, region, dims, dtype, kwargs=frozen_kwargs)


def make_nodes(graph: Graph, op: str, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> list[Node]:
    frozen_kwargs = tuple(sorted((kwargs or {}).items()))
    region = region_of(args)
    trial = Node(-1, op, tuple(_frozen(a) for a in args), region, (), torch.float32, "", "", frozen_kwargs)
    shapes = shape_on_meta(trial)
    whole = graph.add(op, args, region, shapes[0][0], shapes[0][1], kwargs=frozen_kwargs)
    return [graph.add("item", (whole, k), region, dims, dtype) for k, (dims, dtype) in enumerate(shapes)]


def constant_tensor(graph: Graph, node: Node) -> torch.Tensor:
    """The value of a constant node of this graph now."""
    assert node.region == Region.CONSTANT
    known: dict[int, Any] = {}
    for n in graph.live([node]):
        if n.op == "parameter":
            known[n.index] = graph.constants[n.name]
        else:
            known[n.index] = run_node(n, Rows(single=True), map_nodes(n.args, lambda m: known[m.index]))
    out: torch.Tensor = known[node.index]
    return out


def region_of(args: Sequence[Any]) -> Region:
    region = Region.CONSTANT
    for node in nodes_in(tuple(_frozen(a) for a in args)):
        region = region.join(node.region)
    return region


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


def has_rule(name: str) -> bool:
    """Can this operator be read as it is?"""
    return name in RULES or name in _IGNORED or _by_tag(name) is not None


def _by_tag(name: str) -> Rule | None:
    """Elementwise operators share one rule, found by torch's own tag."""
    from depthrank.sharing.operators import is_pointwise

    return RULES["pointwise"] if is_pointwise(name) else None


def drop_row_counts(reader: Reader, values: Sequence[Any]) -> None:
    """Refuse a number computed from the batch size where a value is expected."""
    if any(isinstance(v, RowCount) for v in values):
        reader.refuse("the number of rows is used as a value")


__all__ = [
    "BATCH",
    "ROW_COUNT",
    "Reader",
    "RowCount",
    "drop_row_counts",
    "make_node",
    "make_nodes",
    "region_of",
    "rule",
]
