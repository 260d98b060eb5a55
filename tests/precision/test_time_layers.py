"""What plans ask of layers, and how layers are timed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from depthrank.model.blocks import Attention
from depthrank.precision import Format, Peaks
from depthrank.precision.formats import LayerChoice
from depthrank.precision.observed import observed, output_error
from depthrank.training import time_layers
from depthrank.training.time_layers import Asked, LayerTimes, Uses

torch.set_num_threads(1)
PEAKS = Peaks(fp32=1e9, bf16=2e9, int8=4e9, copy_bytes=1e9)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
        self.attention = Attention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = x.view(1, 1, -1, 8)
        self.first(x)
        return self.attention(q, q, q, causal=True)  # type: ignore[no-any-return]


def run(model: nn.Module, *rows: int) -> None:
    with torch.no_grad():
        for n in rows:
            model(torch.randn(n, 8))


def test_layers_that_run_are_seen_with_their_rows_and_others_are_not() -> None:
    model = Small()
    with observed(model) as seen:
        run(model, 3, 3, 20)
    assert set(seen) == {"first", "attention"}
    assert dict(seen["first"].calls) == {(3,): 2, (20,): 1}
    assert dict(seen["attention"].calls) == {(1, 3, 3, 8, 1): 2, (1, 20, 20, 8, 1): 1}
    assert 0 < seen["first"].rows_kept <= 26 and seen["first"].input_scale() > 0
    run(model, 5)
    assert sum(seen["first"].calls.values()) == 3, "hooks stay behind"


def test_the_error_of_outputs_grows_with_coarser_formats() -> None:
    model = Small()
    with observed(model) as seen:
        run(model, 64)
    errors = [output_error(model.first, seen["first"], LayerChoice(f)) for f in (Format.FP32_PACKED, Format.BF16)]
    coarse = output_error(model.first, seen["first"], LayerChoice(Format.INT8_STATIC, 0.5))
    assert errors[0] < 1e-10 < errors[1] < 1e-3 < coarse


def test_every_plan_counts_alike_and_near_sizes_are_one() -> None:
    model, uses = Small(), Uses()
    with observed(model) as seen:
        run(model, 100, 103)
    uses.add(seen, 0.5)
    (shape, weight), *others = uses.weights["first"].items()
    assert not others and weight == 1.0 and 80 <= shape[0] <= 120


def test_a_shape_is_timed_once_with_a_clock_of_one_s_own() -> None:
    now = iter(range(10**6))
    times = LayerTimes(0.0, clock_s=lambda: float(next(now)))
    layer = nn.Linear(8, 4, bias=False)
    assert times.ms(layer, (5,), Format.BF16) == 1000.0
    before = next(now)
    assert times.ms(nn.Linear(8, 4, bias=False), (5,), Format.BF16) == 1000.0
    assert next(now) == before + 1, "the second question ran nothing"
    assert times.weighted_ms(layer, {(5,): 2.0, (0,): 9.0}, Format.BF16) == 2000.0, "no rows cost nothing"


def test_a_format_without_a_kernel_here_takes_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("needs avx512_bf16")

    monkeypatch.setattr(time_layers, "_linear_calls", refused)
    assert LayerTimes(0.0).ms(nn.Linear(8, 4, bias=False), (5,), Format.BF16) == math.inf


def test_operations_are_held_against_the_peak_of_their_format() -> None:
    model = Small()
    asked = Asked.by(model, lambda form: run(form, 1000))
    products = 2 * 1000 * 8 * 4
    attention = 4 * 1000 * 1000 * 8 / 2
    assert asked.best_ms({}, PEAKS) == pytest.approx((products + attention) / 1e9 * 1e3)
    tuned = {"first": Format.INT8_STATIC, "attention": Format.BF16}
    assert asked.best_ms(tuned, PEAKS) == pytest.approx((products / 4e9 + attention / 2e9) * 1e3)
    assert asked.floor_ms("first", Format.INT8_STATIC, PEAKS) == pytest.approx(products / 4e9 * 1e3)
    few = Asked.by(model, lambda form: run(form, 1))
    assert few.floor_ms("first", Format.BF16, PEAKS) == pytest.approx(8 * 4 * 2 / 1e9 * 1e3), "weights read once"
    largest = asked.largest(LayerTimes(0.0), tuned, PEAKS, most=1)
    assert [row["name"] for row in largest] == ["attention"]


def test_products_outside_layers_count_against_the_peak_of_fp32() -> None:
    class Crossed(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.bmm(x[None], x[None].transpose(1, 2)).sum()

    asked = Asked.by(Crossed(), lambda form: run(form, 10))
    assert asked.other_flops == 2 * 10 * 10 * 8
    assert Asked.by(Small(), lambda form: run(form, 10)).other_flops == 0.0


def test_a_format_without_a_peak_here_takes_forever_instead_of_dividing_by_it() -> None:
    peaks = Peaks(fp32=1e9, bf16=2e9, int8=0.0, copy_bytes=1e9)
    asked = Asked.by(Small(), lambda form: run(form, 10))
    assert asked.best_ms({"first": Format.INT8_STATIC}, peaks) == math.inf
    assert asked.floor_ms("first", Format.INT8_STATIC, peaks) == math.inf
    assert asked.best_ms({}, peaks) < math.inf
