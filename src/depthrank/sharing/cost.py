"""What a graph costs: matrix-product FLOPs, bytes moved, launches, and the seconds they are weighed at.

The rates are round figures of one CPU core. They decide only whether sharing pays at all, so their ratio matters and
their size does not: a wrong guess costs time, never an answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from depthrank.sharing.ir import Graph, Node, Region
from depthrank.sharing.operators import VIEWS, bytes_per_row, flops_per_row, is_one_row

FLOPS_PER_SECOND = 150e9
BYTES_PER_SECOND = 15e9
SECONDS_PER_LAUNCH = 2e-6
# The original's own copies (strided reads, advanced indexing) are not counted. Measured with 1,000 candidates, models
# whose shared form is by estimate up to this much slower ran 0.94-2.7 times as fast shared.
SLOWER_BY_ESTIMATE = 1.12


@dataclass(frozen=True)
class Work:
    """FLOPs of matrix products, bytes read and written, and operator launches."""

    flops: int = 0
    bytes: int = 0
    launches: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.launches + other.launches)

    @property
    def seconds(self) -> float:
        return self.flops / FLOPS_PER_SECOND + self.bytes / BYTES_PER_SECOND + self.launches * SECONDS_PER_LAUNCH


def sharing_pays(before: Work, after: Work) -> bool:
    """Is the shared form by estimate not slower than the original, but for what the estimate leaves out?"""
    return after.seconds < SLOWER_BY_ESTIMATE * before.seconds


def work_of(nodes: Iterable[Node], rows: int) -> Work:
    """The work of these nodes at this many rows each."""
    flops = moved = launches = 0
    for node in nodes:
        if node.op in ("input", "parameter") or node.region == Region.CONSTANT:
            continue
        flops += flops_per_row(node) * rows
        moved += bytes_per_row(node) * rows
        launches += node.op not in VIEWS and not is_one_row(node)
    return Work(flops, moved, launches)


def work_by_region(graph: Graph, num_requests: int, num_candidates: int, num_items: int = 0) -> dict[Region, Work]:
    """The work of every region; item-side nodes are counted at ``num_items`` catalogue rows."""
    rows = {Region.REQUEST: num_requests, Region.ITEM: num_items, Region.MIXED: num_candidates}
    live = graph.live()
    return {r: work_of([n for n in live if n.region == r], rows[r]) for r in rows}
