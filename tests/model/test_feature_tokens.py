"""Features left out at random, in training only and whole ones; tables that start small."""

from __future__ import annotations

import torch

from depthrank.model.config import SideConfig
from depthrank.model.feature_tokens import SMALL, FeatureTokens
from depthrank.tables import TableSlot

NUM_FEATURES = 3
IDS, NO_FLOATS = torch.full((400, NUM_FEATURES), 3), torch.zeros(400, 0)


def tokens(dropout: float = 0.0, *, small: bool = False) -> FeatureTokens:
    side = SideConfig(tuple(TableSlot(f"f{i}", 10, i, i + 1) for i in range(NUM_FEATURES)))
    sizes = {"table_width": 4, "width": 8, "num_tokens": 2, "hidden": 8}
    return FeatureTokens(side, feature_dropout=dropout, small_tables=small, **sizes)


def test_equal_rows_differ_in_training_and_are_equal_when_serving() -> None:
    torch.manual_seed(0)
    side = tokens(0.5)
    trained, served = side(IDS, NO_FLOATS).detach(), side.eval()(IDS, NO_FLOATS).detach()
    assert len(trained.unique(dim=0)) == 2**NUM_FEATURES
    assert len(served.unique(dim=0)) == 1


def test_without_a_rate_nothing_is_dropped() -> None:
    assert len(tokens()(IDS, NO_FLOATS).detach().unique(dim=0)) == 1


def test_small_tables_start_small_and_others_do_not() -> None:
    small, other = (tokens(small=s).table for s in (True, False))
    assert small is not None and other is not None
    assert float(small.weight.detach().std()) < 2 * SMALL < float(other.weight.detach().std()) / 5


def test_bins_of_a_side_replace_those_of_the_model_and_many_columns_have_none_of_their_own() -> None:
    def inputs(num_floats: int, bins: int | None) -> int:
        side = SideConfig((), num_floats, bins=bins)
        return FeatureTokens(side, table_width=4, width=8, num_tokens=1, hidden=8, bins=12).num_inputs

    assert inputs(64, None) == 64 * 13 and inputs(65, None) == 65
    assert inputs(65, 6) == 65 * 7 and inputs(3, 0) == 3
