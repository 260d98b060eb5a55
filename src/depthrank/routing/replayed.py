"""Held-out requests run once at full depth: what any plan would have returned, and what that is worth.

Candidates lie in the order of level 0, so that a width of level 1 is a prefix; requests are padded to one matrix.

Legend: R requests, C candidates of a request (padded), L levels, D levels beyond the router, n results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Replayed:
    """``value_LRC``: values at each level, candidates in level 0's order, -inf beyond a request's own.

    ``count_R``: candidates of each request; ``factor_RC``: what a value is multiplied by (1 where the spec names
    nothing); ``relevant_RC``: whether a candidate has a positive label of a task with weight. ``user_R``: user codes.
    """

    value_LRC: Floats
    count_R: Ints
    factor_RC: Floats
    relevant_RC: NDArray[np.bool_]
    history_R: Ints
    user_R: Ints
    time_ms_R: Ints
    context_R: Sequence[Mapping[str, Any]]
    top: int = 10
    left_out: int = 0
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def num_levels(self) -> int:
        """Levels, the router included."""
        return int(self.value_LRC.shape[0])

    def __len__(self) -> int:
        return int(self.count_R.shape[0])

    def select(self, rows: Ints) -> Replayed:
        """Some of the requests."""
        return Replayed(
            self.value_LRC[:, rows],
            self.count_R[rows],
            self.factor_RC[rows],
            self.relevant_RC[rows],
            self.history_R[rows],
            self.user_R[rows],
            self.time_ms_R[rows],
            [self.context_R[r] for r in rows.tolist()],
            self.top,
            self.left_out,
        )

    @cached_property
    def full_top_RX(self) -> Ints:
        """Columns of the top n at full depth, int64 [R, n]; -1 where there are fewer candidates."""
        every = np.broadcast_to(self.count_R[:, None], (len(self), self.num_levels - 1))
        return returned_top(self, every)

    @cached_property
    def router_top_RX(self) -> Ints:
        """Columns of level 0's top n."""
        place = np.arange(self.top)[None, :]
        return np.where(place < self.count_R[:, None], place, -1).astype(np.int64)

    def worth(self, top_RX: Ints) -> Floats:
        """Full-depth value of what was returned, discounted by position, float64 [R]."""
        value_RX = np.take_along_axis(self.value_LRC[-1], np.maximum(top_RX, 0), axis=1)
        return np.asarray((np.where(top_RX >= 0, value_RX, 0.0) * _discount(top_RX.shape[1])).sum(axis=1))

    def overlap(self, top_RX: Ints) -> Floats:
        """Share of full depth's top n among what was returned, float64 [R]."""
        same_RXX = (top_RX[:, :, None] == self.full_top_RX[:, None, :]) & (top_RX[:, :, None] >= 0)
        return np.asarray(same_RXX.sum(axis=(1, 2)) / np.maximum(np.minimum(self.count_R, self.top), 1))

    def ndcg(self, top_RX: Ints) -> Floats:
        """NDCG@n against labels, float64 [R]; NaN where there is no order to judge (no positive, or nothing else)."""
        hit_RX = np.take_along_axis(self.relevant_RC, np.maximum(top_RX, 0), axis=1) & (top_RX >= 0)
        dcg_R = (hit_RX * _discount(top_RX.shape[1])).sum(axis=1)
        positives_R = self.relevant_RC.sum(axis=1)
        ideal = np.append(0.0, np.cumsum(_discount(top_RX.shape[1])))
        judged_R = (positives_R > 0) & (positives_R < self.count_R)
        ideal_R = ideal[np.minimum(positives_R, top_RX.shape[1])]
        return np.where(judged_R, dcg_R / np.where(ideal_R > 0, ideal_R, 1.0), np.nan)


def _discount(n: int) -> Floats:
    return np.asarray(1.0 / np.log2(np.arange(n) + 2.0), dtype=np.float64)


def returned_top(replayed: Replayed, widths_RD: NDArray[np.integer]) -> Ints:
    """Columns of the top n that plans return, int64 [R, n], -1 where there are fewer; widths may differ by request.

    Survivors of a level are the best of the level above; the order is deepest level, then value.
    """
    n, most = replayed.top, int(widths_RD.max(initial=0))
    columns = min(max(most, n), replayed.value_LRC.shape[2])
    value_LRC = replayed.value_LRC[:, :, :columns]
    depth_RC = np.zeros(value_LRC.shape[1:], dtype=np.int64)
    inside_RC = np.arange(columns)[None, :] < np.minimum(replayed.count_R, columns)[:, None]
    last_RC = value_LRC[0].copy()
    alive_RC = inside_RC
    for level in range(1, replayed.num_levels):
        width_R = widths_RD[:, level - 1]
        if not width_R.any():
            break
        alive_RC = alive_RC & (_place(np.where(alive_RC, value_LRC[level - 1], -np.inf), level) < width_R[:, None])
        depth_RC = np.where(alive_RC, level, depth_RC)
        last_RC = np.where(alive_RC, value_LRC[level], last_RC)
    top_RX = _best(np.where(inside_RC, depth_RC, -1), np.where(inside_RC, last_RC, -np.inf), n)
    return np.where(np.arange(n)[None, :] < replayed.count_R[:, None], top_RX, -1).astype(np.int64)


def _best(depth_RC: Ints, value_RC: Floats, n: int) -> Ints:
    """Columns of the first ``n`` by depth, then value, then place, int64 [R, n]; zeros beyond the columns there are."""
    deepest_R = depth_RC.max(axis=1, initial=-1)[:, None]
    if ((depth_RC == deepest_R).sum(axis=1) >= n).all():  # only the deepest can be returned: no full sort
        key_RC = np.where(depth_RC == deepest_R, -value_RC, np.inf)
        some_RC = np.argpartition(key_RC, n - 1, axis=1)[:, :n] if n < key_RC.shape[1] else np.argsort(key_RC, axis=1)
        some_RC = np.sort(some_RC[:, :n], axis=1)
        order_RX = np.argsort(np.take_along_axis(key_RC, some_RC, axis=1), axis=1, kind="stable")
        return np.take_along_axis(some_RC, order_RX, axis=1)
    top_RX = np.lexsort((-value_RC, -depth_RC), axis=-1)[:, :n]
    return np.asarray(np.pad(top_RX, ((0, 0), (0, n - top_RX.shape[1]))))


def _place(value_RC: Floats, level: int) -> Ints:
    """The rank of each candidate by a level's values; level 0's order is that of the columns."""
    if level == 1:
        return np.broadcast_to(np.arange(value_RC.shape[1]), value_RC.shape).astype(np.int64)
    order_RC = np.argsort(-value_RC, axis=1, kind="stable")
    place_RC = np.empty_like(order_RC)
    np.put_along_axis(place_RC, order_RC, np.broadcast_to(np.arange(value_RC.shape[1]), value_RC.shape), axis=1)
    return place_RC
