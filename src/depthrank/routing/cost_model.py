"""What a plan costs in thread-milliseconds, predicted from what levels took before.

A call of a level takes close to ``a + b * candidates + c * history``: a fixed part, a product per candidate, attention
to the user's history. A level that runs in several chunks is called as often, and pays the fixed part each time. The
user side has a line of its own (over the tokens it encodes), and so has every level with a cold user state (where its
first call computes encoder layers) and with a warm one.

Coefficients follow the machine by recursive least squares with forgetting (Ljung, System Identification, 1999, ch. 11).
Errors are relative, since a bound of 20 % is relative too, and an observation that took much too long counts for less:
a thread that was preempted says nothing about the level. What slows all parts alike, such as a neighbour on the
machine, is one factor that follows whole requests, so it is seen within tens of them, by parts that did not run too.

Pure: no clock is read here; who measures, observes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from depthrank.errors import ArtifactError
from depthrank.routing.cost_rates import SMALLEST_MS, USER, CostRates, Line, triple
from depthrank.routing.plain import fields_of, finite_number, finite_numbers, listed, whole_number

FORGETTING = 0.995
OUTLIER = 0.5  # a time that is longer by more than this is trusted the less
ERRORS_KEPT = 512
FREE_OBSERVATIONS = 8  # until then an outlier is not told from a wrong belief
PRIOR_OBSERVATIONS = 3  # what was measured elsewhere counts for so many
MOST_VARIANCE = 100.0  # times that of the beginning: where nothing varies, forgetting must not wind up
SCALE = (1.0, 1e-2, 1e-2)  # candidates and history in hundreds: regressors of like size
FLOPS_PER_MS = 2e7  # 20 GFLOP/s a thread: where nothing was observed
FOLLOWED = 1 / 12  # of a request's error goes into the factor of the machine
MOST_FOLLOWED = 0.7  # log of the largest error that one request may show

Vector = list[float]
SIDES = range(3)


@dataclass
class _Part:
    """Recursive least squares of one part, on three numbers: plain floats are faster than arrays here."""

    weight: Vector
    covariance: list[Vector] = field(default_factory=lambda: _diagonal([1.0, 1.0, 1.0]))
    observed: int = 0
    most_variance: float = 3.0
    errors: deque[float] = field(default_factory=lambda: deque(maxlen=ERRORS_KEPT))

    def predict(self, x: Vector) -> float:
        return max(SMALLEST_MS, _dot(self.weight, x))

    def observe(self, candidates: float, history: float, ms: float) -> None:
        """One measurement, weighted by its time: by the predicted one where that is smaller."""
        x = [SCALE[0], candidates * SCALE[1], history * SCALE[2]]
        if not self.observed:
            self._begin(x, ms)
        expected = self.predict(x)
        if self.observed:
            self.errors.append(abs(expected - ms) / max(ms, SMALLEST_MS))
        scale = max(min(expected, ms), SMALLEST_MS)
        x, error = [v / scale for v in x], (ms - expected) / scale
        trust = 1.0 if self.observed <= FREE_OBSERVATIONS else min(1.0, OUTLIER / max(error, 1e-12))
        seen = [_dot(row, x) for row in self.covariance]
        known = FORGETTING / trust + _dot(x, seen)
        self.weight = [w + s / known * error for w, s in zip(self.weight, seen, strict=True)]
        self._forget(seen, known)
        self.observed += 1

    def _forget(self, seen: Vector, known: float) -> None:
        """What was seen leaves the covariance, which then grows, as what was learned becomes old. The matrix is
        symmetric and written out: three parts learn from every request."""
        (aa, ab, ac), (_, bb, bc), (_, _, cc) = self.covariance
        a, b, c = seen
        aa, ab, ac = aa - a * a / known, ab - a * b / known, ac - a * c / known
        bb, bc, cc = bb - b * b / known, bc - b * c / known, cc - c * c / known
        grow = min(1 / FORGETTING, self.most_variance / max(aa + bb + cc, 1e-300))
        ab, ac, bc = ab * grow, ac * grow, bc * grow
        self.covariance = [[aa * grow, ab, ac], [ab, bb * grow, bc], [ac, bc, cc * grow]]

    def _begin(self, x: Vector, ms: float) -> None:
        """The first measurement scales the belief, as far as it tells anything (one of an empty history says nothing of
        what an event takes); each regressor alone might explain all of it, or be all wrong."""
        ratio = ms / self.predict(x)
        self.weight = [w * ratio if v > 0 else w for w, v in zip(self.weight, x, strict=True)]
        spread = [max(ms / max(v, 1.0), abs(w)) for w, v in zip(self.weight, x, strict=True)]
        self.covariance = _diagonal([s * s for s in spread])
        self.most_variance = MOST_VARIANCE * sum(s * s for s in spread)

    def times(self, factor: float) -> _Part:
        """The same part on a machine that is slower by a factor."""
        square = factor * factor
        covariance = [[v * square for v in row] for row in self.covariance]
        weight = [w * factor for w in self.weight]
        return _Part(weight, covariance, self.observed, self.most_variance * square, self.errors)

    def reopened(self) -> _Part:
        """The same belief, held only as firmly as after a few observations, and open to be all wrong."""
        looser = max(1.0, min(self.observed, 1 / (1 - FORGETTING)) / PRIOR_OBSERVATIONS)
        covariance = [[v * looser for v in row] for row in self.covariance]
        return _Part(list(self.weight), covariance, min(self.observed, 1), self.most_variance)

    def line(self, factor: float) -> Line:
        fixed, candidate, history = self.weight  # written out: every request makes all lines anew
        return Line(fixed * SCALE[0] * factor, candidate * SCALE[1] * factor, history * SCALE[2] * factor)


class CostModel:
    """Predicts levels and plans, and learns from what they took. Not thread-safe: one owner observes."""

    def __init__(self, rates: CostRates) -> None:
        """``rates``: what to believe until something is observed."""
        self.num_levels = rates.num_levels
        self._log_factor = 0.0
        self._parts = {
            (level, warm): _Part([v / s for v, s in zip(triple(lines[level + 1]), SCALE, strict=True)])
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

    def reopened(self) -> CostModel:
        """For a machine that it has not served on: what was measured elsewhere is a first guess."""
        model = CostModel(self.rates())
        model._parts = {key: part.times(self._factor).reopened() for key, part in self._parts.items()}
        return model

    def observe(self, level: int, candidates: float, history: int, ms: float, *, warm: bool = False) -> None:
        """One call of ``level`` (or ``USER``) took ``ms`` thread-milliseconds. A time that is no positive number is
        left out: a clock that jumped says nothing about the level."""
        if math.isfinite(ms) and ms > 0:
            self._parts[level, warm].observe(float(candidates), float(history), ms / self._factor)

    def follow(self, predicted_ms: float, actual_ms: float) -> None:
        """A whole request took ``actual_ms`` where ``predicted_ms`` was said: the machine may have become slower, or
        faster, as a whole."""
        if math.isfinite(actual_ms) and min(actual_ms, predicted_ms) > 0:
            error = math.log(actual_ms / predicted_ms)
            self._log_factor += FOLLOWED * min(MOST_FOLLOWED, max(-MOST_FOLLOWED, error))

    @property
    def _factor(self) -> float:
        return math.exp(self._log_factor)

    def predict_ms(self, level: int, candidates: int, history: int, *, warm: bool = False) -> float:
        """What a level (or ``USER``) will take."""
        return self.rates().level_ms(level, candidates, history, warm=warm)

    def plan_ms(self, caps: Sequence[int], history: int, *, warm: bool = False) -> float:
        """What a whole request will take."""
        return self.rates().plan_ms(caps, history, warm=warm)

    def rates(self) -> CostRates:
        """The coefficients of now, frozen. A part that was never observed borrows from its other temperature."""
        factor, levels = self._factor, range(USER, self.num_levels)
        cold, warm = (tuple([self._line(level, w, factor) for level in levels]) for w in (False, True))
        return CostRates(cold, warm)

    def _line(self, level: int, warm: bool, factor: float) -> Line:
        own, other = self._parts[level, warm], self._parts[level, not warm]
        part = other if level != USER and not own.observed and other.observed else own
        return part.line(factor)

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
        parts = {key: part.times(self._factor) for key, part in self._parts.items()}
        return {
            "parts": [
                {
                    "level": level,
                    "warm": warm,
                    "weight": part.weight,
                    "covariance": [v for row in part.covariance for v in row],
                    "observed": part.observed,
                    "most_variance": part.most_variance,
                }
                for (level, warm), part in parts.items()
            ]
        }

    @classmethod
    def from_plain(cls, plain: object) -> CostModel:
        """Inverse of ``to_plain``; raises ArtifactError for anything else."""
        parts: dict[tuple[int, bool], _Part] = {}
        for entry in listed(fields_of(plain, ("parts",), "cost model")["parts"]):
            f = fields_of(
                entry, ("level", "warm", "weight", "covariance", "observed", "most_variance"), "cost model part"
            )
            level = whole_number(f["level"], "level of a cost model part", USER, 1_000)
            covariance_33 = finite_numbers(f["covariance"], "covariance of a cost model part", 9).reshape(3, 3)
            parts[level, bool(f["warm"])] = _Part(
                finite_numbers(f["weight"], "weight of a cost model part", 3).tolist(),
                covariance_33.tolist(),
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


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _diagonal(values: Vector) -> list[Vector]:
    return [[values[i] if i == j else 0.0 for j in SIDES] for i in SIDES]
