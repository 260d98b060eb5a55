"""The one text form of a value: what makes 5, 5.0 and "5" the same id or category wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

_DECIMAL_BITS = 4_096  # Python refuses to print longer integers in decimal


def text_of(value: object) -> str | None:
    """The text of a scalar; None for None and NaN.

    Integral floats lose their point, booleans are "1" and "0" (columns store them so). Raises TypeError for lists,
    mappings, bytes and other values that have no text form.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return None
    if isinstance(value, int):
        return str(int(value)) if value.bit_length() <= _DECIMAL_BITS else hex(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)
    raise TypeError(f"a {type(value).__name__} has no text form")


def texts_of(values: Iterable[object]) -> list[str | None]:
    """``text_of`` of each value, at once where all are text already."""
    listed: list[Any] = values if isinstance(values, list) else list(values)
    if isinstance(values, np.ndarray):
        listed = values.tolist()
    kinds = set(map(type, listed))
    if kinds <= {str}:
        return listed
    if kinds <= {str, int} and max(v.bit_length() for v in listed if type(v) is int) <= _DECIMAL_BITS:
        return list(map(str, listed))
    return [text_of(v) for v in listed]
