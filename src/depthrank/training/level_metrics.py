"""What the levels of a trained model reach on validation, calibrated there."""

from __future__ import annotations

import numpy as np
import torch

from depthrank.metrics import auc, gauc, logloss, normalized_entropy
from depthrank.model import ElasticRanker
from depthrank.training.calibrate import fit_platt
from depthrank.training.loop import Scored


def calibrate(model: ElasticRanker, scored: Scored) -> None:
    """Fit each level's and task's scale and offset on validation."""
    levels, tasks = model.calibration_scale_LK.shape
    for level in range(levels):
        for k in range(tasks):
            scale, offset = fit_platt(scored.logits_LNK[level, :, k], scored.label_NK[:, k], scored.weight_N)
            model.calibration_scale_LK[level, k] = scale
            model.calibration_offset_LK[level, k] = offset


def probabilities(model: ElasticRanker, scored: Scored) -> np.ndarray:
    """Calibrated probabilities [L, N, K] of the validation logits."""
    levels = [model.probabilities(i, torch.from_numpy(x)).numpy() for i, x in enumerate(scored.logits_LNK)]
    return np.stack(levels)


def level_metrics(tasks: list[str], model: ElasticRanker, scored: Scored) -> list[dict[str, dict[str, float | None]]]:
    """AUC, GAUC, NE and log loss by level and task on the scored candidates; None where a task has one class only.

    NE and log loss count sampled negatives by importance, as calibration does; AUC and GAUC are of the scored order.
    """
    _, user_N = np.unique(scored.user_N.astype(str), return_inverse=True)
    probability_LNK = probabilities(model, scored)
    levels = []
    for probability_NK in probability_LNK:
        by_task: dict[str, dict[str, float | None]] = {}
        for k, task in enumerate(tasks):
            known = np.isfinite(scored.label_NK[:, k])
            y, p, u = scored.label_NK[known, k], probability_NK[known, k].astype(np.float64), user_N[known]
            w = scored.weight_N[known].astype(np.float64)
            usable = y.size > 0 and y.min() < y.max()
            by_task[task] = {
                "auc": auc(y, p) if usable else None,
                "gauc": gauc(y, p, u) if usable else None,
                "ne": normalized_entropy(y, p, w) if usable else None,
                "logloss": logloss(y, p, w) if usable else None,
            }
        levels.append(by_task)
    return levels
