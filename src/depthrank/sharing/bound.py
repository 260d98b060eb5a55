"""Bind a catalogue: item-only values computed once for V rows, then read by row number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from depthrank.errors import SharingError, did_you_mean
from depthrank.sharing.calls import check_rows
from depthrank.sharing.execution import Parts
from depthrank.sharing.inputs import split_pairs
from depthrank.sharing.program import Program
from depthrank.sharing.verify import TOLERANCE, distance, tensors_of

if TYPE_CHECKING:
    from depthrank.sharing.shared import BoundShared, Shared

ROWS_AT_ONCE = 16384


def bind(shared: Shared, rebind: Callable[[frozenset[str]], Program], items: Mapping[str, Tensor]) -> BoundShared:
    """The model over a catalogue of V rows; item-only values are computed in chunks of ``ROWS_AT_ONCE``."""
    from depthrank.sharing.shared import BoundShared

    names = shared.candidate_names
    for name in items:
        if name not in names:
            near = did_you_mean(name, names)
            hint = f"; did you mean {near!r}?" if near else ""
            raise SharingError(f"bind names {name!r}; candidate inputs are {sorted(names)}{hint}")
    if not items:
        raise SharingError(f"bind needs the values of at least one candidate input, of {sorted(names)}")
    rows = check_rows(shared.program, items, tuple(items), "items", False)
    if rows == 0:
        raise SharingError("the catalogue to bind has no rows")
    program = rebind(frozenset(items))
    program.bound = tuple(n for n in names if n in items)
    parts = Parts(program)
    chunks: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for start in range(0, rows, ROWS_AT_ONCE):
            chunks.append(parts.tabulate({n: t[start : start + ROWS_AT_ONCE] for n, t in items.items()}))
    tables = tuple(torch.cat(pieces) for pieces in zip(*chunks)) if len(chunks) > 1 else chunks[0]
    bound = BoundShared(program, shared.report, tables, rows)
    _check_equal(shared, bound, items, rows)
    return bound


def _check_equal(shared: Shared, bound: BoundShared, items: Mapping[str, Tensor], num_items: int) -> None:
    """The bound form against the shared one on the example's requests and rows spread over the catalogue."""
    inputs, _ = shared._original
    request, candidate = split_pairs(shared.program.sides, inputs.example)
    num = next(iter(candidate.values())).shape[0]
    device = next(iter(items.values())).device
    rows = torch.linspace(0, num_items - 1, num, device=device).round().long()
    other = {n: candidate[n] for n in bound.other_names}
    whole = {**candidate, **{n: t[rows] for n, t in items.items()}}
    first = {n: t[:1] for n, t in request.items()}
    index = torch.arange(num, device=device)
    for given, owner in ((first, None), (request, index)):
        if owner is not None and num < 2:
            continue
        expected = tensors_of(shared.score(shared.encode(given), whole, owner))
        for a, b in zip(tensors_of(bound(given, rows, other, owner)), expected):
            error = distance(a, b)
            if error > TOLERANCE:
                raise SharingError(
                    f"the bound form differs from the shared one by {error:.1e}: a fault of the compiler"
                )
