"""``out[mask] = f(x[mask])`` while a module is traced: f of every entry, and the mask chooses what is written.

How many entries a mask of the inputs picks depends on values, so torch.export cannot follow. Where the picked entries
are written back by the same mask, what f makes of the others is dropped, so it may as well see them all: ``x[mask]`` is
x with the dimensions of the mask folded into one. An f that lets the picked entries see one another then mixes rows of
the batch and is refused as such; entries that are not written back by the mask that picked them are refused here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from depthrank.sharing.refusal import Refused


class MaskedRows:
    """The masks by which entries were picked in one trace."""

    def __init__(self) -> None:
        self._picked: dict[int, Tensor] = {}
        self._unwritten: dict[int, str] = {}  # by mask, the line that picked

    def check(self) -> None:
        """Raises ``Refused`` for entries that were picked and not written back."""
        if self._unwritten:
            line = next(iter(self._unwritten.values()))
            raise Refused(
                "x[mask] with a mask of the inputs: how many entries it picks depends on the values of the batch, and "
                "they are not written back by the same mask",
                "x[mask]",
                line,
            )

    def forget(self, written: Tensor) -> None:
        """A mask that is written to is another mask."""
        self._picked.pop(id(written), None)

    def read(self, x: Tensor, mask: Any, line: Callable[[], str]) -> tuple[bool, Any]:
        """(answered, x[mask]) for a boolean mask over the leading dimensions, the batch first."""
        if not _is_mask(mask) or not isinstance(x, Tensor) or not _leads(mask, x):
            return False, None
        self._picked[id(mask)] = mask
        self._unwritten[id(mask)] = line()
        return True, x.flatten(0, mask.dim() - 1) if mask.dim() > 1 else x.clone()

    def write(self, x: Tensor, mask: Any, value: Any) -> bool:
        """Was x[mask] = value written: for values that were made of entries picked by the same mask?"""
        if not _is_mask(mask) or id(mask) not in self._picked or not isinstance(value, Tensor) or not _leads(mask, x):
            return False
        if value.dim() != x.dim() - mask.dim() + 1 or value.dtype != x.dtype:
            return False
        own = value.reshape(x.shape)
        chosen = mask.reshape(*mask.shape, *([1] * (x.dim() - mask.dim())))
        x.copy_(torch.where(chosen, own, x))
        self._unwritten.pop(id(mask), None)
        return True


def _is_mask(mask: Any) -> bool:
    return isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.dim() > 0


def _leads(mask: Tensor, x: Tensor) -> bool:
    """Does the mask lie over the first dimensions of x, a dynamic batch among them?"""
    rows: Any = mask.shape[0]
    if x.dim() < mask.dim() or not isinstance(rows, torch.SymInt):
        return False
    return all(a == b for a, b in zip(x.shape, mask.shape))
