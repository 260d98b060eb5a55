"""What users went on to choose after each item: counts from item to item, read by the levels beyond the router.

A dot product of narrow vectors knows such pairs only as far as its rank goes; counts know them at once, from the few
users that made the step. For a candidate and the last items of the history they say how often the step was made
against how often chance would make it, ``log((count + s) / (expected + s))``, by how far back the item lies and by
kind: ``next`` (the choice right after it), ``soon`` (one of the seven after that) and ``before`` (the candidate was
chosen shortly before the item). An item keeps its most telling neighbours alone, the others count as never seen.

The counts are of training choices (``training/count_transitions.py``) and part of the model, like an embedding. A
training example has its own choice taken out of them (``counted_N``), or it would be told its label.

Legend: V item codes, M neighbours, R requests, J last items, N candidates, P groups of positions, G kinds, F signals.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthrank.model.blocks import SwiGLU
from depthrank.model.config import TransitionConfig

POSITIONS = ((0, 1), (1, 4), (4, 16))  # the last item, the three before it, the twelve before those
RECENT = POSITIONS[-1][1]
NEXT, SOON, BEFORE = range(3)
NUM_KINDS = 3
SOON_LAGS = (2, 8)
BEFORE_LAGS = (1, 4)
NUM_SIGNALS = len(POSITIONS) * NUM_KINDS + 2
FIRST_KNOWN = 2  # codes below are a missing and an unknown item
HIDDEN = 32
_SMOOTHING = 2.0


class Transitions(nn.Module):
    """The counts, and what they say of candidates; buffers, nothing in it is learned by gradient.

    ``neighbour_VM``: codes (0: none); ``count_VMG`` beside them. ``out_VG``: how often an item was gone on from;
    ``share_VG``: the part of all choices that led to it.
    """

    neighbour_VM: Tensor
    count_VMG: Tensor
    out_VG: Tensor
    share_VG: Tensor
    group_J: Tensor
    own_JG: Tensor

    def __init__(self, config: TransitionConfig) -> None:
        super().__init__()
        self.column = config.column
        rows, neighbours = config.num_items, config.neighbours
        self.register_buffer("neighbour_VM", torch.zeros(rows, neighbours, dtype=torch.int32))
        self.register_buffer("count_VMG", torch.zeros(rows, neighbours, NUM_KINDS))
        self.register_buffer("out_VG", torch.zeros(rows, NUM_KINDS))
        self.register_buffer("share_VG", torch.zeros(rows, NUM_KINDS))
        group_J = [group for group, (first, stop) in enumerate(POSITIONS) for _ in range(first, stop)]
        own_JG = [[float(lag == 1), float(SOON_LAGS[0] <= lag <= SOON_LAGS[1]), 0.0] for lag in range(1, RECENT + 1)]
        self.register_buffer("group_J", torch.tensor(group_J), persistent=False)
        self.register_buffer("own_JG", torch.tensor(own_JG), persistent=False)

    def codes(self, ids_nI: Tensor) -> Tensor:
        """Item codes, int64 [n], of encoded item columns."""
        return ids_nI[..., self.column].to(torch.int64)

    def forward(
        self, recent_RJ: Tensor, code_N: Tensor, request_of_candidate_N: Tensor, counted_N: Tensor | None = None
    ) -> Tensor:
        """Signals [N, F]; ``recent_RJ``: codes of the last items, the newest first, 0 where there are fewer.

        ``counted_N``: candidates that are their request's own choice, and in the counts.
        """
        groups, items = len(POSITIONS), self.out_VG.shape[0]
        known_RJ1 = (recent_RJ >= FIRST_KNOWN).unsqueeze(2)
        out_RPG = self._by_group(self.out_VG[recent_RJ] * known_RJ1)
        expected_NPG = out_RPG[request_of_candidate_N] * self.share_VG[code_N].unsqueeze(1)
        key_N = request_of_candidate_N * items + code_N
        sorted_N = key_N.sort().values
        found_NPG = self._found(recent_RJ, sorted_N).view(-1, groups, NUM_KINDS)
        first_N = torch.searchsorted(sorted_N, key_N)  # of equal candidates the first holds the counts
        count_NPG = found_NPG[first_N]
        if counted_N is not None:
            own_RPG = self._by_group(self.own_JG * known_RJ1)
            own_NPG = own_RPG[request_of_candidate_N] * counted_N[:, None, None]
            count_NPG = (count_NPG - own_NPG).clamp_min(0.0)
        lift_NPG = ((count_NPG + _SMOOTHING) / (expected_NPG + _SMOOTHING)).log()
        common_N1 = (self.share_VG[code_N, NEXT] * 1e4).log1p().unsqueeze(1)
        return torch.cat((lift_NPG.flatten(1), common_N1, torch.ones_like(common_N1)), dim=1)

    def _found(self, recent_RJ: Tensor, sorted_N: Tensor) -> Tensor:
        """Counts [N * P, G] of the candidates with these sorted keys."""
        groups, (requests, _) = len(POSITIONS), recent_RJ.shape
        found = self.count_VMG.new_zeros(sorted_N.shape[0] * groups, NUM_KINDS)
        if not sorted_N.shape[0]:
            return found
        neighbour_RJM = self.neighbour_VM[recent_RJ].to(torch.int64)
        request_R11 = torch.arange(requests, device=recent_RJ.device).view(-1, 1, 1)
        key_E = (request_R11 * self.out_VG.shape[0] + neighbour_RJM).flatten()
        place_E = torch.searchsorted(sorted_N, key_E).clamp_max(sorted_N.shape[0] - 1)
        hit_E = (sorted_N[place_E] == key_E) & (neighbour_RJM.flatten() >= FIRST_KNOWN)
        group_E = self.group_J.view(1, -1, 1).expand_as(neighbour_RJM).flatten()
        count_EG = self.count_VMG[recent_RJ].flatten(0, 2) * hit_E.unsqueeze(1)
        return found.index_add_(0, place_E * groups + group_E, count_EG)

    def _by_group(self, value_RJG: Tensor) -> Tensor:
        """Sums over the positions of each group, [R, P, G]."""
        return torch.stack([value_RJG[:, first:stop].sum(1) for first, stop in POSITIONS], dim=1)


class TransitionTerm(nn.Module):
    """What one level makes of the signals: an addition to the candidate states and one to the logits; zero at first."""

    def __init__(self, width: int, num_out: int) -> None:
        super().__init__()
        self.mlp = SwiGLU(NUM_SIGNALS, 2 * HIDDEN, HIDDEN)
        self.state = nn.Linear(HIDDEN + NUM_SIGNALS, width, bias=False)
        self.head = nn.Linear(HIDDEN + NUM_SIGNALS, num_out, bias=False)
        nn.init.zeros_(self.state.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, signals_NF: Tensor) -> tuple[Tensor, Tensor]:
        """Additions to the states [N, D] and to the logits [N, K]."""
        both_NX = torch.cat((self.mlp(signals_NF), signals_NF), dim=1)
        return self.state(both_NX), self.head(both_NX)


def recent_codes(codes_U: Tensor, rows_SL: Tensor, length_R: Tensor, sequence_of_request_R: Tensor | None) -> Tensor:
    """Codes of each request's last items, int64 [R, J], the newest first, 0 before the first.

    ``codes_U`` of the item rows that ``rows_SL`` index; the others as in ``RequestInputs``.
    """
    requests = length_R.shape[0]
    if not rows_SL.shape[1]:
        return length_R.new_zeros(requests, RECENT)
    at_RJ = length_R.unsqueeze(1) - 1 - torch.arange(RECENT, device=length_R.device)
    every_R = torch.arange(requests, device=length_R.device)
    sequence_R = every_R if sequence_of_request_R is None else sequence_of_request_R
    rows_RJ = rows_SL[sequence_R.unsqueeze(1), at_RJ.clamp_min(0)]
    return codes_U[rows_RJ] * (at_RJ >= 0)
