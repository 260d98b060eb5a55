"""Features left out at random: in training only, whole features, and only where a side has several."""

from __future__ import annotations

import pytest
import torch

from depthrank.model.config import SideConfig
from depthrank.model.feature_tokens import SEVERAL, SMALL, FeatureTokens
from depthrank.tables import TableSlot


def tokens(num_features: int, dropout: float) -> FeatureTokens:
    side = SideConfig(tuple(TableSlot(f"f{i}", 10, i, i + 1) for i in range(num_features)))
    return FeatureTokens(side, table_width=4, width=8, num_tokens=2, hidden=8, feature_dropout=dropout)


def ids(num_features: int, n: int = 400) -> torch.Tensor:
    return torch.full((n, num_features), 3)


def test_equal_rows_differ_in_training_and_are_equal_when_serving() -> None:
    torch.manual_seed(0)
    side = tokens(SEVERAL, 0.5)
    torch.nn.init.normal_(side.table.weight)  # type: ignore[union-attr]
    trained, served = side(ids(SEVERAL), torch.zeros(400, 0)), side.eval()(ids(SEVERAL), torch.zeros(400, 0))
    assert len(trained.detach().unique(dim=0)) == 2**SEVERAL
    assert len(served.detach().unique(dim=0)) == 1


@pytest.mark.parametrize(("num_features", "dropout"), [(SEVERAL - 1, 0.5), (SEVERAL, 0.0)])
def test_nothing_is_dropped_from_a_side_of_few_features_or_without_a_rate(num_features: int, dropout: float) -> None:
    found = tokens(num_features, dropout)(ids(num_features), torch.zeros(400, 0))
    assert len(found.detach().unique(dim=0)) == 1


def test_tables_of_a_side_of_several_features_start_small() -> None:
    assert float(tokens(SEVERAL, 0.0).table.weight.detach().std()) < 2 * SMALL  # type: ignore[union-attr]
    assert float(tokens(SEVERAL - 1, 0.0).table.weight.detach().std()) > 10 * SMALL  # type: ignore[union-attr]
