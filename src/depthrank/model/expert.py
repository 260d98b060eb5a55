"""A level beyond the router: target attention to the user's K/V, then a Wukong interaction, then heads.

A level corrects the logits of the level before it (its own head starts at zero), and continues from that level's
candidate states, so scores improve with depth and nothing is computed twice.

Legend: R requests, N candidates, D width, K tasks, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from depthrank.model.blocks import Dropout, SwiGLU, norm
from depthrank.model.config import ModelConfig
from depthrank.model.cross import CrossNetwork
from depthrank.model.inputs import CandidateInputs, CandidateLayout, ItemSide
from depthrank.model.target_attention import TargetAttention
from depthrank.model.transitions import TransitionTerm
from depthrank.model.user_encoder import UserState
from depthrank.model.wukong import WukongInteraction


@dataclass
class CandidateState:
    """What levels hand on: the candidates' tokens [N, T, D] and their running state [N, D].

    ``source``: item rows and candidate columns, where a foreign level reads them. ``inputs_NC``: what a cross network
    reads of the candidates; None where no level has one. ``code_N``, ``counted_N``: what transitions are asked
    with, and ``signals_NF`` what they said, from the first level on; None where the model has none.
    """

    tokens_NTD: Tensor
    x_ND: Tensor
    source: tuple[ItemSide, CandidateInputs] | None = None
    inputs_NC: Tensor | None = None
    code_N: Tensor | None = None
    counted_N: Tensor | None = None
    signals_NF: Tensor | None = None

    def select(self, index: Tensor) -> CandidateState:
        """The states of a sorted ``index``: survivors, gathered once."""
        source = None if self.source is None else (self.source[0], self.source[1].select(index))
        optional = (self.inputs_NC, self.code_N, self.counted_N, self.signals_NF)
        chosen = (None if part is None else part.index_select(0, index) for part in optional)
        tokens_NTD, x_ND = self.tokens_NTD.index_select(0, index), self.x_ND.index_select(0, index)
        return CandidateState(tokens_NTD, x_ND, source, *chosen)

    @classmethod
    def joined(cls, states: Sequence[CandidateState]) -> CandidateState:
        """Chunks of candidates as one."""
        if len(states) == 1:
            return states[0]
        sources = [s.source for s in states if s.source is not None]
        source = (sources[0][0], CandidateInputs.joined([c for _, c in sources])) if sources else None
        optional = ("inputs_NC", "code_N", "counted_N", "signals_NF")
        found = [[part for s in states if (part := getattr(s, name)) is not None] for name in optional]
        return cls(
            torch.cat([s.tokens_NTD for s in states]),
            torch.cat([s.x_ND for s in states]),
            source,
            *(torch.cat(parts) if parts else None for parts in found),
        )


@dataclass
class RequestView:
    """What a request reads of its user's state: K/V of each layer, what is visible, and its own tokens."""

    state: UserState
    sequence_of_request_R: Tensor | None
    age_RP: Tensor
    visible_RP: Tensor
    length_R: Tensor
    tokens_RTD: Tensor
    inputs_RU: Tensor | None = None  # what a cross network reads of the requests

    def select(self, index_R: Tensor) -> RequestView:
        """The view of some of the requests; states stay where they are."""
        rows_R = index_R if self.sequence_of_request_R is None else self.sequence_of_request_R[index_R]
        return RequestView(
            self.state,
            rows_R,
            self.age_RP[index_R],
            self.visible_RP[index_R],
            self.length_R[index_R],
            self.tokens_RTD[index_R],
            None if self.inputs_RU is None else self.inputs_RU[index_R],
        )

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """K and V [R, H, P, d] of an encoder layer, by request."""
        k, v = self.state.keys_SHPd[layer], self.state.values_SHPd[layer]
        if self.sequence_of_request_R is None:
            return k, v
        return k[self.sequence_of_request_R], v[self.sequence_of_request_R]


class Expert(nn.Module):
    """One level: logits [N, K] and the next candidate states."""

    prior_K: Tensor

    def __init__(self, config: ModelConfig, number: int, cross_inputs: tuple[int, int] = (0, 0)) -> None:
        """Level ``number``; ``cross_inputs``: columns that a cross network reads of a request and of a candidate."""
        super().__init__()
        level = config.levels[number - 1]
        before, width, token_width = config.level_width(number - 1), config.level_width(number), config.width
        self.reads, self.skipping = level.reads, level.skipping
        self.enter = nn.Linear(before, width, bias=False) if before != width else None
        self.attention = nn.ModuleList(TargetAttention(config, width, level.experts) for _ in level.reads)
        self.token = nn.Linear(width, token_width, bias=False) if width != token_width else None
        num_candidate = config.item_tokens + config.candidate_tokens + 1
        self.interaction: WukongInteraction | None = None
        if level.interaction_layers:
            self.interaction = WukongInteraction(
                config.request_tokens + 1,
                num_candidate,
                level.interaction_tokens,
                level.interaction_rank,
                token_width,
                level.interaction_layers,
            )
            self.pool = nn.Linear(level.interaction_tokens * token_width, width, bias=False)
        self.cross: CrossNetwork | None = None
        if level.cross_layers:
            self.cross = CrossNetwork(*cross_inputs, level.cross_rank, level.cross_layers, len(config.tasks))
        self.transitions = None if config.transitions is None else TransitionTerm(width, len(config.tasks))
        self.head_norm = norm(width)
        self.head_mlp = SwiGLU(width, 2 * width, width)
        self.head = nn.Linear(width, len(config.tasks), bias=False)
        nn.init.zeros_(self.head.weight)
        self.dropout = Dropout(config.dropout)
        self.corrects = level.corrects
        self.register_buffer("prior_K", torch.tensor(config.prior_logit, dtype=torch.float32), persistent=False)

    @property
    def depth(self) -> int:
        """User-encoder layers this level needs."""
        return self.depth_of(len(self.reads))

    def depth_of(self, num_reads: int) -> int:
        """User-encoder layers that its first attention layers need."""
        return max(self.reads[:num_reads], default=-1) + 1

    def reads_of_step(self) -> int:
        """How many attention layers to run: all, or in some training steps the first few (LayerDrop, Fan et al. 2019),
        so that what remains is a model too."""
        every = len(self.reads)
        if not self.training or not self.skipping or every < 2 or float(torch.rand(())) >= self.skipping:
            return every
        return int(torch.randint(1, every, ()))

    def forward(
        self,
        candidates: CandidateState,
        view: RequestView,
        layout: CandidateLayout,
        request_of_candidate_N: Tensor,
        logits_before_NK: Tensor,
        num_reads: int | None = None,
    ) -> tuple[Tensor, CandidateState]:
        """The corrected logits [N, K] and the states for the next level; ``num_reads`` < all skips the last layers."""
        if layout.num_candidates == 0:
            return logits_before_NK, candidates
        x_ND = candidates.x_ND if self.enter is None else self.enter(candidates.x_ND)
        added_NK = None
        if self.transitions is not None:
            assert candidates.signals_NF is not None
            added_ND, added_NK = self.transitions(candidates.signals_NF)
            x_ND = x_ND + added_ND
        x_RCD = layout.pad(x_ND)
        rows = view if layout.request_of_row_Q is None else view.select(layout.request_of_row_Q)
        for layer, attention in list(zip(self.reads, self.attention, strict=True))[:num_reads]:
            keys, values = rows.keys_values(layer)
            x_RCD = attention(x_RCD, keys, values, rows.age_RP, rows.visible_RP, rows.length_R)
        x_ND = layout.unpad(x_RCD)
        pooled_ND = self._interact(x_ND, candidates, view, request_of_candidate_N)
        pooled_ND = pooled_ND + self.dropout(self.head_mlp(self.head_norm(pooled_ND)))
        correction_NK = self.head(self.head_norm(pooled_ND))
        correction_NK = correction_NK if added_NK is None else correction_NK + added_NK
        if self.cross is not None:
            assert candidates.inputs_NC is not None and view.inputs_RU is not None
            correction_NK = correction_NK + self.cross(candidates.inputs_NC, view.inputs_RU, request_of_candidate_N)
        before_NK = logits_before_NK if self.corrects else self.prior_K
        return before_NK + correction_NK, replace(candidates, x_ND=pooled_ND)

    def _interact(
        self, x_ND: Tensor, candidates: CandidateState, view: RequestView, request_of_candidate_N: Tensor
    ) -> Tensor:
        """The states with what the tokens of request and candidate say together, [N, D]."""
        if self.interaction is None:
            return x_ND
        token_ND = x_ND if self.token is None else self.token(x_ND)
        tokens_NTD = torch.cat((candidates.tokens_NTD, token_ND.unsqueeze(1)), dim=1)
        mixed_NOD = self.interaction(tokens_NTD, view.tokens_RTD, request_of_candidate_N)
        pooled_ND: Tensor = x_ND + self.pool(mixed_NOD.flatten(1))
        return pooled_ND
