"""Examples from the system's own traffic: served impressions joined with the actions that followed them.

A served impression is an event with a request id, the position, and in ``extra`` the context of its request and the
columns of its candidate. A later event of a task's action joins it when it carries the same request id and item, or,
without a request id, when it has the same user and item and lies within the task's window after the impression.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from depthrank.data.examples import Examples
from depthrank.data.load import RawDataset
from depthrank.data.load_examples import split_of, user_rows
from depthrank.data.shown import Column
from depthrank.events import EventBatch, EventLog, now_ms
from depthrank.schema import Spec


@dataclass
class _Served:
    """One served request while the log is read: candidates in the order they were logged."""

    user: str
    time_ms: int
    context: dict[str, Any]
    items: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    columns: list[dict[str, Any]] = field(default_factory=list)
    rows_of_item: dict[str, list[int]] = field(default_factory=dict)
    labels: list[list[float]] = field(default_factory=list)


def examples_from_log(
    spec: Spec, log: EventLog, raw: RawDataset, *, after: int = -1, as_of_ms: int | None = None
) -> Examples | None:
    """Examples of the requests served after log position ``after``; None where there is none.

    A task whose window has not closed by ``as_of_ms`` (default: now) has label 1 where its action came already and no
    label (NaN) where it has not; requests without any label are left out.
    """
    served = _read(spec, log, after)
    as_of_ms = now_ms() if as_of_ms is None else as_of_ms
    windows = np.array([task.window for task in spec.tasks.values()], dtype=np.int64)
    kept: list[tuple[_Served, npt.NDArray[np.float32]]] = []
    for request in served:
        label = np.array(request.labels, dtype=np.float32)
        waiting = request.time_ms + windows > as_of_ms
        label[:, waiting] = np.where(label[:, waiting] > 0, np.float32(1), np.float32(np.nan))
        if not np.isnan(label).all():
            kept.append((request, label))
    if not kept:
        return None
    kept.sort(key=lambda pair: pair[0].time_ms)
    return _examples(spec, [r for r, _ in kept], np.concatenate([label for _, label in kept]), raw)


def _read(spec: Spec, log: EventLog, after: int) -> list[_Served]:
    """Served requests with their labels so far; the log is read once, in the order of arrival."""
    task_of_action = {spec.action_of(name): (k, task.window) for k, (name, task) in enumerate(spec.tasks.items())}
    impression = getattr(spec.dataset.main, "impression_action", "impression")
    requests: dict[str, _Served] = {}
    last_shown: dict[tuple[str, str], tuple[_Served, int]] = {}
    for events in log.scan(after=after, actions=[impression, *task_of_action]):
        times = events.time_ms.tolist()
        for i in range(len(events)):
            request_id = None if events.request_id is None else events.request_id[i]
            user, item, action = events.user[i], events.item[i], events.action[i]
            if action == impression:
                if request_id is not None:
                    request = _show(requests, request_id, events, i, len(spec.tasks))
                    last_shown[user, item] = request, len(request.items) - 1
                continue
            k, window_ms = task_of_action[action]
            if request_id is not None:
                _label_by_request(requests.get(request_id), item, k)
            elif (user, item) in last_shown:
                request, row = last_shown[user, item]
                if request.time_ms <= times[i] <= request.time_ms + window_ms:
                    request.labels[row][k] = 1.0
    return list(requests.values())


def _show(requests: dict[str, _Served], request_id: str, events: EventBatch, i: int, num_tasks: int) -> _Served:
    extra = events.extra[i] if events.extra is not None else None
    decoded = msgspec.msgpack.decode(extra) if extra else {}
    request = requests.get(request_id)
    if request is None:
        request = _Served(events.user[i], int(events.time_ms[i]), decoded.get("context") or {})
        requests[request_id] = request
    item = events.item[i]
    request.rows_of_item.setdefault(item, []).append(len(request.items))
    request.items.append(item)
    request.positions.append(int(events.position[i]) if events.position is not None else -1)
    request.columns.append(decoded.get("candidate") or {})
    request.labels.append([0.0] * num_tasks)
    return request


def _label_by_request(request: _Served | None, item: str, task: int) -> None:
    """Label every row that showed this item; an action on an item that was not shown labels nothing."""
    for row in request.rows_of_item.get(item, []) if request is not None else []:
        request.labels[row][task] = 1.0  # type: ignore[union-attr]


def _examples(spec: Spec, served: list[_Served], label: npt.NDArray[np.float32], raw: RawDataset) -> Examples:
    main = spec.dataset.main
    context_names, candidate_names = tuple(main.context), tuple(getattr(main, "candidate", ()))
    user = [r.user for r in served]
    time_ms = np.array([r.time_ms for r in served], dtype=np.int64)
    lengths = np.array([len(r.items) for r in served], dtype=np.int64)
    return Examples(
        user=user,
        user_row=user_rows(raw.users, user),
        time_ms=time_ms,
        context={c: [r.context.get(c) for r in served] for c in context_names},
        offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
        item_row=raw.items.row_of([item for r in served for item in r.items]),
        candidate={c: _column([row.get(c) for r in served for row in r.columns]) for c in candidate_names},
        label=label,
        position=np.array([p for r in served for p in r.positions], dtype=np.int32),
        split=split_of(spec, user, time_ms, lengths),
    )


def _column(values: list[Any]) -> Column:
    """Numbers as float64 (missing: NaN), anything else as objects."""
    if all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in values):
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
