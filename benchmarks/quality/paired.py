"""Two models on the same rows: differences with intervals by bootstrap over users, paired.

Positive is better for ours in every figure: NE is given as the rival's minus ours. Scores are [N], or [S, N] of S
seeds: figures are then means over the seeds, with their spread, and differences are between such means.

Legend: N rows, S seeds, R requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rows import Rows

from depthrank.metrics import (
    auc,
    auc_difference,
    auc_per_user,
    gauc,
    mean_difference,
    mean_interval,
    mean_over_requests,
    normalized_entropy,
    rank_in_request,
    reciprocal_rank,
    row_logloss,
)
from depthrank.training.calibrate import fit_platt

Floats = npt.NDArray[np.float64]
Plain = dict[str, Any]
REPLICATES = 1_000
AUC_REPLICATES = 400
FACTORS = np.geomspace(1e-4, 100.0, 121)


def calibrated(score_N: Floats, validation_N: Floats, label_N: Floats) -> Floats:
    """``score_N`` probabilities after Platt scaling on validation: every rival gets what ours gets."""
    scale, offset = fit_platt(_logit(validation_N), label_N, np.ones(len(label_N)))
    return 1.0 / (1.0 + np.exp(-(scale * _logit(score_N) + offset)))


def _logit(p: Floats) -> Floats:
    p = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(p) - np.log1p(-p)


def over_seeds(figures_S: list[Plain]) -> Plain:
    """The mean of each figure over seeds; with several seeds also ``spread``: the lowest and the highest."""
    mean = {name: float(np.mean([figures[name] for figures in figures_S])) for name in figures_S[0]}
    if len(figures_S) == 1:
        return mean
    spread = {name: [min(f[name] for f in figures_S), max(f[name] for f in figures_S)] for name in mean}
    return mean | {"seeds": len(figures_S), "spread": spread}


def task_figures(rows: Rows, task: int, p_SN: Floats) -> Plain:
    """AUC, GAUC (AUC per user, weighted by the user's impressions, users with one class left out) and NE."""
    label, user = rows.label[:, task].astype(np.float64), _codes(rows.user)
    return over_seeds(
        [
            {"auc": auc(label, p_N), "gauc": gauc(label, p_N, user), "ne": normalized_entropy(label, p_N)}
            for p_N in np.atleast_2d(p_SN)
        ]
    )


def task_differences(rows: Rows, task: int, ours_SN: Floats, rival_SN: Floats) -> Plain:
    """Ours minus the rival's AUC and GAUC, the rival's NE minus ours."""
    label, user = rows.label[:, task].astype(np.float64), _codes(rows.user)
    entropy = float(-(m := label.mean()) * np.log(m) - (1 - m) * np.log(1 - m))

    def loss(p_SN: Floats) -> Floats:
        return np.mean([row_logloss(label, p_N) / entropy for p_N in np.atleast_2d(p_SN)], axis=0)

    def by_user(p_SN: Floats) -> Floats:
        return np.mean([auc_per_user(label, p_N, user).auc for p_N in np.atleast_2d(p_SN)], axis=0)

    loss_ours, loss_rival = loss(ours_SN), loss(rival_SN)
    difference = by_user(ours_SN) - by_user(rival_SN)
    weight = np.where(np.isnan(difference), 0, np.bincount(user))
    repeated, users = np.repeat(difference, weight), np.repeat(np.arange(len(weight)), weight)
    return {
        "auc": auc_difference(label, ours_SN, rival_SN, user, replicates=AUC_REPLICATES).to_plain(),
        "gauc": mean_interval(repeated, users, replicates=REPLICATES).to_plain(),
        "ne": mean_difference(loss_rival, loss_ours, user, replicates=REPLICATES).to_plain(),
    }


def list_values(rows: Rows, task: int, score_SN: Floats) -> dict[str, Floats]:
    """Reciprocal rank and hit@1 of each request, float64 [R], means over seeds; NaN without a positive."""
    runs = [_list_values(rows, task, score_N) for score_N in np.atleast_2d(score_SN)]
    return {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}


def _list_values(rows: Rows, task: int, score_N: Floats) -> dict[str, Floats]:
    starts = np.flatnonzero(np.r_[True, np.diff(rows.request) != 0])
    offsets = np.r_[starts, len(rows)].astype(np.int64)
    reciprocal = reciprocal_rank(rows.label[:, task] > 0, rank_in_request(score_N, offsets), offsets)
    return {"mrr": reciprocal, "hit@1": np.where(np.isnan(reciprocal), np.nan, (reciprocal == 1.0).astype(np.float64))}


def list_losses(test: Rows, validation: Rows, task: int, test_SN: Floats, validation_SN: Floats) -> Floats:
    """-log of what a softmax over its list gives a request's positive, float64 [R], means over seeds; NaN without one.

    Scores are multiplied by the factor that is best on validation: those of trees have no scale of their own.
    """
    runs = []
    for test_N, validation_N in zip(np.atleast_2d(test_SN), np.atleast_2d(validation_SN), strict=True):
        best = min(FACTORS, key=lambda factor: float(np.nanmean(_list_losses(validation, task, factor * validation_N))))
        runs.append(_list_losses(test, task, best * test_N))
    return np.mean(runs, axis=0)


def _list_losses(rows: Rows, task: int, score_N: Floats) -> Floats:
    starts = np.flatnonzero(np.r_[True, np.diff(rows.request) != 0])
    size_R = np.diff(np.r_[starts, len(rows)])
    score_N = score_N - np.repeat(np.maximum.reduceat(score_N, starts), size_R)
    positive_N = np.where(rows.label[:, task] > 0, score_N, -np.inf)
    best_R = np.maximum.reduceat(positive_N, starts)
    return np.where(np.isfinite(best_R), np.log(np.add.reduceat(np.exp(score_N), starts)) - best_R, np.nan)


def list_figures(rows: Rows, task: int, score_SN: Floats) -> Plain:
    """MRR and hit@1."""
    return over_seeds(
        [
            {name: mean_over_requests(values) for name, values in list_values(rows, task, score_N).items()}
            for score_N in np.atleast_2d(score_SN)
        ]
    )


def list_differences(rows: Rows, task: int, ours_SN: Floats, rival_SN: Floats) -> Plain:
    """Ours minus the rival's MRR and hit@1."""
    ours, rival = list_values(rows, task, ours_SN), list_values(rows, task, rival_SN)
    return {n: request_difference(rows, ours[n], rival[n]) for n in ours}


def request_difference(rows: Rows, a_R: Floats, b_R: Floats) -> Plain:
    """Mean of a - b over requests, paired by user."""
    user_R = _codes(rows.user)[np.flatnonzero(np.r_[True, np.diff(rows.request) != 0])]
    return mean_difference(a_R, b_R, user_R, replicates=REPLICATES).to_plain()


def _codes(user_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.unique(user_N, return_inverse=True)[1].astype(np.int64)


def table(title: str, head: list[str], body: list[list[str]]) -> str:
    """A markdown table."""
    lines = [f"### {title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in body), ""])


def row_of(model: str, figures: Plain, names: tuple[str, ...]) -> list[str]:
    """A row of figures: ``.7576 (.7570-.7581)`` where there are several seeds."""
    spread = figures.get("spread")
    shown = [f"{figures[n]:.4f}" + (f" ({spread[n][0]:.4f}-{spread[n][1]:.4f})" if spread else "") for n in names]
    return [model, *shown]


def interval(found: Plain) -> str:
    """``+.0042 [.0011, .0070]``."""
    return f"{found['estimate']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, lowest and highest of a figure over seeds."""
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
