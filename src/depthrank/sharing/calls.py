"""The arguments of one call: checked, in the order of the program, with the row indices that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from depthrank.errors import SharingError, did_you_mean
from depthrank.sharing.inputs import Sides
from depthrank.sharing.program import Program


@dataclass(frozen=True)
class Expected:
    """What one side of a call must hold: ``fields`` are names with sizes after the rows and dtype (None: any)."""

    side: str
    fields: tuple[tuple[str, tuple[int, ...], torch.dtype | None], ...]

    @classmethod
    def of(cls, program: Program, names: Sequence[str], side: str, packed: bool) -> Expected:
        return cls(side, tuple((n, dims_of(program, n, packed), program.dtypes.get(n)) for n in names))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.fields)

    def rows(self, given: Mapping[str, Tensor]) -> int:
        """The number of rows of these inputs; raises ``SharingError`` that names what is missing or misshapen."""
        if len(given) != len(self.fields):
            _refuse_names(given, self.names, self.side)
        rows = -1
        for name, dims, dtype in self.fields:
            tensor = given.get(name)
            if not isinstance(tensor, Tensor):
                self._refuse(given)
            shape = tensor.shape
            if not shape or shape[1:] != dims or (tensor.dtype is not dtype and dtype is not None):
                self._refuse(given)
            if shape[0] != rows:
                if rows >= 0:
                    self._refuse(given)
                rows = shape[0]
        return max(rows, 0)

    def _refuse(self, given: Mapping[str, Tensor]) -> NoReturn:
        """Raises the error for inputs of which one does not fit."""
        if given.keys() != set(self.names):
            _refuse_names(given, self.names, self.side)
        for name, dims, dtype in self.fields:
            tensor = given[name]
            if not isinstance(tensor, Tensor):
                raise SharingError(f"{self.side}[{name!r}] is a {type(tensor).__name__}; expected a tensor")
            if tensor.dim() == 0 or tuple(tensor.shape[1:]) != dims:
                shape = list(tensor.shape)
                raise SharingError(f"{self.side}[{name!r}] has shape {shape}; expected {['rows', *dims]}")
            if dtype is not None and tensor.dtype != dtype:
                raise SharingError(f"{self.side}[{name!r}] is {tensor.dtype}; the example was {dtype}")
        rows = {name: given[name].shape[0] for name in self.names}
        raise SharingError(f"{self.side} differ in their number of rows: {rows}")


def check_rows(program: Program, given: Mapping[str, Tensor], names: Sequence[str], side: str, packed: bool) -> int:
    """The number of rows of these inputs; raises ``SharingError`` that names what is missing, unknown or misshapen."""
    return Expected.of(program, names, side, packed).rows(given)


def dims_of(program: Program, name: str, request: bool) -> tuple[int, ...]:
    """Sizes of an input after its rows, on the request side or the candidates'."""
    sides: Sides = program.sides
    if name in sides.packed:
        return (len(sides.packed[name]) if request else len(sides.candidate_columns(name)),)
    return program.dims[name]


def _refuse_names(given: Mapping[str, Tensor], names: Sequence[str], side: str) -> NoReturn:
    missing = [n for n in names if n not in given]
    unknown = [n for n in given if n not in names]
    text = f"{side} are {sorted(given)}; expected {sorted(names)}"
    if missing:
        text += f"; missing {missing}"
    if unknown:
        near = did_you_mean(unknown[0], names)
        text += f"; unknown {unknown}" + (f", did you mean {near!r}?" if near else "")
    raise SharingError(text)


def check_request_of_candidate(index: Tensor | None, num_requests: int, num_candidates: int) -> Tensor | None:
    """int64 [N] within [0, R), or None for one request."""
    if index is None:
        if num_requests != 1:
            raise SharingError(f"{num_requests} requests were given without request_of_candidate")
        return None
    if index.dtype != torch.int64 or tuple(index.shape) != (num_candidates,):
        raise SharingError(
            f"request_of_candidate is {index.dtype} {list(index.shape)}; expected torch.int64 [{num_candidates}]"
        )
    _check_range(index, num_requests, "request_of_candidate", "requests")
    return index


def check_item_rows(index: Tensor, num_items: int) -> int:
    """int64 [N] within [0, V); returns N."""
    if index.dtype != torch.int64 or index.dim() != 1:
        raise SharingError(f"item_rows is {index.dtype} {list(index.shape)}; expected torch.int64 [N]")
    _check_range(index, num_items, "item_rows", "catalogue rows")
    return int(index.shape[0])


def _check_range(index: Tensor, size: int, name: str, what: str) -> None:
    if torch.compiler.is_compiling() or index.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(index))
    if low < 0 or high >= size:
        raise SharingError(f"{name} runs from {low} to {high}; there are {size} {what}")


def group_slots(request_of_candidate: Tensor, num_requests: int) -> tuple[Tensor, Tensor]:
    """Candidates grouped by request, padded to the largest group.

    Returns ``slots`` int64 [R, M], the candidate in each place (0 where there is none), and ``slot_of`` int64 [N], the
    flat place of each candidate.
    """
    counts = torch.bincount(request_of_candidate, minlength=num_requests)
    widest = int(counts.max()) if counts.numel() else 1
    order = torch.argsort(request_of_candidate, stable=True)
    starts = torch.cumsum(counts, 0) - counts
    owner = request_of_candidate[order]
    place = torch.arange(order.shape[0], device=order.device) - starts[owner]
    slot_of = torch.empty_like(order)
    slot_of[order] = owner * widest + place
    slots = torch.zeros(num_requests * widest, dtype=torch.int64, device=order.device)
    slots[slot_of] = torch.arange(order.shape[0], device=order.device)
    return slots.view(num_requests, widest), slot_of
