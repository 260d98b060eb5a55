"""Which columns of the main file are outcomes: labels to predict, and what else is known only afterwards.

A column that tells a label nearly by itself (an AUC beyond ``TELLS``) is an outcome too, whatever its name: a play
time, a reason, an id that only clicks have. As an input it would be there in training only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from depthrank.data.guess.names import words
from depthrank.data.guess.roles import is_after, is_graded, is_label, is_rating
from depthrank.data.guess.tables import Column, Table
from depthrank.metrics import auc

TELLS = 0.95


@dataclass(frozen=True)
class Label:
    """A task: the column, from which value on it is a positive (None: 0/1), the share of positives where it is known,
    whether the column holds the ids of the positives, and what a positive is worth."""

    task: str
    column: str
    at_least: float | None
    positives: float | None = None
    is_ids: bool = False
    value: int = 1


def labels_of(table: Table, taken: Sequence[str]) -> list[Label]:
    """The labels of a file of impressions or events, apart from columns that are ``taken`` for something else."""
    free = [column for column in table if column.name not in taken]
    found = [_label(column, None) for column in free if is_label(column)]
    graded = next((column for column in free if is_graded(column)), None)
    if not found and graded is not None:
        return _grades(graded)
    if not found:
        found = [_label(column, _good_grade(column)) for column in free if is_rating(column)]
    return found


def _grades(column: Column) -> list[Label]:
    """A task for each grade that is reached, worth what NDCG's gain 2^g - 1 grows by there: their sum is the gain."""
    grades = sorted(column.known.cast(pl.Float64).unique().to_list())[1:]
    labels = [_label(column, grade) for grade in grades]
    return [replace(each, task=f"{each.task}_{k + 1}", value=2**k) for k, each in enumerate(labels)]


def _label(column: Column, at_least: float | None) -> Label:
    positive = column.known > 0 if at_least is None else column.known >= at_least
    plain = [word for word in words(column.name) if word not in ("is", "has", "was", "did")]
    return Label("_".join(plain) or column.name, column.name, at_least, int(positive.sum()) / len(positive))


def _good_grade(column: Column) -> float:
    """The grade from which on nearest to a half of all are."""
    grades = column.known.cast(pl.Float64)
    shares = {grade: abs(float((grades >= grade).sum()) / len(grades) - 0.5) for grade in grades.unique().to_list()}
    return float(min(shares, key=lambda grade: (shares[grade], grade)))


def outcomes_beside(table: Table, labels: Sequence[Label], taken: Sequence[str]) -> dict[str, str]:
    """Columns that are no inputs -> why: their names, or how well they tell a label."""
    found: dict[str, str] = {}
    for column in table:
        if column.name in taken or column.name in [label.column for label in labels]:
            continue
        if is_after(column):
            found[column.name] = "its name is that of an outcome"
            continue
        for label in labels:
            told = _tells(column, table.columns[label.column], label.at_least)
            if told > TELLS:
                found[column.name] = f"it tells {label.task} by itself (AUC {told:.2f})"
                break
    return found


def _tells(column: Column, label: Column, at_least: float | None) -> float:
    """AUC of a column alone for a label: of its numbers, of its frequent values' rates, or of its being missing."""
    if column.values is None or label.values is None or column.is_listed:
        return 0.5
    y = (label.values.cast(pl.Float64) >= (1e-9 if at_least is None else at_least)).cast(pl.Float64)
    known = y.is_not_null()
    x, y_n = column.values.filter(known), y.filter(known).to_numpy()
    if not 0 < y_n.mean() < 1:
        return 0.5
    scores = [x.is_null().cast(pl.Float64).to_numpy()]
    if x.dtype.is_numeric():
        numbers = x.cast(pl.Float64).fill_nan(None)
        scores.append(numbers.fill_null(strategy="min").fill_null(0.0).to_numpy())
    if 1 < column.num_distinct <= 200:
        rate = pl.DataFrame({"x": x.cast(pl.String), "y": y_n}).select(pl.col("y").mean().over("x"))
        scores.append(rate["y"].to_numpy())
    return max(max(a, 1 - a) for a in (auc(y_n, s.astype(np.float64)) for s in scores))
