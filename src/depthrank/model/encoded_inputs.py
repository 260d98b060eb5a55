"""Encoded columns (numpy) as the model's tensors; the one way in, for training and for serving.

Histories are cut to the longest one present: padding beyond it is never computed.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from depthrank.features import Encoded, EncodedHistory
from depthrank.model.inputs import CandidateInputs, RequestInputs
from depthrank.model.share_sequences import SharedSequences


def request_inputs(
    request: Encoded,
    history: EncodedHistory,
    history_rows: NDArray[np.integer] | None = None,
    shared: SharedSequences | None = None,
) -> RequestInputs:
    """The request side of R requests.

    ``history_rows`` replaces catalogue rows where items were gathered before; ``shared`` leaves one sequence for all
    requests that read a prefix of it.
    """
    longest = int(history.length.max()) if len(history) else 0
    rows = history.rows if history_rows is None else history_rows
    leaders = slice(None) if shared is None else shared.leader_S
    return RequestInputs(
        ids_RI=torch.from_numpy(request.ids),
        floats_RF=torch.from_numpy(request.floats),
        history_rows_SL=torch.from_numpy(rows[leaders, :longest].astype(np.int64)),
        actions_SL=torch.from_numpy(history.actions[leaders, :longest]),
        gaps_SL=torch.from_numpy(history.gaps[leaders, :longest]),
        age_RL=torch.from_numpy(history.ages[:, :longest]),
        length_R=torch.from_numpy(history.length.astype(np.int64)),
        sequence_of_request_R=None if shared is None else torch.from_numpy(shared.sequence_of_request_R),
    )


def candidate_inputs(
    candidate: Encoded, item_row: NDArray[np.integer], request_of_candidate: NDArray[np.int64]
) -> CandidateInputs:
    """The candidate side of N candidates, sorted by request; ``item_row`` indexes the ItemSide given beside it."""
    return CandidateInputs(
        rows_N=torch.from_numpy(item_row.astype(np.int64)),
        ids_NI=torch.from_numpy(candidate.ids),
        floats_NF=torch.from_numpy(candidate.floats),
        request_of_candidate_N=torch.from_numpy(request_of_candidate),
    )
