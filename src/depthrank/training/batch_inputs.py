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
class StepInputs:
    """One training step: item columns of U rows, and everything that indexes them."""

    item_ids_UI: Tensor
    item_floats_UF: Tensor
    request: RequestInputs
    candidates: CandidateInputs
    labels: Labels
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
    candidates = candidate_inputs(batch.candidate, item_rows, batch.request_of_candidate)
    labels = Labels(
        torch.from_numpy(batch.label),
        torch.from_numpy(log_importance(batch)),
        candidates.request_of_candidate_N,
        CandidateLayout(candidates.request_of_candidate_N, len(batch)),
    )
    request = request_inputs(batch.request, batch.history, history_rows, share_sequences(batch.history, batch.user))
    return StepInputs(ids_UI, floats_UF, request, candidates, labels, whole)


def log_importance(batch: Batch) -> np.ndarray:
    """-log(n q) for sampled candidates, n the draws of their request; 0 for shown ones; float32 [N]."""
    draws_R = np.bincount(batch.request_of_candidate, weights=batch.is_sampled, minlength=len(batch))
    log_draws_N = np.log(np.maximum(draws_R, 1.0))[batch.request_of_candidate]
    return np.where(batch.is_sampled, -(log_draws_N + batch.log_q), 0.0).astype(np.float32)
