"""``out[mask] = f(x[mask])`` while a module is traced: f of every entry, and the mask chooses what is written.

How many entries a mask of the inputs picks depends on values, so torch.export cannot follow. Where the picked entries
are written back by the same mask, what f makes of the others is dropped, so it may as well see them all: ``x[mask]`` is
x with the dimensions of the mask folded into one. An f that lets the picked entries see one another then mixes rows of
the batch and is refused as such; entries that are not written back by the mask that picked them are refused here.
``places = where(mask)``, ``x[places]`` and ``out.index_add_(0, places, f(x[places]))`` are the same in other words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from depthrank.sharing.refusal import Refused

_ADDS = (torch.index_add, Tensor.index_add, Tensor.index_add_)
_COPIES = (torch.index_copy, Tensor.index_copy, Tensor.index_copy_)
_SELECTS = (torch.index_select, Tensor.index_select)
_COMPARISONS = ("gt", "ge", "lt", "le", "ne", "eq")
_KEEP_PLACES = ("squeeze", "flatten", "view", "reshape", "long", "to", "contiguous", "detach", "clone")


@dataclass(frozen=True)
class Places:
    """Positions along one dimension of a mask, of all its entries."""

    mask: Tensor
    dim: int


class MaskedRows:
    """The masks by which entries were picked in one trace; ``is_batch`` tells sizes that count the rows."""

    def __init__(self, is_batch: Callable[[Any], bool]) -> None:
        self._is_batch = is_batch
        self._alias: dict[int, Tensor] = {}  # a mask -> the mask made before it in the same words
        self._words: dict[Any, tuple[Tensor, Tensor]] = {}  # (comparison, of what, with) -> its first mask, of what
        self._picked: dict[int, Tensor] = {}
        self._places: dict[int, tuple[Tensor, Places]] = {}  # id of a tensor of positions -> it, what it names
        self._unwritten: dict[int, str] = {}  # by mask, the line that picked
        self._assumed: dict[int, tuple[Tensor, str]] = {}  # masks that a branch was taken for

    def check(self) -> None:
        """Raises ``Refused`` for entries that were picked and not written back."""
        lines = [*self._unwritten.values(), *(line for mask, line in self._assumed.values() if not self._used(mask))]
        if lines:
            raise Refused(
                "x[mask] with a mask of the inputs: how many entries it picks depends on the values of the batch, and "
                "they are not written back by the same mask",
                "x[mask]",
                lines[0],
            )

    @property
    def used(self) -> bool:
        return bool(self._picked)

    def _used(self, mask: Tensor) -> bool:
        return id(mask) in self._picked

    def made(self, func: Any, args: tuple[Any, ...], mask: Any) -> None:
        """``lengths > 0`` written twice is one mask, unless something was written to in between."""
        name = getattr(func, "__name__", "").strip("_")
        if name not in _COMPARISONS or len(args) != 2 or not isinstance(args[0], Tensor) or not self._is_mask(mask):
            return
        if isinstance(args[1], (int, float)):
            self._alias[id(mask)] = self._words.setdefault((name, id(args[0]), args[1]), (mask, args[0]))[0]

    def _first(self, mask: Tensor) -> Tensor:
        return self._alias.get(id(mask), mask)

    def forget(self, written: Tensor) -> None:
        """A mask that is written to is another mask."""
        self._words = {words: known for words, known in self._words.items() if not _share_memory(known[1], written)}
        self._alias.pop(id(written), None)
        self._picked.pop(id(written), None)
        self._places.pop(id(written), None)

    def assume_some(self, mask: Any, line: str) -> bool:
        """Go on as if the mask picked something: what is picked must then be written back by it."""
        if not self._is_mask(mask):
            return False
        mask = self._first(mask)
        self._assumed[id(mask)] = (mask, line)
        return True

    def answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], line: Callable[[], str]) -> Any:
        """(answered, result) of a call that reads or writes entries by the places of a mask."""
        if func in _SELECTS and len(args) == 3 and args[1] == 0 and self._named(args[2]):
            return True, self._read_at(args[0], (args[2],), line)
        if func in (*_ADDS, *_COPIES) and len(args) == 4 and not kwargs and args[1] == 0 and self._named(args[2]):
            x, _, index, value = args
            new = self._added(x, index, value) if func in _ADDS else self._chosen(x, self._mask_of(index), value)
            if new is None:
                return False, None
            return True, x.copy_(new) if func.__name__.endswith("_") else new
        return False, None

    # ------------------------------------------------------------------------------------------------------- reading

    def read(self, x: Any, index: Any, line: Callable[[], str]) -> tuple[bool, Any]:
        """(answered, x[index]) for a boolean mask over the leading dimensions, or for the places of one."""
        if not isinstance(x, Tensor):
            return False, None
        entries = index if isinstance(index, tuple) else (index,)
        if any(self._named(e) for e in entries):
            out = self._read_at(x, entries, line)
            return out is not None, out
        if not self._is_mask(index) or not self._leads(index, x):
            return False, None
        self._pick(index, line)
        return True, x.flatten(0, index.dim() - 1) if index.dim() > 1 else x.clone()

    def select(self, x: Any, mask: Tensor, row_mask: Any, line: Callable[[], str]) -> Any:
        """masked_select(x, mask) for a mask of rows with axes of one behind them; None for another."""
        if not isinstance(x, Tensor) or not self._is_mask(row_mask) or row_mask.dim() != 1 or mask.dim() != x.dim():
            return None
        if not self._leads(row_mask, x) or any(n != 1 for n in mask.shape[1:]):
            return None
        self._pick(row_mask, line)
        return x.reshape(-1)

    def _pick(self, mask: Tensor, line: Callable[[], str]) -> None:
        mask = self._first(mask)
        self._picked[id(mask)] = mask
        self._unwritten.setdefault(id(mask), line())

    def places(self, mask: Tensor, as_tuple: bool) -> Any:
        """where(mask) as if every entry were picked; None unless it is a mask of the batch."""
        flags = mask if mask.dtype == torch.bool else mask != 0
        if not any(self._is_batch(s) for s in mask.shape):
            return None
        out = []
        for dim in range(mask.dim()):
            steps = torch.arange(mask.shape[dim]).view(*(-1 if d == dim else 1 for d in range(mask.dim())))
            index = steps.expand(mask.shape).flatten() if mask.dim() > 1 else steps
            self._places[id(index)] = (index, Places(flags, dim))
            out.append(index)
        if as_tuple:
            return tuple(out)
        if len(out) > 1:
            return None
        column = out[0].unsqueeze(1)
        self._places[id(column)] = (column, Places(flags, 0))
        return column

    def follow(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
        """The same places in another shape."""
        name = getattr(func, "__name__", "")
        if not args or not isinstance(out, Tensor) or not self._named(args[0]):
            return
        column = name == "__getitem__" and isinstance(args[1], tuple) and args[1][1:] == (0,)
        if (name in _KEEP_PLACES or column) and not out.is_floating_point():
            self._places[id(out)] = (out, self._places[id(args[0])][1])

    def _named(self, index: Any) -> bool:
        return isinstance(index, Tensor) and id(index) in self._places

    def _mask_of(self, index: Tensor) -> Tensor:
        return self._places[id(index)][1].mask

    def _read_at(self, x: Tensor, entries: tuple[Any, ...], line: Callable[[], str]) -> Any:
        """x[places, ..., None]: the named dimensions of x in the order of the mask, folded into one."""
        named = [e for e in entries if self._named(e)]
        mask, rest = self._mask_of(named[0]), entries[len(named) :]
        if list(entries[: len(named)]) != named or any(self._mask_of(e) is not mask for e in named):
            return None
        if any(isinstance(e, Tensor) for e in rest):
            return None
        dims = [self._places[id(e)][1].dim for e in named]
        if any(x.shape[k] != mask.shape[d] for k, d in enumerate(dims)):
            return None
        self._pick(mask, line)
        wide = x.permute(*sorted(range(len(dims)), key=lambda k: dims[k]), *range(len(dims), x.dim()))
        for d in range(mask.dim()):
            if d not in dims:
                wide = wide.unsqueeze(d)
        wide = wide.expand(*mask.shape, *wide.shape[mask.dim() :])
        flat = wide.flatten(0, mask.dim() - 1) if mask.dim() > 1 else wide.clone()
        return flat[(slice(None), *rest)] if rest else flat

    # ------------------------------------------------------------------------------------------------------- writing

    def write(self, x: Tensor, index: Any, value: Any) -> bool:
        """Was x[index] = value written: for values that were made of entries picked by the same mask?"""
        mask = self._mask_of(index) if self._named(index) else index
        if not self._is_mask(mask):
            return False
        new = self._chosen(x, mask, value)
        if new is None:
            return False
        x.copy_(new)
        return True

    def _chosen(self, x: Tensor, mask: Tensor, value: Any) -> Tensor | None:
        """x with the values where the mask picks."""
        mask = self._first(mask)
        if id(mask) not in self._picked or not isinstance(value, Tensor) or not self._leads(mask, x):
            return None
        if value.dim() != x.dim() - mask.dim() + 1 or value.dtype != x.dtype:
            return None
        self._unwritten.pop(id(mask), None)
        return torch.where(_over(mask, x.dim()), value.reshape(x.shape), x)

    def _added(self, x: Tensor, index: Tensor, value: Any) -> Tensor | None:
        """x with the values added to the rows where the mask picks."""
        mask, dim = self._first(self._mask_of(index)), self._places[id(index)][1].dim
        if id(mask) not in self._picked or not isinstance(value, Tensor) or value.dim() != x.dim():
            return None
        if value.dtype != x.dtype or x.shape[0] != mask.shape[dim]:
            return None
        own = value.reshape(*mask.shape, *value.shape[1:])
        own = torch.where(_over(mask, own.dim()), own, 0.0)
        for d in reversed([d for d in range(mask.dim()) if d != dim]):
            own = own.sum(d)
        self._unwritten.pop(id(mask), None)
        return x + own

    def _is_mask(self, mask: Any) -> bool:
        return isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.dim() > 0

    def _leads(self, mask: Tensor, x: Tensor) -> bool:
        """Does the mask lie over the first dimensions of x, the batch first?"""
        if x.dim() < mask.dim() or not self._is_batch(mask.shape[0]):
            return False
        return all(a == b for a, b in zip(x.shape, mask.shape))


def _share_memory(a: Tensor, b: Tensor) -> bool:
    if a.layout != torch.strided or b.layout != torch.strided:
        return True
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def _over(mask: Tensor, rank: int) -> Tensor:
    return mask.reshape(*mask.shape, *([1] * (rank - mask.dim())))
