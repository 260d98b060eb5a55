"""The elastic ranker: one model, several levels, each of them an exit. Request-centric: no request-side value is
computed or stored per candidate.

A request goes: ``encode_items`` (once per model generation) -> ``begin`` (user encoder, request tokens) -> ``route``
(level 0 for all candidates) -> ``start`` and ``refine`` for the candidates that go deeper, level by level.

Legend: R requests, N candidates, S sequences, L history length, P = L + 1, D width, K tasks, T tokens, U item rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from depthrank.model.blocks import SwiGLU, norm
from depthrank.model.config import ModelConfig
from depthrank.model.expert import CandidateState, Expert, RequestView
from depthrank.model.feature_tokens import FeatureTokens
from depthrank.model.first_states import FirstStates
from depthrank.model.foreign_level import ForeignLevel, ForeignRequests
from depthrank.model.inputs import CandidateInputs, CandidateLayout, ItemSide, RequestInputs, RoutedRequests
from depthrank.model.request_side import RequestSide
from depthrank.model.router import Router, UserVector
from depthrank.model.sparse_experts import SparseExperts
from depthrank.model.transitions import Transitions, recent_codes
from depthrank.model.user_encoder import UserEncoder, UserState
from depthrank.precision import RowLinear


@dataclass
class RequestState:
    """Everything computed once a request: the user's state as the request sees it, and the router's user vector."""

    view: RequestView
    user: UserVector | None  # None where the router is foreign
    foreign: ForeignRequests | None = None  # what foreign levels read
    recent_RJ: Tensor | None = None  # codes of the last items, where levels read transitions

    @property
    def num_requests(self) -> int:
        """Number of requests R."""
        return self.view.length_R.shape[0]

    def select(self, index_R: Tensor) -> RequestState:
        """The state of some of the requests."""
        user = None if self.user is None else UserVector(self.user.vector_RKD[index_R], self.user.bias_RK[index_R])
        foreign = None if self.foreign is None else self.foreign.select(index_R)
        recent_RJ = None if self.recent_RJ is None else self.recent_RJ[index_R]
        return RequestState(self.view.select(index_R), user, foreign, recent_RJ)


class ElasticRanker(nn.Module):
    """Router and experts over one user encoder and one set of item tokens."""

    calibration_scale_LK: Tensor
    calibration_offset_LK: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.register_buffer("calibration_scale_LK", torch.ones(config.num_levels, len(config.tasks)))
        self.register_buffer("calibration_offset_LK", torch.zeros(config.num_levels, len(config.tasks)))
        sizes: dict[str, Any] = {
            "table_width": config.table_width,
            "width": width,
            "hidden": 2 * width,
            "bins": config.float_bins,
            "feature_dropout": config.feature_dropout,
            "small_tables": config.small_tables,
        }
        self.item_features = FeatureTokens(config.item, num_tokens=config.item_tokens, **sizes)
        self.request_features = FeatureTokens(
            config.request, num_tokens=config.request_tokens, linear=RowLinear, **sizes
        )
        self.candidate_features = FeatureTokens(config.candidate, num_tokens=config.candidate_tokens, **sizes)
        self.item_vector = nn.Linear(config.item_tokens * width, width, bias=False)
        self.item_mlp = SwiGLU(config.item_tokens * width, 2 * width, width)
        self.item_bias = nn.Linear(config.item_tokens * width, len(config.tasks), bias=False)
        nn.init.zeros_(self.item_bias.weight)
        self.encoder = UserEncoder(config)
        self.summary_norm = norm(width)
        self.router: Router | ForeignLevel = _level_zero(config)
        self.transitions = None if config.transitions is None else Transitions(config.transitions)
        self.candidate_start = nn.Linear((config.item_tokens + config.candidate_tokens) * width, width, bias=False)
        self.first_states, self.request_side = FirstStates(), RequestSide()
        crossed = self.request_features.num_inputs, config.item_tokens * width + self.candidate_features.num_inputs
        self.experts = nn.ModuleList(_deeper_level(config, level, crossed) for level in range(1, config.num_levels))

    def fit_floats_(self, request_RF: Tensor, item_UF: Tensor, candidate_NF: Tensor) -> None:
        """Set the statistics of float columns from training rows of each side; once, before training."""
        self.request_features.floats.fit_(request_RF)
        self.item_features.floats.fit_(item_UF)
        self.candidate_features.floats.fit_(candidate_NF)

    def probabilities(self, level: int, logits_NK: Tensor) -> Tensor:
        """Calibrated probabilities [N, K] of a level's logits (a scale and an offset per level and task)."""
        return torch.sigmoid(logits_NK * self.calibration_scale_LK[level] + self.calibration_offset_LK[level])

    def encode_items(self, ids_UI: Tensor, floats_UF: Tensor) -> ItemSide:
        """Item-only values of U rows: tokens [U, T, D], router vectors [U, D], biases [U, K]."""
        tokens_UTD = self.item_features(ids_UI, floats_UF)
        flat_UX = tokens_UTD.flatten(1)
        vector_UD, bias_UK = self.item_vector(flat_UX) + self.item_mlp(flat_UX), self.item_bias(flat_UX)
        raw = (ids_UI, floats_UF) if self.config.keeps_item_columns else ()
        return ItemSide(tokens_UTD, vector_UD, bias_UK, *raw)

    def encode_history(self, request: RequestInputs, items: ItemSide, depth: int) -> UserState:
        """The user state of S histories, ``depth`` layers deep; nothing in it depends on the request."""
        token_SLD = items.vector_UD[request.history_rows_SL.to(torch.int64)]
        state = self.encoder.start(token_SLD, request.actions_SL, request.gaps_SL)
        return self.encoder.deepen_(state, depth)

    def begin(self, request: RequestInputs, items: ItemSide, *, state: UserState | None = None) -> RequestState:
        """What level 0 needs of R requests; ``state`` continues a user state encoded before."""
        depth = self.config.router_layers
        state = self.encode_history(request, items, depth) if state is None else self.encoder.deepen_(state, depth)
        length_R, sequence_R = request.length_R.to(torch.int64), request.sequence_of_request_R
        position_P = torch.arange(state.x_SPD.shape[1], device=length_R.device)
        visible_RP = position_P.unsqueeze(0) <= length_R.unsqueeze(1)
        filled = state.num_positions - 1 - request.age_RL.shape[1]  # a state may have more positions than events
        age_RP = nn.functional.pad(request.age_RL.to(torch.int64) + 1, (1, filled))  # bucket 0 is the start token
        rows_R = torch.arange(length_R.shape[0], device=length_R.device) if sequence_R is None else sequence_R
        assert state.routed_SPD is not None, "deepened to the router's layers above"
        summary_RD = self.summary_norm(state.routed_SPD[rows_R, length_R])
        inputs_RU = self.request_features.inputs(request.ids_RI, request.floats_RF)
        user = None
        if isinstance(self.router, Router):
            tokens_RTD, user = self.request_side(self.request_features, self.router, summary_RD, inputs_RU)
        else:
            tokens_RTD = self.request_features.tokens(inputs_RU)
        with_user_RTD = torch.cat((tokens_RTD, summary_RD.unsqueeze(1)), dim=1)
        crossed = inputs_RU if self.config.has_crosses else None
        view = RequestView(state, sequence_R, age_RP, visible_RP, length_R, with_user_RTD, crossed)
        foreign = ForeignRequests(request, items) if self.config.foreign else None
        return RequestState(view, user, foreign, self._recent(request, items))

    def _recent(self, request: RequestInputs, items: ItemSide) -> Tensor | None:
        """Codes of each request's last items [R, J], where levels read transitions."""
        if self.transitions is None:
            return None
        assert items.ids_UI is not None, "transitions keep the item columns"
        length_R, rows_SL = request.length_R.to(torch.int64), request.history_rows_SL.to(torch.int64)
        return recent_codes(self.transitions.codes(items.ids_UI), rows_SL, length_R, request.sequence_of_request_R)

    def user_vectors(self, state: UserState, requests: RoutedRequests) -> UserVector:
        """The router's side of many requests of encoded histories, and nothing that deeper levels need."""
        assert state.routed_SPD is not None and isinstance(self.router, Router)
        num_positions = state.routed_SPD.shape[1]
        at_R = requests.sequence_R * num_positions + requests.length_R
        summary_RD = self.summary_norm(state.routed_SPD.flatten(0, 1).index_select(0, at_R))
        tokens_UTD = self.request_features(requests.ids_UI, requests.floats_UF)
        return self.router.user_vector(summary_RD, tokens_UTD, requests.row_R)

    def route(self, request: RequestState, items: ItemSide, candidates: CandidateInputs) -> Tensor:
        """Level 0: logits [N, K] of all candidates."""
        if request.user is not None:
            return self.router(request.user, items, candidates)  # type: ignore[no-any-return]
        assert request.foreign is not None
        prior_K = torch.tensor(self.config.prior_logit, device=candidates.rows_N.device)
        prior_NK = prior_K.expand(candidates.rows_N.shape[0], -1)
        return self.router(request.foreign, items, candidates, prior_NK)  # type: ignore[no-any-return]

    def start(self, items: ItemSide, candidates: CandidateInputs) -> CandidateState:
        """Candidate states before level 1."""
        inputs_NX = self.candidate_features.inputs(candidates.ids_NI, candidates.floats_NF)
        item_NTD = items.of_candidates(items.tokens_UTD, candidates.rows_N)
        tokens_NTD, x_ND = self.first_states(self.candidate_features, self.candidate_start, item_NTD, inputs_NX)
        source = (items, candidates) if self.config.foreign else None
        crossed = torch.cat((item_NTD.flatten(1), inputs_NX), dim=1) if self.config.has_crosses else None
        begun = CandidateState(tokens_NTD, x_ND, source, crossed)
        if self.transitions is not None:
            assert items.ids_UI is not None, "transitions keep the item columns"
            begun.code_N = items.of_candidates(self.transitions.codes(items.ids_UI), candidates.rows_N)
            begun.counted_N = candidates.counted_N
        return begun

    def refine(
        self,
        level: int,
        request: RequestState,
        candidates: CandidateState,
        request_of_candidate_N: Tensor,
        logits_before_NK: Tensor,
        layout: CandidateLayout | None = None,
        num_reads: int | None = None,
    ) -> tuple[Tensor, CandidateState]:
        """Level >= 1: corrected logits [N, K] and the states for the next level.

        ``num_reads``: run only so many of its attention layers (None: all). What is left out is not encoded either.
        """
        expert = self.experts[level - 1]
        if isinstance(expert, ForeignLevel):
            assert request.foreign is not None and candidates.source is not None
            return expert(request.foreign, *candidates.source, logits_before_NK), candidates
        expert = cast(Expert, expert)
        num_reads = expert.reads_of_step() if num_reads is None else num_reads
        self.encoder.deepen_(request.view.state, expert.depth_of(num_reads))
        layout = layout or CandidateLayout(request_of_candidate_N, request.num_requests)
        if self.transitions is not None and candidates.signals_NF is None:
            assert request.recent_RJ is not None and candidates.code_N is not None
            known = (request.recent_RJ, candidates.code_N, request_of_candidate_N, candidates.counted_N)
            candidates = replace(candidates, signals_NF=self.transitions(*known))
        return expert(candidates, request.view, layout, request_of_candidate_N, logits_before_NK, num_reads)  # type: ignore[no-any-return]

    def encoder_depth(self, level: int) -> int:
        """Layers of the user encoder that a level >= 1 reads."""
        return cast(Expert | ForeignLevel, self.experts[level - 1]).depth

    def levels_from(self, seen: RequestState, items: ItemSide, candidates: CandidateInputs) -> list[Tensor]:
        """Logits [N, K] of every level for every candidate of requests already begun."""
        return self.deeper_levels(seen, items, candidates, self.route(seen, items, candidates))

    def deeper_levels(
        self, seen: RequestState, items: ItemSide, candidates: CandidateInputs, routed_NK: Tensor
    ) -> list[Tensor]:
        """Logits [N, K] of every level, given the router's."""
        if candidates.rows_N.shape[0] == 0:
            return [routed_NK] * self.config.num_levels
        logits = [routed_NK]
        state = self.start(items, candidates)
        layout = CandidateLayout.in_short_rows(candidates.request_of_candidate_N, seen.num_requests)
        for level in range(1, self.config.num_levels):
            before = logits[-1].detach()
            refined, state = self.refine(level, seen, state, candidates.request_of_candidate_N, before, layout)
            logits.append(refined)
        return logits

    def forward(self, request: RequestInputs, items: ItemSide, candidates: CandidateInputs) -> list[Tensor]:
        """Full depth: logits [N, K] of every level, as training and every reference use it."""
        return self.levels_from(self.begin(request, items), items, candidates)

    def take_unevenness(self) -> Tensor | None:
        """How unevenly this step used sparse experts, beyond evenly; None where none ran. Asked once a step."""
        found = []
        for part in self.modules():
            if isinstance(part, SparseExperts) and part.balance is not None:
                found.append(part.balance - 1)
                part.balance = None
        return torch.stack(found).sum() if found else None

    def foreign_levels(self) -> list[ForeignLevel]:
        """The levels that are foreign modules, shallowest first."""
        return [level for level in (self.router, *self.experts) if isinstance(level, ForeignLevel)]


def _level_zero(config: ModelConfig) -> Router | ForeignLevel:
    foreign = config.foreign_at(0)
    return Router(config) if foreign is None else ForeignLevel(foreign, config.tasks)


def _deeper_level(config: ModelConfig, level: int, crossed: tuple[int, int]) -> nn.Module:
    foreign = config.foreign_at(level)
    return Expert(config, level, crossed) if foreign is None else ForeignLevel(foreign, config.tasks)
