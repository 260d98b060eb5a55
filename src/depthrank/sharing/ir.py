"""The graph that sharing works on: batch-first nodes, each with a region.

Every tensor has its rows in dimension 0 (requests, catalogue rows or candidates, by region) except constants, which
have none. ``dims`` are the sizes after the rows. Axes in arguments are negative, so one node reads the same with and
without rows. Nodes are hash-consed: asking twice for the same operation on the same arguments gives the same node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch


class Region(IntEnum):
    """What a value depends on; the rows of its tensors follow from it."""

    CONSTANT = 0  # parameters only: no rows
    REQUEST = 1  # request inputs: R rows
    ITEM = 2  # bound item inputs: V catalogue rows
    MIXED = 3  # everything else: N candidate rows

    def join(self, other: Region) -> Region:
        """The region of a value computed from one of each."""
        if self == other or other == Region.CONSTANT:
            return self
        if self == Region.CONSTANT:
            return other
        return Region.MIXED


@dataclass(eq=False)
class Node:
    """One operation. ``args`` holds nodes, numbers, strings, dtypes and (nested) tuples of them."""

    index: int
    op: str
    args: tuple[Any, ...]
    region: Region
    dims: tuple[int, ...]
    dtype: torch.dtype
    name: str = ""
    source: str = ""
    kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def batched(self) -> bool:
        return self.region != Region.CONSTANT

    @property
    def numel(self) -> int:
        """Elements of one row."""
        return product(self.dims)

    def inputs(self) -> Iterator[Node]:
        yield from nodes_in(self.args)

    def __repr__(self) -> str:
        return f"%{self.index}:{self.op}[{self.region.name.lower()} {list(self.dims)}]"


def product(sizes: Sequence[int]) -> int:
    out = 1
    for s in sizes:
        out *= s
    return out


def nodes_in(value: Any) -> Iterator[Node]:
    """Every node inside a (nested) argument."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple):
        for v in value:
            yield from nodes_in(v)


def map_nodes(value: Any, change: Callable[[Node], Any]) -> Any:
    """The same argument with every node replaced by ``change(node)``."""
    if isinstance(value, Node):
        return change(value)
    if isinstance(value, tuple):
        return tuple(map_nodes(v, change) for v in value)
    return value


def freeze(value: Any) -> Any:
    """Lists become tuples, so that arguments can be hashed and compared."""
    if isinstance(value, (list, tuple)):
        return tuple(freeze(v) for v in value)
    return value


def _key(value: Any) -> Any:
    if isinstance(value, Node):
        return ("node", value.index)
    if isinstance(value, tuple):
        return tuple(_key(v) for v in value)
    return (type(value).__name__, repr(value) if isinstance(value, float) else value)


@dataclass(eq=False)
class Graph:
    """Nodes in order of creation, the outputs, and the tensors behind ``constant`` nodes."""

    nodes: list[Node] = field(default_factory=list)
    outputs: list[Node] = field(default_factory=list)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    _known: dict[Any, Node] = field(default_factory=dict, repr=False)
    source: str = ""  # the model's line that new nodes are made for

    def add(
        self,
        op: str,
        args: Sequence[Any],
        region: Region,
        dims: Sequence[int],
        dtype: torch.dtype,
        name: str = "",
        kwargs: tuple[tuple[str, Any], ...] = (),
    ) -> Node:
        """The node for this operation: a new one, or the one that exists already."""
        frozen = freeze(args)
        key = (op, _key(frozen), int(region), name, _key(kwargs), tuple(dims) if op == "input" else None)
        known = self._known.get(key)
        if known is not None:
            return known
        node = Node(len(self.nodes), op, frozen, region, tuple(dims), dtype, name, self.source, kwargs)
        self.nodes.append(node)
        self._known[key] = node
        return node

    def input(self, name: str, region: Region, dims: Sequence[int], dtype: torch.dtype) -> Node:
        return self.add("input", (), region, dims, dtype, name=name)

    def parameter(self, name: str, tensor: torch.Tensor) -> Node:
        """A parameter, buffer or literal tensor of the model, by its name there."""
        self.constants[name] = tensor
        return self.add("parameter", (), Region.CONSTANT, tuple(tensor.shape), tensor.dtype, name=name)

    def literal(self, tensor: torch.Tensor) -> Node:
        """A tensor made by the compiler (column positions, say)."""
        for name, known in self.constants.items():
            if name.startswith("literal.") and known.dtype == tensor.dtype and torch.equal(known, tensor):
                return self.parameter(name, known)
        return self.parameter(f"literal.{len(self.constants)}", tensor)

    def live(self, roots: Sequence[Node] | None = None) -> list[Node]:
        """The nodes that the outputs (or ``roots``) need, in order."""
        wanted = {n.index for n in (self.outputs if roots is None else roots)}
        for node in reversed(self.nodes):
            if node.index in wanted:
                wanted.update(n.index for n in node.inputs())
        return [n for n in self.nodes if n.index in wanted]
