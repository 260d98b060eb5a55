"""Every format of a layer computes the layer, row by row, whatever rows come with it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from depthrank.errors import ArtifactError
from depthrank.model.blocks import Attention, SwiGLU, attend
from depthrank.precision import AttentionLayer, Format, LayerChoice, in_formats, layers_of
from depthrank.precision.attention_layer import RoundedAttention
from depthrank.precision.formats import LINEAR_FORMATS
from depthrank.precision.int8_linear import Int8DynamicLinear, Int8StaticLinear, fitted_scale
from depthrank.precision.packed_linear import FormattedLinear

torch.set_num_threads(1)
ERROR = {  # relative, of random weights and inputs
    Format.FP32: 1e-6,
    Format.FP32_PACKED: 1e-5,
    Format.BF16: 1e-2,
    Format.INT8_STATIC: 3e-2,
    Format.INT8_DYNAMIC: 3e-2,
    Format.FP8_EMULATED: 8e-2,
}
SHIFT = {Format.BF16: 1e-2, Format.INT8_STATIC: 1e-4, Format.INT8_DYNAMIC: 1e-4}  # between batches; bf16: one rounding


def inputs(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def choice_of(format: Format, x: Tensor) -> LayerChoice:
    return LayerChoice(format, fitted_scale(x) if format is Format.INT8_STATIC else None)


def linear_in(format: Format, width_in: int, width_out: int, seed: int = 1) -> tuple[nn.Module, nn.Linear]:
    torch.manual_seed(seed)
    plain = nn.Sequential(nn.Linear(width_in, width_out, bias=False)).requires_grad_(False).eval()
    formatted = in_formats(plain, {"0": choice_of(format, inputs(64, width_in))})
    return formatted, plain[0]  # type: ignore[return-value]


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-9))


@pytest.mark.parametrize("format", LINEAR_FORMATS)
@given(rows=st.sampled_from([1, 2, 7, 33, 129]), widths=st.tuples(st.integers(1, 70), st.integers(1, 70)))
def test_a_layer_in_a_format_computes_the_layer(format: Format, rows: int, widths: tuple[int, int]) -> None:
    formatted, plain = linear_in(format, *widths)
    x = inputs(rows, widths[0], 2)
    own = formatted(x)
    assert own.shape == (rows, widths[1]) and own.dtype == torch.float32
    clipped = x.clamp(-3, 3) if format is Format.INT8_STATIC else x
    assert float((own - plain(clipped)).abs().max()) <= ERROR[format] * 8 * float(x.norm(dim=1).max() + 1)


@pytest.mark.parametrize("format", LINEAR_FORMATS)
def test_the_error_is_of_the_size_that_the_format_has(format: Format) -> None:
    formatted, plain = linear_in(format, 96, 48)
    x = inputs(200, 96, 3)
    found = error(formatted(x), plain(x))
    assert found <= ERROR[format]
    if format not in (Format.FP32, Format.FP32_PACKED):
        assert found > 1e-4, "it runs in fp32 after all"


@pytest.mark.parametrize("format", LINEAR_FORMATS)
def test_no_rows_give_no_rows_and_further_dimensions_stay(format: Format) -> None:
    formatted, _ = linear_in(format, 12, 5)
    assert formatted(torch.zeros(0, 12)).shape == (0, 5)
    assert formatted(torch.zeros(2, 0, 12)).shape == (2, 0, 5)
    assert formatted(inputs(6, 12).view(2, 3, 12)).shape == (2, 3, 5)


@pytest.mark.parametrize("format", LINEAR_FORMATS)
@given(others=st.integers(0, 300), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_a_row_does_not_depend_on_the_rows_beside_it(format: Format, others: int, scale: float) -> None:
    formatted, _ = linear_in(format, 40, 24)
    own = inputs(1, 40, 5)
    beside = torch.cat((own, inputs(others, 40, 6) * scale))
    alone, together = formatted(own), formatted(beside)[:1]
    assert float((alone - together).abs().max()) <= SHIFT.get(format, 1e-5) * float(alone.abs().max())


def test_one_scale_over_all_rows_would_be_seen() -> None:
    """The control of the test above: what torch's own dynamic quantization does."""
    formatted, _ = linear_in(Format.INT8_DYNAMIC, 40, 24)
    layer = formatted[0]  # type: ignore[index]
    assert isinstance(layer, Int8DynamicLinear)
    own = inputs(1, 40, 5)
    beside = torch.cat((own, inputs(9, 40, 6) * 1e4))

    def one_scale(x: Tensor) -> Tensor:
        scale = float(x.abs().max()) / 127
        q = torch.add(layer.shift, x, alpha=1 / scale).to(torch.uint8)
        return layer._multiply(q, scale, layer.known_N * scale, torch.float32)

    assert error(one_scale(own), formatted(own)) < 1e-2
    assert error(one_scale(beside)[:1], formatted(own)) > 0.5


@pytest.mark.parametrize("format", [Format.INT8_STATIC, Format.INT8_DYNAMIC])
def test_rows_of_zeros_and_constant_weights_are_exact(format: Format) -> None:
    plain = nn.Sequential(nn.Linear(8, 3, bias=False)).requires_grad_(False)
    plain[0].weight.zero_()  # type: ignore[operator]
    formatted = in_formats(plain, {"0": choice_of(format, inputs(4, 8))})
    assert formatted(inputs(5, 8)).abs().max() == 0
    formatted, _ = linear_in(format, 8, 3)
    assert float(formatted(torch.zeros(5, 8)).abs().max()) < 1e-5


def test_a_static_scale_clips_what_lies_beyond_it() -> None:
    torch.manual_seed(0)
    layer = Int8StaticLinear(torch.eye(4), 1 / 127)
    out = layer(torch.tensor([[0.5, 1.0, 7.0, -7.0]]))
    assert torch.allclose(out, torch.tensor([[0.5, 1.0, 1.0, -128 / 127]]), atol=0.006)


def test_a_fitted_scale_gives_up_a_lone_outlier_for_the_rest() -> None:
    x = inputs(400, 32)
    assert fitted_scale(x) <= float(x.abs().max()) / 127
    x[0, 0] = 12.0
    assert fitted_scale(x) < 12 / 127
    assert fitted_scale(torch.zeros(3, 4)) == 1.0


@given(
    queries=st.sampled_from([1, 3, 40, 200]),
    keys=st.sampled_from([1, 9, 130]),
    heads=st.integers(1, 3),
    with_bias=st.booleans(),
)
def test_bf16_attention_is_attention(queries: int, keys: int, heads: int, with_bias: bool) -> None:
    g = torch.Generator().manual_seed(queries)
    q, k, v = (torch.randn(1, heads, n, 8, generator=g) for n in (queries, keys, keys))
    bias = torch.randn(1, heads, 1, keys, generator=g) if with_bias else None
    if bias is not None and keys > 2:
        bias[..., 1] = torch.finfo(torch.float32).min
    out = RoundedAttention()(q, k, v, bias)
    assert out.dtype == torch.float32 and error(out, attend(q, k, v, bias)) < 2e-2


@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.parametrize("queries", [1, 2, 300])
def test_causal_bf16_attention_sees_nothing_ahead(queries: int, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthrank.kernels.attention.BLOCK_SCORES", 4_000)  # several blocks
    q = inputs(queries * 8, 2).view(1, 2, queries, 8)
    k, v = (inputs((before + queries) * 8, 2, s).view(1, 2, before + queries, 8) for s in (1, 2))
    assert error(RoundedAttention()(q, k, v, causal=True), attend(q, k, v, causal=True)) < 2e-2


def test_a_swiglu_hands_its_hidden_values_on_rounded_only_where_both_products_round() -> None:
    torch.manual_seed(0)
    plain = nn.ModuleDict({"mlp": SwiGLU(16, 32, 16)}).requires_grad_(False)
    both = {f"mlp.{name}": LayerChoice(Format.BF16) for name in ("gate_and_up", "down")}
    x = inputs(20, 16)
    rounded = in_formats(plain, both)["mlp"]
    assert rounded.gate_and_up.out_dtype == torch.bfloat16  # type: ignore[union-attr]
    assert error(rounded(x), plain["mlp"](x)) < 2e-2
    half = in_formats(plain, {"mlp.gate_and_up": LayerChoice(Format.BF16)})["mlp"]
    assert half.gate_and_up.out_dtype == torch.float32  # type: ignore[union-attr]
    assert error(half(x), plain["mlp"](x)) < 2e-2


class Holder(nn.Module):
    """Holds more than tensors, as a ranker does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.with_bias = nn.Linear(4, 4)
        self.attention = Attention()
        self.rows = [object()]
        self.register_buffer("kept", torch.ones(3))


def test_the_copy_shares_what_it_does_not_replace_and_the_model_stays() -> None:
    plain = Holder()
    copied = in_formats(plain, {"first": LayerChoice(Format.BF16)})
    assert isinstance(copied.first, FormattedLinear) and isinstance(plain.first, nn.Linear)
    assert copied.second is not plain.second and copied.second.weight is plain.second.weight
    assert copied.rows is plain.rows and copied.kept is plain.kept
    assert list(layers_of(plain)) == ["first", "second", "attention"]
    assert list(layers_of(copied)) == ["second", "attention"]


def test_unknown_layers_and_formats_that_a_layer_has_not_are_refused() -> None:
    with pytest.raises(ArtifactError, match="no layer 'third' in this model"):
        in_formats(Holder(), {"third": LayerChoice(Format.BF16)})
    with pytest.raises(ArtifactError, match="attention cannot run in int8-static; it has fp32, bf16"):
        in_formats(Holder(), {"attention": LayerChoice(Format.INT8_STATIC, 1.0)})
    assert isinstance(in_formats(Holder(), {"attention": LayerChoice(Format.BF16)}).attention, AttentionLayer)


def test_fp32_leaves_a_layer_as_it_is() -> None:
    plain = Holder()
    copied = in_formats(plain, {"first": LayerChoice(Format.FP32)})
    assert torch.equal(copied.first(torch.ones(1, 4)), F.linear(torch.ones(1, 4), plain.first.weight))


WITHOUT_BF16 = """
import torch
from torch import nn
from depthrank.errors import ArtifactError
from depthrank.precision import Format, LayerChoice, in_formats
from depthrank.precision.in_formats import formats_of
from depthrank.precision.peaks import measure_peaks

layer = nn.Linear(8, 8, bias=False)
assert Format.BF16 not in formats_of(layer) and Format.INT8_STATIC in formats_of(layer)
try:
    in_formats(nn.Sequential(layer), {"0": LayerChoice(Format.BF16)})
except ArtifactError as error:
    print(error)
peaks = measure_peaks(0.1)
assert peaks.bf16 == 0 and min(peaks.fp32, peaks.int8) > 0
"""


def test_a_processor_without_bf16_products_is_tuned_without_them():
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "SSE41"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_BF16], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "layer 0 cannot run in bf16; it has fp32" in done.stdout
