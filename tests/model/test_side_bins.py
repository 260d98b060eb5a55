"""How many bins the numbers of a side get: fewer where columns are many, none where they may be a vector's."""

from __future__ import annotations

import pytest

from depthrank.features import EncoderLayout, FloatSlot, SideLayout
from depthrank.model.config import MAX_BINNED, ModelConfig, SideConfig, derive_model_config
from depthrank.schema import Spec


def spec_of(feature: str) -> Spec:
    plain = {
        "name": "lists",
        "dataset": {"impressions": {"path": "a.csv", "time": "order", "candidate": ["x"]}},
        "features": {"x": {"source": "candidate.x", **({"kind": "numeric"} if feature == "numeric" else VECTOR)}},
        "tasks": {"click": {"column": "click"}},
        "value": {"weights": {"click": 1}},
        "history": {"length": 0},
    }
    return Spec.from_plain(plain)


VECTOR = {"kind": "vector", "size": 4}


def candidate_of(num_floats: int, feature: str = "numeric") -> SideConfig:
    wide = SideLayout((), (FloatSlot("x", 0, num_floats),))
    layout = EncoderLayout(SideLayout((), ()), SideLayout((), ()), wide)
    return derive_model_config(spec_of(feature), layout, (0.0,)).candidate


@pytest.mark.parametrize(("num_floats", "bins"), [(MAX_BINNED, None), (65, 12), (256, 8), (5_000, 4)])
def test_many_numbers_have_fewer_bins_each(num_floats: int, bins: int | None) -> None:
    assert candidate_of(num_floats).bins == bins


def test_a_side_with_vectors_has_none_beyond_the_limit() -> None:
    assert candidate_of(300, "vector").bins is None


def test_bins_are_stored_only_where_they_are_not_the_models_and_checked_when_read() -> None:
    assert "bins" not in candidate_of(8).to_plain()
    wide = candidate_of(256)
    assert SideConfig.from_plain(wide.to_plain()) == wide and wide.columns().bins is None
    with pytest.raises(ValueError, match="bins is 100000, expected a whole number up to 64"):
        SideConfig.from_plain({**wide.to_plain(), "bins": 100_000})
    assert ModelConfig.float_bins == 12
