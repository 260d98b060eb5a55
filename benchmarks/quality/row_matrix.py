"""Rows as one matrix for trees: ids, floats, and simple aggregates of the joined history.

Trees cannot read a sequence, so they get what a careful person would make of it: how long it is, how much of it is each
action, and how often and how recently the candidate's own values occur in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rows import Dataset, IdColumn, Rows

MAX_CATEGORIES = 500  # more values than this are given by rank of frequency: a tree splits off the rare ones
NEVER = 40.0  # the age bucket of what does not occur; real ones are at most 31


@dataclass(frozen=True, eq=False)
class Matrix:
    """x float32 [N, X]; ``names`` of its columns, ``categorical`` those that are categories."""

    x: npt.NDArray[np.float32]
    names: tuple[str, ...]
    categorical: tuple[int, ...]


def tree_matrix(data: Dataset, rows: Rows) -> Matrix:
    """All columns of ``rows``; the user's own id is left out, since a tree can only memorise it."""
    kept = [c for c in data.id_columns if c.name != "user"]
    columns: dict[str, npt.NDArray[np.generic]] = {}
    for column in kept:
        for place in range(column.start, min(column.start + 2, column.stop)):  # of several values the first two
            columns[f"{column.name}.{place - column.start}"] = rows.ids[:, place]
    categorical = tuple(
        i
        for i, name in enumerate(columns)
        if next(c for c in kept if c.name == name.rsplit(".", 1)[0]).num_values <= MAX_CATEGORIES
    )
    columns.update(zip(data.float_names, rows.floats.T, strict=True))
    if data.spec.history.length:
        columns.update(history_columns(data, rows))
    names = tuple(name.replace("[", ".").replace("]", "") for name in columns)
    return Matrix(np.stack([c.astype(np.float32) for c in columns.values()], axis=1), names, categorical)


def history_columns(data: Dataset, rows: Rows) -> dict[str, npt.NDArray[np.float32]]:
    """Aggregates of the history beside each candidate, float32 [N] each."""
    inside_RL = np.arange(rows.history_item.shape[1]) < rows.history_length[:, None]
    actions_RL = np.where(inside_RL, rows.history_actions, 0)
    found: dict[str, npt.NDArray[np.float32]] = {"history": rows.history_length[rows.request].astype(np.float32)}
    for bit, action in enumerate(data.spec.history_actions):
        count_R = ((actions_RL >> bit) & 1).sum(axis=1)
        found[f"history.{action}"] = count_R[rows.request].astype(np.float32)
    own = [IdColumn("item", 0, -1, 0), *(c for c in data.item_columns if c.stop - c.start == 1 or c.name == "tags")]
    for column in own:
        values_V = np.arange(len(data.item_ids)) if column.start < 0 else data.item_ids[:, column.start]
        found.update(_matches(rows, inside_RL, values_V, f"history.same_{column.name}"))
    return found


def _matches(
    rows: Rows, inside_RL: npt.NDArray[np.bool_], values_V: npt.NDArray[np.generic], name: str
) -> dict[str, npt.NDArray[np.float32]]:
    """How often the candidate's value occurs in its request's history, how recently, and whether it is the newest."""
    count, age, newest = (np.zeros(len(rows), np.float32) for _ in range(3))
    value_RL, last_R = values_V[rows.history_item], np.maximum(rows.history_length - 1, 0)
    for start in range(0, len(rows), 65_536):
        part = slice(start, start + 65_536)
        request, own_N = rows.request[part], values_V[rows.item[part]]
        same_NL = (value_RL[request] == own_N[:, None]) & inside_RL[request]
        count[part] = same_NL.sum(axis=1)
        age[part] = np.where(same_NL, rows.history_age[request], NEVER).min(axis=1, initial=NEVER)
        newest[part] = same_NL[np.arange(len(request)), last_R[request]]
    return {name: count, f"{name}.age": age, f"{name}.newest": newest}
