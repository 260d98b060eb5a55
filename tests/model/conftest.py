"""A small ranker with random weights (heads included, so that levels differ) and random inputs for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from depthrank.model import CandidateInputs, ElasticRanker, LevelConfig, ModelConfig, RequestInputs, SideConfig
from depthrank.tables import TableSlot

NUM_ITEMS = 23


def small_config(**changes: object) -> ModelConfig:
    sizes: dict[str, object] = {
        "tasks": ("click", "like"),
        "prior_logit": (-1.0, -2.0),
        "num_actions": 2,
        "request": SideConfig((TableSlot("user", 9, 0, 1),), 3),
        "item": SideConfig((TableSlot("item", 30, 0, 1), TableSlot("genre", 7, 1, 4)), 2),
        "candidate": SideConfig((), 4),
        "history_length": 8,
        "width": 16,
        "table_width": 8,
        "heads": 2,
        "levels": (LevelConfig((0, 1), 2, 4, 4), LevelConfig((2,), 1, 4, 4)),
    }
    return ModelConfig(**{**sizes, **changes})  # type: ignore[arg-type]


def random_ranker(config: ModelConfig, seed: int = 0) -> ElasticRanker:
    torch.manual_seed(seed)
    ranker = ElasticRanker(config).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return ranker


@pytest.fixture
def config() -> ModelConfig:
    return small_config()


@pytest.fixture
def ranker() -> ElasticRanker:
    return random_ranker(small_config())


Inputs = tuple[RequestInputs, CandidateInputs]


@pytest.fixture
def make_inputs() -> Callable[..., Inputs]:
    def make(counts: list[int], lengths: list[int], seed: int = 0, history: int = 8) -> Inputs:
        g = torch.Generator().manual_seed(seed)

        def ints(high: int, *shape: int) -> torch.Tensor:
            return torch.randint(0, high, shape, generator=g)

        r, n = len(counts), sum(counts)
        request = RequestInputs(
            ints(9, r, 1),
            torch.randn(r, 3, generator=g),
            ints(NUM_ITEMS, r, history),
            ints(4, r, history),
            ints(32, r, history),
            ints(32, r, history),
            torch.tensor(lengths),
        )
        roc = torch.repeat_interleave(torch.arange(r), torch.tensor(counts))
        candidates = CandidateInputs(
            ints(NUM_ITEMS, n), torch.zeros(n, 0, dtype=torch.int64), torch.randn(n, 4, generator=g), roc
        )
        return request, candidates

    return make


@pytest.fixture
def item_columns() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    ids = torch.cat(
        (torch.randint(0, 30, (NUM_ITEMS, 1), generator=g), torch.randint(0, 7, (NUM_ITEMS, 3), generator=g)), 1
    )
    return ids, torch.randn(NUM_ITEMS, 2, generator=g)
