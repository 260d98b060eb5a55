"""Kernels of our own, in C++ for this processor, where torch has none that is fast here; what decides which kernels are
fast (``hardware``), and the cache of compiled code."""

from __future__ import annotations

from depthrank.kernels.attention import ATTENTION, attention_kernel, rounded_attention
from depthrank.kernels.compile_cache import CompileCache
from depthrank.kernels.hardware import Hardware, examine_hardware
from depthrank.kernels.small_attention import SMALL_ATTENTION, small_attention_kernel

__all__ = [
    "ATTENTION",
    "SMALL_ATTENTION",
    "CompileCache",
    "Hardware",
    "attention_kernel",
    "examine_hardware",
    "rounded_attention",
    "small_attention_kernel",
]
