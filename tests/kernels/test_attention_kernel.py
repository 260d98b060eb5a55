"""The attention kernel is attention, row by row, for every shape; and where it cannot be, torch's operators are."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from depthrank.errors import ArtifactError
from depthrank.kernels import attention_kernel, rounded_attention
from depthrank.kernels.attention import ISA, checked_kernel
from depthrank.kernels.build import compiler_missing, kernels_missing
from depthrank.kernels.compile_cache import SEAL, CompileCache
from depthrank.model.blocks import Attention, attend
from depthrank.precision import Format, LayerChoice, in_formats
from depthrank.precision.in_formats import formats_of

ERROR = {False: 1e-2, True: 3e-2}  # relative, of random inputs, by int8
needs_kernel = pytest.mark.skipif(
    bool(kernels_missing(ISA) or compiler_missing()),
    reason=kernels_missing(ISA) or compiler_missing() or "there is one",
)


def inputs(n: int, heads: int, queries: int, keys: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(n, rows, heads, width, generator=g) for rows in (queries, keys, keys))
    return q.transpose(1, 2), k.transpose(1, 2).contiguous(), v.transpose(1, 2)


def bias_of(n: int, heads: int, keys: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    bias = torch.randn(n, keys, heads, generator=g).permute(0, 2, 1).unsqueeze(2)  # rows that lie apart
    hidden = torch.rand(n, 1, 1, keys, generator=g) < 0.2
    hidden[..., 0] = False
    return bias.masked_fill(hidden, torch.finfo(torch.float32).min)


def error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).norm() / b.norm().clamp_min(1e-9))


def exactly(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    return attend(q.double(), k.double(), v.double(), None if bias is None else bias.double(), causal=causal)


@needs_kernel
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 40), st.integers(1, 200), st.integers(1, 140)),
    masked=st.booleans(),
    causal=st.booleans(),
    int8=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_kernel_is_attention(
    shape: tuple[int, int, int, int, int], masked: bool, causal: bool, int8: bool, seed: int
) -> None:
    n, heads, queries, keys, width = shape
    keys = max(keys, queries) if causal else keys
    q, k, v = inputs(n, heads, queries, keys, width, seed)
    bias = bias_of(n, heads, keys, seed) if masked and not causal else None
    kernel = attention_kernel()
    assert kernel is not None
    out = kernel(q, k, v, bias, causal, int8)
    wrong = (out - exactly(q, k, v, bias, causal)).norm()
    assert out.shape == q.shape and wrong < ERROR[int8] * exactly(q, k, v.abs(), bias, causal).norm()


@needs_kernel
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_row_does_not_depend_on_the_rows_beside_it(int8: bool, causal: bool) -> None:
    q, k, v = inputs(1, 2, 31, 90, 24)
    whole = rounded_attention(q, k, v, None, causal, int8)
    for first, last in ((0, 31), (3, 31), (30, 31), (2, 9)):
        if causal and last < 31:
            continue  # other keys are seen
        some = rounded_attention(q[:, :, first:last], k, v, None, causal, int8)
        assert torch.equal(some, whole[:, :, first:last])


@needs_kernel
@pytest.mark.parametrize("int8", [False, True])
def test_no_queries_no_keys_and_numbers_that_are_none(int8: bool) -> None:
    q, k, v = inputs(1, 2, 9, 70, 16)
    assert rounded_attention(q[:, :, :0], k, v, None, False, int8).shape == (1, 2, 0, 16)
    assert torch.equal(rounded_attention(q, k[:, :, :0], v[:, :, :0], None, False, int8), torch.zeros(1, 2, 9, 16))
    q = q.clone()
    q[0, 1, 4, 3] = float("nan")
    out = rounded_attention(q, k, v, None, False, int8)
    there = out.isnan().any(dim=3)
    assert not int8 or not there[0, 0].any()
    assert not there[0, 0].any() and not there[0, 1, :4].any() and not there[0, 1, 5:].any()
    q[0, 1, 4, 3] = 1e30
    assert rounded_attention(q, k, v, None, False, int8).isfinite().all()


@needs_kernel
def test_where_everything_is_hidden_all_keys_count_alike() -> None:
    q, k, v = inputs(1, 1, 3, 70, 16)
    bias = torch.full((1, 1, 1, 70), torch.finfo(torch.float32).min)
    assert (
        error(rounded_attention(q, k, v, bias, False, False), v.double().mean(dim=2, keepdim=True).expand(q.shape))
        < 1e-2
    )


@needs_kernel
def test_several_threads_compute_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(2, 3, 40, 70, 16)
    bias = bias_of(2, 3, 70)
    alone = rounded_attention(q, k, v, bias, False, False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(rounded_attention(q, k, v, bias, False, False), alone)
    monkeypatch.undo()
    with ThreadPoolExecutor(4) as pool:
        sizes = [(40, 70), (7, 33), (25, 64), (1, 3)] * 8
        futures = [
            (pool.submit(rounded_attention, q[:, :, :a], k[:, :, :b], v[:, :, :b], None, False, True), a, b)
            for a, b in sizes
        ]
        for future, a, b in futures:
            assert torch.equal(
                future.result(), rounded_attention(q[:, :, :a], k[:, :, :b], v[:, :, :b], None, False, True)
            )


@needs_kernel
def test_a_damaged_library_is_compiled_again_and_one_from_elsewhere_never_loaded(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path / "own")
    checked_kernel(cache)
    (library,) = cache.folder.glob("*.pt2")
    whole = library.read_bytes()
    library.unlink()  # this process runs it: not into the same file
    library.write_bytes(b"\0" * len(whole))
    checked_kernel(cache)
    assert library.read_bytes() != b"\0" * len(whole) and library.with_suffix(SEAL).exists()
    other = CompileCache(tmp_path / "other")
    (other.folder / library.name).write_bytes(whole)
    assert other.find(library.stem) is None, "it has no seal of this folder"


@needs_kernel
def test_a_library_that_computes_something_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = 'extern "C" int depthrank_attention() { return 0; }'
    path = tmp_path / "other.so"
    subprocess.run(["c++", "-x", "c++", "-", "-shared", "-fPIC", "-o", path], input=source.encode(), check=True)
    monkeypatch.setattr("depthrank.kernels.attention.built", lambda *args: path)
    with pytest.raises(ArtifactError, match="the attention kernel is off by"):
        checked_kernel()
    path = tmp_path / "none.so"
    path.write_bytes(b"no library")
    with pytest.raises(ArtifactError, match="is no kernel"):
        checked_kernel()


WITHOUT = """
import logging, sys
import torch
from torch import nn
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from depthrank.model.blocks import Attention, attend
from depthrank.precision import Format, LayerChoice, in_formats
from depthrank.precision.in_formats import formats_of

q, k, v = (torch.randn(1, 2, n, 8) for n in (5, 9, 9))
assert Format.INT8_DYNAMIC not in formats_of(Attention())
for format in (Format.BF16, Format.INT8_DYNAMIC):
    layer = in_formats(nn.Sequential(Attention()), {"0": LayerChoice(format)})[0]
    exact = attend(q, k, v)
    assert float((layer(q, k, v) - exact).norm() / exact.norm()) < 2e-2
"""


@pytest.mark.parametrize("without", ["a compiler", "an instruction set"])
def test_where_the_kernel_cannot_be_torch_s_operators_are(without: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CXX"}
    environment["DEPTHRANK_COMPILED"] = str(tmp_path / "compiled")
    if without == "a compiler":
        environment["PATH"] = str(tmp_path)
        if kernels_missing(ISA):
            pytest.skip(kernels_missing(ISA))
    else:
        environment["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    why = "no C++ compiler on PATH" if without == "a compiler" else "limits instruction sets: ONEDNN_MAX_CPU_ISA=AVX2"
    assert kernels_missing(ISA) or why in done.stdout, done.stdout


@needs_kernel
def test_attention_in_int8_is_a_format_of_its_own() -> None:
    assert formats_of(Attention()) == (Format.FP32, Format.BF16, Format.INT8_DYNAMIC)
    q, k, v = inputs(1, 2, 20, 70, 16)
    plain = nn.Sequential(Attention())
    out = {f: in_formats(plain, {"0": LayerChoice(f)})[0](q, k, v) for f in (Format.BF16, Format.INT8_DYNAMIC)}
    exact = exactly(q, k, v, None, False)
    assert 0 < error(out[Format.BF16], exact) < error(out[Format.INT8_DYNAMIC], exact) < 3e-2


@needs_kernel
def test_a_process_without_a_home_runs_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEPTHRANK_COMPILED", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ArtifactError, match="name one in DEPTHRANK_COMPILED"):
        checked_kernel()
