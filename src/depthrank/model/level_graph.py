"""One level for one request as a function of tensors: what a compiler can export.

Legend: N candidates, T tokens, D width, K tasks, U request tokens, H heads, P history positions, d head width,
C columns that crosses read of a candidate, X of the request, F signals of transitions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from depthrank.model.expert import CandidateState, Expert, RequestView
from depthrank.model.inputs import CandidateLayout
from depthrank.model.sparse_experts import SparseExperts
from depthrank.model.user_encoder import UserState


class LevelGraph(nn.Module):
    """Inputs: tokens_NTD, x_ND, logits_NK, request_1UD, age_1P, visible_1P, length_1; where the level has crosses what
    they read of candidates and request, [N, C] and [1, X]; where it has transitions their signals [N, F]; then keys and
    values [1, H, P, d] of every encoder layer that the level reads, once each. Outputs: logits [N, K], states [N, D].
    """

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.expert = expert
        self.layers = sorted(set(expert.reads))
        self.has_crosses, self.has_signals = expert.cross is not None, expert.transitions is not None

    def split(self, more: Sequence[Tensor]) -> tuple[list[Tensor | None], Sequence[Tensor]]:
        """What crosses read of candidates and of the request, and signals, each None where there are none; keys and
        values."""
        own = iter(more[: 2 * self.has_crosses + self.has_signals])
        present = (self.has_crosses, self.has_crosses, self.has_signals)
        return [next(own) if here else None for here in present], more[sum(present) :]

    def forward(
        self,
        tokens_NTD: Tensor,
        x_ND: Tensor,
        logits_NK: Tensor,
        request_1UD: Tensor,
        age_1P: Tensor,
        visible_1P: Tensor,
        length_1: Tensor,
        *more: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The level's answer for all candidates of the request."""
        (inputs_NC, inputs_1X, signals_NF), keys_and_values = self.split(more)
        none = request_1UD[:, :0]
        keys, values = ([none] * (max(self.layers, default=-1) + 1) for _ in range(2))
        for i, layer in enumerate(self.layers):
            keys[layer], values[layer] = keys_and_values[2 * i], keys_and_values[2 * i + 1]
        view = RequestView(UserState(none, keys, values), None, age_1P, visible_1P, length_1, request_1UD, inputs_1X)
        request_N = torch.zeros(tokens_NTD.shape[0], dtype=torch.int64)
        candidates = CandidateState(tokens_NTD, x_ND, inputs_NC=inputs_NC, signals_NF=signals_NF)
        refined_NK, after = self.expert(candidates, view, CandidateLayout(request_N, 1), request_N, logits_NK)
        return refined_NK, after.x_ND


def graph_inputs(graph: LevelGraph, candidates: CandidateState, view: RequestView, logits_NK: Tensor) -> list[Tensor]:
    """The graph's inputs for one request."""
    pairs = [part for layer in graph.layers for part in view.keys_values(layer)]
    first = (candidates.tokens_NTD, candidates.x_ND, logits_NK, view.tokens_RTD)
    crossed = (candidates.inputs_NC, view.inputs_RU) if graph.has_crosses else ()
    more = (*crossed, *((candidates.signals_NF,) if graph.has_signals else ()))
    present = [part for part in more if part is not None]
    assert len(present) == len(more), "the model's own levels are given what they read"
    return [*first, view.age_RP, view.visible_RP, view.length_R, *present, *pairs]


def exportable(expert: nn.Module) -> str:
    """Why a level cannot become a graph, or nothing."""
    if not isinstance(expert, Expert):
        return "it is a foreign module"
    if any(isinstance(part, SparseExperts) for part in expert.modules()):
        return "its sparse experts choose by candidate"
    return ""
