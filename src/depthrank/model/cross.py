"""Crosses of raw inputs: a low-rank DCN-V2 network (Wang et al. 2021) of [request inputs; candidate inputs].

With x_0 = [u; c], ``x_{l+1} = x_l + x_0 * (B_l V_l x_l + b_l)``, and the tasks' logits are ``W x_layers``. Every x_l is
``x_0 * g_l`` with a gate g_l that is linear in the k numbers ``h_m = V_m x_m`` of the layers before it. So the
request's half of each product, ``V_l (u * g_l)``, is a small matrix M_l(u) times [1; h_0; ...; h_{l-1}], computed once
a request, and nothing as wide as u is ever held for a candidate. Exact up to rounding.

Tokens are compressed and normed before they meet; what depends on a product of two raw columns (a rate and a scenario)
is learned here from few examples (docs/quality.md).

Legend: R requests, N candidates, U request inputs, C candidate inputs, X = U + C, k rank, J = 1 + k l columns before
layer l, K tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossNetwork(nn.Module):
    """[N, C] candidate inputs and [R, U] request inputs -> logits to add [N, K]; zero at the start."""

    def __init__(self, num_request: int, num_candidate: int, rank: int, layers: int, num_out: int) -> None:
        super().__init__()
        self.num_request, self.num_candidate = num_request, num_candidate
        num_in = num_request + num_candidate
        self.down = nn.ParameterList(_uniform(rank, num_in, num_in**-0.5) for _ in range(layers))
        self.up = nn.ParameterList(_uniform(num_in, rank, rank**-0.5) for _ in range(layers))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(num_in)) for _ in range(layers))
        self.head = nn.Parameter(torch.zeros(num_out, num_in))

    def forward(self, candidate_NC: Tensor, request_RU: Tensor, request_of_candidate_N: Tensor) -> Tensor:
        """Logits to add, [N, K]. M_l costs what about k J / 2 candidates cost: with fewer a request, rows are whole."""
        worth_sharing = self.down[0].shape[0] * request_RU.shape[0]
        if request_RU.shape[0] > 1 and candidate_NC.shape[0] < worth_sharing:
            return self.pair_by_pair(torch.cat((request_RU[request_of_candidate_N], candidate_NC), dim=1))
        return self.shared(candidate_NC, request_RU, request_of_candidate_N)

    def pair_by_pair(self, x_NX: Tensor) -> Tensor:
        """Logits of whole rows [request inputs; candidate inputs]."""
        now_NX = x_NX
        for down, up, bias in zip(self.down, self.up, self.bias, strict=True):
            now_NX = torch.addcmul(now_NX, x_NX, torch.addmm(bias, now_NX @ down.T, up.T))
        return now_NX @ self.head.T

    def shared(self, candidate_NC: Tensor, request_RU: Tensor, request_of_candidate_N: Tensor) -> Tensor:
        """The same with the request's half done once a request."""
        u = self.num_request
        gate_XJ = self.head.new_ones(self.head.shape[1], 1)
        gate_NC = torch.ones_like(candidate_NC)
        known_NJ = candidate_NC.new_ones(candidate_NC.shape[0], 1)
        for layer in range(len(self.down) + 1):
            down_kX = self.down[layer] if layer < len(self.down) else self.head
            of_request_NK = self._of_request(down_kX[:, :u], gate_XJ[:u], request_RU, known_NJ, request_of_candidate_N)
            h_Nk = of_request_NK + (candidate_NC * gate_NC) @ down_kX[:, u:].T
            if layer == len(self.down):
                break
            up_Xk, bias_X = self.up[layer], self.bias[layer]
            gate_XJ = torch.cat((gate_XJ[:, :1] + bias_X.unsqueeze(1), gate_XJ[:, 1:], up_Xk), dim=1)
            gate_NC = gate_NC + torch.addmm(bias_X[u:], h_Nk, up_Xk[u:].T)
            known_NJ = torch.cat((known_NJ, h_Nk), dim=1)
        return h_Nk

    def _of_request(
        self, down_kU: Tensor, gate_UJ: Tensor, request_RU: Tensor, known_NJ: Tensor, request_of_candidate_N: Tensor
    ) -> Tensor:
        """``V (u * g)`` of every candidate, [N, k]."""
        matrix_RkJ = (request_RU.unsqueeze(1) * down_kU) @ gate_UJ
        if request_RU.shape[0] == 1:
            return known_NJ @ matrix_RkJ[0].T
        return torch.bmm(matrix_RkJ[request_of_candidate_N], known_NJ.unsqueeze(2)).squeeze(2)


def _uniform(rows: int, columns: int, bound: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound))
