"""Run a program: request part once, item part once a catalogue, candidate part for every candidate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from depthrank.sharing.blocks import blocks_of, rows_per_block
from depthrank.sharing.calls import group_slots
from depthrank.sharing.flat import flat
from depthrank.sharing.ir import Node, Region
from depthrank.sharing.lowering import lower
from depthrank.sharing.program import Program, emit_candidates, emit_part, row_arguments

MOST_ROWS = 1 << 62  # never in blocks


class Parts:
    """The three parts of a program as modules with their constants folded in; candidate parts are made when needed."""

    def __init__(self, program: Program) -> None:
        self.program = program = lower(program)
        self.constants = program.fold_constants()
        self.request_module = emit_part(program, Region.REQUEST, self.constants)
        self.request: Callable[..., Any] = flat(self.request_module)
        self.item: Callable[..., Any] | None = (
            emit_part(program, Region.ITEM, self.constants) if program.bound else None
        )
        self._candidates: dict[bool, Callable[..., Any]] = {}
        self._compile: Callable[[Any], Any] = flat
        self.request_names = tuple(n.name for n in program.inputs_of(Region.REQUEST))
        self.item_names = tuple(n.name for n in program.inputs_of(Region.ITEM))
        self._row_arguments = {single: row_arguments(program, single) for single in (True, False)}
        self.rows_at_once = rows_per_block(program.nodes_of(Region.MIXED)) if _rows_first(program) else MOST_ROWS
        self.candidate_names = tuple(n.name for n in program.inputs_of(Region.MIXED))

    def candidates(self, single: bool) -> Callable[..., Any]:
        """The candidate part for one request (broadcasting) or for several (indexed)."""
        if single not in self._candidates:
            self._candidates[single] = self._compile(self.candidates_module(single))
        return self._candidates[single]

    def candidates_module(self, single: bool) -> fx.GraphModule:
        """The candidate part as a module, for compilers."""
        return emit_candidates(self.program, self.constants, single)

    def passed_through(self, compiler: Callable[[Any], Any]) -> Parts:
        """The same parts, each passed through a compiler: the request part now, candidate parts when needed."""
        other = copy.copy(self)
        other.request = compiler(self.request_module)
        other._candidates = {}
        other._compile = compiler
        return other

    def replaced(self, request: Callable[..., Any], candidates: Callable[..., Any]) -> Parts:
        """The same parts with these in the place of the request part and the candidate part for one request."""
        other = copy.copy(self)
        other.request = request
        other._candidates = {True: candidates}
        return other

    def encode(self, request: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The request-side values that candidates read."""
        out: tuple[Tensor, ...] = self.request(*[request[n] for n in self.request_names])
        return out

    def tabulate(self, items: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The item-only values that candidates read, one row an item."""
        assert self.item is not None
        tables: tuple[Tensor, ...] = self.item(*[items[n] for n in self.item_names])
        return tuple(t.contiguous() for t in tables)

    def score(
        self,
        state: Sequence[Tensor],
        tables: Sequence[Tensor],
        candidate: Mapping[str, Tensor],
        like: Tensor,
        num_requests: int,
        request_of_candidate: Tensor | None,
        item_rows: Tensor | None,
    ) -> Any:
        """The model's own output for N candidates."""
        single = num_requests == 1
        needed = self._row_arguments[single]
        blocks = list(blocks_of(like.shape[0], self.rows_at_once)) if single else []
        if len(blocks) > 1:
            outputs = self._by_blocks(blocks, state, tables, candidate, like, item_rows)
            return self.program.assemble(outputs)
        given: dict[str, Tensor | None] = {"request_of_candidate": request_of_candidate, "item_rows": item_rows}
        if "slots" in needed:
            assert request_of_candidate is not None
            given["slots"], given["slot_of"] = group_slots(request_of_candidate, num_requests)
        inputs = [candidate[n] for n in self.candidate_names]
        outputs = self.candidates(single)(*inputs, *state, *tables, *[given[n] for n in needed], like)
        return self.program.assemble(outputs)

    def _by_blocks(
        self,
        blocks: Sequence[slice],
        state: Sequence[Tensor],
        tables: Sequence[Tensor],
        candidate: Mapping[str, Tensor],
        like: Tensor,
        item_rows: Tensor | None,
    ) -> list[Tensor]:
        """The outputs of one request's candidates, a block of rows at a time."""
        part = self.candidates(True)
        inputs = [candidate[n] for n in self.candidate_names]
        pieces = []
        for block in blocks:
            rows = [] if item_rows is None else [item_rows[block]]
            pieces.append(part(*[t[block] for t in inputs], *state, *tables, *rows, like[block]))
        return [torch.cat(parts) for parts in zip(*pieces)]


def _rows_first(program: Program) -> bool:
    """Does every output have its rows in the first dimension, and only there?"""
    return all(n.region == Region.MIXED and (n.op != "logical" or _leads(n)) for n in program.graph.outputs)


def _leads(node: Node) -> bool:
    order, shape = node.args[1:]
    return bool(order[0] == 0 and shape[0] == -1)


def one_row(tensor: Tensor) -> Tensor:
    """A stand-in row where there are none: zeros, which every table has a row for."""
    return torch.zeros(1, *tensor.shape[1:], dtype=tensor.dtype, device=tensor.device)
