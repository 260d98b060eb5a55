"""The figures of an evaluation, from what was collected: per task, of the ranking, per level, with intervals.

Legend: R requests, n kept rows, L levels, K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from depthrank.evaluate.collected import RECALL_KS, TOP, Collected, LevelFigures
from depthrank.metrics import (
    auc,
    auc_difference,
    auc_interval,
    auc_per_user,
    coverage,
    expected_calibration_error,
    gauc,
    gauc_interval,
    logloss,
    long_tail_share,
    mean_difference,
    mean_interval,
    mean_over_requests,
    ne_interval,
    normalized_entropy,
    reliability,
)

Plain = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Rows:
    """Collected parts joined. A request: user code [R], history length [R]. A kept row: label [n, K], item row [n],
    request [n], probabilities a level [L][n, K]."""

    tasks: tuple[str, ...]
    user: npt.NDArray[np.int64]
    history_length: npt.NDArray[np.int64]
    num_candidates: npt.NDArray[np.int64]
    label: npt.NDArray[np.float32]
    item_row: npt.NDArray[np.int64]
    request: npt.NDArray[np.int64]
    probability: list[npt.NDArray[np.float32]]

    @classmethod
    def of(cls, collected: Collected, tasks: tuple[str, ...]) -> Rows:
        """Join the batches."""
        _, user = np.unique(np.array(collected.user, dtype=object).astype(str), return_inverse=True)
        return cls(
            tasks=tasks,
            user=user.astype(np.int64),
            history_length=np.concatenate(collected.history_length).astype(np.int64),
            num_candidates=np.concatenate(collected.num_candidates),
            label=np.concatenate(collected.label),
            item_row=np.concatenate(collected.item_row),
            request=np.concatenate(collected.request),
            probability=[np.concatenate(level.probability) for level in collected.levels],
        )

    def of_task(self, k: int, level: int, chosen: npt.NDArray[np.bool_] | None = None) -> TaskRows:
        """The labelled rows of a task at a level, of ``chosen`` rows [n] (default all)."""
        known = ~np.isnan(self.label[:, k])
        if chosen is not None:
            known &= chosen
        return TaskRows(
            self.label[known, k].astype(np.float64),
            self.probability[level][known, k].astype(np.float64),
            self.user[self.request[known]],
        )


@dataclass(frozen=True, eq=False)
class TaskRows:
    """Labels, probabilities and user codes of n rows."""

    label: npt.NDArray[np.float64]
    probability: npt.NDArray[np.float64]
    user: npt.NDArray[np.int64]

    def figures(self) -> Plain:
        """AUC, GAUC, NE, log loss, calibration; NaN where one class is missing."""
        mean = float(self.label.mean()) if len(self.label) else float("nan")
        predicted = float(self.probability.mean()) if len(self.label) else float("nan")
        return {
            "auc": auc(self.label, self.probability),
            "gauc": gauc(self.label, self.probability, self.user),
            "ne": normalized_entropy(self.label, self.probability),
            "logloss": logloss(self.label, self.probability),
            "ece": expected_calibration_error(self.label, self.probability),
            "predicted_over_observed": predicted / mean if mean else float("nan"),
            "rows": len(self.label),
            "positives": int(self.label.sum()),
        }


def task_figures(rows: Rows, level: int) -> dict[str, Plain]:
    """``{task: {"auc", "gauc", "ne", "logloss", ...}}`` at a level."""
    return {task: rows.of_task(k, level).figures() for k, task in enumerate(rows.tasks)}


def ranking_figures(level: LevelFigures, popularity: npt.NDArray[np.int64]) -> Plain:
    """``{"ndcg@10", "hr@10", "mrr", "coverage", "long_tail_share"}``; ``popularity`` [V]: training positives."""
    top_items = np.concatenate(level.top_items)
    returned = top_items[top_items > 0]
    ndcg = np.concatenate(level.ndcg)
    return {
        f"ndcg@{TOP}": mean_over_requests(ndcg),
        f"hr@{TOP}": mean_over_requests(np.concatenate(level.hit)),
        "mrr": mean_over_requests(np.concatenate(level.reciprocal)),
        "coverage": coverage(returned, len(popularity) - 1),
        "long_tail_share": long_tail_share(returned - 1, popularity[1:]),
        "requests": int((~np.isnan(ndcg)).sum()),
    }


def recall_figures(level: LevelFigures, most_candidates: int) -> dict[str, float]:
    """``{k: share of the deepest level's top 10 among this level's top k}``, for k below the number of candidates."""
    recall = np.concatenate(level.recall)
    ks = [i for i, k in enumerate(RECALL_KS) if i == 0 or k < most_candidates]
    return {str(RECALL_KS[i]): mean_over_requests(recall[:, i]) for i in ks}


def interval_figures(collected: Collected, rows: Rows, replicates: int) -> Plain:
    """95 % intervals by bootstrap over users, at the deepest level."""
    deepest, tasks = collected.levels[-1], {}
    few = max(replicates // 5, 20)
    for k, task in enumerate(rows.tasks):
        r = rows.of_task(k, -1)
        tasks[task] = {
            "auc": auc_interval(r.label, r.probability, r.user, replicates=few).to_plain(),
            "gauc": gauc_interval(r.label, r.probability, r.user, replicates=replicates).to_plain(),
            "ne": ne_interval(r.label, r.probability, r.user, replicates=replicates).to_plain(),
        }
    ranking = {
        name: mean_interval(np.concatenate(values), rows.user, replicates=replicates).to_plain()
        for name, values in ((f"ndcg@{TOP}", deepest.ndcg), (f"hr@{TOP}", deepest.hit), ("mrr", deepest.reciprocal))
    }
    return {"tasks": tasks, "ranking": ranking}


def depth_gain(collected: Collected, rows: Rows, replicates: int) -> Plain:
    """What the deepest level has over the router, paired by user: NDCG@10, and AUC and GAUC of each task."""
    if len(collected.levels) < 2:
        return {}
    expert, router = (np.concatenate(collected.levels[i].ndcg) for i in (-1, 0))
    tasks = {}
    for k, task in enumerate(rows.tasks):
        deep, shallow = rows.of_task(k, -1), rows.of_task(k, 0)
        few = max(replicates // 5, 20)
        tasks[task] = {
            "auc": auc_difference(
                deep.label, deep.probability, shallow.probability, deep.user, replicates=few
            ).to_plain(),
            "gauc": _gauc_difference(deep, shallow, replicates),
        }
    gain = mean_difference(expert, router, rows.user, replicates=replicates)
    return {f"ndcg@{TOP}": gain.to_plain(), "tasks": tasks}


def _gauc_difference(a: TaskRows, b: TaskRows, replicates: int) -> Plain:
    """Both are weighted means over the same users with the same weights: the mean of the weighted difference."""
    first, second = (auc_per_user(r.label, r.probability, r.user) for r in (a, b))
    weight = np.where(np.isnan(first.auc), 0, first.num_impressions)
    repeated = np.repeat(first.auc - second.auc, weight)
    users = np.repeat(np.arange(len(weight)), weight)
    return mean_interval(repeated, users, replicates=replicates).to_plain()


def reliability_figures(rows: Rows) -> dict[str, Plain]:
    """Reliability bins of every task at the deepest level."""
    found = {}
    for k, task in enumerate(rows.tasks):
        r = rows.of_task(k, -1)
        bins = reliability(r.label, r.probability)
        found[task] = {
            "predicted": bins.predicted.tolist(),
            "observed": bins.observed.tolist(),
            "count": bins.count.tolist(),
        }
    return found
