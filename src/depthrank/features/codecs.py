"""One codec a feature kind: values of a source -> columns of the ids and floats matrices.

A codec is fitted on training values only and then frozen. ``write`` fills its own columns for n rows; ``write_missing``
is what a column that nobody sent looks like. A row's result depends on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from depthrank.features.exact_math import log1p
from depthrank.features.layout import FIRST_KNOWN, UNKNOWN
from depthrank.features.numeric_scale import NumericScale
from depthrank.features.sources import Source, Splitter
from depthrank.features.text_hash import word_ids
from depthrank.features.time_of import Unit
from depthrank.features.vocabulary import Vocabulary
from depthrank.features.within_request import rank_within

IdsOut = NDArray[np.int32]
FloatsOut = NDArray[np.float32]
_MAX_VECTOR = 1e4
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000


@dataclass(frozen=True)
class Table:
    """An embedding table a codec looks up, by ``columns`` id columns."""

    suffix: str
    num_rows: int
    columns: int = 1


class Codec(Protocol):
    """What the encoder needs of every kind."""

    @property
    def tables(self) -> tuple[Table, ...]: ...
    @property
    def num_floats(self) -> int: ...
    def write(self, source: Source, ids: IdsOut, floats: FloatsOut) -> None: ...
    def write_missing(self, ids: IdsOut, floats: FloatsOut) -> None: ...


@dataclass(frozen=True)
class CategoricalCodec:
    """One id column."""

    vocabulary: Vocabulary
    num_floats: int = 0

    @property
    def tables(self) -> tuple[Table, ...]:
        return (Table("", self.vocabulary.num_rows),)

    def write(self, source: Source, ids: IdsOut, floats: FloatsOut) -> None:
        ids[:, 0] = source.ids(self.vocabulary)

    def write_missing(self, ids: IdsOut, floats: FloatsOut) -> None:
        ids[:] = 0


@dataclass(frozen=True)
class SeveralIdsCodec:
    """``max_values`` id columns of one table, filled from the left: multi-hot and hashed text."""

    split: Splitter
    num_rows: int
    max_values: int
    num_floats: int = 0

    @property
    def tables(self) -> tuple[Table, ...]:
        return (Table("", self.num_rows, self.max_values),)

    def write(self, source: Source, ids: IdsOut, floats: FloatsOut) -> None:
        ids[:] = source.id_lists(self.split, self.max_values)

    def write_missing(self, ids: IdsOut, floats: FloatsOut) -> None:
        ids[:] = 0


def elements_of(separator: str | None) -> Callable[[str], list[str]]:
    """How a text becomes the values of a multi-hot feature; without a separator it is one value."""
    if separator is None:
        return lambda text: [text] if text else []
    return lambda text: [part for part in (p.strip() for p in text.split(separator)) if part]


def multi_hot_codec(vocabulary: Vocabulary, separator: str | None, max_values: int) -> Codec:
    elements = elements_of(separator)
    split = Splitter(
        lambda text: vocabulary.known_ids(elements(text)[:max_values]),
        lambda element: vocabulary.known_ids((element,))[0],
    )
    return SeveralIdsCodec(split, vocabulary.num_rows, max_values)


def text_codec(buckets: int, max_values: int) -> Codec:
    split = Splitter(
        lambda text: word_ids(text, buckets, max_values),
        lambda element: (word_ids(element, buckets, 1) or [UNKNOWN])[0],
    )
    return SeveralIdsCodec(split, buckets + FIRST_KNOWN, max_values)


@dataclass(frozen=True)
class NumericCodec:
    """[value, missing], and with ``within_request`` [.., rank, difference to the median] of the candidate's request."""

    scale: NumericScale
    within_request: bool = False
    tables: tuple[Table, ...] = ()

    @property
    def num_floats(self) -> int:
        return 4 if self.within_request else 2

    def write(self, source: Source, ids: IdsOut, floats: FloatsOut) -> None:
        assert not self.within_request, "needs the requests: write_within"
        values, missing = source.numbers()
        floats[:, 0] = self.scale.apply(values, missing)
        floats[:, 1] = missing

    def write_within(self, source: Source, request_of_candidate: NDArray[np.int64], floats: FloatsOut) -> None:
        """``request_of_candidate`` int64 [N]."""
        values, missing = source.numbers()
        scaled = self.scale.apply(values, missing)
        num_requests = int(request_of_candidate.max(initial=-1)) + 1
        floats[:, 0], floats[:, 1] = scaled, missing
        floats[:, 2], floats[:, 3] = rank_within(scaled, missing, request_of_candidate, num_requests)

    def write_missing(self, ids: IdsOut, floats: FloatsOut) -> None:
        floats[:] = 0.0
        floats[:, 1] = 1.0


@dataclass(frozen=True)
class VectorCodec:
    """[numbers ..., missing]; NaN counts as 0, and numbers are clipped to +-1e4."""

    size: int
    tables: tuple[Table, ...] = ()

    @property
    def num_floats(self) -> int:
        return self.size + 1

    def write(self, source: Source, ids: IdsOut, floats: FloatsOut) -> None:
        values, missing = source.vectors(self.size)
        floats[:, :-1] = np.clip(np.nan_to_num(values), -_MAX_VECTOR, _MAX_VECTOR)
        floats[:, -1] = missing

    def write_missing(self, ids: IdsOut, floats: FloatsOut) -> None:
        floats[:] = 0.0
        floats[:, -1] = 1.0


@dataclass(frozen=True)
class CalendarCodec:
    """Hour of day (24 ids) and weekday (7 ids, Monday first) in local time."""

    parts: tuple[str, ...]
    unit: Unit
    offset_ms: int
    num_floats: int = 0

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(Table(f".{part}", FIRST_KNOWN + (24 if part == "hour" else 7)) for part in self.parts)

    def write(self, source: Source, ids: IdsOut, floats: FloatsOut) -> None:
        times, missing = source.times(self.unit)
        local = times + self.offset_ms
        for i, part in enumerate(self.parts):
            number = local // _HOUR_MS % 24 if part == "hour" else (local // _DAY_MS + 3) % 7  # 1970-01-01: a Thursday
            ids[:, i] = np.where(missing, 0, number + FIRST_KNOWN)

    def write_missing(self, ids: IdsOut, floats: FloatsOut) -> None:
        ids[:] = 0


@dataclass(frozen=True)
class AgeCodec:
    """[age, missing]: (ln(1 + seconds from the value to the request) - 12) / 6; about two days is 0, the future -2."""

    unit: Unit
    tables: tuple[Table, ...] = ()
    num_floats: int = 2

    def write_at(self, source: Source, as_of_ms: NDArray[np.int64], floats: FloatsOut) -> None:
        """``as_of_ms`` int64 [n]: the time of each row's request."""
        times, missing = source.times(self.unit)
        seconds = np.maximum(as_of_ms - times, 0) / 1_000.0
        floats[:, 0] = np.where(missing, 0.0, (log1p(seconds) - 12.0) / 6.0)
        floats[:, 1] = missing

    def write(self, source: Source, ids: IdsOut, floats: FloatsOut) -> None:
        raise AssertionError("an age needs the request's time: write_at")

    def write_missing(self, ids: IdsOut, floats: FloatsOut) -> None:
        floats[:] = (0.0, 1.0)


@dataclass(frozen=True)
class PositionCodec:
    """One id column: 0 without a position, else 2 + position; positions beyond the last count as the last."""

    max_position: int
    num_floats: int = 0

    @property
    def tables(self) -> tuple[Table, ...]:
        return (Table("", self.max_position + FIRST_KNOWN),)

    def write_positions(self, positions: NDArray[np.int32], ids: IdsOut) -> None:
        known = np.minimum(positions, self.max_position - 1) + FIRST_KNOWN
        ids[:, 0] = np.where(positions < 0, 0, known)

    def write(self, source: Source, ids: IdsOut, floats: FloatsOut) -> None:
        raise AssertionError("positions are no column: write_positions")

    def write_missing(self, ids: IdsOut, floats: FloatsOut) -> None:
        ids[:] = 0
