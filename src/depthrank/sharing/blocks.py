"""Candidates in blocks of rows whose widest value stays in the cache.

Candidates of one request do not depend on each other, so a block at a time gives the same scores with less memory. A
value of [N, L, D] that leaves the cache costs three to five times as much to write and read back.
"""

from __future__ import annotations

from collections.abc import Iterator

from depthrank.sharing.cost import SECONDS_PER_LAUNCH, work_of
from depthrank.sharing.ir import Node
from depthrank.sharing.operators import VIEWS

CACHE_BYTES = 12 << 20  # what the widest value of a block may take: a few of them live at once
MOST_OVERHEAD = 0.05  # launches of a block, as a share of its work


def rows_per_block(nodes: list[Node]) -> int:
    """Rows to score at once by these candidate-side nodes."""
    widest = max((n.numel * n.dtype.itemsize for n in nodes if n.op not in VIEWS and n.op != "spread"), default=1)
    per_row = work_of(nodes, 1)
    busy = work_of(nodes, 2).seconds - per_row.seconds
    enough = int(per_row.launches * SECONDS_PER_LAUNCH / (MOST_OVERHEAD * busy)) if busy > 0 else 1
    return max(CACHE_BYTES // max(widest, 1), enough, 64)


def blocks_of(num_rows: int, rows_at_once: int) -> Iterator[slice]:
    """Stretches of nearly equal length; a single one unless the rows fill two."""
    count = 1 if num_rows < 2 * rows_at_once else -(-num_rows // rows_at_once)
    length = -(-num_rows // count)
    for start in range(0, num_rows, length):
        yield slice(start, min(start + length, num_rows))
