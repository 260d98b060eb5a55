"""Where a feature's values come from, under one interface: catalogue columns, and values sent with a request.

A codec asks for ids, numbers, vectors or times and need not know which it reads. Values that a client sent and that
cannot be used are noted with their path and count as missing until the encoder raises them all together.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from depthrank.catalogue import Column, ListColumn, NumberColumn, TextColumn, VectorColumn, shown, text_of, texts_of
from depthrank.errors import FieldProblem
from depthrank.features.time_of import Unit, iso_to_ms, to_ms
from depthrank.features.vocabulary import Vocabulary

Mask = NDArray[np.bool_]
Ids = NDArray[np.int32]
MAX_PROBLEMS = 20


@dataclass(frozen=True)
class Splitter:
    """How one cell becomes several ids: ``of_text`` splits a text, ``of_element`` takes an element of a list."""

    of_text: Callable[[str], list[int]]
    of_element: Callable[[str], int]


class Source(Protocol):
    """n values of one column."""

    def __len__(self) -> int: ...
    def ids(self, vocabulary: Vocabulary) -> Ids: ...
    def id_lists(self, split: Splitter, max_values: int) -> Ids: ...
    def numbers(self) -> tuple[NDArray[np.float64], Mask]: ...
    def vectors(self, size: int) -> tuple[NDArray[np.float32], Mask]: ...
    def times(self, unit: Unit) -> tuple[NDArray[np.int64], Mask]: ...
    def text_counts(self, elements_of: Callable[[str], Sequence[str]]) -> Counter[str]: ...


def padded(lists: Sequence[Sequence[int]], width: int) -> Ids:
    """int32 [n, width]: the first ``width`` ids of each list, zeros behind."""
    out = np.zeros((len(lists), width), np.int32)
    for i, ids in enumerate(lists):
        cut = ids[:width]
        out[i, : len(cut)] = cut
    return out


@dataclass(frozen=True)
class StoredValues:
    """``column[rows]`` of a catalogue. ``code_0``: the id of row 0, 0 (missing) but for entity ids, where it is 1."""

    column: Column
    rows: NDArray[np.int64]
    code_0: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def _distinct(self) -> tuple[list[str | None], NDArray[np.int64]]:
        """(distinct texts, index of each row's); each text is handled once, however often it stands in the column."""
        column = self.column.take(self.rows)
        if isinstance(column, TextColumn):
            codes, index = np.unique(column.codes, return_inverse=True)
            return [column.dictionary[c] if c else None for c in codes.tolist()], index
        assert isinstance(column, NumberColumn), "refused by check_source"
        values, index = np.unique(column.values, return_inverse=True)
        texts = texts_of(values)
        return [*texts, None], np.where(column.missing, len(texts), index)

    def ids(self, vocabulary: Vocabulary) -> Ids:
        texts, index = self._distinct()
        ids = vocabulary.ids(texts)
        ids[[text is None for text in texts]] = self.code_0
        return ids[index]

    def id_lists(self, split: Splitter, max_values: int) -> Ids:
        if not isinstance(self.column, ListColumn):
            texts, index = self._distinct()
            return padded([split.of_text(t) if t is not None else [] for t in texts], max_values)[index]
        offsets, codes = self.column.take(self.rows).flat()
        used, index = np.unique(codes, return_inverse=True)
        ids = np.array([split.of_element(self.column.dictionary[c]) for c in used.tolist()], np.int32)
        out = np.zeros((len(self.rows), max_values), np.int32)
        row = np.repeat(np.arange(len(self.rows)), np.diff(offsets))
        place = np.arange(len(codes)) - offsets[row]
        kept = place < max_values
        out[row[kept], place[kept]] = ids[index[kept]] if len(ids) else 0
        return out

    def numbers(self) -> tuple[NDArray[np.float64], Mask]:
        column = self.column.take(self.rows)
        assert isinstance(column, NumberColumn), "refused by check_source"
        return column.values.astype(np.float64), column.missing

    def vectors(self, size: int) -> tuple[NDArray[np.float32], Mask]:
        column = self.column.take(self.rows)
        if isinstance(column, ListColumn):  # whole numbers are kept as lists of text
            return _vectors_of_lists(column, size)
        assert isinstance(column, VectorColumn) and column.values.shape[1] == size, "refused by check_source"
        return column.values, column.missing

    def times(self, unit: Unit) -> tuple[NDArray[np.int64], Mask]:
        column = self.column.take(self.rows)
        if isinstance(column, NumberColumn):
            return to_ms(column.values, unit), column.missing
        texts, index = self._distinct()
        found = [iso_to_ms(text) if text is not None else None for text in texts]
        times = np.array([0 if ms is None else ms for ms in found], np.int64)
        return times[index], np.array([ms is None for ms in found], np.bool_)[index]

    def text_counts(self, elements_of: Callable[[str], Sequence[str]]) -> Counter[str]:
        counts: Counter[str] = Counter()
        if isinstance(self.column, ListColumn):
            codes = self.column.take(self.rows).flat()[1]
            for code, count in zip(*(a.tolist() for a in np.unique(codes, return_counts=True))):
                counts[self.column.dictionary[code]] += count
            return counts
        texts, index = self._distinct()
        for text, count in zip(texts, np.bincount(index, minlength=len(texts)).tolist()):
            for element in elements_of(text) if text is not None else ():
                counts[element] += count
        return counts


def _vectors_of_lists(column: ListColumn, size: int) -> tuple[NDArray[np.float32], Mask]:
    offsets, codes = column.flat()
    full = np.diff(offsets) == size
    out = np.zeros((len(column), size), np.float32)
    numbers = np.array([_float(text) for text in column.dictionary], np.float32)
    out[full] = numbers[codes[np.repeat(full, np.diff(offsets))]].reshape(-1, size)
    return out, ~full


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


@dataclass(frozen=True)
class SentValues:
    """Values as a client sent them, or as the data files hold them.

    ``path`` is where they stand; ``indexed``: whether a single value's place is part of its path. What cannot be used
    is added to ``problems`` (at most 20).
    """

    values: Sequence[object] | NDArray[Any]
    path: str
    indexed: bool
    problems: list[FieldProblem]

    def __len__(self) -> int:
        return len(self.values)

    def _listed(self) -> list[Any]:
        if isinstance(self.values, list):
            return self.values
        return self.values.tolist() if isinstance(self.values, np.ndarray) else list(self.values)

    def _note(self, i: int, value: object, expected: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            path = f"{self.path}[{i}]" if self.indexed else self.path
            self.problems.append(FieldProblem(path, shown(value), expected))

    def _each(self, one: Callable[[Any], Any], expected: str) -> list[Any]:
        """``one`` of each value; None where it raises TypeError, which is noted."""
        out = []
        for i, value in enumerate(self._listed()):
            try:
                out.append(one(value))
            except TypeError:
                self._note(i, value, expected)
                out.append(None)
        return out

    def texts(self) -> list[str | None]:
        """The text of each value; None where missing."""
        try:
            return texts_of(self.values)
        except TypeError:
            return self._each(text_of, "a text, a number or null")

    def ids(self, vocabulary: Vocabulary) -> Ids:
        if isinstance(self.values, np.ndarray) and self.values.dtype.kind in "iufb":
            values, index = np.unique(self.values, return_inverse=True)
            return vocabulary.ids(texts_of(values))[index]
        return vocabulary.ids(self.texts())

    def _cells(self) -> list[str | list[str] | None]:
        return self._each(_cell, "a list of texts or numbers, a text, or null")

    def id_lists(self, split: Splitter, max_values: int) -> Ids:
        lists = []
        for cell in self._cells():
            if isinstance(cell, str):
                lists.append(split.of_text(cell))
            else:
                lists.append([split.of_element(e) for e in (cell or [])[:max_values]])
        return padded(lists, max_values)

    def numbers(self) -> tuple[NDArray[np.float64], Mask]:
        if isinstance(self.values, np.ndarray) and self.values.dtype.kind in "iufb":
            values = self.values.astype(np.float64, copy=False)
        else:
            values = np.frombuffer(self._doubles(), np.float64)
        missing = np.isnan(values)
        return (np.where(missing, 0.0, values) if missing.any() else values), missing

    def _doubles(self) -> array[float]:
        """The numbers, NaN where missing: at once where all are numbers, which ``array`` (unlike numpy) insists on."""
        listed = self._listed()
        try:
            return array("d", listed)
        except (TypeError, OverflowError):
            found = self._each(_number, "a number or null")
            return array("d", [float("nan") if v is None else v for v in found])

    def vectors(self, size: int) -> tuple[NDArray[np.float32], Mask]:
        found = self._each(lambda v: _numbers_of(v, size), f"a list of {size} numbers, or null")
        out = np.zeros((len(found), size), np.float32)
        for i, vector in enumerate(found):
            if vector is not None:
                with np.errstate(over="ignore"):
                    out[i] = vector
        return out, np.array([vector is None for vector in found], np.bool_)

    def times(self, unit: Unit) -> tuple[NDArray[np.int64], Mask]:
        if unit != "iso":
            values, missing = self.numbers()
            return to_ms(values, unit), missing
        found = self._each(_iso_time, "an ISO date-time, ms since 1970, or null")
        missing = np.array([ms is None for ms in found], np.bool_)
        return to_ms(np.array([0 if ms is None else ms for ms in found], np.float64), "ms"), missing

    def text_counts(self, elements_of: Callable[[str], Sequence[str]]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for cell in self._cells():
            counts.update(elements_of(cell) if isinstance(cell, str) else cell or [])
        return counts


def _number(value: object) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, (int, float, np.number, np.bool_)):
        try:
            return float(value)
        except OverflowError:  # an integer beyond all floats
            return float("inf") if value > 0 else float("-inf")
    raise TypeError


def _numbers_of(value: Any, size: int) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple, np.ndarray)) or len(value) != size:
        raise TypeError
    return [_number(v) for v in value]


def _cell(value: object) -> str | list[str] | None:
    if isinstance(value, (list, tuple, np.ndarray)):
        return [text for text in map(text_of, value) if text is not None]
    return text_of(value)


def _iso_time(value: object) -> float | None:
    if not isinstance(value, str):
        number = _number(value)
        return None if number != number else number
    found = iso_to_ms(value)
    if found is None:
        raise TypeError
    return found
