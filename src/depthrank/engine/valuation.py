"""Value factors of a request: the candidate column that the spec's value is multiplied by, checked.

Legend: N candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import FieldProblem, RequestError
from depthrank.schema import Spec


def value_weights(spec: Spec) -> NDArray[np.float32]:
    """Weight of each task in the value, float32 [K]."""
    return np.array([spec.value.weights.get(task, 0.0) for task in spec.tasks], dtype=np.float32)


def value_factor(
    spec: Spec, columns: Mapping[str, Sequence[Any]], num_candidates: int, reasons: list[str]
) -> NDArray[np.float32]:
    """The factor of each candidate, float32 [N] >= 0; 1 where the spec names none.

    A request without the column ranks by probability alone and says so in ``reasons``. Raises RequestError for a value
    that is negative, not finite or no number.
    """
    name = spec.value.times
    if name is None:
        return np.ones(num_candidates, dtype=np.float32)
    if name not in columns:
        reasons.append(f"no {name} column: ranked without it")
        return np.ones(num_candidates, dtype=np.float32)
    values = columns[name]
    try:
        factor = np.array([np.nan if v is None or isinstance(v, (str, bool)) else v for v in values], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        factor = np.full(num_candidates, np.nan)
    bad = np.flatnonzero(~(np.isfinite(factor) & (factor >= 0) & (factor <= 1e30)))
    if bad.size:
        problems = [
            FieldProblem(f"$.candidates.{name}[{i}]", repr(values[i])[:80], "a number from 0 to 1e30")
            for i in bad[:20].tolist()
        ]
        raise RequestError(f"{bad.size} of {num_candidates} candidates have no usable {name}:", problems)
    return factor.astype(np.float32)
