"""What this machine reaches at best: operations a second in each format, bytes a second from memory.

Measured, not looked up: the best of several square products, with prepacked weights, in the threads torch has now. A
layer's use of the hardware is its operations over the peak of its own format.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from depthrank.precision.int8_linear import Int8StaticLinear
from depthrank.precision.packed_linear import PackedLinear, multiplies_bf16

WIDTHS = (512, 1_024)
COPIED_FLOATS = 16 << 20
LEAST_CALLS = 5


@dataclass(frozen=True)
class Peaks:
    """Operations a second of products by format, and bytes a second read plus written of a copy no cache holds."""

    fp32: float
    bf16: float
    int8: float
    copy_bytes: float

    def of(self, name: str) -> float:
        """Operations a second in a format's arithmetic (``Format.peak``)."""
        return {"fp32": self.fp32, "bf16": self.bf16, "int8": self.int8}[name]

    def to_plain(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@torch.no_grad()
def measure_peaks(seconds: float = 2.0, clock_s: Callable[[], float] = time.perf_counter) -> Peaks:
    """The best rates seen in about ``seconds``."""
    share = seconds / (3 * len(WIDTHS) + 1)
    best = {"fp32": 0.0, "bf16": 0.0, "int8": 0.0}
    for width in WIDTHS:
        weight, x = torch.randn(width, width), torch.randn(width, width)
        integers = Int8StaticLinear(weight, 0.03)
        q = torch.randint(0, 256, (width, width), dtype=torch.uint8)
        calls: dict[str, Callable[[], Tensor]] = {
            "fp32": _product(PackedLinear(weight, torch.float32), x),
            "int8": lambda q=q, layer=integers: layer._multiply(q, 0.03, layer.known_N, torch.float32),  # type: ignore[misc]
        }
        if multiplies_bf16():
            calls["bf16"] = _product(PackedLinear(weight, torch.bfloat16), x.bfloat16())
        for name, call in calls.items():
            with contextlib.suppress(RuntimeError):  # no kernel for the format here: its peak stays 0 (fp32 has one)
                best[name] = max(best[name], 2 * width**3 / best_seconds(call, share, clock_s))
        plain = partial(F.linear, x, weight)  # whose kernel a library may do better than ours
        best["fp32"] = max(best["fp32"], 2 * width**3 / best_seconds(plain, share / 4, clock_s))
    source = torch.empty(COPIED_FLOATS).fill_(1.0)
    target = torch.empty_like(source)
    copied = best_seconds(lambda: target.copy_(source), share, clock_s)
    return Peaks(best["fp32"], best["bf16"], best["int8"], 2 * source.numel() * 4 / copied)


def _product(layer: PackedLinear, x: Tensor) -> Callable[[], Tensor]:
    layer.out_dtype = layer.dtype
    return lambda: layer.product(x)


def best_seconds(call: Callable[[], object], seconds: float, clock_s: Callable[[], float] = time.perf_counter) -> float:
    """The shortest of the calls that fit into ``seconds``, at least five, after one to warm up."""
    call()
    best, calls, until = float("inf"), 0, clock_s() + seconds
    while calls < LEAST_CALLS or clock_s() < until:
        started = clock_s()
        call()
        best = min(best, clock_s() - started)
        calls += 1
    return max(best, 1e-9)
