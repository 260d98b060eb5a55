"""Rows of integer ids without an object a candidate: ``7`` is the id ``"7"``, by an array instead of a dict.

Ids that are not an integer's own text (``"007"``, ``"7.0"``, ``"x"``) have no place here: no integer is equal to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
DENSE = 4
"""A direct table may have so many places an id."""
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class IntegerIds:
    """``size`` catalogue rows were looked at. ids int64 ascending, with their rows; ``table`` int64: row of id
    ``first + place``, 0 for none (None: the ids lie too far apart)."""

    size: int
    ids: Int64
    rows: Int64
    first: int
    table: Int64 | None

    @classmethod
    def none(cls) -> IntegerIds:
        """Before any row was looked at."""
        return cls(0, np.zeros(0, np.int64), np.zeros(0, np.int64), 0, None)

    def extended(self, new: Sequence[str]) -> IntegerIds:
        """With the ids of the next rows."""
        found = [(int(text), row) for row, text in enumerate(new, self.size) if _is_integer(text)]
        added = np.array(found, np.int64).reshape(-1, 2)
        ids, rows = np.concatenate([self.ids, added[:, 0]]), np.concatenate([self.rows, added[:, 1]])
        order = np.argsort(ids, kind="stable")
        ids, rows = ids[order], rows[order]
        first = int(ids[0]) if ids.size else 0
        span = int(ids[-1]) - first + 1 if ids.size else 0
        table = None
        if 0 < span <= DENSE * ids.size:
            table = np.zeros(span, np.int64)
            table[ids - first] = rows
        return IntegerIds(self.size + len(new), ids, rows, first, table)

    def rows_of(self, ids_N: Int64) -> Int64:
        """Row of each id, int64 [N]; 0 for an unknown one."""
        if not self.ids.size:
            return np.zeros(ids_N.shape, np.int64)
        if self.table is not None:
            place_N = ids_N - self.first  # what lies below, or so far away that this wraps, is a large number unsigned
            inside_N = place_N.view(np.uint64) < len(self.table)
            if inside_N.all():
                return self.table.take(place_N)
            return np.where(inside_N, self.table.take(place_N, mode="clip"), 0)
        place_N = np.minimum(np.searchsorted(self.ids, ids_N), self.ids.size - 1)
        return np.where(self.ids[place_N] == ids_N, self.rows[place_N], 0)


def _is_integer(text: str) -> bool:
    """Whether a text is what ``str`` makes of an int64."""
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 19:
        return False
    return (digits[0] != "0" or text == "0") and INT64_MIN <= int(text) <= INT64_MAX
