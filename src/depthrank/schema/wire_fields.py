"""Checks of single fields and of whole columns; every problem is noted with its path, none stops the others.

Columns of thousands of values are checked by C-speed passes over the whole column. Only where such a pass fails does a
slow walk look for the guilty rows. A column that came as an array of numbers stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthrank.errors import FieldProblem, RequestError, did_you_mean
from depthrank.schema.collect import describe
from depthrank.schema.request import Limits

MAX_PROBLEMS = 32
INT64_MAX = 2**63 - 1
SCALARS: frozenset[type] = frozenset({str, int, float, bool, type(None)})
AN_ID = "a non-empty string or an integer"
A_NAME = "a non-empty string"
A_VALUE = "a string, a number, a boolean, null, or a list of these"

# Times in seconds of the years 1985-2128 are, read as milliseconds, days in January and February 1970; microseconds
# and nanoseconds of today lie thousands of years ahead.
SECONDS = range(500_000_000, 5_000_000_000)
FIRST_MICROSECOND = 100_000_000_000_000


class FieldChecks:
    """Notes problems in ``problems``; every check returns the value as it is to be used (or as given, if wrong)."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.problems: list[FieldProblem] = []

    def wrong(self, path: str, value: object, expected: str, hint: str | None = None) -> None:
        self.problems.append(FieldProblem(_short(path), describe(value), expected, hint))

    def raise_problems(self, title: str) -> None:
        """Raises RequestError if any problem was noted; at most MAX_PROBLEMS are told."""
        if not self.problems:
            return
        more = len(self.problems) - MAX_PROBLEMS
        suffix = f" (the first {MAX_PROBLEMS} of at least {len(self.problems)} problems)" if more > 0 else ""
        raise RequestError(title + suffix, self.problems[:MAX_PROBLEMS])

    def names(self, given: Iterable[str], known: Sequence[str], path: str = "$") -> None:
        """Fields nobody knows, each with the nearest known name."""
        for name in given:
            if name not in known:
                near = did_you_mean(name[:80], known)
                hint = f"did you mean {near!r}?" if near else None
                self.wrong(f"{path}.{name}", name, "one of " + ", ".join(known), hint)

    def missing(self, path: str, expected: str, given: Iterable[str] = ()) -> None:
        near = did_you_mean(path.rpartition(".")[2], (name for name in given if len(name) <= 80))
        self.wrong(path, None, expected, f"did you mean it by {near!r}?" if near else None)

    def id(self, value: Any, path: str) -> str:
        """An id as a string; integers compare as strings."""
        if type(value) is int:
            return str(value)
        if type(value) is not str or not value:
            self.wrong(path, value, AN_ID)
        elif len(value) > self.limits.max_id_chars:
            found = FieldProblem(
                _short(path), f"an id of {len(value):,} characters", f"at most {self.limits.max_id_chars:,} characters"
            )
            self.problems.append(found)
        return str(value)

    def ids(self, values: list[Any], path: str) -> list[str]:
        kinds = set(map(type, values))
        ids = values if kinds <= {str} else list(map(str, values))
        if kinds - {str, int} or "" in ids or (ids and max(map(len, ids)) > self.limits.max_id_chars):
            self._each(values, path, self.id)
        return ids

    def integer_ids(self, values: NDArray[Any], path: str) -> NDArray[np.int64]:
        """A column of ids as an array; an integer compares as its text."""
        if values.ndim != 1 or values.dtype.kind != "i":
            self.wrong(path, f"{values.dtype.name} numbers", "ids: int64 numbers, or a list")
            return np.zeros(len(values), np.int64)
        return np.ascontiguousarray(values, np.int64)

    def numbers(self, values: NDArray[Any], path: str) -> NDArray[Any]:
        """A column of feature values as an array of int64 or float64; NaN is a missing value."""
        if values.ndim != 1 or values.dtype.kind not in "if":
            self.wrong(path, f"an array of {values.dtype.name}", "one number a row, int64 or float64, or a list")
            return values
        return np.ascontiguousarray(values, np.int64 if values.dtype.kind == "i" else np.float64)

    def name(self, value: Any, path: str) -> str:
        """A non-empty string, such as an action."""
        if type(value) is str:
            return self.id(value, path)
        self.wrong(path, value, A_NAME)
        return ""

    def all_names(self, values: list[Any], path: str) -> list[str]:
        """A column of names."""
        if set(map(type, values)) <= {str}:
            return self.ids(values, path)
        self._each(values, path, self.name)
        return values

    def optional_ids(self, values: list[Any], path: str) -> list[str | None]:
        """Ids where there is one; null is none."""
        present = [v for v in values if v is not None]
        noted = len(self.problems)
        ids = iter(self.ids(present, path))
        if len(self.problems) > noted:  # once more, for paths that count the nulls too
            del self.problems[noted:]
            self._each(values, path, lambda value, at: None if value is None else self.id(value, at))
            return values
        return [None if v is None else next(ids) for v in values]

    def integers(self, values: list[Any], path: str, low: int, high: int) -> list[int | None]:
        """Integers where there is one; null is none."""
        present = [v for v in values if v is not None]
        if set(map(type, present)) - {int} or (present and not low <= min(present) <= max(present) <= high):
            self._each(values, path, lambda value, at: value is None or self.integer(value, at, low, high))
        return values

    def integer(self, value: Any, path: str, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            self.wrong(path, value, f"an integer from {low} to {high}")
            return low
        return value

    def time_ms(self, value: Any, path: str, latest_ms: int, wall_clock: bool) -> int:
        """A time in milliseconds, at most ``latest_ms``; ``wall_clock``: times in another unit are told apart."""
        expected = "milliseconds since 1970 (an integer)"
        if type(value) is not int:
            self.wrong(path, value, expected, "round it" if type(value) is float else None)
            return 0
        if value < 0:
            self.wrong(path, value, "milliseconds since 1970, at least 0")
        elif value >= FIRST_MICROSECOND:
            self.wrong(path, value, expected, "this looks like microseconds or nanoseconds")
        elif value > latest_ms:
            ahead_s = (value - latest_ms + self.limits.future_ms) / 1000
            self.wrong(path, value, f"at most {latest_ms}", f"it lies {ahead_s:.1f} s in the future; check the clock")
        elif wall_clock and value in SECONDS:
            self.wrong(path, value, expected, f"this looks like seconds; did you mean {value * 1000}?")
        return value

    def times_ms(self, values: list[Any], path: str, latest_ms: int, wall_clock: bool) -> list[int]:
        lowest = SECONDS.stop if wall_clock else 0
        if set(map(type, values)) - {int} or (values and not lowest <= min(values) <= max(values) <= latest_ms):
            self._each(values, path, lambda value, at: self.time_ms(value, at, latest_ms, wall_clock))
        return values

    def values(self, values: list[Any], path: str) -> list[Any]:
        """A column of feature values: scalars, or lists of scalars; integers fit 64 bits."""
        flat = values
        if list in set(map(type, values)):
            flat = [v for v in values if type(v) is not list]
            flat.extend(chain.from_iterable(v for v in values if type(v) is list))
        kinds = set(map(type, flat))
        if kinds - SCALARS or (int in kinds and not _fit_int64(flat)):
            self._each(values, path, self.value)
        return values

    def value(self, value: Any, path: str) -> Any:
        """One feature value."""
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if type(value) is list:
            self._each(value, path, self._scalar)
        else:
            self._scalar(value, path)
        return value

    def _scalar(self, value: Any, path: str) -> None:
        if type(value) not in SCALARS:
            self.wrong(path, value, A_VALUE)
        elif type(value) is int and not _fit_int64([value]):
            self.wrong(path, value, "an integer of at most 64 bits", "send it as a string if it is an id")

    def _each(self, values: list[Any], path: str, check: Callable[[Any, str], object]) -> None:
        """Slow walk over a column known to be wrong somewhere; ends when enough problems are found."""
        for i, value in enumerate(values):
            check(value, f"{path}[{i}]")
            if len(self.problems) > MAX_PROBLEMS:
                return


def _fit_int64(values: list[Any]) -> bool:
    integers = [v for v in values if type(v) is int]
    return not integers or (max(integers) <= INT64_MAX and min(integers) >= -INT64_MAX - 1)


def _short(path: str) -> str:
    return path if len(path) <= 120 else path[:117] + "..."
