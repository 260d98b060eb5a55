"""Which library computes a call's fp32 products: oneDNN where there are many rows, the BLAS where there are few.

With ``torch.set_float32_matmul_precision("medium")`` products go through oneDNN, which is the faster one for a thousand
candidates, but pays 10 to 20 us a product to prepare it, and 60 to 100 where the caches are cold, as in a request; a
level over the 32 candidates that are left is some thirty products of 5 to 30 us each (docs/decisions/0043). The setting
is one of the process, so one thread alone changes it, that which ranks: what it computes is the same at every time.
Other threads find either setting; what they compute moves by rounding alone.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from types import TracebackType

import torch

MOST_WORK = 1 << 21  # rows x width x width up to which the BLAS is the faster one
_MANY = "medium"
_owner: int | None = None


def choose_products() -> None:
    """From now on fp32 products of this process may run in faster formats, and this thread chooses the library."""
    global _owner
    _owner = threading.get_ident()
    torch.set_float32_matmul_precision(_MANY)


def rank_in_this_thread() -> None:
    """This thread chooses instead of the one that did; nothing where ``choose_products`` was not called."""
    global _owner
    if _owner is not None:
        _owner = threading.get_ident()


class products_of(AbstractContextManager[None]):
    """Within: calls over so many rows of a model of this width. Nothing in threads that do not choose."""

    __slots__ = ("_few",)

    def __init__(self, rows: int, width: int) -> None:
        self._few = rows * width * width <= MOST_WORK and threading.get_ident() == _owner

    def __enter__(self) -> None:
        if self._few:
            torch.set_float32_matmul_precision("highest")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._few:
            torch.set_float32_matmul_precision(_MANY)
