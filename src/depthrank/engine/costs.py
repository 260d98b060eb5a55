"""What stages cost here: every request's chunks teach the cost model, and its prediction is kept beside the outcome.

A prediction is made from coefficients as they were before the request was seen. Costs are milliseconds of the thread
that ranks; where torch runs several threads, theirs are not in it.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from depthrank.routing import USER, CostModel, CostRates

ERRORS_KEPT = 1_024
CHUNK_MS = 5.0
LEAST_CHUNK = 32


@dataclass(frozen=True)
class StageCost:
    """One stage of a request: ``level`` (``USER``: the user side) over ``candidates``, as predicted and as it was."""

    level: int
    candidates: int
    history: int
    warm: bool
    predicted_ms: float
    actual_ms: float


class CostMeter:
    """A cost model that several threads observe into and read from."""

    def __init__(self, model: CostModel) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._rates = model.rates()
        self._errors: deque[float] = deque(maxlen=ERRORS_KEPT)

    @property
    def rates(self) -> CostRates:
        """The coefficients as of the last request; frozen."""
        return self._rates

    def observe(self, stages: list[StageCost]) -> None:
        """Learn from a request's stages."""
        predicted = sum(stage.predicted_ms for stage in stages)
        actual = sum(stage.actual_ms for stage in stages)
        with self._lock:
            for stage in stages:
                self._model.observe(stage.level, stage.candidates, stage.history, stage.actual_ms, warm=stage.warm)
            self._rates = self._model.rates()
            if actual > 0:
                self._errors.append(abs(predicted - actual) / actual)

    def errors(self) -> dict[str, float]:
        """Median and 90th percentile of |predicted - actual| / actual over the latest requests; empty before any."""
        with self._lock:
            errors = list(self._errors)
        if not errors:
            return {}
        return {f"p{q}": float(np.percentile(errors, q)) for q in (50, 90)}


def chunk_size(rates: CostRates, level: int, history: int, left_ms: float, most: int) -> int:
    """Candidates for a chunk of about 5 ms, or of what is left until the deadline where that is less."""
    line = rates.warm[level + 1]
    if line.candidate <= 0:
        return most
    fitting = (min(CHUNK_MS, left_ms) - line.ms(0, history)) / line.candidate
    return int(min(most, max(LEAST_CHUNK, fitting)))


__all__ = ["USER", "CostMeter", "StageCost", "chunk_size"]
