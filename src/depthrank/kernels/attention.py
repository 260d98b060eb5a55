"""Softmax attention in bf16 or int8 whose scores never leave the cache (``attention.cpp``), and the same in torch's own
operators where that kernel cannot be.

bf16: keys, queries, weights and values are rounded to bf16, sums and softmax are fp32. int8: queries and keys are 8-bit
with one scale a row each, values as in bf16, so that many small weights are not lost.

torch's fused bf16 kernel goes through MKL, which does not use AVX-512 on AMD (measured: slower than fp32), and has no
int8 form; two products and a softmax move every score through memory several times.

Legend: n batch, H heads, Q queries, P keys, d head width.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from depthrank.errors import ArtifactError
from depthrank.kernels.build import built
from depthrank.kernels.compile_cache import CompileCache
from depthrank.kernels.library import dense, function_of, in_parts, loaded_once, passed, plain
from depthrank.kernels.operators import attention_flops, operator

ISA = ("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16")
BLOCK_SCORES = 1 << 19  # 1 MB of bf16: scores of some queries against all keys stay in a core's cache
TRIED = ((3, 7, 5, 24), (2, 30, 70, 64))  # heads, queries, keys, width at which it must be attention
TOLERANCE = {False: 0.02, True: 0.04}  # relative, by int8


class AttentionKernel:
    """The compiled kernel: ``kernel(q, k, v, bias, causal, int8)`` of fp32 tensors in memory of the host."""

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError for a library that is none."""
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        self._call = function_of(path, "depthrank_attention")
        self._call.argtypes = (*(pointer, pointer) * 5, *(size,) * 6, ctypes.c_float, ctypes.c_int, ctypes.c_int)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, int8: bool) -> Tensor:
        """[n, H, Q, d], laid out [n, Q, H, d], so that heads are merged without a copy."""
        n, heads, queries, width = q.shape
        keys, out = k.shape[2], _empty_like(q)
        if not out.numel():
            return out
        if not keys:
            return out.zero_()
        q, k, v = (dense(part) for part in (q, k, v))
        bias = None if bias is None else dense(bias.float().expand(n, heads, 1, keys))
        tensors, sizes = passed(q, k, v, bias, out), (queries, keys, width, width**-0.5, int(causal), int(int8))
        in_parts(lambda first, last: int(self._call(*tensors, heads, first, last, *sizes)), n * heads)
        return out


def _empty_like(q: Tensor) -> Tensor:
    n, heads, queries, width = q.shape
    return q.new_empty(n, queries, heads, width).transpose(1, 2)


@loaded_once("attention in bf16")
def attention_kernel() -> AttentionKernel:
    """The kernel of this process, compiled where it was not yet (two seconds, once a machine); None where this machine
    cannot run it, or compile it."""
    return checked_kernel()


def checked_kernel(cache: CompileCache | None = None) -> AttentionKernel:
    """From the cache or compiled now, and tried. Raises ArtifactError where it cannot be, or is not attention."""
    kernel = AttentionKernel(built("attention", ISA, cache))
    for shape in TRIED:
        _check(kernel, *shape)
    return kernel


@torch.inference_mode()
def _check(kernel: AttentionKernel, heads: int, queries: int, keys: int, width: int) -> None:
    g = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(1, heads, rows, width, generator=g) for rows in (queries, keys, keys))
    bias = torch.randn(1, heads, 1, keys, generator=g)
    exact = ((q * width**-0.5) @ k.transpose(2, 3) + bias).softmax(dim=-1) @ v
    for int8, allowed in TOLERANCE.items():
        found = float((kernel(q, k, v, bias, False, int8) - exact).norm() / exact.norm())
        if not found <= allowed:
            raise ArtifactError(f"the attention kernel is off by {found:.1e} here: a fault of the compiler")


def rounded_attention(
    q_nHQd: Tensor, k_nHPd: Tensor, v_nHPd: Tensor, bias: Tensor | None, causal: bool, int8: bool
) -> Tensor:
    """Attention [n, H, Q, d] in bf16, or int8; without the kernel int8 runs in bf16.

    ``bias`` broadcasts over queries [n, H, 1, P]. ``causal``: queries are the last positions of the keys.
    """
    kernel = attention_kernel()
    if kernel is None or not plain(q_nHQd, k_nHPd, v_nHPd):
        return blocked_attention(q_nHQd, k_nHPd, v_nHPd, bias, causal)
    return kernel(q_nHQd, k_nHPd, v_nHPd, bias, causal, int8)


def _empty_result(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, int8: bool) -> Tensor:
    return _empty_like(q)


ATTENTION = operator(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? bias, bool causal, bool int8) -> Tensor",
    rounded_attention,
    _empty_result,
    attention_flops,
)


def blocked_attention(q_nHQd: Tensor, k_nHPd: Tensor, v_nHPd: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    """In bf16 by torch's operators, queries in blocks whose scores stay in cache; answers have the queries' dtype."""
    n, heads, num_queries, width = q_nHQd.shape
    num_keys, bf16 = k_nHPd.shape[2], torch.bfloat16
    q_bQd = (q_nHQd * width**-0.5).to(bf16).reshape(n * heads, num_queries, width)
    # contiguous at once: products copy keys of a transposed layout, which a mere cast would keep
    k_bPd, v_bPd = (
        x.to(bf16, memory_format=torch.contiguous_format).reshape(n * heads, num_keys, width) for x in (k_nHPd, v_nHPd)
    )
    bias_b1P = None
    if bias is not None:
        bias_b1P = bias.to(bf16).expand(n, heads, 1, num_keys).reshape(n * heads, 1, num_keys)
    rows = max(1, BLOCK_SCORES // max(1, n * heads * num_keys))
    out_bQd = torch.empty_like(q_bQd)
    for first in range(0, num_queries, rows):
        block = slice(first, min(first + rows, num_queries))
        seen = num_keys - num_queries + block.stop if causal else num_keys
        turned_bdP = k_bPd[:, :seen].transpose(1, 2)
        if bias_b1P is None:
            score_bQP = torch.bmm(q_bQd[:, block], turned_bdP)
        else:
            score_bQP = torch.baddbmm(bias_b1P[..., :seen], q_bQd[:, block], turned_bdP)
        if causal:
            score_bQP += _ahead(block.stop - first, seen, score_bQP)
        out_bQd[:, block] = torch.bmm(score_bQP.softmax(dim=-1), v_bPd[:, :seen])
    return out_bQd.view(n, heads, num_queries, width).to(q_nHQd.dtype)


def _ahead(num_queries: int, num_keys: int, like: Tensor) -> Tensor:
    """[Q, P]: a huge negative number where a key lies behind its query, which is one of the last positions."""
    huge = torch.finfo(like.dtype).min / 2
    return like.new_full((num_queries, num_keys), huge).triu(1 + num_keys - num_queries)
