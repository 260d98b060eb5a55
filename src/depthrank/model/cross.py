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

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

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
        self.served: ServedCross | None = None

    def forward(self, candidate_NC: Tensor, request_RU: Tensor, request_of_candidate_N: Tensor) -> Tensor:
        """Logits to add, [N, K]. M_l costs what about k J / 2 candidates cost: with fewer a request, rows are whole."""
        if request_RU.shape[0] == 1 and self.served is not None and self.served.is_of(self):
            return self.served(candidate_NC, request_RU)  # type: ignore[no-any-return]
        worth_sharing = self.down[0].shape[0] * request_RU.shape[0]
        if request_RU.shape[0] > 1 and candidate_NC.shape[0] < worth_sharing:
            return self.pair_by_pair(torch.cat((request_RU[request_of_candidate_N], candidate_NC), dim=1))
        return self.shared(candidate_NC, request_RU, request_of_candidate_N)

    def prepare_to_serve(self) -> None:
        """Lay the weights out as one request reads them. They must not be written to afterwards but by training."""
        self.served = ServedCross(self)

    def train(self, mode: bool = True) -> CrossNetwork:
        """As usual; training forgets what was prepared."""
        if mode:
            self.served = None
        return super().train(mode)

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


class ServedCross(nn.Module):
    """The same for one request, in a third of the operations: its half of every layer is one product ``(V * u) G``.

    V are the rows of all ``down`` and of the head; G has the gates that u meets: one column a layer for the biases
    before it, then all ``up``. Some products that no layer asks for are computed too; with few candidates it is the
    number of operations that takes the time (docs/log.md).
    """

    down_HU: Tensor
    gate_UG: Tensor
    up_IC: Tensor

    def __init__(self, cross: CrossNetwork) -> None:
        super().__init__()
        u, self.num_layers, self.rank = cross.num_request, len(cross.down), cross.down[0].shape[0]
        self.weights = _places(cross)
        with torch.no_grad():
            downs = [*cross.down, cross.head]
            ones = torch.ones_like(cross.head[0])
            first_LX = torch.stack(list(accumulate((ones, *cross.bias), torch.add)))
            up_IX = torch.cat([up.T for up in cross.up])
            self._keep("down_HU", torch.cat([down[:, :u] for down in downs]))
            self._keep("gate_UG", torch.cat((first_LX, up_IX))[:, :u].T)
            self._keep("up_IC", up_IX[:, u:])
            for layer, down in enumerate(downs):
                self._keep(f"down_{layer}", down[:, u:])
                self._keep(f"first_{layer}", first_LX[layer, u:])

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor.detach().clone(memory_format=torch.contiguous_format), persistent=False)

    def is_of(self, cross: CrossNetwork) -> bool:
        """Whether these are still the network's weights, and nobody wants their gradients."""
        if torch.compiler.is_exporting():
            return True
        return not torch.is_grad_enabled() and self.weights == _places(cross)

    def forward(self, candidate_NC: Tensor, request_1U: Tensor) -> Tensor:
        """[N, C] and [1, U] -> logits to add, [N, K]."""
        first, rank = self.num_layers + 1, self.rank
        request_HG = (self.down_HU * request_1U) @ self.gate_UG
        x_NC, known_NI = candidate_NC, candidate_NC[:, :0]
        for layer in range(first):
            own_kG = (
                request_HG[layer * rank :] if layer == self.num_layers else request_HG.narrow(0, layer * rank, rank)
            )
            h_Nk = torch.addmm(own_kG[:, layer], x_NC, self._of(f"down_{layer}").T)
            if layer:
                h_Nk = torch.addmm(h_Nk, known_NI, own_kG.narrow(1, first, layer * rank).T)
            if layer == self.num_layers:
                break
            known_NI = torch.cat((known_NI, h_Nk), dim=1) if layer else h_Nk
            up_IC = self.up_IC.narrow(0, 0, (layer + 1) * rank)
            x_NC = candidate_NC * torch.addmm(self._of(f"first_{layer + 1}"), known_NI, up_IC)
        return h_Nk

    def _of(self, name: str) -> Tensor:
        found: Any = getattr(self, name)
        assert isinstance(found, Tensor)
        return found


def _places(cross: CrossNetwork) -> Sequence[int]:
    """Where the weights lie: others lie elsewhere."""
    return [p.data_ptr() for p in cross.parameters(recurse=True)]


def _uniform(rows: int, columns: int, bound: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound))
