"""Level 0: a dot product of a user vector per task with precomputed item vectors, and a small context term.

Legend: R requests, N candidates, V item rows, D width, K tasks, T request tokens, X concatenated request side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from depthrank.model.blocks import Dropout, SwiGLU, norm
from depthrank.model.config import ModelConfig
from depthrank.model.inputs import CandidateInputs, ItemSide


@dataclass
class UserVector:
    """The request's side of the dot product: a vector per task, scaled, and a bias per task."""

    vector_RKD: Tensor
    bias_RK: Tensor


class Router(nn.Module):
    """Scores every candidate of a request: one matrix-vector product over the rows asked for."""

    prior_K: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_tasks, self.width = len(config.tasks), config.width
        width_in = (1 + config.request_tokens) * config.width
        self.user_norm = norm(width_in)
        self.user_linear = nn.Linear(width_in, self.num_tasks * config.width, bias=False)
        self.user_mlp = SwiGLU(width_in, 2 * config.width, self.num_tasks * config.width)
        self.request_bias = _zero_linear(width_in, self.num_tasks)
        floats = config.candidate.num_floats
        self.context_term = _zero_linear(floats, self.num_tasks) if floats else None
        self.dropout = Dropout(config.dropout)
        self.register_buffer("prior_K", torch.tensor(config.prior_logit, dtype=torch.float32), persistent=False)

    def user_vector(self, summary_RD: Tensor, tokens_RTD: Tensor) -> UserVector:
        """From the encoder's last state [R, D] and the request tokens [R, T, D]."""
        x_RX = self.user_norm(torch.cat((summary_RD, tokens_RTD.flatten(1)), dim=1))
        vector_RX = self.user_linear(x_RX) + self.user_mlp(self.dropout(x_RX))
        vector_RKD = vector_RX.view(-1, self.num_tasks, self.width) * self.width**-0.5
        return UserVector(vector_RKD, self.request_bias(x_RX) + self.prior_K)

    def forward(self, user: UserVector, items: ItemSide, candidates: CandidateInputs) -> Tensor:
        """Logits [N, K]."""
        vector_ND = items.of_candidates(items.vector_UD, candidates.rows_N)
        if user.vector_RKD.shape[0] == 1:
            dot_NK = vector_ND @ user.vector_RKD[0].T + user.bias_RK
        else:
            request = candidates.request_of_candidate_N
            dot_NK = torch.einsum("nd,nkd->nk", vector_ND, user.vector_RKD[request]) + user.bias_RK[request]
        logits_NK = dot_NK + items.of_candidates(items.bias_UK, candidates.rows_N)
        if self.context_term is not None:
            logits_NK = logits_NK + self.context_term(candidates.floats_NF.to(logits_NK.dtype))
        return logits_NK

    def over_catalogue(self, user: UserVector, items: ItemSide, task: int, request_P: Tensor) -> Tensor:
        """One task's logits of every item row for P requests (by index) [P, V], without candidates' context term."""
        vector_PD, bias_P = user.vector_RKD[request_P, task], user.bias_RK[request_P, task]
        return vector_PD @ items.vector_UD.T + items.bias_UK[:, task] + bias_P.unsqueeze(1)


def _zero_linear(width_in: int, width_out: int) -> nn.Linear:
    linear = nn.Linear(width_in, width_out, bias=False)
    nn.init.zeros_(linear.weight)
    return linear
