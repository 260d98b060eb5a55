"""Served impressions go into the event log, so that a later click joins them and the system can retrain from its own
traffic: one ``impression`` event a shown item, with request id, position, and what the decision was made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from depthrank.events import EventBatch
from depthrank.schema import Answer, Request, Spec

_PACK = msgspec.msgpack.Encoder()
T = TypeVar("T")


def impression_action(spec: Spec) -> str:
    """The action that marks a shown candidate."""
    return str(getattr(spec.dataset.main, "impression_action", "impression"))


def served_events(spec: Spec, request: Request, answer: Answer, now_ms: int) -> EventBatch:
    """The impressions of an answer, in shown order, with deterministic event ids (a repeat is a no-op)."""
    shown = answer.items
    propensities = [] if answer.after is msgspec.UNSET else answer.after.get("propensities", [])
    candidate_values = _columns_by_item(request, {item.item for item in shown})
    extra = [
        _PACK.encode(
            {
                "context": request.context,
                "candidate": candidate_values.get(item.item, {}),
                "model": answer.model,
                "level": item.level,
                "value": item.value,
                **({"propensity": propensities[place]} if place < len(propensities) else {}),
            }
        )
        for place, item in enumerate(shown)
    ]
    n = len(shown)
    return EventBatch(
        user=[str(request.user)] * n,
        item=[item.item for item in shown],
        action=[impression_action(spec)] * n,
        time_ms=np.full(n, now_ms, dtype=np.int64),
        event_id=[f"{answer.request_id}/{i}" for i in range(n)],
        request_id=[answer.request_id] * n,
        position=np.arange(n, dtype=np.int32),
        extra=extra,
    )


def all_served_events(spec: Spec, shown: Sequence[tuple[Request, Answer]], now_ms: int) -> EventBatch:
    """The impressions of several answers, each at its request's time, or now."""
    batches = [
        served_events(spec, request, answer, now_ms if request.time_ms is None else request.time_ms)
        for request, answer in shown
    ]
    if len(batches) == 1:
        return batches[0]
    return EventBatch(
        user=_chained(batch.user for batch in batches),
        item=_chained(batch.item for batch in batches),
        action=_chained(batch.action for batch in batches),
        time_ms=np.concatenate([batch.time_ms for batch in batches]),
        event_id=_chained(batch.event_id or () for batch in batches),
        request_id=_chained(batch.request_id or () for batch in batches),
        position=np.concatenate([np.arange(len(batch), dtype=np.int32) for batch in batches]),
        extra=_chained(batch.extra or () for batch in batches),
    )


def _chained(parts: Iterable[Sequence[T]]) -> list[T]:
    return [one for part in parts for one in part]


def _columns_by_item(request: Request, shown: set[str]) -> dict[str, dict[str, Any]]:
    """Candidate columns of the shown items by id; of a repeated candidate the first row counts."""
    if not isinstance(request.candidates, dict):
        return {}
    columns = {name: values for name, values in request.candidates.items() if name != "item"}
    if not columns:
        return {}
    first = _first_rows(request.candidates["item"], shown)
    return {item: {name: _plain(values[i]) for name, values in columns.items()} for item, i in first.items()}


def _first_rows(items: Sequence[Any] | NDArray[np.int64], shown: set[str]) -> dict[str, int]:
    """Where each shown item stands first."""
    if isinstance(items, np.ndarray):
        wanted = np.array([int(item) for item in shown], np.int64)
        rows = np.flatnonzero(np.isin(items, wanted)).tolist()
        return {str(items[i]): i for i in reversed(rows)}
    first: dict[str, int] = {}
    for i, item in enumerate(map(str, items)):
        if item in shown and item not in first:
            first[item] = i
    return first


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
