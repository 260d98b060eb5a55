"""A requests file (one row a request, list columns for candidates and labels) into flat candidates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from depthrank.data.entity_file import check_time_features
from depthrank.data.files import DataFile, Problems
from depthrank.data.ids import check_id, ids_as_text
from depthrank.data.lists import as_lists, check_list, numbers_where_all_are
from depthrank.data.shown import Shown, check_columns, column_array, context_list, labels
from depthrank.data.times import check_time, column_of, order_times_ms, times_ms
from depthrank.errors import FieldProblem
from depthrank.schema import Spec
from depthrank.schema.dataset import RequestsFile
from depthrank.schema.tasks import Task


def check_requests(file: DataFile, form: RequestsFile, spec: Spec, problems: Problems) -> None:
    """Note every column that is missing or of the wrong type."""
    check_id(file, form.user, f"{file.where}.user", problems)
    check_time(file, form.time, f"{file.where}.time", problems)
    check_list(file, form.candidates, form.separator, f"{file.where}.candidates", problems)
    if form.request is not None:
        check_id(file, form.request, f"{file.where}.request", problems)
    check_columns(file, {c: c for c in form.context}, "context", spec, problems)
    for name, column in form.candidate.items():
        check_list(file, column, form.separator, f"{file.where}.candidate.{name}", problems)
    for name, task in spec.tasks.items():
        if task.column is not None:
            check_list(file, task.column, form.separator, f"$.tasks.{name}.column", problems)
        if task.ids is not None:
            file.has(task.ids, f"$.tasks.{name}.ids", problems)


def load_requests(file: DataFile, form: RequestsFile, spec: Spec, problems: Problems) -> Shown | None:
    """The requests of a requests file; None, and problems, where values are wrong. Empty lists make no request."""
    frame = file.read(_columns(form, spec), problems)
    if frame is None:
        return None
    before = len(problems)
    frame, time_ms = _in_time_order(frame, file, form, problems)
    candidates = as_lists(frame[form.candidates], form.separator)
    lengths = candidates.list.len().to_numpy().astype(np.int64)
    frame, time_ms, candidates = frame.filter(lengths > 0), time_ms[lengths > 0], candidates.filter(lengths > 0)
    lengths = lengths[lengths > 0]
    user = ids_as_text(frame[form.user], f"{file.where}.user", problems)
    item = ids_as_text(candidates.explode(), f"{file.where}.candidates", problems)
    flat = _Flat(frame, form, lengths, problems)
    candidate = {n: column_array(flat.column(c, f"{file.where}.candidate.{n}")) for n, c in form.candidate.items()}
    check_time_features({c: frame[c] for c in form.context}, "context", spec, problems)
    label_nk = np.stack([flat.label(n, t, item) for n, t in spec.tasks.items()], axis=1)
    if len(problems) > before:
        return None
    return Shown(
        user=user.to_list(),
        time_ms=time_ms,
        last_ms=time_ms,
        context={c: context_list(frame[c]) for c in form.context},
        offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
        item=item,
        shown_ms=np.repeat(time_ms, lengths),
        candidate=candidate,
        label=label_nk,
        position=(np.arange(len(item)) - np.repeat(np.cumsum(lengths) - lengths, lengths)).astype(np.int32),
    )


def _columns(form: RequestsFile, spec: Spec) -> list[str]:
    labels = [c for t in spec.tasks.values() for c in (t.column, t.ids) if c is not None]
    return [form.user, *column_of(form.time), form.candidates, *form.context, *form.candidate.values(), *labels]


def _in_time_order(
    frame: pl.DataFrame, file: DataFile, form: RequestsFile, problems: Problems
) -> tuple[pl.DataFrame, npt.NDArray[np.int64]]:
    if isinstance(form.time, str):
        time = order_times_ms(len(frame))
    else:
        time = times_ms(frame[form.time.column], form.time, f"{file.where}.time", problems)
    order = np.argsort(time.to_numpy(), kind="stable")
    return frame[order], time.to_numpy()[order].astype(np.int64)


class _Flat:
    """List columns of a requests file, one value a candidate."""

    def __init__(
        self, frame: pl.DataFrame, form: RequestsFile, lengths: npt.NDArray[np.int64], problems: Problems
    ) -> None:
        self._frame, self._form, self._lengths, self._problems = frame, form, lengths, problems

    def column(self, column: str, field: str) -> pl.Series:
        """A list column exploded; notes rows whose list is not as long as the candidates."""
        lists = as_lists(self._frame[column], self._form.separator)
        wrong = lists.list.len().to_numpy() != self._lengths
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            found = f"{int(wrong.sum())} rows where {column!r} is not as long as {self._form.candidates!r}"
            detail = f" (one has {lists.list.len()[row]} values for {self._lengths[row]} candidates)"
            self._problems.append(FieldProblem(field, found + detail, "one value a candidate"))
            return pl.Series(column, [None] * int(self._lengths.sum()), dtype=pl.Float64)
        return numbers_where_all_are(lists.explode())

    def label(self, name: str, task: Task, item: pl.Series) -> npt.NDArray[np.float32]:
        """The label of each candidate: its value in the label list, or whether it is among the positive ids."""
        if task.column is not None:
            field = f"$.tasks.{name}.column"
            values = self.column(task.column, field)
            if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
                found = f"{task.column!r} with lists of text"
                self._problems.append(FieldProblem(field, found, "lists of true/false or numbers"))
                return np.zeros(len(values), dtype=np.float32)
            return labels(values, task, field, self._problems)
        assert task.ids is not None, "checked by Spec"
        positive = as_lists(self._frame[task.ids], self._form.separator).cast(pl.List(pl.String))
        of_candidate = positive.gather(np.repeat(np.arange(len(positive)), self._lengths))
        both = pl.DataFrame({"item": item, "positive": of_candidate})
        return both.select(pl.col("item").is_in(pl.col("positive")))["item"].to_numpy().astype(np.float32)
