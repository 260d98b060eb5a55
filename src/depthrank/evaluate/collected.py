"""Scores of all batches of a split, reduced as they come: ranking figures a request, probabilities of some rows.

Ranking a whole catalogue gives more rows than fit in memory, so a request keeps its figures and its top items only.
Task metrics need rows: all of them up to ``MAX_ROWS``, beyond that those of every n-th request.

Legend: R requests, N candidates, L levels, K tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from depthrank.data import Batch
from depthrank.evaluate.scorer import LevelScores, Scorer
from depthrank.metrics import hit_rate_at_k, ndcg_at_k, rank_in_request, recall_at_k, reciprocal_rank, top_rows

TOP = 10
RECALL_KS = (10, 20, 50, 100, 200, 500)
MAX_ROWS = 1_000_000
MAX_SCENARIOS = 24

Floats = npt.NDArray[np.float64]


@dataclass(eq=False)
class LevelFigures:
    """One level: NDCG@10, HR@10 and reciprocal rank a request [R] (NaN: no order to judge), recall [R, ks], items of
    the top 10 [R, 10] (-1: fewer), probabilities of the kept rows [n, K]."""

    ndcg: list[Floats] = field(default_factory=list)
    hit: list[Floats] = field(default_factory=list)
    reciprocal: list[Floats] = field(default_factory=list)
    recall: list[Floats] = field(default_factory=list)
    top_items: list[npt.NDArray[np.int64]] = field(default_factory=list)
    probability: list[npt.NDArray[np.float32]] = field(default_factory=list)


@dataclass(eq=False)
class Collected:
    """Everything the figures of a report are made from.

    A request: user, history length, context, whether it has a relevant and an irrelevant candidate. A kept row: label
    [n, K], item row, request. ``relevant_item``: item rows of relevant candidates, ``relevant_rank``: ranks by level.
    """

    levels: list[LevelFigures] = field(default_factory=list)
    user: list[str] = field(default_factory=list)
    history_length: list[npt.NDArray[np.int32]] = field(default_factory=list)
    context: dict[str, list[object]] = field(default_factory=dict)
    num_candidates: list[npt.NDArray[np.int64]] = field(default_factory=list)
    label: list[npt.NDArray[np.float32]] = field(default_factory=list)
    item_row: list[npt.NDArray[np.int64]] = field(default_factory=list)
    request: list[npt.NDArray[np.int64]] = field(default_factory=list)
    relevant_item: list[npt.NDArray[np.int64]] = field(default_factory=list)
    relevant_rank: list[npt.NDArray[np.int64]] = field(default_factory=list)

    @property
    def num_requests(self) -> int:
        return len(self.user)


def collect(
    scorer: Scorer,
    batches: Iterable[Batch],
    weight_K: npt.NDArray[np.float32],
    id_order: npt.NDArray[np.int64],
    num_rows: int,
) -> Collected:
    """Score all batches. ``weight_K`` [K] tells which tasks make a candidate relevant (those with a weight);
    ``id_order`` [V] breaks ties by item id; ``num_rows`` is how many rows there will be, about."""
    collected = Collected()
    every = max(1, -(-num_rows // MAX_ROWS))
    for batch in batches:
        _add(collected, batch, scorer.score_batch(batch), weight_K > 0, id_order, every)
    return collected


def _add(
    collected: Collected,
    batch: Batch,
    scores: list[LevelScores],
    counted_K: npt.NDArray[np.bool_],
    id_order: npt.NDArray[np.int64],
    every: int,
) -> None:
    first = collected.num_requests
    offsets, tie = batch.offsets, id_order[batch.item_row]
    relevant = np.asarray((np.nan_to_num(batch.label[:, counted_K]) > 0).any(axis=1), dtype=np.bool_)
    judged = _judged(relevant, batch.request_of_candidate, len(batch))
    ranks = [rank_in_request(level.value, offsets, tie) for level in scores]
    if not collected.levels:
        collected.levels = [LevelFigures() for _ in scores]
    kept = (first + batch.request_of_candidate) % every == 0
    for figures, rank, level in zip(collected.levels, ranks, scores, strict=True):
        figures.ndcg.append(np.where(judged, ndcg_at_k(relevant, rank, offsets, TOP), np.nan))
        figures.hit.append(np.where(judged, hit_rate_at_k(relevant, rank, offsets, TOP), np.nan))
        figures.reciprocal.append(np.where(judged, reciprocal_rank(relevant, rank, offsets), np.nan))
        figures.recall.append(np.stack([recall_at_k(rank, ranks[-1], offsets, k, TOP) for k in RECALL_KS], axis=1))
        rows = top_rows(rank, offsets, TOP)
        figures.top_items.append(np.where(rows >= 0, batch.item_row[rows], -1))
        figures.probability.append(level.probability[kept])
    collected.user += batch.user
    collected.history_length.append(batch.history.length)
    for name, values in batch.context.items():
        collected.context.setdefault(name, []).extend(values)
    collected.num_candidates.append(np.diff(offsets))
    collected.label.append(batch.label[kept])
    collected.item_row.append(batch.item_row[kept])
    collected.request.append(first + batch.request_of_candidate[kept])
    chosen = relevant & judged[batch.request_of_candidate]
    collected.relevant_item.append(batch.item_row[chosen])
    collected.relevant_rank.append(np.stack([rank[chosen] for rank in ranks], axis=1))


def _judged(
    relevant: npt.NDArray[np.bool_], request: npt.NDArray[np.int64], num_requests: int
) -> npt.NDArray[np.bool_]:
    """Requests whose order can be right or wrong: with a relevant candidate and one that is not, bool [R]."""
    count = np.bincount(request, minlength=num_requests)
    positive = np.bincount(request[relevant], minlength=num_requests)
    return np.asarray((positive > 0) & (positive < count), dtype=np.bool_)
