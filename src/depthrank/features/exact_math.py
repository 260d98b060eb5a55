"""Logarithms from IEEE basic operations only.

numpy's own ``log`` picks vector code by CPU, stride and position in the array, so that two machines (or a batch and a
single row) may differ in the last bit. +, -, *, / and frexp are exact or correctly rounded everywhere; what is built
from them is the same bits on every machine and in every batch.

Idea: y = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh(s) with
s = (m - 1) / (m + 1), |s| < 0.172; eight terms of its series leave an error below 1e-13.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LN2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
_LAST_BUCKET = 31


def log1p(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(1 + x) for finite x >= 0, float64; absolute error below 1e-13 times the result's size."""
    mantissa, exponent = np.frexp(1.0 + x)
    low = mantissa < _SQRT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.full_like(s, 1.0 / 15.0)
    for odd in (13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0):
        series *= square
        series += 1.0 / odd
    series *= 2.0 * s
    series += (exponent - low) * _LN2
    return series


_OF_COUNT = log1p(np.arange(4_096, dtype=np.float64))


def log1p_of_count(count: NDArray[np.integer]) -> NDArray[np.float64]:
    """The same bits as ``log1p`` for whole numbers >= 0; low ones are looked up."""
    if int(count.max(initial=0)) < len(_OF_COUNT):
        return _OF_COUNT.take(count)
    return log1p(count.astype(np.float64))


def log2_bucket(milliseconds: NDArray[np.int64]) -> NDArray[np.int32]:
    """0 below one second (and below zero), else floor(log2(seconds)) + 1, at most 31; int32."""
    seconds = np.maximum(milliseconds, 0) // 1_000
    return np.minimum(np.frexp(seconds.astype(np.float64))[1], _LAST_BUCKET).astype(np.int32)
