"""What other number formats cost in accuracy: the same requests at full depth, beside the model in fp32.

Legend: R requests, N candidates, L levels, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from depthrank.data import Batch
from depthrank.metrics import Interval, kept_gain, logloss, mean_interval
from depthrank.model import CandidateInputs, ElasticRanker, RequestInputs, candidate_inputs, request_inputs
from depthrank.training.replay_requests import FullDepth

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What a policy may cost: NE as a fraction of it, top-10 overlap and kept gain against fp32."""

    ne_change: float = 0.0002
    top10_overlap: float = 0.97
    kept_gain: float = 0.99

    def to_plain(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Accuracy:
    """Of a model against fp32: relative NE change (of the worst task; positive is worse), mean overlap of the top 10,
    kept gain (1 where full depth gains nothing over level 0), and mean squared error of logits over their variance."""

    ne_change: float
    top10_overlap: float
    kept_gain: float
    logit_error: float

    def within(self, limits: Limits) -> bool:
        """Whether every limit holds."""
        return (
            self.ne_change <= limits.ne_change
            and self.top10_overlap >= limits.top10_overlap
            and self.kept_gain >= limits.kept_gain
        )

    def to_plain(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Scored:
    """One model's answers to all requests: logits and probabilities of full depth [N, K], values by level [N]."""

    logits_NK: Floats
    probability_NK: Floats
    value_N: Floats
    routed_N: Floats


class Judge:
    """Requests held ready as tensors, and what the fp32 model answers to them."""

    def __init__(self, full: FullDepth, batches: Sequence[Batch], top: int = 10) -> None:
        self._full, self.top = full, top
        self._prepared = [self._tensors(batch) for batch in batches]
        self._factor_N = np.concatenate([full.factor(batch) for batch in batches])
        self._label_NK = np.concatenate([batch.label for batch in batches])
        firsts = np.cumsum([0, *(len(batch.item_row) for batch in batches)])
        ends = [batch.offsets[1:] + first for batch, first in zip(batches, firsts, strict=False)]
        self._offsets = np.concatenate([[0], *ends]).astype(np.int64)
        users = [user for batch in batches for user in batch.user]
        self._user_R = np.unique(np.array(users, dtype=str), return_inverse=True)[1].astype(np.int64)
        self._plain = self._scored(full.model)
        self._top_R = self._tops(self._plain.value_N)
        self._router_R = self._worth(self._tops(self._plain.routed_N))
        self._full_R = self._worth(self._top_R)

    @property
    def num_requests(self) -> int:
        """Requests R."""
        return len(self._offsets) - 1

    def accuracy(self, model: ElasticRanker) -> Accuracy:
        """What the model's formats cost."""
        scored = self._scored(model)
        error_NK = scored.logits_NK - self._plain.logits_NK
        spread_K = np.maximum(self._plain.logits_NK.var(axis=0), 1e-12)
        overlap_R, worth_R = self._returned(scored)
        stake = float((self._full_R - self._router_R).sum())
        kept = float((worth_R - self._router_R).sum()) / stake if stake > 0 else 1.0
        return Accuracy(
            self._ne_change(scored), float(overlap_R.mean()), kept, float((error_NK**2).mean(axis=0) @ (1 / spread_K))
        )

    def intervals(self, model: ElasticRanker) -> dict[str, dict[str, float | None]]:
        """Overlap and kept gain with their intervals, by bootstrap over users; None for what has no meaning (a gain of
        which there is none)."""
        overlap_R, worth_R = self._returned(self._scored(model))
        found = {
            "top10_overlap": mean_interval(overlap_R, self._user_R),
            "kept_gain": kept_gain(worth_R, self._router_R, self._full_R, self._user_R),
        }
        return {name: _without_nan(interval) for name, interval in found.items()}

    def _returned(self, scored: _Scored) -> tuple[Floats, Floats]:
        """Overlap and full-depth fp32 value of what a model returns, [R] each."""
        tops = self._tops(scored.value_N)
        pairs = zip(tops, self._top_R, strict=True)
        overlap = [len(np.intersect1d(a, b)) / max(len(b), 1) if len(b) else 1.0 for a, b in pairs]
        return np.array(overlap), self._worth(tops)

    def _ne_change(self, scored: _Scored) -> float:
        """Of log loss, which is the same: a task's base rate does not depend on the model."""
        changes = [0.0]
        for k in range(self._label_NK.shape[1]):
            known_N = ~np.isnan(self._label_NK[:, k])
            label_N = self._label_NK[known_N, k]
            if label_N.size and 0 < label_N.mean() < 1:
                before = logloss(label_N, self._plain.probability_NK[known_N, k])
                changes.append(logloss(label_N, scored.probability_NK[known_N, k]) / before - 1.0)
        return max(changes[1:], default=0.0)

    def _tops(self, value_N: Floats) -> list[npt.NDArray[np.int64]]:
        """Rows of each request's best, in order."""
        found = []
        for first, last in zip(self._offsets[:-1], self._offsets[1:], strict=True):
            found.append(first + np.argsort(-value_N[first:last], kind="stable")[: self.top])
        return found

    def _worth(self, tops: list[npt.NDArray[np.int64]]) -> Floats:
        discount = 1.0 / np.log2(np.arange(self.top) + 2.0)
        return np.array([float(self._plain.value_N[rows] @ discount[: len(rows)]) for rows in tops])

    def _tensors(self, batch: Batch) -> tuple[RequestInputs, CandidateInputs]:
        candidates = candidate_inputs(batch.candidate, batch.item_row, batch.request_of_candidate)
        return request_inputs(batch.request, batch.history), candidates

    @torch.inference_mode()
    def _scored(self, model: ElasticRanker) -> _Scored:
        logits, probabilities, routed = [], [], []
        for request, candidates in self._prepared:
            by_level = model.levels_from(model.begin(request, self._full.items), self._full.items, candidates)
            logits.append(by_level[-1].double().numpy())
            probabilities.append(self._probabilities(model, len(by_level) - 1, by_level[-1]))
            routed.append(self._probabilities(model, 0, by_level[0]) @ self._full.weight_K)
        probability_NK = np.concatenate(probabilities)
        value_N = (probability_NK @ self._full.weight_K) * self._factor_N
        return _Scored(np.concatenate(logits), probability_NK, value_N, np.concatenate(routed) * self._factor_N)

    def _probabilities(self, model: ElasticRanker, level: int, logits_NK: Tensor) -> Floats:
        return np.asarray(model.probabilities(level, logits_NK).double().numpy())


def _without_nan(interval: Interval) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in interval.to_plain().items()}
