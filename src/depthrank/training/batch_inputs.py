"""A data batch as the model's tensors, with the item rows it needs encoded once.

Legend: R requests, N candidates, S sequences, L history length, U distinct rows, V catalogue rows, K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthrank.data import Batch
from depthrank.features import Encoded
from depthrank.model import CandidateInputs, CandidateLayout, RequestInputs, RoutedRequests, candidate_inputs
from depthrank.model.share_sequences import share_sequences
from depthrank.training.losses import Labels

FULL_CATALOGUE_ROWS = 8_192  # up to here a step over positives encodes the whole catalogue, for a full softmax

Int64 = NDArray[np.int64]


@dataclass
class Positives:
    """Positive candidates of all requests: item row, request and labels."""

    rows_P: Tensor
    request_P: Tensor
    label_PK: Tensor


@dataclass
class StepInputs:
    """One training step: item columns of U rows, and everything that indexes them.

    ``routed``: all R requests as the router's softmax over the catalogue sees them, with their ``positives``.
    ``deep``: the requests ``deep_R`` of them, whose ``candidates`` train every level. Both read the same sequences.
    ``positives_only``: nothing was shown, an item that is no positive is a negative; ``from_catalogue``: and none were
    drawn, the step picks them.
    """

    item_ids_UI: Tensor
    item_floats_UF: Tensor
    routed: RoutedRequests
    deep: RequestInputs
    deep_R: Tensor
    candidates: CandidateInputs
    labels: Labels
    positives: Positives
    whole_catalogue: bool
    positives_only: bool
    from_catalogue: bool


class ItemColumns:
    """The encoded catalogue as tensors."""

    def __init__(self, encoded: Encoded) -> None:
        self.ids_VI = torch.from_numpy(encoded.ids)
        self.floats_VF = torch.from_numpy(encoded.floats)

    @property
    def num_rows(self) -> int:
        """Catalogue rows V, the unknown item at row 0 included."""
        return self.ids_VI.shape[0]


@dataclass
class Sequences:
    """Histories of a batch as sequences: which of them each request reads, and how much of it."""

    rows_SL: NDArray[np.integer]
    actions_SL: NDArray[np.int32]
    gaps_SL: NDArray[np.int32]
    sequence_R: Int64
    length_R: Int64
    batch: Batch

    @classmethod
    def of(cls, batch: Batch) -> Sequences:
        history, shared = batch.history, batch.shared
        if shared is not None:
            length_R = shared.length.astype(np.int64)
            return cls(history.rows, history.actions, history.gaps, shared.sequence_of_request, length_R, batch)
        found = share_sequences(history, batch.user)
        kept = found.leader_S
        columns = (history.rows[kept], history.actions[kept], history.gaps[kept])
        return cls(*columns, found.sequence_of_request_R, history.length.astype(np.int64), batch)

    def ages(self, requests: Int64) -> NDArray[np.int32]:
        """Age buckets of some requests' tokens, int32 [r, L]."""
        batch = self.batch
        if batch.shared is not None:
            return batch.shared.ages(requests, batch.time_ms[requests])
        return batch.history.ages[requests]


def to_step_inputs(batch: Batch, items: ItemColumns, deep_R: Int64 | None = None) -> StepInputs:
    """Tensors of a batch; item rows are the whole catalogue where the router's softmax needs it, else the rows in use.

    ``deep_R`` (ascending): the requests whose candidates train every level; by default those with negatives.
    """
    sequences, item_rows = Sequences.of(batch), batch.item_row
    whole = batch.positives_only and items.num_rows <= FULL_CATALOGUE_ROWS
    if whole:
        ids_UI, floats_UF = items.ids_VI, items.floats_VF
    else:
        used, index = np.unique(np.concatenate((sequences.rows_SL.ravel(), item_rows)), return_inverse=True)
        item_rows = index[sequences.rows_SL.size :]
        sequences.rows_SL = index[: sequences.rows_SL.size].reshape(sequences.rows_SL.shape)
        rows_U = torch.from_numpy(used.astype(np.int64))
        ids_UI, floats_UF = items.ids_VI[rows_U], items.floats_VF[rows_U]
    deep_R = requests_with_negatives(batch) if deep_R is None else deep_R
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
    deep = _deep_requests(batch, sequences, deep_R)
    routed = _routed_requests(batch, sequences)
    return StepInputs(
        ids_UI,
        floats_UF,
        routed,
        deep,
        torch.from_numpy(deep_R),
        candidates,
        labels,
        positives,
        whole_catalogue=whole,
        positives_only=batch.positives_only,
        from_catalogue=batch.positives_only and not batch.is_sampled.any(),
    )


def _deep_requests(batch: Batch, sequences: Sequences, deep_R: Int64) -> RequestInputs:
    return RequestInputs(
        ids_RI=torch.from_numpy(batch.request.ids[deep_R]),
        floats_RF=torch.from_numpy(batch.request.floats[deep_R]),
        history_rows_SL=torch.from_numpy(sequences.rows_SL.astype(np.int64)),
        actions_SL=torch.from_numpy(sequences.actions_SL),
        gaps_SL=torch.from_numpy(sequences.gaps_SL),
        age_RL=torch.from_numpy(sequences.ages(deep_R)[:, : sequences.rows_SL.shape[1]]),
        length_R=torch.from_numpy(sequences.length_R[deep_R]),
        sequence_of_request_R=torch.from_numpy(sequences.sequence_R[deep_R]),
    )


def _routed_requests(batch: Batch, sequences: Sequences) -> RoutedRequests:
    """All requests, with request columns once a distinct row: many requests of a user often share theirs."""
    ids, floats = batch.request.ids, batch.request.floats
    rows = np.ascontiguousarray(np.concatenate((ids, floats.view(np.int32)), axis=1))
    if rows.shape[1]:
        keys = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
        _, first_U, row_R = np.unique(keys, return_index=True, return_inverse=True)
    else:
        first_U, row_R = np.zeros(min(1, len(batch)), np.int64), np.zeros(len(batch), np.int64)
    return RoutedRequests(
        torch.from_numpy(ids[first_U]),
        torch.from_numpy(floats[first_U]),
        torch.from_numpy(row_R.astype(np.int64)),
        torch.from_numpy(sequences.sequence_R),
        torch.from_numpy(sequences.length_R),
    )


def requests_with_negatives(batch: Batch) -> Int64:
    """Requests whose candidates train every level: those with negatives, drawn or shown; int64, ascending."""
    if not batch.is_sampled.any():
        return np.arange(len(batch), dtype=np.int64)
    return np.unique(batch.request_of_candidate[batch.is_sampled])


def log_importance(batch: Batch) -> NDArray[np.float32]:
    """-log(n q) for sampled candidates, n the draws of their request; 0 for shown ones; float32 [N]."""
    draws_R = np.bincount(batch.request_of_candidate, weights=batch.is_sampled, minlength=len(batch))
    log_draws_N = np.log(np.maximum(draws_R, 1.0))[batch.request_of_candidate]
    return np.where(batch.is_sampled, -(log_draws_N + batch.log_q), 0.0).astype(np.float32)
