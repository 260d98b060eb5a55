"""Displayed candidates with labels, flat: what a requests file and an impressions file both become.

Shape letters: R requests, N candidates (request r holds rows offsets[r]:offsets[r+1]), K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from depthrank.data.entity_file import check_feature_type
from depthrank.data.files import DataFile, Problems
from depthrank.data.plain_values import plain
from depthrank.errors import FieldProblem
from depthrank.schema import Spec
from depthrank.schema.features import Counter, HistoryAlong, HistoryCount, HistoryMatch, Position
from depthrank.schema.tasks import Task

Column = npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Shown:
    """Requests in time order with their candidates.

    user: ids of R requests; time_ms: int64 [R], when the request was made; last_ms: int64 [R], its last impression;
    context: a list of R values a column; offsets: int64 [R+1]; item: ids of N candidates; shown_ms: int64 [N];
    candidate: an array of N values a column; label: float32 [N, K], NaN = no label; position: int32 [N], -1 = unknown.
    """

    user: list[str]
    time_ms: npt.NDArray[np.int64]
    last_ms: npt.NDArray[np.int64]
    context: dict[str, list[Any]]
    offsets: npt.NDArray[np.int64]
    item: pl.Series
    shown_ms: npt.NDArray[np.int64]
    candidate: dict[str, Column]
    label: npt.NDArray[np.float32]
    position: npt.NDArray[np.int32]


def check_columns(
    file: DataFile, columns: Mapping[str, str], side: str, spec: Spec, problems: Problems, listed: bool = False
) -> None:
    """Note missing context or candidate columns, and numeric features over text. ``columns``: name -> file column."""
    where = f"{file.where}.{side}"
    present = {n: c for n, c in columns.items() if file.has(c, where, problems)}
    for name, feature in spec.features.items():
        if listed or isinstance(feature, (Counter, HistoryAlong, HistoryCount, HistoryMatch, Position)):
            continue
        feature_side, _, column = feature.source.partition(".")
        if feature_side == side and column in present:
            check_feature_type(file, present[column], feature, f"$.features.{name}.source", problems)


def check_label_type(file: DataFile, column: str, task: str, problems: Problems) -> None:
    """Note a label column that is neither true/false nor a number."""
    field = f"$.tasks.{task}.column"
    if not file.has(column, field, problems):
        return
    dtype = file.schema[column]
    if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        file.wrong_type(column, field, "true/false or numbers for a label", problems)


def labels(values: pl.Series, task: Task, field: str, problems: Problems) -> npt.NDArray[np.float32]:
    """0, 1 or NaN (missing) for each row: true, above zero, or at least ``at_least``; notes other numbers."""
    numbers = values.cast(pl.Float64, strict=False).to_numpy().astype(np.float64)
    known = ~np.isnan(numbers)
    if task.at_least is not None:
        found = numbers >= task.at_least
    else:
        found = numbers > 0
        odd = np.unique(numbers[known & (numbers != 0) & (numbers != 1)])
        if len(odd):
            some = ", ".join(f"{v:g}" for v in odd[:3])
            problems.append(
                FieldProblem(field, f"labels such as {some} in {values.name!r}", "0 or 1", "give at_least: the limit")
            )
    return np.where(known, found, np.nan).astype(np.float32)


def check_classes(label_nk: npt.NDArray[np.float32], spec: Spec, problems: Problems) -> None:
    """Note every task whose labels have one class only: there is nothing to learn."""
    for k, (name, task) in enumerate(spec.tasks.items()):
        known = label_nk[:, k][~np.isnan(label_nk[:, k])]
        positives = int((known > 0).sum())
        if positives in (0, len(known)):
            found = f"{positives} positives among {len(known)} labels"
            part = "column" if task.column is not None else "ids" if task.ids is not None else "action"
            problems.append(FieldProblem(f"$.tasks.{name}.{part}", found, "labels of both classes"))


def column_array(values: pl.Series) -> Column:
    """A candidate column: float64 or int64 where it holds numbers, else objects (texts, lists; missing: None)."""
    values = _plain_or_none(values)
    if values.dtype.is_integer() and not values.null_count():
        return values.cast(pl.Int64).to_numpy()
    if values.dtype.is_float() or (values.dtype.is_integer() and _exact_as_floats(values)):
        return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    array = np.empty(len(values), dtype=object)
    array[:] = values.to_list()
    return array


def context_list(values: pl.Series) -> list[Any]:
    """A context column: texts, numbers or lists of them, None where missing."""
    return _plain_or_none(values).to_list()


def _plain_or_none(values: pl.Series) -> pl.Series:
    """Plain values; nulls where they have no such form, which ``check_columns`` told of if a feature reads them."""
    found = plain(values)
    return pl.Series(values.name, [None] * len(values), dtype=pl.Float64) if found is None else found


def _exact_as_floats(values: pl.Series) -> bool:
    """Whether no whole number is beyond 2^53: larger ones are ids, which a float would merge."""
    low, high = values.min(), values.max()
    return low is None or (int(low) >= -(2**53) and int(high) <= 2**53)  # type: ignore[arg-type]


def gather_ranges(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Row numbers of the ranges ``starts[i]:starts[i]+lengths[i]``, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total) + np.repeat(starts - (ends - lengths), lengths), dtype=np.int64)
