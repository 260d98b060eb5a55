"""Wukong interaction over [request tokens; candidate tokens], with the request's part of every linear map done once.

A layer (Wukong, arXiv 2403.02545, without biases): ``norm([FMB(X); LCB(X)] + W_res X)`` with ``LCB(X) = W X`` and
``FMB(X) = mlp(norm(flatten(X (X^T Y))))``. LCB and the residual are linear in the same X, so their sum is one map: the
layer is ``norm([FMB(X) + M_1 X; M_2 X])``. In the first layer X = [U; C], U the same for all candidates of a request:
``M X = M_u U + M_c C``, and ``U U^T`` is done once a request. From the second layer on everything is mixed. The
factorization machine runs as ``(X X^T) Y``: per token and width 2 T operations, where ``X (X^T Y)`` takes 4 k, and
small products after it (measured: 0.6 to 0.8 of the time). What is given up: nothing, all is exact up to rounding.

Legend: R requests, N candidates, U request tokens, C candidate tokens, T = U + C, O tokens out, F of them from the
factorization machine, D width, k rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthrank.model.blocks import SwiGLU, norm


class WukongLayer(nn.Module):
    """One layer from U + C tokens to ``num_out`` tokens; half of them by factorization machine."""

    def __init__(self, num_request: int, num_candidate: int, num_out: int, rank: int, width: int) -> None:
        super().__init__()
        self.num_request, self.num_fm, self.width = num_request, num_out // 2, width
        num_in = num_request + num_candidate
        self.mix_OT = nn.Parameter(torch.randn(num_out, num_in) * num_in**-0.5)
        self.rank_Tk = nn.Parameter(torch.randn(num_in, rank) * num_in**-0.5)
        self.fm_norm = norm(num_in * rank)
        self.fm_mlp = SwiGLU(num_in * rank, 2 * width, self.num_fm * width)
        self.norm = norm(width)

    def forward(self, candidate_NCD: Tensor, request_RUD: Tensor | None, request_of_candidate_N: Tensor) -> Tensor:
        """Tokens out [N, O, D]; ``request_RUD`` is None from the second layer on."""
        u, (n, c, _) = self.num_request, candidate_NCD.shape
        # bmm with a stride-0 batch: matmul would copy the matrix for every candidate
        mixed_NOD = torch.bmm(self.mix_OT[:, u:].expand(n, -1, -1), candidate_NCD)
        dots_NCC = torch.bmm(candidate_NCD, candidate_NCD.transpose(1, 2))
        if request_RUD is None:
            fm_NTk = (dots_NCC.view(n * c, c) @ self.rank_Tk).view(n, c, -1)
        else:
            mixed_RUD = torch.matmul(self.mix_OT[:, :u], request_RUD)
            single = request_RUD.shape[0] == 1
            mixed_NOD += mixed_RUD if single else mixed_RUD[request_of_candidate_N]
            fm_NTk = self._dots_with_request(candidate_NCD, dots_NCC, request_RUD, request_of_candidate_N)
        fm_NFD = self.fm_mlp(self.fm_norm(fm_NTk.flatten(1))).view(n, self.num_fm, self.width)
        if torch.compiler.is_exporting():  # a compiler writes a concat in one pass, and a slice by scattering rows
            mixed_NOD = torch.cat((mixed_NOD[:, : self.num_fm] + fm_NFD, mixed_NOD[:, self.num_fm :]), dim=1)
        else:
            mixed_NOD[:, : self.num_fm] += fm_NFD
        return self.norm(mixed_NOD)  # type: ignore[no-any-return]

    def _dots_with_request(
        self, candidate_NCD: Tensor, dots_NCC: Tensor, request_RUD: Tensor, request_of_candidate_N: Tensor
    ) -> Tensor:
        """``(X X^T) Y`` of X = [U; C] [N, T, k]: U U^T once a request, C U^T one product where there is one request."""
        u, (n, c, width) = self.num_request, candidate_NCD.shape
        own_RUk = torch.bmm(request_RUD, request_RUD.transpose(1, 2)) @ self.rank_Tk[:u]
        if request_RUD.shape[0] == 1:
            cross_NCU = (candidate_NCD.reshape(n * c, width) @ request_RUD[0].T).view(n, c, u)
            own_NUk = own_RUk.expand(n, -1, -1)
        else:
            cross_NCU = torch.bmm(candidate_NCD, request_RUD[request_of_candidate_N].transpose(1, 2))
            own_NUk = own_RUk[request_of_candidate_N]
        of_request_NUk = own_NUk + (cross_NCU.transpose(1, 2).reshape(n * u, c) @ self.rank_Tk[u:]).view(n, u, -1)
        of_candidate_NCk = torch.cat((cross_NCU, dots_NCC), dim=2).view(n * c, u + c) @ self.rank_Tk
        return torch.cat((of_request_NUk, of_candidate_NCk.view(n, c, -1)), dim=1)


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
