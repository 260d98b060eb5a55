"""Float columns as inputs: standardised, and piecewise linear between the quantiles of training."""

from __future__ import annotations

import pytest
import torch

from depthrank.model.float_inputs import MAX_STANDARD, FloatInputs


def fitted(x_nF: torch.Tensor, bins: int = 4) -> FloatInputs:
    inputs = FloatInputs(x_nF.shape[1], bins)
    inputs.fit_(x_nF)
    return inputs


def test_before_fitting_a_column_passes_unchanged() -> None:
    x = torch.tensor([[0.5, -3.0]])
    assert FloatInputs(2, 4)(x).tolist() == [[0.5, -3.0, *[0.0] * 8]]


def test_columns_are_standardised_and_clipped() -> None:
    x = torch.randn(1_000, 3) * torch.tensor([0.01, 1.0, 100.0]) + 5.0
    inputs = fitted(x)
    standard = inputs(x)[:, :3]
    assert standard.mean(0).abs().max() < 1e-3 and (standard.std(0) - 1.0).abs().max() < 1e-2
    assert inputs(torch.full((1, 3), 1e9))[0, 0] == MAX_STANDARD


def test_bins_fill_one_after_the_other_between_quantiles() -> None:
    x = torch.arange(101.0).unsqueeze(1)
    places = fitted(x)(torch.tensor([[-1.0], [0.0], [12.5], [25.0], [60.0], [101.0]]))[:, 1:]
    assert places.sum(1).tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 2.4, 4.0])
    assert places[4].tolist() == pytest.approx([1.0, 1.0, 0.4, 0.0])


def test_a_constant_column_and_repeated_quantiles_tell_nothing() -> None:
    x = torch.cat((torch.full((100, 1), 0.3), torch.tensor([[0.0]] * 90 + [[1.0]] * 10)), dim=1)
    inputs = fitted(x)
    constant = inputs(torch.tensor([[0.3, 0.0], [0.9, 0.0]]))
    assert not constant[:, 0].any() and not constant[:, 2:6].any()
    assert inputs(torch.tensor([[0.3, 1.0]]))[0, 6:].sum() == 1.0
    assert torch.isfinite(inputs(torch.tensor([[1e6, -1e6]]))).all()


def test_a_frequent_value_leaves_the_other_bins_to_the_other_values() -> None:
    x = torch.cat((torch.zeros(900, 1), torch.linspace(1.0, 2.0, 100).unsqueeze(1)))
    places = fitted(x)(torch.tensor([[0.0], [1.0], [1.5], [2.0]]))[:, 1:]
    assert places.sum(1).tolist() == pytest.approx([0.0, 1.0, 2.5, 4.0])


def test_sides_without_floats_and_fits_without_rows_change_nothing() -> None:
    assert FloatInputs(0, 4)(torch.zeros(3, 0)).shape == (3, 0)
    inputs = FloatInputs(1, 2)
    inputs.fit_(torch.zeros(0, 1))
    assert inputs.scale_F.tolist() == [1.0]
