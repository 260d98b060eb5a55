"""softmax(x - c) = softmax(x): a number of the whole batch that only a softmax sees mixes no rows.

``scores - scores.max()`` before a softmax guards against overflow. The extreme of a tensor that holds the batch is kept
as a ``BatchNumber``; subtracted it gives a ``Shifted`` value, and a softmax of that is one of the value itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from depthrank.sharing.layout import Layout
from depthrank.sharing.refusal import Refused

_SAME = ("aten.detach.default", "aten.alias.default", "aten.clone.default")
_SOFTMAXES = (
    "aten.softmax.int",
    "aten._softmax.default",
    "aten._safe_softmax.default",
    "aten.log_softmax.int",
    "aten._log_softmax.default",
)


@dataclass(frozen=True, eq=False)
class BatchNumber:
    """One number for the whole batch, and why it must not be read."""

    reason: str


@dataclass(frozen=True, eq=False)
class Shifted:
    """A value less a number of the whole batch."""

    layout: Layout
    number: BatchNumber


def is_batch_number(value: Any) -> bool:
    return isinstance(value, (BatchNumber, Shifted))


def of_batch_number(name: str, args: Sequence[Any]) -> BatchNumber | Shifted | Layout:
    """What an operation makes of such a number: the operand that a softmax may read; raises ``Refused`` otherwise."""
    first = args[0]
    if name in _SAME and is_batch_number(first):
        return first  # type: ignore[no-any-return]
    if name == "aten.sub.Tensor" and len(args) == 2 and isinstance(first, Layout) and isinstance(args[1], BatchNumber):
        return Shifted(first, args[1])
    if name in _SOFTMAXES and isinstance(first, Shifted):
        return first.layout
    culprit = next(a for a in args if is_batch_number(a))
    raise Refused(culprit.number.reason if isinstance(culprit, Shifted) else culprit.reason)
