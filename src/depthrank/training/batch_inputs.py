"""A data batch as the model's tensors, with the item rows it needs encoded once.

Legend: R requests, N candidates, S sequences, L history length, U item rows in use, V catalogue rows, K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from depthrank.data import Batch
from depthrank.features import Encoded
from depthrank.model import CandidateInputs, CandidateLayout, RequestInputs, candidate_inputs, request_inputs
from depthrank.model.share_sequences import share_sequences
from depthrank.training.losses import Labels

FULL_CATALOGUE_ROWS = 8_192  # up to here a step encodes the whole catalogue: no gather, and a full softmax


@dataclass
class Positives:
    """Positive candidates of all requests: item row, request and labels."""

    rows_P: Tensor
    request_P: Tensor
    label_PK: Tensor


@dataclass
class StepInputs:
    """One training step: item columns of U rows, and everything that indexes them.

    Levels are trained on the candidates of the ``deep_R`` requests; the others bring a positive for the router's
    softmax over the catalogue (``positive_N`` of all requests).
    """

    item_ids_UI: Tensor
    item_floats_UF: Tensor
    request: RequestInputs
    deep_R: Tensor
    candidates: CandidateInputs
    labels: Labels
    positives: Positives
    whole_catalogue: bool


class ItemColumns:
    """The encoded catalogue as tensors."""

    def __init__(self, encoded: Encoded) -> None:
        self.ids_VI = torch.from_numpy(encoded.ids)
        self.floats_VF = torch.from_numpy(encoded.floats)

    @property
    def num_rows(self) -> int:
        """Catalogue rows V, the unknown item at row 0 included."""
        return self.ids_VI.shape[0]


def to_step_inputs(batch: Batch, items: ItemColumns) -> StepInputs:
    """Tensors of a batch; item rows are the whole catalogue, or the rows in use where it is large."""
    history_rows, item_rows = batch.history.rows, batch.item_row
    whole = items.num_rows <= FULL_CATALOGUE_ROWS
    if whole:
        ids_UI, floats_UF = items.ids_VI, items.floats_VF
    else:
        used, index = np.unique(np.concatenate((history_rows.ravel(), item_rows)), return_inverse=True)
        history_rows = index[: history_rows.size].reshape(history_rows.shape)
        item_rows = index[history_rows.size :]
        rows_U = torch.from_numpy(used.astype(np.int64))
        ids_UI, floats_UF = items.ids_VI[rows_U], items.floats_VF[rows_U]
    request = request_inputs(batch.request, batch.history, history_rows, share_sequences(batch.history, batch.user))
    deep_R = _deep_requests(batch)
    deep_N = np.isin(batch.request_of_candidate, deep_R)
    candidates = candidate_inputs(
        Encoded(batch.candidate.ids[deep_N], batch.candidate.floats[deep_N]),
        item_rows[deep_N],
        np.searchsorted(deep_R, batch.request_of_candidate[deep_N]),
    )
    labels = Labels(
        torch.from_numpy(batch.label[deep_N]),
        torch.from_numpy(log_importance(batch)[deep_N]),
        torch.from_numpy(batch.is_sampled[deep_N]),
        candidates.request_of_candidate_N,
        CandidateLayout(candidates.request_of_candidate_N, len(deep_R)),
    )
    positive_N = np.nan_to_num(batch.label).max(axis=1, initial=0.0) > 0
    positives = Positives(
        torch.from_numpy(item_rows[positive_N].astype(np.int64)),
        torch.from_numpy(batch.request_of_candidate[positive_N]),
        torch.from_numpy(batch.label[positive_N]),
    )
    return StepInputs(ids_UI, floats_UF, request, torch.from_numpy(deep_R), candidates, labels, positives, whole)


def _deep_requests(batch: Batch) -> np.ndarray:
    """Requests whose candidates train every level: those with negatives, drawn or shown; int64, ascending."""
    if not batch.is_sampled.any():
        return np.arange(len(batch), dtype=np.int64)
    return np.unique(batch.request_of_candidate[batch.is_sampled])


def log_importance(batch: Batch) -> np.ndarray:
    """-log(n q) for sampled candidates, n the draws of their request; 0 for shown ones; float32 [N]."""
    draws_R = np.bincount(batch.request_of_candidate, weights=batch.is_sampled, minlength=len(batch))
    log_draws_N = np.log(np.maximum(draws_R, 1.0))[batch.request_of_candidate]
    return np.where(batch.is_sampled, -(log_draws_N + batch.log_q), 0.0).astype(np.float32)
