"""A loaded dataset into examples with splits, and what a feature encoder is fitted on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from depthrank.catalogue import Catalogue
from depthrank.data.event_rows import EventRows
from depthrank.data.examples import Examples, shown_to_examples
from depthrank.data.load import RawDataset, positives_of_events
from depthrank.data.shown import Shown
from depthrank.data.split_times import SPLIT_CODE, boundaries_ms, leave_last_out, period
from depthrank.errors import DataError, FieldProblem
from depthrank.schema import Spec

Int64 = npt.NDArray[np.int64]


def load_examples(spec: Spec, raw: RawDataset) -> Examples:
    """Examples of the main file, in time order. For an events file: one request a distinct (user, item, time) with the
    positive alone; negatives are added when batches are made.

    Splits: by time, a request belongs to the period of its last impression, so that no training label is younger than
    the first validation request; or each user's last and last but one request. Raises DataError where a split is empty.
    """
    if isinstance(raw.main, Shown):
        examples = _of_shown(spec, raw, raw.main)
    else:
        examples = _of_events(spec, raw, raw.main)
    _check_splits(spec, examples)
    return examples


def user_rows(users: Catalogue | None, ids: list[str]) -> Int64:
    """Rows in the users catalogue, int64; 0 where there is none."""
    return np.zeros(len(ids), dtype=np.int64) if users is None else users.row_of(ids)


def split_of(spec: Spec, user: list[str], last_ms: Int64, weights: Int64 | None = None) -> npt.NDArray[np.int8]:
    """The split of each request, int8 [R]; ``weights``: labelled rows a request, by which fractions count."""
    if spec.split.by == "leave_last_out":
        codes = pl.Series(user, dtype=pl.String).rank("dense").to_numpy().astype(np.int64) - 1
        return leave_last_out(codes, last_ms)
    rows_ms = last_ms if weights is None else np.repeat(last_ms, weights)
    return period(last_ms, boundaries_ms(spec.split, rows_ms))


def _of_shown(spec: Spec, raw: RawDataset, shown: Shown) -> Examples:
    split = split_of(spec, shown.user, shown.last_ms)
    if spec.split.by == "time":
        split = period(shown.last_ms, boundaries_ms(spec.split, shown.shown_ms))
    item_row = raw.items.row_of(shown.item.to_list())
    return shown_to_examples(shown, user_rows(raw.users, shown.user), item_row, split)


def _of_events(spec: Spec, raw: RawDataset, rows: EventRows) -> Examples:
    """Positives only: rows of the same user, item and time are one request whose labels are joined."""
    positive = positives_of_events(rows, spec)
    names = [f"_{k}" for k in range(len(spec.tasks))]
    frame = rows.frame.with_columns(pl.Series(n, positive[:, k]) for k, n in enumerate(names)).with_row_index("_row")
    grouped = (
        frame.filter(pl.any_horizontal(names))
        .group_by("user", "item", "time_ms", maintain_order=True)
        .agg(pl.col("_row").first(), *(pl.col(n).any() for n in names))
        .sort("time_ms", "_row")
    )
    user, time_ms = grouped["user"].to_list(), grouped["time_ms"].to_numpy().astype(np.int64)
    first = grouped["_row"].to_list()
    return Examples(
        user=user,
        user_row=user_rows(raw.users, user),
        time_ms=time_ms,
        context={c: [values[r] for r in first] for c, values in rows.context.items()},
        offsets=np.arange(len(user) + 1, dtype=np.int64),
        item_row=raw.items.row_of(grouped["item"].to_list()),
        candidate={},
        label=grouped.select(names).to_numpy().astype(np.float32),
        position=np.full(len(user), -1, dtype=np.int32),
        split=split_of(spec, user, time_ms),
        sampled=True,
    )


def _check_splits(spec: Spec, examples: Examples) -> None:
    """A split that the spec asks for and that has no request is a mistake."""
    wanted = {"train": True, "validation": spec.split.validation > 0, "test": spec.split.test > 0}
    if spec.split.by == "leave_last_out":
        wanted = dict.fromkeys(wanted, True)
    found = {name: int((examples.split == code).sum()) for name, code in SPLIT_CODE.items()}
    empty = [name for name, needed in wanted.items() if needed and not found[name]]
    if empty:
        counts = ", ".join(f"{n} requests in {name}" for name, n in found.items())
        problem = FieldProblem("$.split", counts, f"requests in {', '.join(empty)} too")
        raise DataError(f"the split of {spec.name!r} leaves nothing for {', '.join(empty)}:", [problem])
