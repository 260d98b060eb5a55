"""What a model is told of the training split before it learns: where float columns lie, and transition counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch

from depthrank.data import BatchLoader
from depthrank.model import ElasticRanker
from depthrank.training.batch_inputs import ItemColumns
from depthrank.training.count_transitions import count_transitions_

STATISTICS_ROWS = 50_000  # training candidates that tell where the quantiles of float columns lie


def fit_statistics_(
    model: ElasticRanker, items: ItemColumns, loaders: Sequence[BatchLoader], *, floats: bool, counts: bool
) -> None:
    """Set the statistics of float columns (``floats``) and the counts of transitions, if there are any (``counts``)."""
    if floats:
        fit_floats_(model, items, loaders[0])
    if counts and model.transitions is not None:
        count_transitions_(model.transitions, items, chain.from_iterable(loader.epoch(0) for loader in loaders))


def fit_floats_(model: ElasticRanker, items: ItemColumns, loader: BatchLoader) -> None:
    """Set the model's statistics of float columns from the first training batches."""
    request, item, candidate = [], [], []
    for batch in loader.epoch(0):
        request.append(batch.request.floats)
        item.append(items.floats_VF[torch.from_numpy(batch.item_row)].numpy())
        candidate.append(batch.candidate.floats)
        if sum(map(len, candidate)) >= STATISTICS_ROWS:
            break
    if request:
        parts = (torch.from_numpy(np.concatenate(side)) for side in (request, item, candidate))
        model.fit_floats_(*parts)
