"""What can be evaluated: anything that gives, for a batch, probabilities and values at each of its levels.

Legend: R requests, N candidates, L levels, K tasks, V catalogue rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from depthrank.catalogue import Catalogue
from depthrank.data import Batch
from depthrank.engine.item_store import ItemStore
from depthrank.engine.valuation import value_weights
from depthrank.features import FeatureEncoder
from depthrank.model import ElasticRanker, candidate_inputs, request_inputs
from depthrank.schema import Spec

CHUNK_CANDIDATES = 32_768


@dataclass(frozen=True, eq=False)
class LevelScores:
    """One level's calibrated probabilities, float32 [N, K], and values, float32 [N]."""

    probability: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]


class Scorer(Protocol):
    """Scores a batch at every level, shallowest first; a model without levels gives one."""

    def score_batch(self, batch: Batch) -> list[LevelScores]: ...


class ModelScorer:
    """An elastic ranker at full depth: every level scores every candidate."""

    def __init__(self, spec: Spec, model: ElasticRanker, encoder: FeatureEncoder, items: Catalogue) -> None:
        self._spec, self._model = spec, model.eval()
        self._weight_K = value_weights(spec)
        self._items = ItemStore(model, encoder, items).gather(np.arange(items.size, dtype=np.int64))

    @torch.inference_mode()
    def score_batch(self, batch: Batch) -> list[LevelScores]:
        """Scores of every level; candidates go through in chunks, so that a whole catalogue fits."""
        seen = self._model.begin(request_inputs(batch.request, batch.history), self._items)
        candidates = candidate_inputs(batch.candidate, batch.item_row, batch.request_of_candidate)
        parts: list[list[npt.NDArray[np.float32]]] = [[] for _ in range(self._model.config.num_levels)]
        for start in range(0, len(batch.item_row), CHUNK_CANDIDATES):
            index = torch.arange(start, min(start + CHUNK_CANDIDATES, len(batch.item_row)))
            for level, logits_NK in enumerate(self._model.levels_from(seen, self._items, candidates.select(index))):
                parts[level].append(self._model.probabilities(level, logits_NK).numpy())
        factor_N = value_factor(self._spec, batch)
        levels = [np.concatenate(p) for p in parts]
        return [LevelScores(p_NK, ((p_NK @ self._weight_K) * factor_N).astype(np.float32)) for p_NK in levels]


def value_factor(spec: Spec, batch: Batch) -> npt.NDArray[np.float32]:
    """The candidate column that values are multiplied by, float32 [N]; 1 where the spec names none, 0 where missing."""
    if spec.value.times is None or spec.value.times not in batch.columns:
        return np.ones(len(batch.item_row), dtype=np.float32)
    return np.nan_to_num(batch.columns[spec.value.times].astype(np.float32), nan=0.0)
