"""The rows of a table spread over shards: row r lies on shard r mod S, at place r div S.

Frequent ids have small numbers, so that taking turns gives every shard its part of the traffic.

Legend: n row numbers, V rows, S shards, B elements of a packed row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from depthrank.errors import DepthrankError
from depthrank.tables import RowFile


class ShardMissing(DepthrankError):
    """A shard did not answer, or not in time."""


class Pending(Protocol):
    """An answer on its way."""

    def packed(self, deadline_s: float) -> NDArray[np.uint8]:
        """Packed rows, bytes [n, row bytes]; raises ShardMissing where they do not come before ``deadline_s``
        (``time.monotonic``)."""
        ...


class Shard(Protocol):
    """One shard as whoever looks up sees it; asking never waits."""

    def ask(self, place_n: NDArray[np.int64]) -> Pending: ...


class ShardRows:
    """The rows of one shard, in memory of the process that holds it. Raises ArtifactError for a damaged row file."""

    def __init__(self, path: str | Path, shard: int, num_shards: int) -> None:
        file = RowFile.open(path)
        file.verify()
        packed_VB = file.packed_VB
        self.packed = packed_VB[shard::num_shards].clone().view(torch.uint8).numpy()

    def rows(self, place_n: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Packed rows, bytes [n, row bytes]."""
        found: NDArray[np.uint8] = self.packed[place_n]
        return found

    def num_bytes(self) -> int:
        """Bytes held."""
        return int(self.packed.nbytes)
