"""Events, more_events and histories files into plain event rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from depthrank.data.entity_file import check_time_features
from depthrank.data.files import DataFile, Problems
from depthrank.data.ids import check_id, ids_as_text
from depthrank.data.lists import as_lists, check_list, is_list
from depthrank.data.shown import check_columns, check_label_type, context_list, labels
from depthrank.data.times import check_time, column_of, order_times_ms, times_ms
from depthrank.errors import FieldProblem
from depthrank.schema import Spec
from depthrank.schema.dataset import ActionColumn, EventsFile, HistoriesFile


@dataclass(frozen=True, eq=False)
class EventRows:
    """n events in file order: frame with user, item, action (text) and time_ms (int64).

    context: n values a column; label: float32 [n, K] of the tasks with a label column (NaN: another task, or no label).
    """

    frame: pl.DataFrame
    context: dict[str, list[Any]]
    label: npt.NDArray[np.float32]


def check_events(file: DataFile, form: EventsFile, spec: Spec, problems: Problems, main: bool) -> None:
    """Note every column that is missing or of the wrong type; ``main``: the file that examples come from."""
    check_id(file, form.user, f"{file.where}.user", problems)
    if form.item in file.schema and is_list(file, form.item, form.separator):
        check_list(file, form.item, form.separator, f"{file.where}.item", problems)
    else:
        check_id(file, form.item, f"{file.where}.item", problems)
    check_time(file, form.time, f"{file.where}.time", problems)
    if isinstance(form.action, ActionColumn):
        check_id(file, form.action.column, f"{file.where}.action.column", problems)
    if main:
        check_columns(file, {c: c for c in form.context}, "context", spec, problems)
        for name, task in spec.tasks.items():
            if task.column is not None:
                check_label_type(file, task.column, name, problems)


def load_events(file: DataFile, form: EventsFile, spec: Spec, problems: Problems, main: bool) -> EventRows | None:
    """The rows of an events file; an item column with lists gives one event an item."""
    tasks = [(n, t) for n, t in spec.tasks.items() if main and t.column is not None]
    context = form.context if main else ()
    action = [form.action.column] if isinstance(form.action, ActionColumn) else []
    named = [form.user, form.item, *column_of(form.time), *action, *context]
    frame = file.read([*named, *(t.column for _, t in tasks if t.column is not None)], problems)
    if frame is None:
        return None
    before = len(problems)
    if isinstance(form.time, str):
        time = order_times_ms(len(frame))
    else:
        time = times_ms(frame[form.time.column], form.time, f"{file.where}.time", problems)
    frame = frame.with_columns(time.alias("_time_ms"))
    if is_list(file, form.item, form.separator):
        frame = frame.with_columns(as_lists(frame[form.item], form.separator).alias(form.item))
        frame = frame.filter(pl.col(form.item).list.len() > 0).explode(form.item)
    check_time_features({c: frame[c] for c in context}, "context", spec, problems)
    label = np.full((len(frame), len(spec.tasks)), np.nan, dtype=np.float32)
    for k, (name, task) in enumerate(spec.tasks.items()):
        if (name, task) in tasks and task.column is not None:
            label[:, k] = labels(frame[task.column], task, f"$.tasks.{name}.column", problems)
    rows = pl.DataFrame(
        {
            "user": ids_as_text(frame[form.user], f"{file.where}.user", problems),
            "item": ids_as_text(frame[form.item], f"{file.where}.item", problems),
            "action": _actions(frame, form, file, problems),
            "time_ms": frame["_time_ms"],
        }
    )
    return None if len(problems) > before else EventRows(rows, {c: context_list(frame[c]) for c in context}, label)


def _actions(frame: pl.DataFrame, form: EventsFile, file: DataFile, problems: Problems) -> pl.Series:
    if isinstance(form.action, ActionColumn):
        return ids_as_text(frame[form.action.column], f"{file.where}.action.column", problems)
    return pl.Series("action", [form.action], dtype=pl.String).new_from_index(0, len(frame))


def check_histories(file: DataFile, form: HistoriesFile, problems: Problems) -> None:
    """Note every column that is missing or of the wrong type."""
    check_id(file, form.user, f"{file.where}.user", problems)
    check_list(file, form.items, form.separator, f"{file.where}.items", problems)
    check_time(file, form.times, f"{file.where}.times", problems, of_lists=True)
    check_time(file, form.last_time, f"{file.where}.last_time", problems)


def load_histories(file: DataFile, form: HistoriesFile, before_ms: int, problems: Problems) -> EventRows | None:
    """A history list a row into events. Without times the newest is dated by ``last_time`` (or one spacing before
    ``before_ms``, the first moment of the main file) and the older ones lie ``spacing`` apart before it."""
    dated = [t.column for t in (form.times, form.last_time) if t is not None]
    frame = file.read([form.user, form.items, *dated], problems)
    if frame is None:
        return None
    start = len(problems)
    items = as_lists(frame[form.items], form.separator)
    lengths = items.list.len().to_numpy().astype(np.int64)
    frame, items, lengths = frame.filter(lengths > 0), items.filter(lengths > 0), lengths[lengths > 0]
    user = ids_as_text(frame[form.user], f"{file.where}.user", problems)
    time_ms = _history_times(frame, form, lengths, before_ms, file, problems)
    if len(problems) > start:
        return None
    rows = pl.DataFrame(
        {
            "user": user.gather(np.repeat(np.arange(len(user)), lengths)),
            "item": ids_as_text(items.explode(), f"{file.where}.items", problems),
            "time_ms": time_ms,
        }
    ).select("user", "item", pl.lit(form.action).alias("action"), "time_ms")
    if len(problems) > start:
        return None
    return EventRows(rows, {}, np.zeros((len(rows), 0), dtype=np.float32))


def _history_times(
    frame: pl.DataFrame,
    form: HistoriesFile,
    lengths: npt.NDArray[np.int64],
    before_ms: int,
    file: DataFile,
    problems: Problems,
) -> npt.NDArray[np.int64]:
    """int64 ms of every event of every list."""
    if form.times is not None:
        lists = frame[form.times.column]
        if (lists.list.len().fill_null(0).to_numpy() != lengths).any():
            expected = f"lists as long as those of {form.items!r}"
            file.wrong_type(form.times.column, f"{file.where}.times.column", expected, problems)
            return np.zeros(int(lengths.sum()), dtype=np.int64)
        return times_ms(lists.explode(), form.times, f"{file.where}.times", problems).to_numpy()
    if form.last_time is not None:
        last = times_ms(frame[form.last_time.column], form.last_time, f"{file.where}.last_time", problems).to_numpy()
    else:
        _check_one_list_a_user(frame, form, file, problems)
        last = np.full(len(lengths), before_ms - form.spacing, dtype=np.int64)
    ends = np.cumsum(lengths)
    from_last = np.repeat(ends, lengths) - 1 - np.arange(int(lengths.sum()))
    return np.asarray(np.repeat(last, lengths) - from_last * int(form.spacing), dtype=np.int64)


def _check_one_list_a_user(frame: pl.DataFrame, form: HistoriesFile, file: DataFile, problems: Problems) -> None:
    """Note users with several lists that no time tells apart: laid before the main file, later ones would be a leak."""
    several = int(frame.select(form.user, form.items).unique()[form.user].is_duplicated().sum())
    if several:
        found = f"{several} lists of users with more than one, and no time"
        hint = "give last_time: the column with the time of each row"
        problems.append(FieldProblem(f"{file.where}.last_time", found, "a time, or one list a user", hint))
