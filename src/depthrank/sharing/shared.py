"""A ranking model that computes request-side work once per request."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from depthrank.errors import SharingError
from depthrank.sharing.calls import Expected, check_item_rows, check_request_of_candidate, dims_of
from depthrank.sharing.compilation import Compilation, Sample, compile_parts, compile_parts_ahead, zero_sample
from depthrank.sharing.execution import Parts, one_row
from depthrank.sharing.inputs import join_pairs, split_pairs
from depthrank.sharing.ir import Region
from depthrank.sharing.program import Program
from depthrank.sharing.report import Report

Inputs = Mapping[str, Tensor]
NOT_COMPILED = Compilation("none", 0.0, "compile() was not called")


@dataclass(frozen=True)
class RequestState:
    """What candidates read of R encoded requests: keep it while the request side does not change."""

    values: tuple[Tensor, ...]
    num_requests: int

    @property
    def bytes(self) -> int:
        return sum(v.numel() * v.element_size() for v in self.values)


class Shared(nn.Module):
    """The shared form of a module: ``shared(request_inputs, candidate_inputs, request_of_candidate=None)``.

    ``request_inputs`` hold R rows, ``candidate_inputs`` N rows; ``request_of_candidate`` int64 [N] says which request
    each candidate belongs to, None that there is one. The output is the module's own, with N rows. Weights are those
    of the moment ``share`` was called; ``trainable()`` gives a form that reads live parameters.
    """

    def __init__(
        self, program: Program, report: Report, rebind: Callable[[frozenset[str]], Program] | None, original: Any
    ) -> None:
        super().__init__()
        self.program = program
        self.report = report
        self.parts = Parts(program)
        self.compilation = NOT_COMPILED
        self._request = Expected.of(program, program.sides.request, "request_inputs", True)
        self._candidate = Expected.of(program, program.sides.candidate, "candidate_inputs", False)
        self._rebind = rebind
        self._original = original  # (ModuleInputs, module), or None for a loaded model
        self.eval()

    @property
    def request_names(self) -> tuple[str, ...]:
        return self.program.sides.request

    @property
    def candidate_names(self) -> tuple[str, ...]:
        return self.program.sides.candidate

    def forward(
        self, request_inputs: Inputs, candidate_inputs: Inputs, request_of_candidate: Tensor | None = None
    ) -> Any:
        """The module's output for N candidates; raises ``SharingError`` for inputs that do not fit."""
        if self._original is not None and not self.report.pays:
            return self._as_it_was(request_inputs, candidate_inputs, request_of_candidate)
        return self.score(self.encode(request_inputs), candidate_inputs, request_of_candidate)

    def encode(self, request_inputs: Inputs) -> RequestState:
        """The request side alone, for R requests: what ``score`` needs of them."""
        rows = self._request.rows(request_inputs)
        if rows == 0 and self.request_names:
            request_inputs = {n: one_row(t) for n, t in request_inputs.items()}
        with torch.no_grad():
            return RequestState(self.parts.encode(request_inputs), rows)

    def score(self, state: RequestState, candidate_inputs: Inputs, request_of_candidate: Tensor | None = None) -> Any:
        """The module's output for N candidates of requests that were encoded before."""
        rows = self._candidate.rows(candidate_inputs)
        index = check_request_of_candidate(request_of_candidate, state.num_requests, rows)
        with torch.no_grad():
            return _score(self.parts, state, (), candidate_inputs, rows, index, None)

    def _as_it_was(self, request_inputs: Inputs, candidate_inputs: Inputs, request_of_candidate: Tensor | None) -> Any:
        requests = self._request.rows(request_inputs)
        rows = self._candidate.rows(candidate_inputs)
        index = check_request_of_candidate(request_of_candidate, requests, rows)
        if rows < 2:  # many originals cannot score one row
            return self.score(self.encode(request_inputs), candidate_inputs, request_of_candidate)
        if index is None:
            index = torch.zeros(rows, dtype=torch.int64, device=next(iter(candidate_inputs.values())).device)
        inputs, module = self._original
        args, kwargs = inputs.arguments(join_pairs(self.program.sides, request_inputs, candidate_inputs, index))
        with torch.no_grad():
            return module(*args, **kwargs)

    def bind(self, items: Inputs, path: str | Path | None = None) -> BoundShared:
        """Precompute what depends on these candidate inputs alone, for V catalogue rows.

        With a ``path`` the values are written to that folder and mapped from it, so that processes share them and they
        need not fit in memory; ``load_shared(path)`` reads the bound model again. Raises ``SharingError`` for a name
        that is no candidate input, or a model loaded without its source graph.
        """
        from depthrank.sharing.bound import bind

        if self._rebind is None:
            raise SharingError("a loaded model cannot be bound again; bind before saving")
        return bind(self, self._rebind, items, None if path is None else Path(path))

    def explain(self, as_json: bool = False) -> str:
        """What is shared, split, bound, written out and declined, and why."""
        return self.report.to_json() if as_json else str(self.report)

    def trainable(self) -> Any:
        """The shared form over the module's live parameters: gradients reach them as in the original."""
        from depthrank.sharing.trainable import Trainable

        return Trainable(self.program)

    def compile(self, *, only_if_faster: bool = True, **options: Any) -> Shared:  # type: ignore[override]
        """The same model with each part passed through ``torch.compile`` (``options`` are its), for any number of
        candidates; compiled and checked before it is returned, which takes seconds to minutes (``compilation``).

        Inductor makes some models slower, attention over many small heads most of all: such a model stays uncompiled
        unless ``only_if_faster`` is False. Warns and runs uncompiled where there is no C++ compiler.
        """
        return self._with(*compile_parts(self.parts, self._sample(), options, only_if_faster))

    def compile_ahead(self, cache: str | Path) -> Shared:
        """The same model as an AOTInductor package, from the folder ``cache`` or made there.

        Calls with several requests run uncompiled. Raises ``SharingError`` for a folder that others may write.
        """
        return self._with(*compile_parts_ahead(self.parts, self._sample(), Path(cache)))

    def _sample(self) -> Sample:
        request, candidate = _own_inputs(self.program, self._original)
        return Sample(request, {n: candidate[n] for n in self.candidate_names}, None, ())

    def _with(self, parts: Parts, compilation: Compilation) -> Shared:
        other = copy.copy(self)
        other.parts, other.compilation = parts, compilation
        return other

    def save(self, folder: str | Path) -> None:
        """Write ``graph.json`` and ``tensors.safetensors``; nothing in them is executable."""
        from depthrank.sharing.storage import save_program

        save_program(self.program, self.report, Path(folder))


def _score(
    parts: Parts,
    state: RequestState,
    tables: tuple[Tensor, ...],
    candidate: Inputs,
    rows: int,
    request_of_candidate: Tensor | None,
    item_rows: Tensor | None,
) -> Any:
    """One call of the candidate part; no candidates at all are one stand-in row whose score is dropped."""
    like = item_rows if item_rows is not None else next(iter(candidate.values()))
    if rows:
        return parts.score(state.values, tables, candidate, like, state.num_requests, request_of_candidate, item_rows)
    stand_in = {n: one_row(t) for n, t in candidate.items()}
    zero = torch.zeros(1, dtype=torch.int64, device=like.device)
    index = None if request_of_candidate is None else zero
    own_rows = None if item_rows is None else zero
    num_requests = max(state.num_requests, 1)
    like = one_row(like)
    out = parts.score(state.values, tables, stand_in, like, num_requests, index, own_rows)
    leaves, spec = pytree.tree_flatten(out)
    program = parts.program
    own = [isinstance(v, int) and program.graph.outputs[v].region != Region.CONSTANT for v in program.output_values]
    return pytree.tree_unflatten([t[:0] if has_rows else t for t, has_rows in zip(leaves, own)], spec)


def _own_inputs(program: Program, original: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs to compile with: one request and the candidates of the example, or zeros for a loaded model."""
    if original is None:
        sides = program.sides
        request = {n: (dims_of(program, n, True), program.dtypes[n]) for n in sides.request}
        candidate = {n: (dims_of(program, n, False), program.dtypes[n]) for n in sides.candidate}
        return zero_sample(request), zero_sample(candidate)
    own, candidates = split_pairs(program.sides, original[0].example)
    return {n: t[:1] for n, t in own.items()}, candidates


class BoundShared(nn.Module):
    """A shared model whose item-only values stand in tables of V catalogue rows.

    ``bound(request_inputs, item_rows, other_candidate_inputs, request_of_candidate=None)`` with item_rows int64 [N].
    """

    def __init__(
        self, program: Program, report: Report, tables: tuple[Tensor, ...], num_items: int, original: Any = None
    ) -> None:
        super().__init__()
        self.program = program
        self.report = report
        self.parts = Parts(program)
        self.compilation = NOT_COMPILED
        self._original = original  # (ModuleInputs, module), or None for a loaded model
        self._request = Expected.of(program, program.sides.request, "request_inputs", True)
        self._candidate = Expected.of(program, self.other_names, "other_candidate_inputs", False)
        self.tables = tables
        self.num_items = num_items
        self.eval()

    @property
    def request_names(self) -> tuple[str, ...]:
        return self.program.sides.request

    @property
    def other_names(self) -> tuple[str, ...]:
        """Candidate inputs that are not bound."""
        return tuple(n for n in self.program.sides.candidate if n not in self.program.bound)

    @property
    def table_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tables)

    def forward(
        self,
        request_inputs: Inputs,
        item_rows: Tensor,
        other_candidate_inputs: Inputs | None = None,
        request_of_candidate: Tensor | None = None,
    ) -> Any:
        """The module's output for N candidates named by their catalogue rows."""
        return self.score(self.encode(request_inputs), item_rows, other_candidate_inputs, request_of_candidate)

    def encode(self, request_inputs: Inputs) -> RequestState:
        rows = self._request.rows(request_inputs)
        if rows == 0 and self.request_names:
            request_inputs = {n: one_row(t) for n, t in request_inputs.items()}
        with torch.no_grad():
            return RequestState(self.parts.encode(request_inputs), rows)

    def score(
        self,
        state: RequestState,
        item_rows: Tensor,
        other_candidate_inputs: Inputs | None = None,
        request_of_candidate: Tensor | None = None,
    ) -> Any:
        other = other_candidate_inputs or {}
        rows = check_item_rows(item_rows, self.num_items)
        given = self._candidate.rows(other)
        if self.other_names and given != rows:
            raise SharingError(f"other_candidate_inputs have {given} rows; item_rows names {rows} candidates")
        index = check_request_of_candidate(request_of_candidate, state.num_requests, rows)
        with torch.no_grad():
            return _score(self.parts, state, self.tables, other, rows, index, item_rows)

    def explain(self, as_json: bool = False) -> str:
        return self.report.to_json() if as_json else str(self.report)

    def compile(self, *, only_if_faster: bool = True, **options: Any) -> BoundShared:  # type: ignore[override]
        """The same model with each part passed through ``torch.compile``, as ``Shared.compile`` does."""
        return self._with(*compile_parts(self.parts, self._sample(), options, only_if_faster))

    def compile_ahead(self, cache: str | Path) -> BoundShared:
        """The same model as an AOTInductor package, as ``Shared.compile_ahead`` does; tables stay where they are."""
        return self._with(*compile_parts_ahead(self.parts, self._sample(), Path(cache)))

    def _sample(self) -> Sample:
        request, candidate = _own_inputs(self.program, self._original)
        rows = torch.arange(min(self.num_items, 8))
        return Sample(request, {n: candidate[n] for n in self.other_names}, rows, self.tables)

    def _with(self, parts: Parts, compilation: Compilation) -> BoundShared:
        other = copy.copy(self)
        other.parts, other.compilation = parts, compilation
        return other

    def save(self, folder: str | Path) -> None:
        """Write the graph, its constants and the tables."""
        from depthrank.sharing.storage import save_program

        save_program(self.program, self.report, Path(folder), self.tables, self.num_items)
