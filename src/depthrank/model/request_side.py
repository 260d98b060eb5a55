"""The request's tokens and the router's user vector, from the encoder's summary and the request's columns.

A module without weights of its own, which is handed the ranker's layers: serving puts compiled code in its place, since
one request is a few dozen operations on single rows.

Legend: R requests, X request inputs, T request tokens, D width, K tasks.
"""

from __future__ import annotations

from torch import Tensor, nn

from depthrank.model.feature_tokens import FeatureTokens
from depthrank.model.router import Router, UserVector


class RequestSide(nn.Module):
    """Tokens [R, T, D] and the user vector."""

    def forward(
        self, features: FeatureTokens, router: Router, summary_RD: Tensor, inputs_RX: Tensor
    ) -> tuple[Tensor, UserVector]:
        """From the encoder's summary and the request's inputs to its tokens."""
        tokens_RTD: Tensor = features.tokens(inputs_RX)
        return tokens_RTD, router.user_vector(summary_RD, tokens_RTD)


class RequestSideGraph(nn.Module):
    """The same as a function of tensors alone, for an export: tokens, vectors [R, K, D] and biases [R, K]."""

    def __init__(self, features: FeatureTokens, router: Router) -> None:
        super().__init__()
        self.request_features, self.router, self.side = features.without_table(), router, RequestSide()

    def forward(self, summary_RD: Tensor, inputs_RX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``RequestSide``."""
        tokens_RTD, user = self.side(self.request_features, self.router, summary_RD, inputs_RX)
        return tokens_RTD, user.vector_RKD, user.bias_RK
