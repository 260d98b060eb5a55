"""Plain data of the adaptive part, checked: files may come from anybody."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import ArtifactError

LARGEST = 1e30


def fields_of(value: object, names: Sequence[str], what: str) -> dict[str, object]:
    """``value`` as a mapping that has ``names``; raises ArtifactError."""
    if not isinstance(value, dict):
        raise ArtifactError(f"the adaptive part is damaged: {what} is {type(value).__name__}, expected a mapping")
    missing = [name for name in names if name not in value]
    if missing:
        raise ArtifactError(f"the adaptive part is damaged: {what} has no {', '.join(missing)}")
    return value


def finite_number(value: object, what: str, low: float = -LARGEST, high: float = LARGEST) -> float:
    """A finite number within bounds; raises ArtifactError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ArtifactError(f"the adaptive part is damaged: {what} is {value!r:.100}, expected a finite number")
    if not low <= value <= high:
        raise ArtifactError(f"the adaptive part is damaged: {what} is {value!r:.100}, expected {low:g} to {high:g}")
    return float(value)


def whole_number(value: object, what: str, low: int, high: int) -> int:
    """An integer within bounds; raises ArtifactError."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ArtifactError(f"the adaptive part is damaged: {what} is {value!r:.100}, expected {low} to {high}")
    return value


def finite_numbers(value: object, what: str, length: int | None = None) -> NDArray[np.float64]:
    """A list of finite numbers, float64 [n]; raises ArtifactError."""
    if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
        wanted = "a list of numbers" if length is None else f"{length} numbers"
        raise ArtifactError(f"the adaptive part is damaged: {what} is {value!r:.100}, expected {wanted}")
    return np.array([finite_number(v, what) for v in value], dtype=np.float64)


def listed(value: object) -> list[object]:
    """A list; raises ArtifactError."""
    if not isinstance(value, list):
        raise ArtifactError(f"the adaptive part is damaged: it holds {type(value).__name__} where a list is expected")
    return value
