"""Candidate states before level 1: tokens of item and candidate side by side, and one linear map of them.

A module without weights of its own, which is handed the ranker's layers: serving puts compiled code in its place.

Legend: N candidates, T tokens, X candidate inputs, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthrank.model.feature_tokens import FeatureTokens


class FirstStates(nn.Module):
    """Tokens [N, T, D] and states [N, D] of candidates."""

    def forward(
        self, features: FeatureTokens, start: nn.Module, item_NTD: Tensor, inputs_NX: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the item's tokens and the candidate's inputs to its tokens."""
        tokens_NTD = torch.cat((item_NTD, features.tokens(inputs_NX)), dim=1)
        return tokens_NTD, start(tokens_NTD.flatten(1))


class FirstStatesGraph(nn.Module):
    """The same as a function of tensors alone, for an export; the table stays out of it."""

    def __init__(self, features: FeatureTokens, start: nn.Module) -> None:
        super().__init__()
        self.candidate_features, self.candidate_start = features.without_table(), start
        self.first = FirstStates()

    def forward(self, item_NTD: Tensor, inputs_NX: Tensor) -> tuple[Tensor, Tensor]:
        """As ``FirstStates``."""
        found: tuple[Tensor, Tensor] = self.first(self.candidate_features, self.candidate_start, item_NTD, inputs_NX)
        return found
