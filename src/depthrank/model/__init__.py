"""The elastic ranker: user encoder, levels and heads, in request-centric form."""

from __future__ import annotations

from depthrank.model.config import ForeignConfig, LevelConfig, ModelConfig, SideConfig, derive_model_config
from depthrank.model.elastic_ranker import ElasticRanker, RequestState
from depthrank.model.encoded_inputs import candidate_inputs, request_inputs
from depthrank.model.expert import CandidateState
from depthrank.model.flops import LevelFlops, level_flops
from depthrank.model.foreign_inputs import ForeignInput, example_inputs, foreign_inputs
from depthrank.model.foreign_level import ForeignLevel, SharedScorer
from depthrank.model.inputs import CandidateInputs, CandidateLayout, ItemSide, RequestInputs, RoutedRequests
from depthrank.model.user_encoder import UserState

__all__ = [
    "CandidateInputs",
    "CandidateLayout",
    "CandidateState",
    "ElasticRanker",
    "ForeignConfig",
    "ForeignInput",
    "ForeignLevel",
    "ItemSide",
    "LevelConfig",
    "LevelFlops",
    "ModelConfig",
    "RequestInputs",
    "RequestState",
    "RoutedRequests",
    "SharedScorer",
    "SideConfig",
    "UserState",
    "candidate_inputs",
    "derive_model_config",
    "example_inputs",
    "foreign_inputs",
    "level_flops",
    "request_inputs",
]
