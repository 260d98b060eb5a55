"""Softmax attention of a few positions with one another, for many rows (``small_attention.cpp``): the fields of a
candidate, thirty of width eight. fp32, equal to torch's own operators to the last bits.

One product a row and head is too small for a library of products: thirty fields of width eight take it ten times their
operations' time. The kernel puts sixteen rows side by side in a register.

Legend: N rows, H heads, Q queries, P keys, d width of queries and keys, e width of values.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthrank.errors import ArtifactError
from depthrank.kernels.build import built
from depthrank.kernels.compile_cache import CompileCache
from depthrank.kernels.library import dense, function_of, in_parts, loaded_once, passed, plain
from depthrank.kernels.operators import attention_flops, operator

ISA = ("avx512f",)
TRIED = ((37, 2, 5, 7, 9, 3), (16, 1, 30, 30, 8, 8))  # rows, heads, queries, keys and widths it must be right at
TOLERANCE = 1e-5  # relative
MOST_FLOATS = 1 << 14  # of one head's keys and values: sixteen rows of them stay in a core's cache


class SmallAttentionKernel:
    """The compiled kernel: ``kernel(q, k, v, added, scale, safe)`` of fp32 tensors in memory of the host."""

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError for a library that is none."""
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        self._call = function_of(path, "depthrank_small_attention")
        self._call.argtypes = (*(pointer, pointer) * 5, *(size,) * 7, ctypes.c_float, ctypes.c_int)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, scale: float, safe: bool) -> Tensor:
        """[N, Q, H, e]. ``added`` broadcasts to [N, H, Q, P]. ``safe``: a query whose every score is minus infinity
        reads nothing, and not NaN."""
        rows, heads, queries, width = q.shape
        keys, value_width = v.shape[2:]
        out = q.new_empty(rows, queries, heads, value_width)
        if not out.numel():
            return out
        if not keys:
            return out.zero_()
        q, k, v = (dense(part) for part in (q, k, v))  # held here while the kernel reads them
        added = None if added is None else dense(added.expand(rows, heads, queries, keys))
        given = passed(q, k, v, added, out.transpose(1, 2))
        sizes = (heads, queries, keys, width, value_width, scale, int(safe))
        in_parts(lambda first, last: int(self._call(*given, first, last, *sizes)), rows)
        return out


@loaded_once("attention within rows")
def small_attention_kernel() -> SmallAttentionKernel:
    """The kernel of this process, compiled where it was not yet (two seconds, once a machine); None where this machine
    cannot run it, or compile it."""
    return checked_small_kernel()


def checked_small_kernel(cache: CompileCache | None = None) -> SmallAttentionKernel:
    """From the cache or compiled now, and tried. Raises ArtifactError where it cannot be, or is not attention."""
    kernel = SmallAttentionKernel(built("small_attention", ISA, cache))
    for rows, heads, queries, keys, width, value_width in TRIED:
        g = torch.Generator().manual_seed(keys)
        shapes = ((queries, width), (keys, width), (keys, value_width))
        q, k, v = (torch.randn(rows, heads, *shape, generator=g) for shape in shapes)
        added = torch.randn(rows, 1, queries, keys, generator=g)
        exact = _head_by_head(q, k, v, added, 0.5, False)
        found = float((kernel(q, k, v, added, 0.5, False) - exact).norm() / exact.norm())
        if not found <= TOLERANCE:
            raise ArtifactError(f"the kernel of small attention is off by {found:.1e} here: a fault of the compiler")
    return kernel


def small_attention(
    q_NHQd: Tensor, k_NHPd: Tensor, v_NHPe: Tensor, mask: Tensor | None = None, scale: float = 1.0, safe: bool = False
) -> Tensor:
    """softmax(scale q k^T + mask) v of every row and head, [N, Q, H, e].

    ``mask`` broadcasts to [N, H, Q, P]: numbers that are added, or False where a key is hidden. ``safe``: a query that
    sees no key reads zeros, and not NaN.
    """
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q_NHQd.dtype, device=mask.device).masked_fill_(~mask, -math.inf)
    kernel = small_attention_kernel()
    given = (q_NHQd, k_NHPd, v_NHPe) if mask is None else (q_NHQd, k_NHPd, v_NHPe, mask)
    if kernel is None or not fits(k_NHPd.shape[2], k_NHPd.shape[3] + v_NHPe.shape[3]) or not plain(*given):
        return _head_by_head(q_NHQd, k_NHPd, v_NHPe, mask, scale, safe)
    return kernel(q_NHQd, k_NHPd, v_NHPe, mask, scale, safe)


def fits(keys: int, widths: int) -> bool:
    """Whether so many keys, with values, are small enough."""
    return keys * widths <= MOST_FLOATS


def _head_by_head(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, safe: bool) -> Tensor:
    softmax: Any = torch.ops.aten._safe_softmax.default if safe else torch.softmax
    read, mask = [], None if mask is None else mask.expand(*q.shape[:3], k.shape[2])
    for head in range(q.shape[1]):
        scores = torch.bmm(q[:, head], k[:, head].transpose(1, 2))
        scores = scores if scale == 1.0 else scores * scale
        read.append(torch.bmm(softmax(scores if mask is None else scores + mask[:, head], -1), v[:, head]))
    return torch.stack(read, 2)


def _empty_result(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, safe: bool) -> Tensor:
    rows, heads, queries, _ = q.shape
    return q.new_empty(rows, queries, heads, v.shape[3])


SMALL_ATTENTION = operator(
    "small_attention(Tensor q, Tensor k, Tensor v, Tensor? mask, float scale, bool safe) -> Tensor",
    small_attention,
    _empty_result,
    attention_flops,
)
