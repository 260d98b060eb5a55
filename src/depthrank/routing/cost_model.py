"""What a plan costs in thread-milliseconds, predicted from what levels took before.

A level's time is close to ``a + b * candidates + c * history``: a fixed part, a product per candidate, attention to the
user's history. The user side has a model of its own, and so has every level with a cold user state (where it must
compute encoder layers first) and with a warm one. Coefficients follow the machine by recursive least squares with
forgetting (Ljung, System Identification, 1999, ch. 11). Errors are relative, since a bound of 20 % is relative too, and
an observation that took much too long counts for less: a thread that was preempted says nothing about the level.

Pure: no clock is read here; who measures, observes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import ArtifactError
from depthrank.routing.plain import fields_of, finite_number, finite_numbers, whole_number

USER = -1
"""The "level" of the user side."""

FORGETTING = 0.995
OUTLIER = 0.5  # a time that is longer by more than this is trusted the less
ERRORS_KEPT = 512
FREE_OBSERVATIONS = 8  # until then an outlier is not told from a wrong belief
MOST_VARIANCE = 100.0  # times that of the beginning: where nothing varies, forgetting must not wind up
SCALE = np.array([1.0, 1e-2, 1e-2])  # candidates and history in hundreds: regressors of like size
SMALLEST_MS = 1e-4
FLOPS_PER_MS = 2e7  # 20 GFLOP/s a thread: where nothing was observed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """Milliseconds of one part: fixed, for each candidate, for each event of the history."""

    fixed: float
    candidate: float
    history: float

    def ms(self, candidates: float, history: float) -> float:
        """The predicted time, never negative."""
        return max(0.0, self.fixed + self.candidate * candidates + self.history * history)


@dataclass(frozen=True)
class CostRates:
    """A snapshot of the coefficients, which a decision is made from and logged with: ``[user, level 0, ...]``."""

    cold: tuple[Line, ...]
    warm: tuple[Line, ...]

    @property
    def num_levels(self) -> int:
        """Levels, the router included."""
        return len(self.cold) - 1

    def level_ms(self, level: int, candidates: float, history: float, *, warm: bool = False) -> float:
        """One level (``USER``: the user side); a level without candidates is not run and costs nothing."""
        if level != USER and candidates <= 0:
            return 0.0
        return (self.warm if warm else self.cold)[level + 1].ms(candidates, history)

    def plan_ms(self, caps: Sequence[float], history: float, *, warm: bool = False) -> float:
        """A whole request: the user side and every level of ``caps``, candidates by level, router first."""
        levels = (self.level_ms(level, width, history, warm=warm) for level, width in enumerate(caps))
        return self.level_ms(USER, caps[0], history, warm=warm) + sum(levels)

    def plans_ms(self, caps_JL: NDArray[np.number], history: float, *, warm: bool = False) -> Floats:
        """``plan_ms`` of J plans at once, float64 [J]."""
        lines = np.array([(line.fixed, line.candidate, line.history) for line in (self.warm if warm else self.cold)])
        at_once = lines[:, 0] + lines[:, 2] * history
        levels_JL = np.maximum(at_once[1:] + lines[1:, 1] * caps_JL, 0.0) * (caps_JL > 0)
        user = np.maximum(at_once[0] + lines[0, 1] * caps_JL[:, 0], 0.0)
        return np.asarray(user + levels_JL.sum(axis=1), dtype=np.float64)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {name: [_triple(line) for line in getattr(self, name)] for name in ("cold", "warm")}

    @classmethod
    def from_plain(cls, plain: object) -> CostRates:
        """Inverse of ``to_plain``; raises ArtifactError for anything else."""
        fields = fields_of(plain, ("cold", "warm"), "cost rates")
        cold, warm = (tuple(_line(v) for v in _listed(fields[name])) for name in ("cold", "warm"))
        if len(cold) != len(warm) or len(cold) < 2:
            raise ArtifactError(
                f"cost rates of {len(cold) - 1} cold and {len(warm) - 1} warm levels: expected the same"
            )
        return cls(cold, warm)


@dataclass
class _Part:
    """Recursive least squares of one part."""

    weight_3: Floats
    covariance_33: Floats = field(default_factory=lambda: np.eye(3))
    observed: int = 0
    most_variance: float = 3.0
    errors: list[float] = field(default_factory=list)

    def predict(self, candidates: float, history: float) -> float:
        return max(SMALLEST_MS, float(self.weight_3 @ (SCALE * (1.0, candidates, history))))

    def observe(self, candidates: float, history: float, ms: float) -> None:
        """One measurement, weighted by its time: by the predicted one where that is smaller."""
        if not self.observed:
            self._begin(candidates, history, ms)
        expected = self.predict(candidates, history)
        if self.observed:
            self.errors = [*self.errors[-ERRORS_KEPT + 1 :], abs(expected - ms) / max(ms, SMALLEST_MS)]
        scale = max(min(expected, ms), SMALLEST_MS)
        x_3, error = SCALE * (1.0, candidates, history) / scale, (ms - expected) / scale
        trust = 1.0 if self.observed <= FREE_OBSERVATIONS else min(1.0, OUTLIER / max(error, 1e-12))
        gain_3 = self.covariance_33 @ x_3
        gain_3 = gain_3 / (FORGETTING / trust + float(x_3 @ gain_3))
        self.weight_3 = self.weight_3 + gain_3 * error
        covariance = (self.covariance_33 - np.outer(gain_3, x_3 @ self.covariance_33)) / FORGETTING
        covariance = 0.5 * (covariance + covariance.T)
        self.covariance_33 = covariance * min(1.0, self.most_variance / max(float(np.trace(covariance)), 1e-300))
        self.observed += 1

    def _begin(self, candidates: float, history: float, ms: float) -> None:
        """The first measurement scales the belief, as far as it tells anything (one of an empty history says nothing of
        what an event takes); each regressor alone might explain all of it, or be all wrong."""
        told_3 = np.array([1.0, candidates, history]) > 0
        self.weight_3 = np.where(told_3, self.weight_3 * (ms / self.predict(candidates, history)), self.weight_3)
        spread_3 = np.maximum(ms / np.maximum(SCALE * (1.0, candidates, history), 1.0), np.abs(self.weight_3))
        self.covariance_33 = np.diag(spread_3**2)
        self.most_variance = MOST_VARIANCE * float((spread_3**2).sum())

    def line(self) -> Line:
        fixed, candidate, history = (self.weight_3 * SCALE).tolist()
        return Line(fixed, candidate, history)


class CostModel:
    """Predicts levels and plans, and learns from what they took. Not thread-safe: one owner observes."""

    def __init__(self, rates: CostRates) -> None:
        """``rates``: what to believe until something is observed."""
        self.num_levels = rates.num_levels
        self._parts = {
            (level, warm): _Part(np.array(_triple(lines[level + 1])) / SCALE)
            for warm, lines in ((False, rates.cold), (True, rates.warm))
            for level in range(USER, self.num_levels)
        }

    @classmethod
    def from_flops(cls, levels: Sequence[tuple[float, float]], history_length: int = 0) -> CostModel:
        """A first belief from FLOPs: (once a request, for each candidate) by level, router first.

        What level 0 does once a request is the user side, which grows with the history and costs nothing when warm.
        """
        request, candidate = levels[0]
        per_event = request / max(history_length, 1) / FLOPS_PER_MS
        lines = [Line(0.01, 0.0, per_event), Line(0.01, candidate / FLOPS_PER_MS, 0.0)]
        lines += [Line(0.05 + r / FLOPS_PER_MS, c / FLOPS_PER_MS, 0.0) for r, c in levels[1:]]
        return cls(CostRates(tuple(lines), (Line(0.02, 0.0, 0.0), *lines[1:])))

    def observe(self, level: int, candidates: int, history: int, ms: float, *, warm: bool = False) -> None:
        """``level`` (or ``USER``) took ``ms`` thread-milliseconds. A time that is no positive number is left out: a
        clock that jumped says nothing about the level."""
        if math.isfinite(ms) and ms > 0:
            self._parts[level, warm].observe(float(candidates), float(history), ms)

    def predict_ms(self, level: int, candidates: int, history: int, *, warm: bool = False) -> float:
        """What a level (or ``USER``) will take."""
        return self.rates().level_ms(level, candidates, history, warm=warm)

    def plan_ms(self, caps: Sequence[int], history: int, *, warm: bool = False) -> float:
        """What a whole request will take."""
        return self.rates().plan_ms(caps, history, warm=warm)

    def rates(self) -> CostRates:
        """The coefficients of now, frozen. A part that was never observed borrows from its other temperature."""
        cold, warm = (tuple(self._line(level, w) for level in range(USER, self.num_levels)) for w in (False, True))
        return CostRates(cold, warm)

    def _line(self, level: int, warm: bool) -> Line:
        own, other = self._parts[level, warm], self._parts[level, not warm]
        return other.line() if level != USER and not own.observed and other.observed else own.line()

    def num_observed(self, level: int, *, warm: bool = False) -> int:
        """Observations of a part so far."""
        return self._parts[level, warm].observed

    def error_quantile(self, level: int, quantile: float = 0.9, *, warm: bool = False) -> float:
        """Quantile of |predicted - actual| / actual over the latest observations, each predicted before it was seen;
        NaN before the second."""
        errors = self._parts[level, warm].errors
        return float(np.quantile(errors, quantile)) if errors else math.nan

    def to_plain(self) -> dict[str, Any]:
        """Everything but the errors, for JSON."""
        return {
            "parts": [
                {
                    "level": level,
                    "warm": warm,
                    "weight": part.weight_3.tolist(),
                    "covariance": part.covariance_33.ravel().tolist(),
                    "observed": part.observed,
                    "most_variance": part.most_variance,
                }
                for (level, warm), part in self._parts.items()
            ]
        }

    @classmethod
    def from_plain(cls, plain: object) -> CostModel:
        """Inverse of ``to_plain``; raises ArtifactError for anything else."""
        parts: dict[tuple[int, bool], _Part] = {}
        for entry in _listed(fields_of(plain, ("parts",), "cost model")["parts"]):
            f = fields_of(
                entry, ("level", "warm", "weight", "covariance", "observed", "most_variance"), "cost model part"
            )
            level = whole_number(f["level"], "level of a cost model part", USER, 1_000)
            covariance_33 = finite_numbers(f["covariance"], "covariance of a cost model part", 9).reshape(3, 3)
            parts[level, bool(f["warm"])] = _Part(
                finite_numbers(f["weight"], "weight of a cost model part", 3),
                covariance_33,
                whole_number(f["observed"], "observations of a cost model part", 0, 1 << 53),
                finite_number(f["most_variance"], "variance of a cost model part", 0.0),
            )
        num_levels = max((level for level, _ in parts), default=USER) + 1
        wanted = {(level, warm) for level in range(USER, num_levels) for warm in (False, True)}
        if num_levels < 1 or parts.keys() != wanted:
            raise ArtifactError(f"a cost model has parts for {sorted(parts)}: expected every level cold and warm")
        model = cls(CostRates((Line(0, 0, 0),) * (num_levels + 1), (Line(0, 0, 0),) * (num_levels + 1)))
        model._parts = parts
        return model


def _triple(line: Line) -> list[float]:
    return [line.fixed, line.candidate, line.history]


def _line(value: object) -> Line:
    return Line(
        *(finite_number(v, "a cost coefficient") for v in finite_numbers(value, "cost coefficients", 3).tolist())
    )


def _listed(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ArtifactError(f"the adaptive part holds {type(value).__name__} where a list is expected")
    return value
