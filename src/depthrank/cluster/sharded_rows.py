"""A table whose rows lie on shards, behind the interface of a table that is here: asked all at once, each row once.

A shard that is dead or slow is missed for as long as the request can wait and no longer: its rows read as zeros, which
is what padding reads, and the answer says so. A circuit keeps later requests from waiting for it, and tries it again.
Sums and single rows are computed here, by the kernels of a local table over the packed rows that came, so that a
sharded table equals a local one bit for bit.

Legend: n row numbers, m row numbers of all bags, b bags, D width, B elements of a packed row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthrank.cluster.circuit import Circuit
from depthrank.cluster.shards import Pending, Shard, ShardMissing
from depthrank.tables import PackedRows, RowFormat
from depthrank.tables.missing_rows import note_missing
from depthrank.tables.row_format import stored_dtype, stored_width
from depthrank.tables.row_source import check_row_numbers


@dataclass
class ShardCounts:
    """Lookups sent to a shard, rows they asked for, and how many lookups were not answered or not sent."""

    lookups: int = 0
    rows: int = 0
    missed: int = 0
    skipped: int = 0


class ShardedRows:
    """A ``RowSource`` over shards. ``timeout_s``: the longest that one lookup waits for all of them together."""

    def __init__(
        self,
        shards: Sequence[Shard],
        form: RowFormat,
        width: int,
        num_rows: int,
        *,
        name: str = "table",
        timeout_s: float = 0.05,
        circuit: Callable[[], Circuit] = lambda: Circuit(time.monotonic),
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shards, self.form, self.name, self.timeout_s = tuple(shards), form, name, timeout_s
        self._width, self._num_rows, self._monotonic_s = width, num_rows, monotonic_s
        self.circuits = tuple(circuit() for _ in self.shards)
        self.counts = tuple(ShardCounts() for _ in self.shards)

    @property
    def num_rows(self) -> int:
        return self._num_rows

    @property
    def width(self) -> int:
        return self._width

    def rows(self, row_n: Tensor) -> Tensor:
        """Rows float32 [n, D]."""
        packed, place_n = self._fetched(row_n)
        return packed.rows(place_n)

    def pooled(self, row_m: Tensor, offset_b: Tensor) -> Tensor:
        """Sums of bags, float32 [b, D]."""
        packed, place_m = self._fetched(row_m)
        return packed.pooled(place_m, offset_b.to(torch.int64))

    def status(self) -> list[dict[str, object]]:
        """Each shard's circuit and counts, for metrics."""
        return [{"circuit": c.state, **n.__dict__} for c, n in zip(self.circuits, self.counts, strict=True)]

    def _fetched(self, row_n: Tensor) -> tuple[PackedRows, Tensor]:
        """The distinct rows, packed, and where each row asked for lies among them."""
        check_row_numbers(row_n, self._num_rows)
        distinct, place_n = np.unique(row_n.numpy(), return_inverse=True)
        found = torch.zeros(distinct.size, stored_width(self.form, self._width), dtype=stored_dtype(self.form))
        packed = found.view(torch.uint8).numpy()
        deadline_s = self._monotonic_s() + self.timeout_s
        of_shard = distinct % len(self.shards)
        asked = []
        for shard in range(len(self.shards)):
            at = np.flatnonzero(of_shard == shard)
            if at.size:
                asked.append((shard, at, self._ask(shard, distinct[at] // len(self.shards))))
        missing = [shard for shard, at, pending in asked if not self._take(shard, pending, deadline_s, packed, at)]
        if missing:
            told = ", ".join(map(str, missing))
            note_missing(f"shard {told} of {self.name} does not answer: its rows read as zeros")
        return PackedRows(found, self.form, self._width), torch.from_numpy(place_n.astype(np.int64))

    def _ask(self, shard: int, place_n: NDArray[np.int64]) -> Pending | None:
        counts = self.counts[shard]
        if not self.circuits[shard].allows():
            counts.skipped += 1
            return None
        counts.lookups += 1
        counts.rows += int(place_n.size)
        return self.shards[shard].ask(place_n)

    def _take(
        self, shard: int, pending: Pending | None, deadline_s: float, packed: NDArray[np.uint8], at: NDArray[np.int64]
    ) -> bool:
        """Write a shard's rows to their places; False where there are none."""
        if pending is None:
            return False
        try:
            packed[at] = pending.packed(deadline_s)
        except ShardMissing:
            self.circuits[shard].failed()
            self.counts[shard].missed += 1
            return False
        self.circuits[shard].succeeded()
        return True
