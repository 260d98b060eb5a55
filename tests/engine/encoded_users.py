"""A small random ranker over made-up items, and histories that change in every way a log lets them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from depthrank.engine.item_store import ItemStore
from depthrank.features import Encoded, EncodedHistory
from depthrank.model import ElasticRanker, LevelConfig, ModelConfig, SideConfig, UserState
from depthrank.tables import TableSlot

torch.set_num_threads(1)
LENGTH = 12
NUM_ITEMS = 20


def random_ranker(seed: int = 0) -> ElasticRanker:
    """Two layers that the router reads, two more that only levels do."""
    torch.manual_seed(seed)
    config = ModelConfig(
        tasks=("click",),
        prior_logit=(-1.0,),
        num_actions=2,
        request=SideConfig(),
        item=SideConfig((TableSlot("item", 1_000, 0, 1),), 0),
        candidate=SideConfig(),
        history_length=LENGTH,
        width=16,
        table_width=8,
        heads=2,
        levels=(LevelConfig((0, 1), 1, 4, 4), LevelConfig((2, 3), 1, 4, 4)),
    )
    return ElasticRanker(config).eval()


class Items:
    """Items that are what their number in ``ids`` says; ``upsert`` changes one."""

    def __init__(self, model: ElasticRanker) -> None:
        self.ids = np.arange(NUM_ITEMS + 1, dtype=np.int32)
        catalogue: Any = SimpleNamespace(size=NUM_ITEMS + 1)
        encoder: Any = SimpleNamespace(encode_items=self._encode)
        self.store = ItemStore(model, encoder, catalogue)

    def upsert(self, row: int, becomes: int) -> None:
        self.ids[row] = becomes
        self.store.refresh(np.array([row]))

    def _encode(self, catalogue: Any, rows: np.ndarray) -> Encoded:
        return Encoded(self.ids[rows][:, None], np.zeros((len(rows), 0), np.float32))


def history_of(tokens: list[tuple[int, int, int]]) -> EncodedHistory:
    """Tokens (row, actions, gap), oldest first, as the encoder of features gives them."""
    columns = np.zeros((3, 1, LENGTH), np.int32)
    columns[:, 0, : len(tokens)] = np.array(tokens, np.int32).reshape(-1, 3).T
    return EncodedHistory(*columns, np.zeros((1, LENGTH), np.int32), np.array([len(tokens)], np.int32))


def differences(one: UserState, other: UserState) -> list[float]:
    """The largest difference of each tensor of two states as deep as each other."""
    assert one.depth == other.depth and one.num_positions == other.num_positions
    assert one.routed_SPD is not None and other.routed_SPD is not None
    pairs = [(one.x_SPD, other.x_SPD), (one.routed_SPD, other.routed_SPD)]
    pairs += [*zip(one.keys_SHPd, other.keys_SHPd, strict=True), *zip(one.values_SHPd, other.values_SHPd, strict=True)]
    return [float((a - b).abs().max()) for a, b in pairs]
