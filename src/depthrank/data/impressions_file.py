"""An impressions file (one row a shown candidate) into requests: by an id column, or by user and time gap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from depthrank.data.entity_file import check_time_features
from depthrank.data.files import DataFile, Problems
from depthrank.data.ids import check_id, ids_as_text
from depthrank.data.shown import (
    Shown,
    check_columns,
    check_label_type,
    column_array,
    context_list,
    gather_ranges,
    labels,
)
from depthrank.data.split_times import boundaries_ms, period
from depthrank.data.times import check_time, column_of, order_times_ms, times_ms
from depthrank.errors import FieldProblem
from depthrank.schema import Spec
from depthrank.schema.dataset import NO_ITEM, ImpressionsFile


def check_impressions(file: DataFile, form: ImpressionsFile, spec: Spec, problems: Problems) -> None:
    """Note every column that is missing or of the wrong type."""
    for column, field in ((form.user, "user"), (form.item, "item"), (_request_column(form), "request.column")):
        if column is not None:
            check_id(file, column, f"{file.where}.{field}", problems)
    check_time(file, form.time, f"{file.where}.time", problems)
    _check_position(file, form.position, problems)
    check_columns(file, {c: c for c in form.context}, "context", spec, problems)
    check_columns(file, {c: c for c in form.candidate}, "candidate", spec, problems)
    for name, task in spec.tasks.items():
        if task.column is not None:
            check_label_type(file, task.column, name, problems)


def _request_column(form: ImpressionsFile) -> str | None:
    return None if form.request is None else form.request.column


def _check_position(file: DataFile, column: str | None, problems: Problems) -> None:
    field = f"{file.where}.position"
    present = column is not None and file.has(column, field, problems)
    if column is not None and present and not file.schema[column].is_integer():
        file.wrong_type(column, field, "whole numbers", problems)


def load_impressions(file: DataFile, form: ImpressionsFile, spec: Spec, problems: Problems) -> Shown | None:
    """The requests of an impressions file; None, and problems, where values are wrong."""
    frame = file.read(_columns(form, spec), problems)
    if frame is None:
        return None
    before = len(problems)
    user = _users(frame, form, file, problems)
    item = pl.repeat(NO_ITEM, len(frame), eager=True)
    if form.item is not None:
        item = ids_as_text(frame[form.item], f"{file.where}.item", problems)
    if isinstance(form.time, str):
        time = order_times_ms(len(frame))
    else:
        time = times_ms(frame[form.time.column], form.time, f"{file.where}.time", problems)
    label_nk = np.stack(
        [labels(frame[t.column], t, f"$.tasks.{n}.column", problems) for n, t in spec.tasks.items() if t.column], axis=1
    )
    for side in ("context", "candidate"):
        check_time_features({c: frame[c] for c in getattr(form, side)}, side, spec, problems)
    key = _request_key(frame, form, user, time.to_numpy(), spec, file, problems)
    if len(problems) > before:
        return None
    return _grouped(frame, form, user, item, time.to_numpy(), label_nk, key)


def _columns(form: ImpressionsFile, spec: Spec) -> list[str]:
    optional = (form.user, form.item, form.position, _request_column(form), *(t.column for t in spec.tasks.values()))
    named = [*column_of(form.time), *form.context, *form.candidate]
    return named + [c for c in optional if c is not None]


def _users(frame: pl.DataFrame, form: ImpressionsFile, file: DataFile, problems: Problems) -> pl.Series:
    """Whose each row is: its user's id, or its request's, which without one is the number of the row."""
    if form.user is not None:
        return ids_as_text(frame[form.user], f"{file.where}.user", problems)
    if (column := _request_column(form)) is not None:
        return ids_as_text(frame[column], f"{file.where}.request.column", problems)
    return pl.int_range(len(frame), eager=True).cast(pl.String)


def _request_key(
    frame: pl.DataFrame,
    form: ImpressionsFile,
    user: pl.Series,
    time_ms: npt.NDArray[np.int64],
    spec: Spec,
    file: DataFile,
    problems: Problems,
) -> npt.NDArray[np.int64]:
    """The request number of each row, int64 [N]; at most ``max_candidates`` rows a request."""
    if form.request is None:
        return np.arange(len(frame))
    user_code = user.rank("dense").to_numpy().astype(np.int64)
    context = frame.select(form.context)
    if form.request.column is not None:
        ids = ids_as_text(frame[form.request.column], f"{file.where}.request.column", problems)
        code = ids.rank("dense").to_numpy().astype(np.int64)
        columns = context if form.user is None else pl.DataFrame({form.user: user_code}).hstack(context)
        _check_one_value(file, form, code, columns, problems)
        order = np.lexsort((np.arange(len(code)), time_ms, code))
        new = _changes(code[order])
    else:
        assert form.request.gap is not None
        order = np.lexsort((np.arange(len(user)), time_ms, user_code))
        gap = np.diff(time_ms[order], prepend=time_ms[order[:1]]) > form.request.gap
        new = _changes(user_code[order]) | gap | _context_changes(context, order)
        if spec.split.by == "time":  # a request never lies on both sides of a split
            new |= _changes(period(time_ms, boundaries_ms(spec.split, time_ms))[order])
    within = np.arange(len(order)) - np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    new |= within % form.request.max_candidates == 0
    key = np.empty(len(order), dtype=np.int64)
    key[order] = np.cumsum(new) - 1
    return key


def _changes(values: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """True where a value differs from the one before it, and on the first."""
    return np.asarray(np.r_[True, values[1:] != values[:-1]][: len(values)], dtype=np.bool_)


def _context_changes(context: pl.DataFrame, order: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """A request has one context: rows in ``order`` where any context column differs from the row before start another
    one."""
    if not context.width:  # a frame without columns has no rows either
        return np.zeros(len(order), dtype=bool)
    different = context[order].select(pl.any_horizontal(pl.all().ne_missing(pl.all().shift(1))).alias("different"))
    return different["different"].to_numpy().astype(bool)


def _check_one_value(
    file: DataFile, form: ImpressionsFile, code: npt.NDArray[np.int64], columns: pl.DataFrame, problems: Problems
) -> None:
    """Note request ids that span several users, or several values of a context column."""
    spread = columns.with_columns(pl.Series("_request", code)).group_by("_request").agg(pl.all().n_unique())
    for column in columns.columns:
        several = int((spread[column] > 1).sum())
        if several:
            part = "user" if column == form.user else "context"
            hint = None if part == "user" else "a column that differs between candidates belongs under candidate"
            found = f"{several} requests with more than one value of {column!r}"
            problems.append(FieldProblem(f"{file.where}.{part}", found, "one value a request", hint))


def _grouped(
    frame: pl.DataFrame,
    form: ImpressionsFile,
    user: pl.Series,
    item: pl.Series,
    time_ms: npt.NDArray[np.int64],
    label_nk: npt.NDArray[np.float32],
    key: npt.NDArray[np.int64],
) -> Shown:
    """Requests in the order of (time, first row), candidates within one in the order of (position, time, row)."""
    num_requests = int(key.max()) + 1
    position = frame[form.position].fill_null(-1).to_numpy() if form.position else np.full(len(frame), -1)
    by_key = np.lexsort((np.arange(len(key)), time_ms, position, key))
    lengths = np.bincount(key, minlength=num_requests)
    starts = np.cumsum(lengths) - lengths
    first_ms, first_row = (np.minimum.reduceat(values[by_key], starts) for values in (time_ms, np.arange(len(key))))
    by_time = np.lexsort((first_row, first_ms))
    row = by_key[gather_ranges(starts[by_time], lengths[by_time])]
    offsets = np.r_[0, np.cumsum(lengths[by_time])].astype(np.int64)
    lead = row[offsets[:-1]]
    return Shown(
        user=user.gather(lead).to_list(),
        time_ms=first_ms[by_time].astype(np.int64),
        last_ms=np.maximum.reduceat(time_ms[row], offsets[:-1]).astype(np.int64),
        context={c: context_list(frame[c].gather(lead)) for c in form.context},
        offsets=offsets,
        item=item.gather(row),
        shown_ms=time_ms[row].astype(np.int64),
        candidate={c: column_array(frame[c].gather(row)) for c in form.candidate},
        label=label_nk[row],
        position=position[row].astype(np.int32),
    )
