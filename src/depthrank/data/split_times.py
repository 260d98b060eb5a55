"""Where the train, validation and test periods meet."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from depthrank.data.times import iso_ms
from depthrank.errors import DataError, FieldProblem
from depthrank.schema.settings import SplitSettings

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_CODE = {"train": TRAIN, "validation": VALIDATION, "test": TEST}

Times = npt.NDArray[np.int64]


def boundaries_ms(split: SplitSettings, time_ms: Times) -> tuple[int, int]:
    """(validation from, test from) in ms: the named times, or quantiles of ``time_ms``, one entry a labelled row.

    Raises DataError where a name is no date-time or the two are out of order.
    """
    fraction_test = 1.0 - split.test
    fraction_validation = fraction_test - split.validation
    test_from = _named(split.test_from, "test_from") or _quantile_ms(time_ms, fraction_test)
    if split.validation_from is None and split.test_from is not None:
        # the validation fraction is one of what comes before the named test period
        validation_from = _quantile_ms(time_ms[time_ms < test_from], 1.0 - split.validation)
    else:
        validation_from = _named(split.validation_from, "validation_from") or _quantile_ms(time_ms, fraction_validation)
    if validation_from > test_from:
        found = f"validation from {split.validation_from}, test from {split.test_from}"
        raise DataError("the split is wrong:", [FieldProblem("$.split", found, "validation before test")])
    return validation_from, test_from


def _named(text: str | None, field: str) -> int | None:
    if text is None:
        return None
    try:
        return iso_ms(text)
    except ValueError:
        problem = FieldProblem(f"$.split.{field}", repr(text), "a date-time such as 2026-01-31T00:00:00")
        raise DataError("the split is wrong:", [problem]) from None


def _quantile_ms(time_ms: Times, fraction: float) -> int:
    """The earliest time that leaves at least ``fraction`` of the rows before it; equal times stay together."""
    if fraction >= 1.0 - 1e-9 or not len(time_ms):
        return int(np.iinfo(np.int64).max)
    ordered = np.sort(time_ms)
    return int(ordered[min(round(fraction * len(ordered)), len(ordered) - 1)])


def period(time_ms: Times, bounds_ms: tuple[int, int]) -> npt.NDArray[np.int8]:
    """The split of each time, int8: 0 train, 1 validation, 2 test."""
    return np.searchsorted(np.array(bounds_ms), time_ms, side="right").astype(np.int8)


def leave_last_out(user: npt.NDArray[np.integer], time_ms: Times) -> npt.NDArray[np.int8]:
    """Of each user with at least three requests the last is test and the last but one validation; others train."""
    order = np.lexsort((np.arange(len(user)), time_ms, user))
    user_sorted = user[order]
    count = np.bincount(user, minlength=int(user.max()) + 1 if len(user) else 0)
    ends = np.cumsum(count)
    from_last = ends[user_sorted] - 1 - np.arange(len(user))
    split = np.zeros(len(user), dtype=np.int8)
    enough = count[user_sorted] >= 3
    split[order[enough & (from_last == 0)]] = TEST
    split[order[enough & (from_last == 1)]] = VALIDATION
    return split
