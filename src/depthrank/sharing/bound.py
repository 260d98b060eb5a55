"""Bind a catalogue: item-only values computed once for V rows, then read by row number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from depthrank.errors import SharingError, did_you_mean
from depthrank.sharing.calls import check_rows
from depthrank.sharing.execution import Parts
from depthrank.sharing.inputs import split_pairs
from depthrank.sharing.ir import Region
from depthrank.sharing.program import Program
from depthrank.sharing.tables import map_table, table_path, write_tables
from depthrank.sharing.verify import distance, tensors_of, tolerance

if TYPE_CHECKING:
    from depthrank.sharing.shared import BoundShared, Shared

ROWS_AT_ONCE = 16384


def bind(
    shared: Shared,
    rebind: Callable[[frozenset[str]], Program],
    items: Mapping[str, Tensor],
    folder: Path | None = None,
) -> BoundShared:
    """The model over a catalogue of V rows; item-only values are computed in chunks of ``ROWS_AT_ONCE``.

    With a ``folder`` they are written there piece by piece and mapped, and the folder is a saved model.
    """
    from depthrank.sharing.shared import BoundShared
    from depthrank.sharing.storage import save_program

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
    frontier = parts.program.frontier(Region.ITEM)
    chunks = _chunks(parts, items, rows)
    sha256: list[str] = []
    if folder is None:
        tables = tuple(torch.cat(pieces) for pieces in zip(*chunks))
    else:
        sha256 = write_tables(folder, chunks, len(frontier))
        tables = tuple(
            map_table(table_path(folder, k), (rows, *n.dims), n.dtype, sha256[k], check=False)
            for k, n in enumerate(frontier)
        )
    bound = BoundShared(program, shared.report, tables, rows, shared._original)
    _check_equal(shared, bound, items, rows)
    if folder is not None:
        save_program(program, shared.report, folder, tables, rows, sha256)
    return bound


def _chunks(parts: Parts, items: Mapping[str, Tensor], rows: int) -> Iterator[tuple[Tensor, ...]]:
    with torch.no_grad():
        for start in range(0, rows, ROWS_AT_ONCE):
            yield parts.tabulate({n: t[start : start + ROWS_AT_ONCE] for n, t in items.items()})


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
            if error > tolerance(bound.program.graph):
                raise SharingError(
                    f"the bound form differs from the shared one by {error:.1e}: a fault of the compiler"
                )
