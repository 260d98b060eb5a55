"""Specs, requests, responses and events: the words that cross an edge, validated there."""

from __future__ import annotations

from depthrank.schema.durations import Duration
from depthrank.schema.features import (
    Categorical,
    Counter,
    Feature,
    HistoryAlong,
    HistoryCount,
    HistoryMatch,
    MultiHot,
    Numeric,
    Position,
    Text,
    TimeParts,
    Vector,
)
from depthrank.schema.request import Answer, Degraded, EventIn, Limits, RankedItem, Request
from depthrank.schema.spec import Spec
from depthrank.schema.tasks import Task, Value

__all__ = [
    "Answer",
    "Categorical",
    "Counter",
    "Degraded",
    "Duration",
    "EventIn",
    "Feature",
    "HistoryAlong",
    "HistoryCount",
    "HistoryMatch",
    "Limits",
    "MultiHot",
    "Numeric",
    "Position",
    "RankedItem",
    "Request",
    "Spec",
    "Task",
    "Text",
    "TimeParts",
    "Value",
    "Vector",
]
