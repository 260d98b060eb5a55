"""What ranking sorts by: task probabilities weighted, times a candidate column such as a bid, which is checked here.

In float64: a weight times a factor may be larger than a float32 holds.

Legend: N candidates, K tasks.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import shown
from depthrank.errors import FieldProblem, RequestError
from depthrank.schema import Spec

MAX_FACTOR = 1e30
MAX_PROBLEMS = 20


def value_weights(spec: Spec) -> NDArray[np.float32]:
    """Weight of each task in the value, float32 [K]."""
    return np.array([spec.value.weights.get(task, 0.0) for task in spec.tasks], dtype=np.float32)


@dataclass(frozen=True)
class Valuation:
    """Value from probabilities: task weights [K], times a factor per candidate [N]."""

    weight_K: NDArray[np.float32]
    factor_N: NDArray[np.float64]

    def of(self, probability_NK: NDArray[np.float32], index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Values of the candidates ``index``, whose probabilities are given."""
        value_N: NDArray[np.float64] = (probability_NK.astype(np.float64) @ self.weight_K) * self.factor_N[index]
        return value_N


def value_factor(
    spec: Spec, columns: Mapping[str, Sequence[Any]], num_candidates: int, reasons: list[str]
) -> NDArray[np.float64]:
    """The factor of each candidate, float64 [N] >= 0; 1 where the spec names none.

    A request without the column ranks by probability alone and says so in ``reasons``. Raises RequestError for a value
    that is negative, not finite or no number.
    """
    name = spec.value.times
    if name is None:
        return np.ones(num_candidates)
    if name not in columns:
        reasons.append(f"no {name} column: ranked without it")
        return np.ones(num_candidates)
    values = columns[name]
    factor_N = _numbers(values)
    if num_candidates and not (factor_N.min() >= 0 and factor_N.max() <= MAX_FACTOR):  # NaN compares as neither
        bad = np.flatnonzero(~((factor_N >= 0) & (factor_N <= MAX_FACTOR)))
        problems = [
            FieldProblem(f"$.candidates.{name}[{i}]", shown(values[i]), f"a number from 0 to {MAX_FACTOR:g}")
            for i in bad[:MAX_PROBLEMS].tolist()
        ]
        raise RequestError(f"{bad.size} of {num_candidates} candidates have no usable {name}:", problems)
    return factor_N


def _numbers(values: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
    """The numbers, float64 [N], NaN for what is none; without an object a value where all are."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64, copy=False)
    if set(map(type, values)) <= {float, int}:
        with suppress(OverflowError):
            return np.frombuffer(array("d", values), np.float64) if values else np.zeros(0)
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: object) -> float:
    """The number, or NaN for what is none."""
    if type(value) is float or type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return np.nan
    return np.nan
