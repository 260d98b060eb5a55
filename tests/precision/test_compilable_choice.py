"""With levels compiled, a scale a row gives way to a scale a layer only where the limits allow it."""

from __future__ import annotations

from typing import Any

import pytest

from depthrank.precision import Format
from depthrank.training.fit_precision import _compilable
from depthrank.training.judge_precision import Accuracy
from depthrank.training.tuning_requests import Settings

CHOSEN = {"a": Format.INT8_DYNAMIC, "b": Format.BF16, "c": Format.INT8_STATIC}


class Table:
    def model_in(self, formats: dict[str, Format]) -> dict[str, Format]:
        return formats


class Verifier:
    def __init__(self, ne_change: float) -> None:
        self.ne_change, self.asked = ne_change, []

    def accuracy(self, model: Any) -> Accuracy:
        self.asked.append(model)
        return Accuracy(self.ne_change, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(("ne_change", "format"), [(0.0, Format.INT8_STATIC), (0.01, Format.INT8_DYNAMIC)])
def test_one_scale_a_layer_is_taken_where_it_holds_the_limits(ne_change: float, format: Format) -> None:
    verifier: Any = Verifier(ne_change)
    table: Any = Table()
    found = _compilable(table, dict(CHOSEN), verifier, Settings())
    assert found == CHOSEN | {"a": format}
    assert verifier.asked == [CHOSEN | {"a": Format.INT8_STATIC}], "the joint choice is what is judged"
