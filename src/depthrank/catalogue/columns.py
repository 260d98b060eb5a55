"""Typed columns of a catalogue: numbers, texts, lists and vectors.

A column is a frozen view of V rows; row 0 is the unknown entity and is missing in every column. Texts and list elements
are codes into an append-only dictionary whose entry 0 stands for "missing", so that a column and its dictionary may be
read while rows are added behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["number", "text", "list", "vector"]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class NumberColumn:
    """``values`` int64 or float64 [V]; ``missing`` bool [V] (the value there is 0)."""

    values: NDArray[np.int64] | NDArray[np.float64]
    missing: NDArray[np.bool_]
    kind: Literal["number"] = "number"

    def __len__(self) -> int:
        return len(self.missing)

    def take(self, rows: Rows) -> NumberColumn:
        return NumberColumn(self.values[rows], self.missing[rows])


@dataclass(frozen=True)
class TextColumn:
    """``codes`` int32 [V] into ``dictionary``; code 0 is missing."""

    codes: NDArray[np.int32]
    dictionary: list[str]
    kind: Literal["text"] = "text"

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: Rows) -> TextColumn:
        return TextColumn(self.codes[rows], self.dictionary)


@dataclass(frozen=True)
class ListColumn:
    """Row v holds ``pool[starts[v]:stops[v]]``, codes int32 into ``dictionary``; an empty list is missing."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    pool: NDArray[np.int32]
    dictionary: list[str]
    kind: Literal["list"] = "list"

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, rows: Rows) -> ListColumn:
        return ListColumn(self.starts[rows], self.stops[rows], self.pool, self.dictionary)

    def flat(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(offsets int64 [V+1], codes int32) of all rows in order."""
        offsets = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self.stops - self.starts, out=offsets[1:])
        shift = np.repeat(self.starts - offsets[:-1], np.diff(offsets))
        return offsets, self.pool[np.arange(offsets[-1], dtype=np.int64) + shift]


@dataclass(frozen=True)
class VectorColumn:
    """``values`` float32 [V, D], zeros where ``missing`` bool [V]."""

    values: NDArray[np.float32]
    missing: NDArray[np.bool_]
    kind: Literal["vector"] = "vector"

    def __len__(self) -> int:
        return len(self.missing)

    def take(self, rows: Rows) -> VectorColumn:
        return VectorColumn(self.values[rows], self.missing[rows])


Column = NumberColumn | TextColumn | ListColumn | VectorColumn
