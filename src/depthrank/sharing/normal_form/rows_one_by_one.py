"""``torch.stack([f(x[i], y[i]) for i in range(len(x))])``: a Python loop over the rows of the batch.

A model captured at one number of rows is such a loop unrolled. ``x[i]`` is kept as a ``RowOf``: the batch-first value
and the number of the row. What is computed of values of one row is computed of that row, so every turn of the loop
makes the same nodes; stacked in order, the turns are the batch again. Rows that meet other rows are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from depthrank.sharing.ir import Node
from depthrank.sharing.layout import BATCH, Layout, align
from depthrank.sharing.refusal import Refused

T = TypeVar("T")
ROW_NUMBERS = "row numbers"  # the input that a range over the batch is


def is_row_numbers(node: Node) -> bool:
    return node.op == "input" and node.name == ROW_NUMBERS


@dataclass(frozen=True, eq=False)
class RowOf:
    """One row of a value: ``layout`` is that of the value without its batch dimension."""

    layout: Layout
    row: int


def rows_in(value: Any) -> Iterator[RowOf]:
    return _found(RowOf, value)


def one_row(x: Layout, dim: int, row: int) -> RowOf:
    """x[row] along the dimension that is the batch alone."""
    return RowOf(Layout(x.node, tuple(g for d, g in enumerate(x.groups) if d != dim)), row)


def of_one_row(args: Any, kwargs: dict[str, Any], run: Callable[..., Any]) -> Any:
    """A rule on values of one row; raises ``Refused`` where rows meet."""
    numbers = {r.row for r in rows_in([args, list(kwargs.values())])}
    if len(numbers) > 1 or any(x.batch_dim is not None for x in _found(Layout, [args, list(kwargs.values())])):
        raise Refused("rows of the batch meet other rows (in a loop over rows)")
    plain = [_changed(RowOf, value, lambda r: r.layout) for value in (list(args), list(kwargs.values()))]
    out = run(*plain[0], **dict(zip(kwargs, plain[1], strict=True)))
    (number,) = numbers
    return _changed(Layout, out, lambda x: RowOf(x, number))


def stacked_rows(rows: list[Any], dim: int, num_rows: int) -> Layout | None:
    """Every row of the batch once, in order: the value that they are rows of, the batch as a new dimension."""
    if len(rows) != num_rows or [getattr(r, "row", None) for r in rows] != list(range(num_rows)):
        return None
    first = rows[0].layout
    if any(r.layout.node is not first.node or r.layout.groups != first.groups for r in rows):
        raise Refused("the turns of a loop over rows compute different things")
    place = dim % (first.rank + 1)
    return Layout(first.node, (*first.groups[:place], (BATCH,), *first.groups[place:]))


def joined_rows(rows: list[Any], num_rows: int) -> Layout | None:
    """As ``stacked_rows``, for rows [1, ...] laid one behind the other."""
    if not all(isinstance(r, RowOf) and r.layout.is_one(0) for r in rows):
        return None
    thin = [RowOf(Layout(r.layout.node, r.layout.groups[1:]), r.row) for r in rows]
    return stacked_rows(thin, 0, num_rows)


def pick_in_row(reader: Any, x: Layout, index: Layout) -> Layout | None:
    """x[i][index[i]]: entries of a row that its own index names along the first dimension."""
    if not (x.node.batched and index.node.batched) or x.batch_dim is not None or index.batch_dim is not None:
        return None
    order = [a for g in x.groups for a in g]
    if order != list(range(len(x.node.dims))) or any(len(g) != 1 for g in x.groups):
        return None
    (own,), groups, places = align(reader.graph, [index])
    dims = [*places, *x.node.dims[1:]]
    node = reader.node("take_rows", [x.node, own], dims, x.node.dtype)
    return Layout(node, (*groups, *((len(places) + k,) for k in range(len(x.node.dims) - 1))))


def _changed(kind: type[T], value: Any, change: Callable[[T], Any]) -> Any:
    """The value with everything of a kind in it changed."""
    if isinstance(value, kind):
        return change(value)
    return [_changed(kind, v, change) for v in value] if isinstance(value, (list, tuple)) else value


def _found(kind: type[T], value: Any) -> Iterator[T]:
    if isinstance(value, kind):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _found(kind, v)
