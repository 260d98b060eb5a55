"""Build a model whose weights are about to be replaced: they get addresses and no numbers.

Drawing random weights costs time, and touches memory of sizes that a manifest merely claims. (The meta device would do
as well, but its first arithmetic imports torch's compiler, two seconds of every start.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_}
_SCALES = {Tensor.mul, Tensor.__mul__, Tensor.__rmul__}


class Uninitialised(TorchFunctionMode):
    """Within it ``torch.randn`` and fills in place leave memory as it is; what else is computed, is computed."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.randn:
            drawn = torch.empty(*args, **(kwargs or {}))
            self._drawn[id(drawn)] = drawn
            return drawn
        if func is nn.init.normal_:  # it hands itself over, with its tensor by name, before it fills
            return (kwargs or {})["tensor"]
        if func in _FILLS or (func in _SCALES and id(args[0]) in self._drawn):
            return args[0]
        return func(*args, **(kwargs or {}))
