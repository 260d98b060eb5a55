"""One level for one request as a function of tensors: what a compiler can export.

Legend: N candidates, T tokens, D width, K tasks, U request tokens, H heads, P history positions, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthrank.model.expert import CandidateState, Expert, RequestView
from depthrank.model.inputs import CandidateLayout
from depthrank.model.sparse_experts import SparseExperts
from depthrank.model.user_encoder import UserState


class LevelGraph(nn.Module):
    """Inputs: tokens_NTD, x_ND, logits_NK, request_1UD, age_1P, visible_1P, length_1, then keys and values [1, H, P, d]
    of every encoder layer that the level reads, once each. Outputs: logits [N, K] and states [N, D]."""

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.expert = expert
        self.layers = sorted(set(expert.reads))

    def forward(
        self,
        tokens_NTD: Tensor,
        x_ND: Tensor,
        logits_NK: Tensor,
        request_1UD: Tensor,
        age_1P: Tensor,
        visible_1P: Tensor,
        length_1: Tensor,
        *keys_and_values: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The level's answer for all candidates of the request."""
        none = request_1UD[:, :0]
        keys, values = ([none] * (max(self.layers, default=-1) + 1) for _ in range(2))
        for i, layer in enumerate(self.layers):
            keys[layer], values[layer] = keys_and_values[2 * i], keys_and_values[2 * i + 1]
        view = RequestView(UserState(none, keys, values), None, age_1P, visible_1P, length_1, request_1UD)
        request_N = torch.zeros(tokens_NTD.shape[0], dtype=torch.int64)
        candidates = CandidateState(tokens_NTD, x_ND)
        refined_NK, after = self.expert(candidates, view, CandidateLayout(request_N, 1), request_N, logits_NK)
        return refined_NK, after.x_ND


def graph_inputs(graph: LevelGraph, candidates: CandidateState, view: RequestView, logits_NK: Tensor) -> list[Tensor]:
    """The graph's inputs for one request."""
    pairs = [part for layer in graph.layers for part in view.keys_values(layer)]
    first = (candidates.tokens_NTD, candidates.x_ND, logits_NK, view.tokens_RTD)
    return [*first, view.age_RP, view.visible_RP, view.length_R, *pairs]


def exportable(expert: nn.Module) -> str:
    """Why a level cannot become a graph, or nothing."""
    if not isinstance(expert, Expert):
        return "it is a foreign module"
    if any(isinstance(part, SparseExperts) for part in expert.modules()):
        return "its sparse experts choose by candidate"
    if getattr(expert, "cross", None) is not None:
        return "its cross network reads inputs that are no tokens"
    if getattr(expert, "transitions", None) is not None:
        return "it reads counts of transitions, which are no tokens"
    return ""
