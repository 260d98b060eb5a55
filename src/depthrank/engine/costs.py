"""What stages cost here: every request's chunks teach the cost model, and its prediction is kept beside the outcome.

A prediction is made from coefficients as they were before the request was seen. Costs are milliseconds of the thread
that ranks; where torch runs several threads, theirs are not in it.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from depthrank.routing import USER, CostModel, CostRates

ERRORS_KEPT = 1_024


@dataclass(frozen=True)
class StageCost:
    """One stage of a request: ``level`` (``USER``: the user side) over ``candidates``, as predicted and as it was.

    ``history``: its tokens, for the user side those that were encoded. ``calls``: in how many the level ran;
    ``once_ms`` of the time went into encoder layers that the state did not have; ``deepens``: whether the level reads
    such layers.
    """

    level: int
    candidates: int
    history: int
    warm: bool
    predicted_ms: float
    actual_ms: float
    calls: int = 1
    once_ms: float = 0.0
    deepens: bool = False


class CostMeter:
    """A cost model that several threads observe into and read from."""

    def __init__(self, model: CostModel) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._rates = model.rates()
        self._errors: deque[float] = deque(maxlen=ERRORS_KEPT)
        self._paused = False

    @property
    def rates(self) -> CostRates:
        """The coefficients as of the last request; frozen."""
        return self._rates

    def observe(self, stages: list[StageCost]) -> None:
        """Learn from a request's stages."""
        predicted = sum(stage.predicted_ms for stage in stages)
        actual = sum(stage.actual_ms for stage in stages)
        if self._paused:
            return
        with self._lock:
            for stage in stages:
                self._learn(stage)
            self._model.follow(predicted, actual)
            self._rates = self._model.rates()
            if actual > 0:
                self._errors.append(abs(predicted - actual) / actual)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is learned inside: a first request also pays for pages that are touched for the first time."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def copied(self) -> CostMeter:
        """The same beliefs, to learn from on their own."""
        return CostMeter(self.model())

    def model(self) -> CostModel:
        """A copy of what was learned so far."""
        with self._lock:
            return copy.deepcopy(self._model)

    def _learn(self, stage: StageCost) -> None:
        """A level's calls as one of their mean size: exact, as the time is linear in it."""
        if stage.level == USER:
            self._model.observe(USER, 0, stage.history, stage.actual_ms, warm=stage.warm)
            return
        candidates, call_ms = stage.candidates / stage.calls, (stage.actual_ms - stage.once_ms) / stage.calls
        self._model.observe(stage.level, candidates, stage.history, call_ms, warm=True)
        if not (stage.warm and stage.deepens):  # a level that deepens nothing costs the same cold as warm
            self._model.observe(stage.level, candidates, stage.history, call_ms + stage.once_ms, warm=False)

    def errors(self) -> dict[str, float]:
        """Median and 90th percentile of |predicted - actual| / actual over the latest requests; empty before any."""
        with self._lock:
            errors = list(self._errors)
        if not errors:
            return {}
        return {f"p{q}": float(np.percentile(errors, q)) for q in (50, 90)}


__all__ = ["USER", "CostMeter", "StageCost"]
