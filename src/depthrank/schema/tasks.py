"""The ``tasks`` and ``value`` sections: what is predicted, where its label comes from, and what ranking sorts by."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from depthrank.schema.dataset import Name, Section
from depthrank.schema.durations import Duration


class Task(Section, frozen=True, kw_only=True):
    """One binary task.

    Its label: a ``column`` (true, or ``at_least`` a number; for a requests file a list column), ``ids`` (a column with
    the positive item ids of a request), or an ``action`` (an event with that action exists). ``action`` also names what
    the log records for a positive, and defaults to the task's name. ``window``: how long after an impression its action
    still counts, when the system trains on its own traffic.
    """

    column: Name | None = None
    at_least: float | None = None
    ids: Name | None = None
    action: Name | None = None
    weight: Annotated[float, Meta(ge=0)] = 1.0
    loss: Literal["binary", "softmax", "both"] = "binary"
    window: Duration = Duration(1_800_000)


class Value(Section, frozen=True, kw_only=True):
    """What ranking sorts by: the weighted sum of task probabilities, times the candidate column ``times`` if named."""

    weights: dict[str, Annotated[float, Meta(ge=0)]]
    times: Name | None = None
