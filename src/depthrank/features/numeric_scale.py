"""Raw numbers -> bounded floats, with statistics of the training data.

rank: 2 q - 1, q the share of training values below (ties count half), linear between at most 1,000 knots. log: sign(x)
log1p(|x|), then as standard. standard: (x - mean) / deviation, clipped to +-10. none: x clipped to +-1e6.
Values beyond +-1e15, infinite ones included, count as +-1e15, in training and in serving.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from depthrank.features.exact_math import log1p
from depthrank.features.knot_places import Places

Floats = NDArray[np.float64]
Transform = Literal["rank", "log", "standard", "none"]

MAX_KNOTS = 1_000
_MAX_INPUT = 1e15
_MAX_STANDARD = 10.0
_MAX_RAW = 1e6


class ScaleStats(msgspec.Struct, frozen=True):
    """What ``fit`` learns, as plain numbers for JSON; knots and levels are of equal length."""

    transform: Transform
    mean: float = 0.0
    deviation: float = 1.0
    knots: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()


class NumericScale:
    """Applies one transform; every value by itself, so that it never depends on its batch."""

    def __init__(self, stats: ScaleStats) -> None:
        self.stats = stats
        self._knots = np.array(stats.knots, np.float64)
        self._levels = np.array(stats.levels, np.float64)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            slopes = np.diff(self._levels, append=self._levels[-1:]) / np.diff(self._knots, append=np.inf)
        self._slopes = np.where(np.isfinite(slopes), slopes, 0.0)
        self._places = Places(self._knots)

    @classmethod
    def fit(cls, transform: Transform, values: Floats) -> NumericScale:
        """Statistics of the training values (missing ones left out); without any, every value becomes 0."""
        x = np.clip(values[~np.isnan(values)], -_MAX_INPUT, _MAX_INPUT)
        if transform == "rank":
            knots, levels = _quantiles(x)
            return cls(ScaleStats("rank", knots=tuple(knots.tolist()), levels=tuple(levels.tolist())))
        if transform == "none":
            return cls(ScaleStats("none"))
        if transform == "log":
            x = _signed_log(x)
        mean, deviation = (float(x.mean()), float(x.std())) if len(x) else (0.0, 1.0)
        return cls(ScaleStats(transform, mean=mean, deviation=deviation if deviation > 0 else 1.0))

    def apply(self, values: Floats, missing: NDArray[np.bool_]) -> Floats:
        """Transformed values, float64 [n], finite; 0 where ``missing``."""
        some_missing = missing.any()
        x = np.where(missing, 0.0, values) if some_missing else values
        if self.stats.transform == "rank":
            y = self._rank(x)  # knots lie within the input's bounds
        elif self.stats.transform == "none":
            y = _within(x, -_MAX_RAW, _MAX_RAW)
        else:
            x = _within(x, -_MAX_INPUT, _MAX_INPUT)
            x = _signed_log(x) if self.stats.transform == "log" else x
            y = _within((x - self.stats.mean) / self.stats.deviation, -_MAX_STANDARD, _MAX_STANDARD)
        return np.where(missing, 0.0, y) if some_missing else y

    def _rank(self, x: Floats) -> Floats:
        if not len(self._knots):
            return np.zeros_like(x)
        x = _within(x, self._knots[0], self._knots[-1])
        j = self._places.of(x)
        y = self._levels.take(j) + self._slopes.take(j) * (x - self._knots.take(j))
        return _within(y, -1.0, 1.0)


def _within(x: Floats, low: float, high: float) -> Floats:
    """Clipped; ``np.clip`` takes twice as long."""
    return np.minimum(np.maximum(x, low), high)


def _signed_log(x: Floats) -> Floats:
    return np.where(x < 0, -1.0, 1.0) * log1p(np.abs(x))


def _quantiles(x: Floats) -> tuple[Floats, Floats]:
    """(knots ascending, level of each in -1..1) of the training values."""
    x = np.sort(x)
    knots = np.unique(x)
    if len(knots) > MAX_KNOTS:
        places = np.arange(MAX_KNOTS) * (len(x) - 1) // (MAX_KNOTS - 1)
        knots = np.unique(x[places])
    below = np.searchsorted(x, knots, side="left") + np.searchsorted(x, knots, side="right")
    return knots, below / max(len(x), 1) - 1.0
