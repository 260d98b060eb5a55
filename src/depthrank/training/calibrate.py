"""Platt scaling: the scale and offset that make a level's probabilities mean what they say.

Newton's method on the weighted log loss of ``sigmoid(a s + b)``; a stays positive, so the order within a level does not
change (Platt 1999). Where scores tell nothing of the few positives there are, a would go to 0, and what ranks then is
the rounding of equal probabilities: ``LEAST_SCALE`` bounds it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LEAST_SCALE = 0.05


def fit_platt(score_N: Array, label_N: Array, weight_N: Array, *, steps: int = 50) -> tuple[float, float]:
    """Scale and offset for one level and task; (1, 0) where the labels have one class only."""
    used_N = np.isfinite(label_N) & np.isfinite(score_N) & (weight_N > 0)
    s, y, w = (
        score_N[used_N].astype(np.float64),
        label_N[used_N].astype(np.float64),
        weight_N[used_N].astype(np.float64),
    )
    if y.size == 0 or y.min() == y.max():
        return 1.0, 0.0
    w = w / w.sum()
    scale, offset = 1.0, 0.0
    loss = _loss(s, y, w, scale, offset)
    for _ in range(steps):
        p = _sigmoid(scale * s + offset)
        error, curvature = w * (p - y), w * p * (1 - p)
        gradient = np.array([error @ s, error.sum()])
        hessian = np.array([[curvature @ (s * s), curvature @ s], [curvature @ s, curvature.sum()]]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6:
            trial_scale, trial_offset = scale - size * step[0], offset - size * step[1]
            trial = _loss(s, y, w, trial_scale, trial_offset)
            if trial_scale > 0 and trial <= loss:
                break
            size /= 2
        else:
            break
        if loss - trial < 1e-12:
            break
        scale, offset, loss = trial_scale, trial_offset, trial
    if scale < LEAST_SCALE:
        scale, offset = LEAST_SCALE, _offset(s, y, w, LEAST_SCALE)
    return float(scale), float(offset)


def _offset(s: Array, y: Array, w: Array, scale: float) -> float:
    """The offset at which the mean probability is the share of positives, by bisection: that mean rises with it."""
    low, high = -scale * s.max() - 50.0, -scale * s.min() + 50.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if w @ _sigmoid(scale * s + middle) < w @ y else (low, middle)
    return float(0.5 * (low + high))


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _loss(s: Array, y: Array, w: Array, scale: float, offset: float) -> float:
    x = scale * s + offset
    return float(w @ (np.logaddexp(0.0, x) - y * x))
