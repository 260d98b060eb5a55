"""What do our own attention kernels save, beside torch's operators?

    python benchmarks/bench_attention.py [--json F]

One thread, forms in turn, medians. Candidates over a history: torch's fp32 (``attend``), two products and a softmax in
bf16 (what runs without the kernel), the kernel in bf16 and in int8; the floor is the operations over the bf16 peak
measured here. Fields with one another: batched products and softmax head by head, torch's fused attention, the kernel;
the floor is the operations over the fp32 peak. Errors are relative, against double precision.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from depthrank.kernels.attention import attention_kernel, blocked_attention
from depthrank.kernels.small_attention import _head_by_head, small_attention_kernel
from depthrank.model.blocks import attend
from depthrank.precision import measure_peaks
from machine_facts import machine_facts, show_facts, torch_facts, write_json

HISTORY = (  # heads, queries, keys, head width, causal
    (6, 256, 1025, 64, False),
    (6, 64, 1025, 64, False),
    (6, 24, 1025, 64, False),
    (4, 1000, 200, 32, False),
    (2, 1000, 50, 32, False),
    (6, 1025, 1025, 64, True),
)
FIELDS = (  # rows, heads, positions, width
    (100, 2, 30, 8),
    (1000, 2, 30, 8),
    (1000, 2, 10, 8),
    (1000, 4, 30, 16),
    (1000, 2, 100, 16),
    (200, 8, 64, 64),
)
ROUNDS = 15


def interleaved(forms: Mapping[str, Callable[[], Tensor]], exact: Tensor) -> dict[str, dict[str, float]]:
    """Median milliseconds and relative error of each."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    errors = {name: float((form().double() - exact).norm() / exact.norm()) for name, form in forms.items()}
    for _ in range(ROUNDS):
        for name, form in forms.items():
            started = time.perf_counter()
            form()
            times[name].append((time.perf_counter() - started) * 1e3)
    return {name: {"ms": statistics.median(values), "error": errors[name]} for name, values in times.items()}


def over_history(heads: int, queries: int, keys: int, width: int, causal: bool) -> dict[str, dict[str, float]]:
    kernel = attention_kernel()
    assert kernel is not None
    q, k, v = (torch.randn(1, heads, rows, width) for rows in (queries, keys, keys))
    bias = None if causal else torch.randn(1, heads, 1, keys)
    exact = attend(q.double(), k.double(), v.double(), None if bias is None else bias.double(), causal=causal)
    return interleaved(
        {
            "torch fp32": lambda: attend(q, k, v, bias, causal=causal),
            "torch bf16": lambda: blocked_attention(q, k, v, bias, causal),
            "kernel bf16": lambda: kernel(q, k, v, bias, causal, False),
            "kernel int8": lambda: kernel(q, k, v, bias, causal, True),
        },
        exact,
    )


def among_fields(rows: int, heads: int, positions: int, width: int) -> dict[str, dict[str, float]]:
    kernel = small_attention_kernel()
    assert kernel is not None
    q, k, v = (torch.randn(rows, positions, heads, width).transpose(1, 2) for _ in range(3))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=1.0).transpose(1, 2)
    return interleaved(
        {
            "torch head by head": lambda: _head_by_head(q, k, v, None, 1.0, False),
            "torch fused": lambda: F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2),
            "kernel": lambda: kernel(q, k, v, None, 1.0, False),
        },
        exact,
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    facts = machine_facts("depthrank")
    show_facts(facts)
    peaks, found = measure_peaks(), []
    for names, shapes, measure, peak in (
        (("heads", "queries", "keys", "width", "causal"), HISTORY, over_history, peaks.bf16),
        (("rows", "heads", "positions", "width"), FIELDS, among_fields, peaks.fp32),
    ):
        for shape in shapes:
            sizes: dict[str, Any] = dict(zip(names, shape, strict=True))
            forms = measure(*shape)
            per_head = sizes.get("queries", sizes.get("positions")) * sizes.get("keys", sizes.get("positions"))
            flops = 4 * sizes.get("rows", 1) * sizes["heads"] * per_head * sizes["width"]
            floor_ms = flops * (0.5 if sizes.get("causal") else 1.0) / peak * 1e3
            found.append({**sizes, "forms": forms, "floor_ms": floor_ms})
            told = "  ".join(f"{name} {row['ms']:.2f} ms ({row['error']:.0e})" for name, row in forms.items())
            print(f"  {sizes}: {told}  floor {floor_ms:.2f} ms", flush=True)
    if arguments.json:
        write_json(arguments.json, {"machine": facts | {"torch": torch_facts()}, "attention": found})


if __name__ == "__main__":
    main()
