"""The kernel of small attention is attention, row by row, for every shape."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from depthrank.kernels import SMALL_ATTENTION, small_attention_kernel
from depthrank.kernels.build import compiler_missing, kernels_missing
from depthrank.kernels.small_attention import ISA, MOST_FLOATS, small_attention

MISSING = kernels_missing(ISA) or compiler_missing()
needs_kernel = pytest.mark.skipif(bool(MISSING), reason=MISSING or "there is one")


def inputs(rows: int, heads: int, queries: int, keys: int, width: int, value_width: int, seed: int = 0) -> list[Tensor]:
    """As linear layers leave them: heads side by side in each row."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((queries, width), (keys, width), (keys, value_width))
    return [torch.randn(rows, n, heads, w, generator=g).transpose(1, 2) for n, w in shapes]


def exactly(q: Tensor, k: Tensor, v: Tensor, added: Tensor | None = None, scale: float = 1.0) -> Tensor:
    q, k, v = q.double(), k.double(), v.double()
    scores = scale * (q @ k.transpose(2, 3)) + (0.0 if added is None else added.double())
    return (scores.softmax(dim=-1) @ v).transpose(1, 2)


@needs_kernel
@given(
    shape=st.tuples(
        *(st.integers(1, 50), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
        *(st.integers(1, 40), st.integers(1, 40)),
    ),
    size=st.sampled_from([0.1, 1.0, 30.0]),
    safe=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_kernel_is_attention(shape: tuple[int, ...], size: float, safe: bool, seed: int) -> None:
    q, k, v = inputs(*shape, seed=seed)  # type: ignore[misc]
    kernel = small_attention_kernel()
    assert kernel is not None
    out = kernel(q * size, k, v, None, 1.0, safe)
    exact, scale = exactly(q * size, k, v), exactly(q * size, k, v.abs())
    assert out.shape == exact.shape and out.is_contiguous()
    assert float((out - exact).norm()) <= 2e-5 * max(1.0, size) * float(scale.norm())


@needs_kernel
@pytest.mark.parametrize("shape", [(1, 1, 1, 9), (45, 1, 1, 9), (1, 2, 7, 9), (45, 2, 7, 1), (7, 9), (45, 2, 7, 9)])
@pytest.mark.parametrize("kind", ["added", "hidden"])
def test_a_mask_of_any_shape(shape: tuple[int, ...], kind: str) -> None:
    q, k, v = inputs(45, 2, 7, 9, 8, 5)
    g = torch.Generator().manual_seed(1)
    added = torch.randn(shape, generator=g)
    hides = shape[-1] == 1 or len(shape) == 2  # rows that see no key at all
    mask = added > (-0.5 if hides else -1.5)
    if kind == "hidden":
        added = torch.zeros(shape).masked_fill(~mask, float("-inf"))
    given = added if kind == "added" else mask
    out, theirs = (
        small_attention(q, k, v, given, 0.3, True),
        torch.nn.functional.scaled_dot_product_attention(
            *(x.double() for x in (q, k, v)), attn_mask=given.double() if kind == "added" else given, scale=0.3
        ),
    )
    torch.testing.assert_close(out.double(), theirs.transpose(1, 2).nan_to_num(), atol=1e-5, rtol=1e-4)


@needs_kernel
def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    q, k, v = inputs(45, 2, 7, 9, 8, 5)
    whole = small_attention(q, k, v, None, 1.0, False)
    for first, last in ((0, 1), (3, 20), (31, 45), (44, 45)):
        rows = slice(first, last)
        assert torch.equal(small_attention(q[rows], k[rows], v[rows], None, 1.0, False), whole[rows])


@needs_kernel
def test_several_threads_compute_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(45, 2, 7, 9, 8, 5)
    alone = small_attention(q, k, v, None, 1.0, False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(small_attention(q, k, v, None, 1.0, False), alone)


@needs_kernel
def test_numbers_at_the_edge_come_out_as_in_torch() -> None:
    q, k, v = inputs(20, 1, 3, 5, 4, 4)
    for fill in (float("nan"), float("inf"), -float("inf"), 1e30):
        own = q.clone()
        own[3, 0, 1, 2] = fill
        theirs = torch.softmax(own @ k.transpose(2, 3), -1) @ v
        torch.testing.assert_close(small_attention(own, k, v, None, 1.0, False).transpose(1, 2), theirs, equal_nan=True)
    hidden = k.clone()
    hidden[5] = 0.0
    hidden[5, :, :, 0] = -float("inf")
    own = q.abs()
    theirs = torch.ops.aten._safe_softmax.default(own @ hidden.transpose(2, 3), -1) @ v
    ours = small_attention(own, hidden, v, None, 1.0, True).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert torch.equal(ours[5], torch.zeros_like(ours[5]))
    assert small_attention(own, hidden, v, None, 1.0, False)[5].isnan().all()


@needs_kernel
def test_no_rows_no_keys_other_types_and_large_ones() -> None:
    q, k, v = inputs(20, 2, 3, 5, 4, 4)
    assert small_attention(q[:0], k[:0], v[:0], None, 1.0, False).shape == (0, 3, 2, 4)
    assert torch.equal(small_attention(q, k[:, :, :0], v[:, :, :0], None, 1.0, True), torch.zeros(20, 3, 2, 4))
    doubled = small_attention(q.double(), k.double(), v.double(), None, 1.0, False)
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled, exactly(q, k, v))
    apart = q.transpose(2, 3).contiguous().transpose(2, 3)  # rows that do not lie in one piece
    assert torch.equal(small_attention(apart, k, v, None, 1.0, False), small_attention(q, k, v, None, 1.0, False))
    large = inputs(2, 1, 3, MOST_FLOATS // 64 + 1, 32, 32)
    torch.testing.assert_close(small_attention(*large).double(), exactly(*large), atol=1e-5, rtol=1e-4)


@needs_kernel
def test_the_operator_says_its_shape_and_its_work() -> None:
    q, k, v = inputs(20, 2, 3, 5, 4, 6)
    with FlopCounterMode(display=False) as counter:
        out = SMALL_ATTENTION(q, k, v, None, 1.0, False)
    assert counter.get_total_flops() == 2 * 20 * 2 * 3 * 5 * (4 + 6)
    meta = SMALL_ATTENTION(*(x.to("meta") for x in (q, k, v)), None, 1.0, False)
    assert meta.shape == out.shape and meta.stride() == out.stride()


WITHOUT = """
import torch
from depthrank.kernels.small_attention import small_attention, small_attention_kernel

assert small_attention_kernel() is None
q, k, v = (torch.randn(5, 2, n, 4) for n in (3, 6, 6))
exact = (torch.softmax(q @ k.transpose(2, 3), -1) @ v).transpose(1, 2)
torch.testing.assert_close(small_attention(q, k, v, None, 1.0, False), exact)
"""


def test_kernels_may_be_left_out() -> None:
    environment = os.environ | {"DEPTHRANK_KERNELS": "0"}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
