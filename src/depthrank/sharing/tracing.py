"""Python that torch.export cannot follow although its meaning is fixed, answered while the module is traced.

``x[:, mask]`` and ``masked_select`` with a mask that is a constant of the model pick known positions; ``flag.item()``
of a buffer is a number; an ``assert`` on values does not change the result; packed sequences are padded ones
(``packed``); entries that a mask of the inputs picks and writes back are all entries, and a choice (``masked_rows``).
Constants are the module's buffers, parameters without gradient and plain tensors, and whatever forward computes from
those alone.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from depthrank.sharing.masked_rows import MaskedRows
from depthrank.sharing.packed import NOT_MINE, PackedSequences
from depthrank.sharing.sorted_rows import sorted_rows

_MOST_ELEMENTS = 1 << 20
_UNKNOWABLE = ("rand", "bernoulli", "normal", "dropout", "multinomial", "uniform", "poisson", "empty", "exponential")
_NUMBERS: dict[Any, Callable[[Tensor], Any]] = {
    Tensor.item: lambda t: t.item(),
    Tensor.tolist: lambda t: t.tolist(),
    Tensor.__bool__: bool,
    Tensor.__int__: int,
    Tensor.__float__: float,
    Tensor.__index__: int,
    Tensor.is_nonzero: bool,
    torch.is_nonzero: bool,
}
_UNCHECKED: dict[Any, Callable[..., Any]] = {  # checks of values that a captured graph cannot hold
    torch.linalg.inv: lambda *args: torch.linalg.inv_ex(*args)[0],
    torch.linalg.cholesky: lambda *args, **kwargs: torch.linalg.cholesky_ex(*args, **kwargs)[0],
    torch.linalg.solve: lambda *args, **kwargs: torch.linalg.solve_ex(*args, **kwargs)[0],
}
_UNCHECKED |= {f: _UNCHECKED[torch.linalg.inv] for f in (torch.inverse, Tensor.inverse)}
_UNCHECKED |= {f: _UNCHECKED[torch.linalg.cholesky] for f in (torch.cholesky, Tensor.cholesky)}
_MASKED_SELECT = (torch.masked_select, Tensor.masked_select)
_OF_CONSTANTS = (torch.combinations, torch.unique, Tensor.unique, torch.bincount, Tensor.bincount, torch.cov)
_NONZERO = (torch.nonzero, Tensor.nonzero, torch.argwhere, Tensor.argwhere, torch.where)


class FixedMeaning(TorchFunctionMode):
    """Active around ``torch.export.export``; ``assertions`` lists the lines whose assert on values was not traced.

    ``rows`` is the number of rows where it is fixed; ``assumed`` has the lines where a case was taken for granted.
    """

    def __init__(self, module: nn.Module, rows: int | None = None) -> None:
        super().__init__()
        self.module = module
        self.rows = rows
        self.assertions: list[str] = []
        self.assumed: dict[str, bool] = {}
        self.packed = PackedSequences(module)
        self.masked = MaskedRows(self._is_batch)
        self._real = dict(_constants(module))
        self._made: dict[int, tuple[Any, Any]] = {}  # id of a traced tensor -> (it, how it was made or None)

    def _is_batch(self, size: Any) -> bool:
        return isinstance(size, torch.SymInt) or (self.rows is not None and size == self.rows)

    def __enter__(self) -> FixedMeaning:
        self.packed.start()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.packed.stop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = self.packed.answer(func, args, kwargs)
        if out is not NOT_MINE:
            return out
        func = _UNCHECKED.get(func, func)
        answered, out = self._answer(func, args, kwargs)
        if answered:
            return out
        out = func(*args, **kwargs)
        self._remember(func, args, kwargs, out)
        self.masked.follow(func, args, out)
        self.masked.made(func, args, out)
        return out

    # ------------------------------------------------------------------------------------------------------- answers

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
        if func in _MASKED_SELECT and len(args) == 2:
            real = self._known(args[1])
            if real is not None:
                return _select(args[0], real)
            picked = self.masked.select(args[0], args[1], self._row_mask(args[1]), running_line)
            return picked is not None, picked
        if func is Tensor.__getitem__:
            index = self._fixed_index(args[1])
            return self.masked.read(args[0], args[1], running_line) if index is None else (True, args[0][index])
        if func is Tensor.__setitem__:
            index = self._fixed_index(args[1])
            if index is None:
                written = self.packed.write(*args) or self.masked.write(*args)
                if written:
                    self._forget(args[0])
                return written, None
            args[0][index] = args[2]
            self._forget(args[0])
            return True, None
        if func in _NONZERO and len(args) == 1 and isinstance(args[0], Tensor):
            real = self._known(args[0])
            if real is not None:
                return True, _traced(_evaluate(func, (real,), kwargs))
            places = self.masked.places(args[0], func is torch.where or kwargs.get("as_tuple", False))
            return places is not None, places
        if func in _NUMBERS and len(args) == 1:
            return self._number(func, args[0])
        if func in _OF_CONSTANTS and args and isinstance(args[0], Tensor):
            real = self._known(args[0])
            return (False, None) if real is None else (True, _traced(_evaluate(func, (real, *args[1:]), kwargs)))
        in_order = sorted_rows(func, args, kwargs, self._is_batch)
        if in_order is not None:
            if self._recipe(args[0])[0] is not torch.arange:
                self.assumed[running_line()] = False
            return True, in_order
        answered, out = self.masked.answer(func, args, kwargs, running_line)
        if answered and func.__name__.endswith("_"):
            self._forget(args[0])
        return answered, out

    def _number(self, func: Any, value: Any) -> tuple[bool, Any]:
        """A Python number: of a constant; of an assertion; of a mask that is taken to pick something."""
        real = self._known(value)
        if real is not None:
            return True, _evaluate(_NUMBERS[func], (real,), {})
        if func is Tensor.__bool__:
            line = _assertion()
            if line:
                self.assertions.append(line)
                return True, True
        if func in (Tensor.__bool__, Tensor.item, Tensor.is_nonzero, torch.is_nonzero):
            mask, some = self._picks_something(value)
            line = running_line()
            if mask is not None and self.masked.assume_some(mask, line):
                self.assumed[line] = some
                return True, some
        return False, None

    def _recipe(self, value: Any) -> tuple[Any, tuple[Any, ...]]:
        """How a traced tensor was made: (function, arguments)."""
        made = self._made.get(id(value), (None, None))[1] if isinstance(value, Tensor) else None
        return (None, ()) if made is None else (made[0], made[1])

    def _row_mask(self, mask: Any) -> Any:
        """The mask [B] that was given axes of one behind."""
        for _ in range(mask.dim() if isinstance(mask, Tensor) else 0):
            func, args = self._recipe(mask)
            name = getattr(func, "__name__", "")
            only_axes = name in ("view", "reshape", "unsqueeze") or (name == "__getitem__" and _adds_axes(args[1]))
            if mask.dim() == 1 or not only_axes:
                break
            mask = args[0]
        return mask

    def _picks_something(self, value: Tensor) -> tuple[Tensor | None, bool]:
        """The mask whose ``any()``, ``sum() > 0`` or ``sum() == 0`` this is, and what it is if the mask picks."""
        func, args = self._recipe(value)
        name = getattr(func, "__name__", "")
        if name == "any" and len(args) == 1 and value.dtype == torch.bool:
            return args[0], True
        if name in ("__gt__", "gt", "__ne__", "ne", "__eq__", "eq") and len(args) == 2:
            inner, counted = self._recipe(args[0])
            is_count = getattr(inner, "__name__", "") in ("sum", "count_nonzero") and len(counted) == 1
            if is_count and not isinstance(args[1], Tensor) and args[1] == 0:
                return counted[0], "eq" not in name
        return None, False

    def _fixed_index(self, index: Any) -> Any:
        """The index with every constant boolean mask replaced by the positions it picks; None if there is none."""
        entries = index if isinstance(index, tuple) else (index,)
        out: list[Any] = []
        changed = False
        for entry in entries:
            real = self._known(entry) if isinstance(entry, Tensor) and entry.dtype == torch.bool else None
            if real is None or real.dim() == 0:
                out.append(entry)
                continue
            out += _traced(_evaluate(torch.nonzero, (real,), {"as_tuple": True}))
            changed = True
        return tuple(out) if changed else None

    # ----------------------------------------------------------------------------------------------------- constants

    def _known(self, value: Any) -> Tensor | None:
        """The real tensor behind a traced one, if it depends on constants of the module alone."""
        if not isinstance(value, Tensor) or any(not isinstance(s, int) for s in value.shape):
            return None
        if value.numel() > _MOST_ELEMENTS:
            return None
        if id(value) in self._made:
            _, recipe = self._made[id(value)]
            return None if recipe is None else self._replay(*recipe)
        name = next((n for n, t in _constants(self.module) if t is value), None)
        return None if name is None else self._real.get(name)

    def _replay(self, func: Any, args: Any, kwargs: Any, place: int | None) -> Tensor | None:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        real: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, torch.SymInt):
                return None
            known = self._known(leaf) if isinstance(leaf, Tensor) else leaf
            if isinstance(leaf, Tensor) and known is None:
                return None
            real.append(known)
        real_args, real_kwargs = pytree.tree_unflatten(real, spec)
        out = _evaluate(func, real_args, real_kwargs)
        out = out if place is None else out[place]
        return out if isinstance(out, Tensor) else None

    def _remember(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        name = getattr(func, "__name__", "")
        written = args[0] if args and isinstance(args[0], Tensor) else None
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
        if written is not None and (in_place or out is written):
            self._forget(written)
            return
        unknowable = "out" in kwargs or any(word in name for word in _UNKNOWABLE)
        outs = list(enumerate(out)) if isinstance(out, (tuple, list)) else [(None, out)]
        for place, tensor in outs:
            if isinstance(tensor, Tensor):
                self._made[id(tensor)] = (tensor, None if unknowable else (func, args, kwargs, place))

    def _forget(self, written: Tensor) -> None:
        """What shares memory with a tensor that is written to is no constant any more."""
        self._made[id(written)] = (written, None)
        self.masked.forget(written)
        if written.layout != torch.strided:
            return
        home = written.untyped_storage()._cdata
        for key, (tensor, _) in list(self._made.items()):
            if tensor.layout == torch.strided and tensor.untyped_storage()._cdata == home:
                self._made[key] = (tensor, None)


def _constants(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers, parameters without gradient and plain tensor attributes, by place in the module."""
    for path, owner in module.named_modules():
        for group in (owner._parameters, owner._buffers, vars(owner)):
            for name, value in group.items():
                if isinstance(value, Tensor) and not value.requires_grad:
                    yield f"{path}.{name}", value


def _evaluate(func: Any, args: Any, kwargs: Any) -> Any:
    """A call on real tensors in the middle of tracing."""
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        return func(*args, **kwargs)


def _traced(value: Any) -> Any:
    """A real tensor as a constant of the trace."""
    if isinstance(value, tuple):
        return tuple(_traced(v) for v in value)
    return torch.tensor(_evaluate(Tensor.tolist, (value,), {}), dtype=value.dtype).reshape(value.shape)


def _select(x: Tensor, mask: Tensor) -> tuple[bool, Any]:
    """masked_select of the trailing dimensions, as a take of known positions."""
    while mask.dim() > 1 and (mask.dim() > x.dim() or mask.shape[0] != x.shape[x.dim() - mask.dim()]):
        if mask.shape[0] != 1:
            return False, None
        mask = _evaluate(Tensor.select, (mask, 0, 0), {})
    trailing = x.shape[x.dim() - mask.dim() :]
    if mask.dim() > x.dim() or any(not isinstance(s, int) for s in trailing) or tuple(trailing) != tuple(mask.shape):
        return False, None
    positions = _traced(_evaluate(lambda m: m.flatten().nonzero().flatten(), (mask,), {}))
    flat = x.flatten(x.dim() - mask.dim()) if mask.dim() > 1 else x
    return True, flat.index_select(-1, positions).reshape(-1)


def _adds_axes(index: Any) -> bool:
    """Does x[index] keep every entry in its place?"""
    entries = index if isinstance(index, tuple) else (index,)
    return all(e is None or e is Ellipsis or (isinstance(e, slice) and e == slice(None)) for e in entries)


def _assertion() -> str:
    """The innermost line outside torch if it is an assert statement."""
    line = running_line()
    return line if line.partition("  ")[2].startswith("assert ") else ""


def running_line() -> str:
    """The innermost line outside torch and this room that is running."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/torch/" not in path and "/depthrank/sharing/" not in path:
            return f"{path}:{frame.f_lineno}  {linecache.getline(path, frame.f_lineno).strip()}"
        frame = frame.f_back
    return ""
