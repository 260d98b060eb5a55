"""Threads and matmul precision: set by the commands, never by the library."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


# Products that oneDNN keeps compiled, one a layer's shape and number of rows, 0.3 MB each; one that was forgotten is
# compiled again at each use (1,600 shapes in turn: 0.75 ms each, 0.19 where they are kept). 90 layers times the sizes
# that the engine asks for (engine/call_size.py) are more than oneDNN's own 1,024; a demo asks for some hundreds.
KERNELS_KEPT = 4_096
# ideep, between torch and oneDNN, keeps 1,024 of its own, which hold the same memory once more and save no time.
KERNELS_KEPT_TWICE = 8


def usable_cores() -> int:
    """Cores this process may run on (a container or taskset may give fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_torch_threads(threads: int | None = None) -> int:
    """Set torch's threads (default: one a usable core), let fp32 products run in faster formats, keep freed memory and
    a bounded number of compiled products.

    Call it before anything imports torch: OpenMP and oneDNN read the environment when they are loaded. OpenMP's default
    way to wait, to spin, costs a product of 0.2 ms up to 15 ms as soon as another process wants the core.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS_KEPT))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(KERNELS_KEPT_TWICE))
    import torch

    from depthrank.precision.product_mode import choose_products

    keep_freed_memory()

    number = threads or usable_cores()
    torch.set_num_threads(number)
    choose_products()
    return number


def keep_freed_memory() -> bool:
    """Let glibc reuse freed tensors instead of returning them to the system; False where there is no glibc.

    By default every tensor above 128 KiB is mapped and unmapped again, and its pages are zeroed by the kernel at each
    use: 1,010 us for one multiplication of 646,000 floats here, 180 us with these settings (docs/log.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    mebibyte = 1 << 20
    settings = (
        (_M_ARENA_MAX, 1),  # threads share what is kept
        (_M_MMAP_THRESHOLD, 32 * mebibyte),
        (_M_TRIM_THRESHOLD, 1024 * mebibyte),
        (_M_TOP_PAD, 64 * mebibyte),
    )
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
