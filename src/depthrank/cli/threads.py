"""Threads and matmul precision: set by the commands, never by the library."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores this process may run on (a container or taskset may give fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_torch_threads(threads: int | None = None) -> int:
    """Set torch's threads (default: one a usable core) and let fp32 products run in faster formats."""
    import torch

    number = threads or usable_cores()
    torch.set_num_threads(number)
    torch.set_float32_matmul_precision("medium")
    return number
