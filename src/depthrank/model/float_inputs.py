"""Float columns as a network can use them: standardised, and as their place among quantiles of the training data.

A linear map of a raw number sees a rate between 0.3 and 0.5 as a constant, and a step in it not at all; trees see both.
So a column x becomes ``1 + B`` inputs: ``(x - mean) / deviation``, clipped, and for each of B bins between quantiles
``clip((x - low) / (high - low), 0, 1)``, so that a linear map of them is any continuous function with corners at the
quantiles (piecewise-linear encoding: Gorishniy et al., NeurIPS 2022). Statistics are those of the training split, set
once before training; until then a column is passed as it is.

Legend: n rows, F float columns, B bins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAX_STANDARD = 10.0
_MAX_FITTED_ROWS = 100_000


class FloatInputs(nn.Module):
    """[n, F] -> [n, F (1 + B)]."""

    mean_F: Tensor
    scale_F: Tensor
    low_FB: Tensor
    inverse_FB: Tensor

    def __init__(self, num_floats: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.num_inputs = num_floats * (1 + bins)
        self.register_buffer("mean_F", torch.zeros(num_floats))
        self.register_buffer("scale_F", torch.ones(num_floats))
        self.register_buffer("low_FB", torch.zeros(num_floats, bins))
        self.register_buffer("inverse_FB", torch.zeros(num_floats, bins))

    @torch.no_grad()
    def fit_(self, x_nF: Tensor) -> None:
        """Set the statistics from training rows; a constant column becomes zeros, equal quantiles an unused bin."""
        if not x_nF.shape[0] or not x_nF.shape[1]:
            return
        x_nF = x_nF[:: -(-x_nF.shape[0] // _MAX_FITTED_ROWS)].double()
        deviation_F = x_nF.std(dim=0, correction=0)
        varies_F = deviation_F > 1e-6 * (1.0 + x_nF.abs().amax(dim=0))
        self.mean_F.copy_(x_nF.mean(dim=0))
        self.scale_F.copy_(torch.where(varies_F, 1.0 / deviation_F.clamp_min(1e-12), 0.0))
        if not self.bins:
            return
        edges_FE = torch.stack([_edges(column_n, self.bins) for column_n in x_nF.T])
        width_FB = edges_FE[:, 1:] - edges_FE[:, :-1]
        used_FB = (width_FB > 1e-9) & varies_F.unsqueeze(1)
        self.low_FB.copy_(edges_FE[:, :-1])
        self.inverse_FB.copy_(torch.where(used_FB, 1.0 / width_FB.clamp_min(1e-9), 0.0))

    def forward(self, x_nF: Tensor) -> Tensor:
        """Inputs of the first map, float [n, F (1 + B)]."""
        standard_nF = ((x_nF - self.mean_F) * self.scale_F).clamp(-MAX_STANDARD, MAX_STANDARD)
        if not self.bins:
            return standard_nF
        place_nFB = ((x_nF.unsqueeze(-1) - self.low_FB) * self.inverse_FB).clamp(0.0, 1.0)
        return torch.cat((standard_nF, place_nFB.flatten(1)), dim=1)


def _edges(x_n: Tensor, bins: int) -> Tensor:
    """B + 1 ascending edges: quantiles; where one value is so frequent that it would take several of them (a count that
    is nearly always 0), that value and the quantiles of all others."""
    values, counts = torch.unique(x_n, return_counts=True)
    most = int(counts.argmax())
    rest_n = x_n[x_n != values[most]]
    if int(counts[most]) * bins <= x_n.shape[0] or not rest_n.shape[0]:
        return torch.quantile(x_n, torch.linspace(0, 1, bins + 1, dtype=x_n.dtype))
    quantiles = torch.quantile(rest_n, torch.linspace(0, 1, bins, dtype=x_n.dtype))
    return torch.cat((quantiles, values[most : most + 1])).sort().values
