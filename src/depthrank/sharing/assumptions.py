"""What was taken for granted while a module was traced, and whether the comparison with the original tried it.

A branch that was taken for granted (``if mask.any():``), or rows that a sort was taken to leave in order, change
nothing if the module is what it seems. The check inputs must show the other case at every such line at least once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from depthrank.sharing.refusal import Refused
from depthrank.sharing.sorted_rows import changes_order

_TESTS = (Tensor.__bool__, Tensor.item, Tensor.is_nonzero)


class Observed(TorchFunctionMode):
    """Around runs of the original: the lines where it took the other branch, or where a sort changed the order."""

    def __init__(self, line: Callable[[], str]) -> None:
        super().__init__()
        self._line = line
        self.outcomes: dict[str, set[bool]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        outcome = bool(out) if func in _TESTS else changes_order(func, out)
        if outcome is not None:
            self.outcomes.setdefault(self._line(), set()).add(outcome)
        return out


def check_tried(assumed: dict[str, bool], observed: Observed) -> None:
    """Raises ``Refused`` for a line of which no check input showed the case that was left out."""
    for line, taken in assumed.items():
        if (not taken) not in observed.outcomes.get(line, set()):
            raise Refused(
                "a branch or an order of rows depends on the values of the batch, and no check input showed the other "
                "case; add one to check_inputs",
                "a branch or a sort over the batch",
                line,
            )
