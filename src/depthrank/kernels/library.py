"""A compiled kernel as a library: how tensors are handed to it, and its work to several threads.

Legend: N whatever the work is split by: rows, or heads.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from depthrank.errors import ArtifactError

Strides = ctypes.c_int64 * 3
Kernel = TypeVar("Kernel")
Passed = int | ctypes.Array[ctypes.c_int64] | None


logger = logging.getLogger("depthrank.kernels")


def loaded_once(what: str) -> Callable[[Callable[[], Kernel]], Callable[[], Kernel | None]]:
    """Of a function that loads a kernel: the kernel of this process, loaded at first use; None where that raises
    ArtifactError, which is told once."""

    def around(load: Callable[[], Kernel]) -> Callable[[], Kernel | None]:
        loading = threading.Lock()

        @cache
        def loaded() -> Kernel | None:
            try:
                return load()
            except ArtifactError as error:
                logger.info("%s runs in torch's own operators, with the same answers: %s", what, error)
                return None

        @wraps(load)
        def kernel() -> Kernel | None:
            with loading:
                return loaded()

        return kernel

    return around


def function_of(path: Path, name: str) -> Any:
    """A C function of a library, which returns 0 where all is well. Raises ArtifactError for a file that has none."""
    try:
        function = getattr(ctypes.CDLL(str(path)), name)
    except (OSError, AttributeError) as error:
        raise ArtifactError(f"{path} is no kernel: {error}") from error
    function.restype = ctypes.c_int
    return function


def dense(x: Tensor) -> Tensor:
    """Rows that lie in one piece."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def passed(*tensors: Tensor | None) -> list[Passed]:
    """Each as its address and its first three strides; the caller holds the tensors until the kernel is done."""
    given: list[Passed] = []
    for x in tensors:
        given += [None, None] if x is None else [x.data_ptr(), Strides(*x.stride()[:3])]
    return given


def plain(*tensors: Tensor) -> bool:
    """Whether all are fp32 in memory of the host, which is what kernels take."""
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)


def in_parts(work: Callable[[int, int], int], count: int) -> None:
    """``work(first, last)`` over N, in as many threads as torch has. Raises MemoryError where a part has no memory."""
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        codes = [work(0, count)]
    else:
        bounds = [count * part // threads for part in range(threads + 1)]
        pool = _pool(os.getpid(), threads)
        others = [pool.submit(work, *bounds[part : part + 2]) for part in range(1, threads)]
        codes = [work(*bounds[:2]), *(other.result() for other in others)]
    if any(codes):
        raise MemoryError("no memory for the buffers of a kernel")


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Of this process: a fork has none of the threads."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="kernel")
