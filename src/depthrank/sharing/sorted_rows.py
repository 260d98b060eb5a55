"""Rows sorted by length and put back in order while a module is traced: of independent rows the order is nothing.

``order = lengths.argsort(); f(x[order])[order.argsort()]`` is f(x) for an f of rows. A sort along the batch is answered
by the rows as they are. A model that does not put them back would then score other rows: the comparison with the
original shows that, on inputs whose order the sort changes (``assumed`` says what they must show).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SORTS = (torch.sort, Tensor.sort)
_ARGSORTS = (torch.argsort, Tensor.argsort)
_TOPKS = (torch.topk, Tensor.topk)


def sorted_rows(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], is_batch: Callable[[Any], bool]) -> Any:
    """The result of a sort along the batch that leaves rows where they are; None for any other call."""
    if func not in (*_SORTS, *_ARGSORTS, *_TOPKS) or not args or not isinstance(args[0], Tensor):
        return None
    x = args[0]
    if x.dim() != 1 or not is_batch(x.shape[0]):
        return None
    if func in _TOPKS and (args[1] if len(args) > 1 else kwargs.get("k")) != x.shape[0]:
        return None
    rows = torch.arange(x.shape[0])
    return rows if func in _ARGSORTS else (x, rows)


def changes_order(func: Any, out: Any) -> bool | None:
    """Did this sort move anything? None for a call that is no sort."""
    if func not in (*_SORTS, *_ARGSORTS, *_TOPKS):
        return None
    places = out if func in _ARGSORTS else out[1]
    return bool((places != torch.arange(places.shape[-1])).any())
