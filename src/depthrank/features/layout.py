"""What an encoded matrix means: which of its columns belong to which feature, and to which embedding table.

In every table id 0 is padding or missing, id 1 a value unknown to training, and 2.. are known values.
Shapes: R requests, N candidates, V catalogue rows, I id columns, F float columns, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PADDING = 0
UNKNOWN = 1
FIRST_KNOWN = 2


@dataclass(frozen=True)
class IdSlot:
    """Columns ``start:stop`` of the ids look up ``table`` (``num_rows`` rows); several columns are mean-pooled over
    non-zero ids."""

    feature: str
    table: str
    num_rows: int
    start: int
    stop: int


@dataclass(frozen=True)
class FloatSlot:
    """Columns ``start:stop`` of the floats."""

    feature: str
    start: int
    stop: int


@dataclass(frozen=True)
class SideLayout:
    """All slots of one side, in column order."""

    ids: tuple[IdSlot, ...] = ()
    floats: tuple[FloatSlot, ...] = ()

    @property
    def num_ids(self) -> int:
        return self.ids[-1].stop if self.ids else 0

    @property
    def num_floats(self) -> int:
        return self.floats[-1].stop if self.floats else 0


@dataclass(frozen=True)
class EncoderLayout:
    """request: what depends on the request alone; item: on the item alone; candidate: on both, or sent with it."""

    request: SideLayout
    item: SideLayout
    candidate: SideLayout


@dataclass(frozen=True, eq=False)
class Encoded:
    """``ids`` int32 [n, I] and ``floats`` float32 [n, F] (finite, bounded) of one side."""

    ids: NDArray[np.int32]
    floats: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class EncodedHistory:
    """n histories as tokens, oldest first, right-padded with zeros; all int32.

    rows [n, L]: catalogue rows (0 unknown item); actions [n, L]: bit b set = history action b of the spec; gaps [n, L]:
    log2 bucket of the seconds since the token before (0 for the first); ages [n, L]: log2 bucket of the seconds from
    the token to the request; length [n]: tokens.
    """

    rows: NDArray[np.int32]
    actions: NDArray[np.int32]
    gaps: NDArray[np.int32]
    ages: NDArray[np.int32]
    length: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.length)


def write_rows(floats_NF: NDArray[np.float32], rows_NF: NDArray[np.float32]) -> None:
    """``floats_NF[:] = rows_NF``, a block of columns in a wider matrix: a row as one value, in a third of the time."""
    if rows_NF.shape[1] > 1 and rows_NF.flags.c_contiguous and floats_NF.strides[1] == floats_NF.itemsize:
        row = np.dtype((np.void, rows_NF.itemsize * rows_NF.shape[1]))
        floats_NF.view(row)[:] = rows_NF.view(row)
    else:
        floats_NF[:] = rows_NF
