"""Wukong interaction over [request tokens; candidate tokens], with the request's part of every linear map done once.

A layer (Wukong, arXiv 2403.02545, without biases): ``norm([FMB(X); LCB(X)] + W_res X)`` with ``LCB(X) = W X`` and
``FMB(X) = mlp(norm(flatten(X (X^T Y))))``. In the first layer X = [U; C], U the same for all candidates of a request:
``W X = W_u U + W_c C`` and ``X^T Y = U^T Y_u + C^T Y_c`` by linearity, so products with U are done once a request.
From the second layer on everything is mixed. What is given up: nothing, the split is exact up to rounding.

Legend: R requests, N candidates, U request tokens, C candidate tokens, T = U + C, O tokens out, D width, k rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthrank.model.blocks import SwiGLU, norm


class WukongLayer(nn.Module):
    """One layer from U + C tokens to ``num_out`` tokens; half of them by factorization machine, half by compression."""

    def __init__(self, num_request: int, num_candidate: int, num_out: int, rank: int, width: int) -> None:
        super().__init__()
        self.num_request, self.num_out, self.width = num_request, num_out, width
        num_in = num_request + num_candidate
        self.num_fm = num_out // 2
        num_linear = num_out - self.num_fm
        self.mix = nn.Parameter(torch.randn(num_linear + num_out, num_in) * num_in**-0.5)  # LCB and residual rows
        self.rank_Tk = nn.Parameter(torch.randn(num_in, rank) * num_in**-0.5)
        self.fm_norm = norm(num_in * rank)
        self.fm_mlp = SwiGLU(num_in * rank, 2 * width, self.num_fm * width)
        self.norm = norm(width)

    def forward(self, candidate_NCD: Tensor, request_RUD: Tensor | None, request_of_candidate_N: Tensor) -> Tensor:
        """Tokens out [N, O, D]; ``request_RUD`` is None from the second layer on."""
        if request_RUD is None:
            mixed_NOD = self.mix @ candidate_NCD
            tokens_NTD, summary_NDk = candidate_NCD, candidate_NCD.transpose(1, 2) @ self.rank_Tk
            fm_NTk = tokens_NTD @ summary_NDk
        else:
            mixed_NOD, fm_NTk = self._split(candidate_NCD, request_RUD, request_of_candidate_N)
        num_linear = self.num_out - self.num_fm
        compressed, residual = mixed_NOD[:, :num_linear], mixed_NOD[:, num_linear:]
        fm_NFD = self.fm_mlp(self.fm_norm(fm_NTk.flatten(1))).view(-1, self.num_fm, self.width)
        return self.norm(torch.cat((fm_NFD, compressed), dim=1) + residual)  # type: ignore[no-any-return]

    def _split(
        self, candidate_NCD: Tensor, request_RUD: Tensor, request_of_candidate_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same products with the request's half computed once a request and gathered after it has shrunk."""
        u = self.num_request
        request_summary_RDk = request_RUD.transpose(1, 2) @ self.rank_Tk[:u]
        request_mixed_ROD = self.mix[:, :u] @ request_RUD
        summary_NDk = candidate_NCD.transpose(1, 2) @ self.rank_Tk[u:]
        mixed_NOD = self.mix[:, u:] @ candidate_NCD
        if request_RUD.shape[0] == 1:
            summary_NDk, mixed_NOD = summary_NDk + request_summary_RDk, mixed_NOD + request_mixed_ROD
            fm_NUk = torch.einsum("ud,ndk->nuk", request_RUD[0], summary_NDk)
        else:
            summary_NDk = summary_NDk + request_summary_RDk[request_of_candidate_N]
            mixed_NOD = mixed_NOD + request_mixed_ROD[request_of_candidate_N]
            fm_NUk = request_RUD[request_of_candidate_N] @ summary_NDk
        return mixed_NOD, torch.cat((fm_NUk, candidate_NCD @ summary_NDk), dim=1)


class WukongInteraction(nn.Module):
    """A stack of layers; the first sees request and candidate tokens, the others the tokens of the one before."""

    def __init__(self, num_request: int, num_candidate: int, num_out: int, rank: int, width: int, layers: int) -> None:
        super().__init__()
        shapes = [(num_request, num_candidate), *[(0, num_out)] * (layers - 1)]
        self.layers = nn.ModuleList(WukongLayer(u, c, num_out, rank, width) for u, c in shapes)

    def forward(self, candidate_NCD: Tensor, request_RUD: Tensor, request_of_candidate_N: Tensor) -> Tensor:
        """Tokens out, [N, O, D]."""
        first, *rest = self.layers
        x_NOD: Tensor = first(candidate_NCD, request_RUD, request_of_candidate_N)
        for layer in rest:
            x_NOD = layer(x_NOD, None, request_of_candidate_N)
        return x_NOD
