"""Level 0: a dot product of a user vector per task with precomputed item vectors, and a small context term.

Legend: R requests, N candidates, V item rows, D width, K tasks, T request tokens, X concatenated request side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthrank.model.blocks import Dropout, SwiGLU, norm
from depthrank.model.config import ModelConfig
from depthrank.model.inputs import CandidateInputs, ItemSide
from depthrank.precision import RowLinear


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
        self.user_linear = RowLinear(width_in, self.num_tasks * config.width)
        self.user_mlp = SwiGLU(width_in, 2 * config.width, self.num_tasks * config.width, RowLinear)
        self.request_bias = _zero_linear(width_in, self.num_tasks, RowLinear)
        floats = config.candidate.num_floats
        self.context_term = _zero_linear(floats, self.num_tasks) if floats else None
        self.dropout = Dropout(config.dropout)
        self.register_buffer("prior_K", torch.tensor(config.prior_logit, dtype=torch.float32), persistent=False)

    def user_vector(self, summary_RD: Tensor, tokens_UTD: Tensor, row_R: Tensor | None = None) -> UserVector:
        """From the encoder's last state [R, D] and the request tokens.

        ``row_R``: which tokens each request has; None: request r has row r. With it, products with the tokens are done
        once a distinct row: the norm's factor is a number a request, so every linear map splits by columns.
        """
        if row_R is None:
            x_RX = self.user_norm(torch.cat((summary_RD, tokens_UTD.flatten(1)), dim=1))
            hidden_RX = self.user_mlp.gate_and_up(self.dropout(x_RX))
            vector_RX, bias_RK = self.user_linear(x_RX), self.request_bias(x_RX)
        else:
            vector_RX, hidden_RX, bias_RK = self._split_products(summary_RD, tokens_UTD.flatten(1), row_R)
        gate_RX, up_RX = hidden_RX.chunk(2, dim=-1)
        vector_RX = vector_RX + self.user_mlp.down(F.silu(gate_RX) * up_RX)
        vector_RKD = vector_RX.view(-1, self.num_tasks, self.width) * self.width**-0.5
        return UserVector(vector_RKD, bias_RK + self.prior_K)

    def _split_products(self, summary_RD: Tensor, tokens_UX: Tensor, row_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three maps of ``norm([summary; tokens])``, the part of the tokens done once a row."""
        width, norm = self.width, self.user_norm
        square_R = summary_RD.square().sum(1) + tokens_UX.square().sum(1)[row_R]
        factor_R1 = (square_R / norm.width + norm.eps).rsqrt().unsqueeze(1)
        own_RD, shared_UX = summary_RD * norm.weight[:width], tokens_UX * norm.weight[width:]
        dropped = (self.dropout(own_RD), self.dropout(shared_UX))
        maps = (
            (self.user_linear, (own_RD, shared_UX)),
            (self.user_mlp.gate_and_up, dropped),
            (self.request_bias, (own_RD, shared_UX)),
        )
        products = []
        for linear, (a_RD, b_UX) in maps:
            of_row_UX = F.linear(b_UX, linear.weight[:, width:])
            products.append((F.linear(a_RD, linear.weight[:, :width]) + of_row_UX.index_select(0, row_R)) * factor_R1)
        return products[0], products[1], products[2]

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


def _zero_linear(width_in: int, width_out: int, kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
    linear = kind(width_in, width_out, bias=False)
    nn.init.zeros_(linear.weight)
    return linear
