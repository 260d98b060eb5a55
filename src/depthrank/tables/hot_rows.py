"""Hot rows in memory in front of a mapped table that memory does not hold.

The kernel keeps pages, and a page of 4 KiB with one hot row among a hundred cold ones costs as much as a hot page. Rows
are kept here one by one: slot = hash of the row number, direct-mapped, so that a lookup is three gathers and no search.
A row that is missed takes its slot unless the one there was read since it was last in the way (one bit a slot), so that
a tail of rows that come once cannot push out what is read all the time.

Rows that are missing are read from the mapping, their pages asked for together first (``RowFile.prefetch``): the disk
then works on all of them at once, where page faults would take one after the other.

Bytes a slot: those of a packed row, and 9 for its number and its bit.

Legend: n row numbers, C slots, D width, B elements of a packed row.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from depthrank.tables.row_file import RowFile
from depthrank.tables.row_format import RowFormat
from depthrank.tables.row_source import PackedRows, check_row_numbers

_MULTIPLIER = -7046029254386353131  # odd, 64 bits (splitmix64)
FILLED_AT_ONCE = 1 << 18
BYTES_BESIDE = 9  # of a slot: the number of its row, and whether that was read
FEW_MISSES = 8  # so few pages are not worth asking for beforehand


@dataclass
class HotRowStats:
    """Rows asked for since the start, and how many of them were in memory."""

    lookups: int = 0
    hits: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the lookups that needed no mapped page; NaN before the first."""
        return self.hits / self.lookups if self.lookups else float("nan")


class HotRows:
    """A ``RowSource`` over a row file with ``capacity`` slots in memory (rounded up to a power of two).

    Safe for several threads: one lookup at a time touches the slots.
    """

    def __init__(self, file: RowFile, capacity: int) -> None:
        assert capacity > 0
        bits = max(1, (capacity - 1).bit_length())
        self._file, self._base = file, file.source()
        file.advise_random()
        packed = self._base.packed_VB
        self._shift, self._mask = 64 - bits, (1 << bits) - 1
        self._row_C = torch.full((1 << bits,), -1, dtype=torch.int64)
        self._read_C = torch.zeros(1 << bits, dtype=torch.bool)
        self._slots = PackedRows(packed.new_zeros(1 << bits, packed.shape[1]), self._base.form, self._base.width)
        self._lock = threading.Lock()
        self.stats = HotRowStats()

    @property
    def num_rows(self) -> int:
        return self._base.num_rows

    @property
    def width(self) -> int:
        return self._base.width

    @property
    def form(self) -> RowFormat:
        return self._base.form

    @property
    def mapped(self) -> PackedRows:
        """The same rows without those in memory: for who reads all of them, once."""
        return self._base

    def over(self, file: RowFile) -> HotRows:
        """As many slots over another file of the same shape, filled with the rows that are hot here."""
        other = HotRows(file, self._row_C.shape[0])
        other.stats = self.stats
        other.fill(self._row_C[self._row_C >= 0])
        return other

    @property
    def resident_bytes(self) -> int:
        """Memory of its own."""
        return sum(t.numel() * t.element_size() for t in (self._row_C, self._read_C, self._slots.packed_VB))

    def rows(self, row_n: Tensor) -> Tensor:
        """Rows float32 [n, D]."""
        return self._gathered(row_n).rows(torch.arange(row_n.shape[0]))

    def pooled(self, row_m: Tensor, offset_b: Tensor) -> Tensor:
        """Sums of bags, float32 [b, D]."""
        return self._gathered(row_m).pooled(torch.arange(row_m.shape[0]), offset_b.to(torch.int64))

    def packed_rows(self, row_n: Tensor) -> Tensor:
        """Rows as they are stored [n, B]."""
        return self._gathered(row_n).packed_VB

    def fill(self, row_n: Tensor) -> int:
        """Take in rows that are known to be hot, the hottest first; returns how many have a slot now.

        They are read in the order of the file, so that a disk reads ahead. Where two need one slot, the hotter has it.
        """
        check_row_numbers(row_n, self.num_rows)
        rows = row_n.to(torch.int64).numpy()
        _, first = np.unique(rows * _MULTIPLIER >> self._shift & self._mask, return_index=True)
        chosen = torch.from_numpy(np.sort(rows[first]))
        self._file.advise_sequential()
        for some in torch.split(chosen, FILLED_AT_ONCE):
            packed = self._base.packed_rows(some)
            slots = ((some * _MULTIPLIER) >> self._shift) & self._mask
            with self._lock:
                self._slots.packed_VB[slots] = packed
                self._row_C[slots] = some
        self._file.advise_random()
        return len(chosen)

    def _gathered(self, row_n: Tensor) -> PackedRows:
        """The packed rows asked for, in their order."""
        check_row_numbers(row_n, self.num_rows)
        row_n = row_n.to(torch.int64)
        slot_n = ((row_n * _MULTIPLIER) >> self._shift) & self._mask
        with self._lock:
            hit_n = self._row_C[slot_n] == row_n
            packed_nB = self._slots.packed_VB.index_select(0, slot_n)
            self._read_C[slot_n[hit_n]] = True
            missed = (~hit_n).nonzero().squeeze(1)
            self.stats.lookups += row_n.shape[0]
            self.stats.hits += row_n.shape[0] - missed.shape[0]
        if missed.shape[0]:
            rows, places = torch.unique(row_n[missed], return_inverse=True)
            fresh = self._read(rows)
            packed_nB[missed] = fresh[places]
            self._admit(rows, fresh)
        return PackedRows(packed_nB, self._base.form, self._base.width)

    def _read(self, rows: Tensor) -> Tensor:
        if rows.shape[0] > FEW_MISSES:
            self._file.prefetch(rows)
        return self._base.packed_rows(rows)

    def _admit(self, rows: Tensor, fresh: Tensor) -> None:
        """Put rows into their slots, unless what is there was read since it was last in somebody's way."""
        slots, order = torch.sort(((rows * _MULTIPLIER) >> self._shift) & self._mask)
        first = torch.ones_like(slots, dtype=torch.bool)
        first[1:] = slots[1:] != slots[:-1]  # one row a slot, or number and row could be of two
        slots, order = slots[first], order[first]
        with self._lock:
            stays = self._read_C[slots]
            self._read_C[slots] = False
            slots, order = slots[~stays], order[~stays]
            self._slots.packed_VB[slots] = fresh[order]
            self._row_C[slots] = rows[order]
