"""A linear layer that is quick for one row gives what a linear layer gives, and can take every format."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from depthrank.precision import RowLinear, layers_of
from depthrank.precision.row_linear import MOST_WEIGHTS


@pytest.fixture(params=["medium", "highest"], autouse=True)
def setting(request: pytest.FixtureRequest) -> Iterator[str]:
    """The library that products go through."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("shape", [(1, 40), (2, 40), (1, 1, 40), (0, 40)])
def test_it_gives_what_a_linear_layer_gives(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = RowLinear(40, 24), torch.randn(shape)
    with torch.no_grad():
        assert torch.allclose(layer(x), nn.functional.linear(x, layer.weight), atol=1e-6)


def test_a_single_row_takes_no_product_of_onednn_but_in_training_and_where_weights_are_many(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    products: list[int] = []
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: products.append(self.in_features) or x @ self.weight.T)
    small, large = RowLinear(40, 24), RowLinear(1_024, MOST_WEIGHTS // 1_024 + 1)
    with torch.no_grad():
        small(torch.ones(1, 40))
    assert products == ([] if setting == "medium" else [40])
    products.clear()
    with torch.no_grad():
        large(torch.ones(1, 1_024))
    small(torch.ones(1, 40)).sum().backward()
    assert products == [1_024, 40] and small.weight.grad is not None


def test_it_may_take_a_format() -> None:
    assert set(layers_of(nn.Sequential(RowLinear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4)))) == {"0", "1"}
