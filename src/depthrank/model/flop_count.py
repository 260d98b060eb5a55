"""FLOPs of the matrix products that one thread runs, by torch's own formulas.

``torch.utils.flop_counter.FlopCounterMode`` also follows modules, by hooks that every thread runs: a server that counts
while it answers would fail in the other thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """``with FlopCount() as counter: ...; counter.total``: two operations a multiply-add, of this thread alone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        formula: Callable[..., Any] | None = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # an operator of several, as linear under inference mode
                parts = func.decompose(*args, **given)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **given)
        if formula is not None:
            self.total += int(formula(*args, **given, out_val=out))
        return out
