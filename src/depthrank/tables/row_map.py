"""From the ids of features to rows of one table: frequent ids have rows of their own, the others share by hashing.

Feature f owns rows ``first_f .. first_f + own_f``: row 0 of them is padding (always zeros), row 1 the unknown value.
After the rows of all features comes a pool that several features may share. An id without a row of its own reads the
mean of two pool rows, chosen by two hashes salted with the feature, so that two ids are the same only if both collide,
and one id of two features never is the same for that reason alone (unified embeddings: arXiv 2305.12102).

Without a directory the own rows are the first ids, the most frequent ones. A directory (int32, an entry an id) says
otherwise: the own row, or HASHED, or ABSENT for an id that was pruned and reads as no value.

An id that the table was not made for (the vocabulary grew) hashes too, or is unknown where the feature has no pool.

Legend: n rows, I id columns, S salts, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from depthrank.errors import DataError

HASHED, ABSENT = -1, -2
SALTS = 2
_GOLDEN, _MIX = -7046029254386353131, -4658895280553007687  # odd 64-bit constants (splitmix64), as signed numbers


@dataclass(frozen=True)
class TableSlot:
    """The id columns [start, stop) of a feature and its rows.

    num_rows: ids are below it. own_rows: rows of its own (None: one an id). pool: (first row in the pool, number of
    rows) that its other ids share. has_directory: a directory says which id owns which row.
    """

    feature: str
    num_rows: int
    start: int
    stop: int
    own_rows: int | None = None
    pool: tuple[int, int] = (0, 0)
    has_directory: bool = False

    @property
    def rows_owned(self) -> int:
        """Rows of its own."""
        return self.num_rows if self.own_rows is None else self.own_rows

    @property
    def is_exact(self) -> bool:
        """Whether id i is row i, for every id."""
        return self.rows_owned == self.num_rows and not self.has_directory


class RowMap(nn.Module):
    """ids [n, I] -> rows [n, I, S]; S is 1 where every id has a row of its own."""

    first_row_I: Tensor
    own_rows_I: Tensor
    pool_first_I: Tensor
    pool_rows_I: Tensor
    salt_IS: Tensor
    directory_at_I: Tensor
    num_ids_I: Tensor
    directory_V: Tensor | None

    def __init__(self, slots: Sequence[TableSlot]) -> None:
        super().__init__()
        self.slots = tuple(slots)
        columns = [slot for slot in self.slots for _ in range(slot.stop - slot.start)]
        first_row, firsts = 0, {}
        for slot in self.slots:
            firsts[slot] = first_row
            first_row += slot.rows_owned
        self.num_own_rows = first_row
        self.num_pool_rows = max((slot.pool[0] + slot.pool[1] for slot in self.slots), default=0)
        self.is_exact = all(slot.is_exact for slot in self.slots)
        self._buffer("first_row_I", [firsts[slot] for slot in columns])
        self._buffer("own_rows_I", [slot.rows_owned for slot in columns])
        self._buffer("pool_first_I", [self.num_own_rows + slot.pool[0] for slot in columns])
        self._buffer("pool_rows_I", [slot.pool[1] for slot in columns])
        place = {slot: f for f, slot in enumerate(self.slots)}
        salts = [[_GOLDEN * (1 + SALTS * place[slot] + s) for s in range(SALTS)] for slot in columns]
        wrapped = [[(salt + 2**63) % 2**64 - 2**63 for salt in row] for row in salts]
        self.register_buffer("salt_IS", torch.tensor(wrapped, dtype=torch.int64).view(-1, SALTS), persistent=False)
        self._directories()

    def _buffer(self, name: str, values: list[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)

    def _directories(self) -> None:
        """One array for all features with a directory, each at its place; saved with the model."""
        at = []
        for slot, start in zip(self.slots, self._slot_starts(), strict=True):
            at += [start if slot.has_directory else -1] * (slot.stop - slot.start)
        size = sum(slot.num_rows for slot in self.slots if slot.has_directory)
        self._buffer("directory_at_I", at)
        self._buffer("num_ids_I", [slot.num_rows for slot in self.slots for _ in range(slot.stop - slot.start)])
        self.register_buffer("directory_V", torch.full((size,), HASHED, dtype=torch.int32) if size else None)

    def _slot_starts(self) -> list[int]:
        starts, size = [], 0
        for slot in self.slots:
            starts.append(size)
            size += slot.num_rows if slot.has_directory else 0
        return starts

    @property
    def num_rows(self) -> int:
        """Rows of the table: those of the features and the pool."""
        return self.num_own_rows + self.num_pool_rows

    @property
    def num_salts(self) -> int:
        """Rows that are averaged for an id."""
        return 1 if not self.num_pool_rows else SALTS

    def padding_rows(self) -> Tensor:
        """The padding row of every feature, int64 [F]: always zeros."""
        firsts = accumulate((slot.rows_owned for slot in self.slots), initial=0)
        return torch.tensor(list(firsts)[:-1], dtype=torch.int64, device="cpu")

    def hottest_rows(self, most: int) -> Tensor:
        """Up to ``most`` rows that are looked up most, int64, the hottest first, as far as their order tells: ids of a
        feature fall in frequency, and so do its rows; of features, and of the pool, the next best row each in turn."""
        sizes = [slot.rows_owned for slot in self.slots] + [self.num_pool_rows]
        firsts = list(accumulate(sizes, initial=0))[:-1]
        taken = _levelled(sizes, most)
        rows = torch.cat([torch.arange(first, first + n) for first, n in zip(firsts, taken, strict=True)])
        return rows[torch.argsort(torch.cat([torch.arange(n) for n in taken]), stable=True)]

    def directory(self, slot: TableSlot) -> Tensor:
        """The part of the directory that is this feature's, int32 [num_rows]; a view."""
        assert slot.has_directory and self.directory_V is not None
        start = self._slot_starts()[self.slots.index(slot)]
        return self.directory_V[start : start + slot.num_rows]

    def directory_problem(self) -> str | None:
        """What is wrong with a directory that was read from a file; None where nothing is."""
        for slot in self.slots:
            if slot.has_directory and slot.num_rows:
                low, high = (int(x) for x in torch.aminmax(self.directory(slot)))
                if low < ABSENT or high >= slot.rows_owned:
                    wrong = low if low < ABSENT else high
                    return f"the directory of {slot.feature!r} names row {wrong} of {slot.rows_owned}"
        return None

    def forward(self, ids_nI: Tensor) -> Tensor:
        """Rows int64 [n, I, S]."""
        ids_nI = ids_nI.to(torch.int64)
        if self.is_exact:
            return (ids_nI + self.first_row_I).unsqueeze(-1)
        own_nI = self._own_rows(ids_nI)
        is_own_nI = (own_nI >= 0) & (own_nI < self.own_rows_I)
        is_absent_nI = own_nI == ABSENT
        fallback_I = torch.clamp(self.own_rows_I - 1, 0, 1)  # unknown, or padding where the feature has nothing else
        known_nI = torch.where(is_own_nI, own_nI, torch.where(is_absent_nI, 0, fallback_I)) + self.first_row_I
        if not self.num_pool_rows:
            return known_nI.unsqueeze(-1)
        hashes = ~is_own_nI & ~is_absent_nI & (self.pool_rows_I > 0)
        return torch.where(hashes.unsqueeze(-1), self._pool_rows(ids_nI), known_nI.unsqueeze(-1))

    def _own_rows(self, ids_nI: Tensor) -> Tensor:
        """The own row of an id; anything out of range is hashed."""
        if self.directory_V is None:
            return ids_nI
        listed_nI = (self.directory_at_I >= 0) & (ids_nI >= 0) & (ids_nI < self.num_ids_I)
        at_nI = torch.where(listed_nI, ids_nI + self.directory_at_I, 0)
        entry_nI = self.directory_V[at_nI].to(torch.int64)
        return torch.where(self.directory_at_I >= 0, torch.where(listed_nI, entry_nI, HASHED), ids_nI)

    def _pool_rows(self, ids_nI: Tensor) -> Tensor:
        """The pool rows of ids, int64 [n, I, S]: splitmix64 of id and salt, scaled into the feature's part."""
        x_nIS = (ids_nI.unsqueeze(-1) + self.salt_IS) * _MIX
        x_nIS = (x_nIS ^ (x_nIS >> 29)) * _GOLDEN
        x_nIS = (x_nIS >> 16) & 0xFFFF_FFFF
        return self.pool_first_I.unsqueeze(-1) + x_nIS % self.pool_rows_I.clamp_min(1).unsqueeze(-1)


def _levelled(sizes: Sequence[int], total: int) -> list[int]:
    """Parts of ``sizes`` that add up to at most ``total``, none larger than another that could be larger."""
    left, parts = total, [0] * len(sizes)
    for rank, i in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        parts[i] = min(sizes[i], left // (len(sizes) - rank))
        left -= parts[i]
    return parts


ID_TYPES = frozenset({torch.int64, torch.int32, torch.int16, torch.uint8})


def check_ids(ids_nI: Tensor) -> None:
    """Raise DataError unless these are ids: whole numbers [n, I]."""
    if ids_nI.dtype not in ID_TYPES or ids_nI.dim() != 2:
        raise DataError(f"ids are {ids_nI.dtype} {list(ids_nI.shape)}; expected whole numbers [n, I]")
