"""Do predictions still fit what users do? Normalized entropy and calibration per hour, task and model version.

A shown item waits, with its predicted probabilities, for the actions that are its positives: those with its request id
and item, or, without a request id, with its user and item within the task's window. When the window closes the
impression counts: label 1 where the action came, else 0, in the hour it was shown in. NE is mean log loss over the
entropy of the mean label (He et al., ADKDD 2014); calibration is mean prediction over mean label. ``drift_file``
keeps the figures of closed windows over a restart.

Legend: K tasks.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from depthrank.events import EventBatch
from depthrank.schema import Answer, Request, Spec

HOUR_MS = 3_600_000
LEAST_PROBABILITY = 1e-7


@dataclass
class HourFigures:
    """Sums over labelled impressions of one hour, task and version."""

    impressions: int = 0
    predicted: float = 0.0
    positives: int = 0
    log_loss: float = 0.0

    def add(self, probability: float, positive: bool) -> None:
        """One impression whose label is known."""
        p = min(max(probability, LEAST_PROBABILITY), 1 - LEAST_PROBABILITY)
        self.impressions += 1
        self.predicted += probability
        self.positives += positive
        self.log_loss -= math.log(p if positive else 1 - p)

    def __iadd__(self, other: HourFigures) -> HourFigures:
        for name in ("impressions", "predicted", "positives", "log_loss"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    @property
    def ne(self) -> float | None:
        """Normalized entropy; None where all labels are the same."""
        if not 0 < self.positives < self.impressions:
            return None
        rate = self.positives / self.impressions
        entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
        return self.log_loss / self.impressions / entropy

    @property
    def calibration(self) -> float | None:
        """Mean prediction over mean label; None without a positive."""
        return self.predicted / self.positives if self.positives else None


@dataclass
class _Shown:
    """A served request whose labels are awaited: item -> (probability by task, tasks that came)."""

    user: str
    model: str
    time_ms: int
    scores: dict[str, dict[str, float]]
    came: dict[str, set[str]] = field(default_factory=dict)


class Drift:
    """Safe for several threads. ``most_impressions`` wait at most; ``left_out`` counts requests beyond it."""

    def __init__(self, spec: Spec, hours: int = 48, most_impressions: int = 200_000) -> None:
        self.windows_ms = {task: int(settings.window) for task, settings in spec.tasks.items()}
        self.left_out = 0
        self._task_of = {spec.action_of(task): task for task in spec.tasks}
        self._hours, self._most = hours, most_impressions
        self._lock = threading.Lock()
        self._shown: dict[str, _Shown] = {}
        self._latest: dict[tuple[str, str], str] = {}  # (user, item) -> request id
        self._due: dict[str, OrderedDict[str, None]] = {task: OrderedDict() for task in self.windows_ms}
        self._waiting = 0
        self._figures: dict[tuple[int, str, str], HourFigures] = {}

    @property
    def waiting(self) -> int:
        """Impressions whose labels are awaited."""
        return self._waiting

    def shown(self, request: Request, answer: Answer, time_ms: int) -> None:
        """The items of an answer were shown."""
        scores = {item.item: item.scores for item in answer.items if item.level >= 0}
        with self._lock:
            self._close(time_ms)
            if not scores or answer.request_id in self._shown:
                return
            if self._waiting + len(scores) > self._most:
                self.left_out += 1
                return
            user = str(request.user)
            self._shown[answer.request_id] = _Shown(user, answer.model, time_ms, scores)
            self._waiting += len(scores)
            for item in scores:
                self._latest[user, item] = answer.request_id
            for due in self._due.values():
                due[answer.request_id] = None

    def acted(self, events: EventBatch, now_ms: int) -> None:
        """Events came in; those that are a task's action label what was shown."""
        with self._lock:
            self._close(now_ms)
            for i, action in enumerate(events.action):
                task = self._task_of.get(action)
                if task is None:
                    continue
                item, request_id = events.item[i], None if events.request_id is None else events.request_id[i]
                by_user = request_id is None
                found = self._latest.get((events.user[i], item)) if by_user else request_id
                shown = self._shown.get(found or "")
                if shown is None or item not in shown.scores:
                    continue
                if by_user and not 0 <= int(events.time_ms[i]) - shown.time_ms <= self.windows_ms[task]:
                    continue
                shown.came.setdefault(item, set()).add(task)

    def forget(self, user: str) -> None:
        """Drop what waits of an erased user; sums name nobody and stay."""
        with self._lock:
            for request_id in [key for key, shown in self._shown.items() if shown.user == user]:
                self._drop(request_id)

    def close_until(self, now_ms: int) -> None:
        """Count every impression whose window has closed."""
        with self._lock:
            self._close(now_ms)

    def restore(self, figures: Iterable[tuple[int, str, str, HourFigures]]) -> None:
        """Go on from the figures of an earlier process: (hours since 1970, task, model, figures)."""
        with self._lock:
            self._figures.update({(hour, task, model): found for hour, task, model, found in figures})

    def by_hour(self) -> Iterator[tuple[int, str, str, HourFigures]]:
        """(hour's start in ms, task, model, figures), oldest first."""
        with self._lock:
            found = sorted(self._figures.items(), key=lambda pair: pair[0])
        for (hour, task, model), figures in found:
            yield hour * HOUR_MS, task, model, figures

    def quality(self, model: str) -> tuple[int, float | None]:
        """For judging a canary: labelled impressions of the first task over the hours kept, and their NE."""
        total, first = HourFigures(), next(iter(self.windows_ms))
        for _, task, of_model, figures in self.by_hour():
            if of_model == model and task == first:
                total += figures
        return total.impressions, total.ne

    def plain(self) -> list[dict[str, Any]]:
        """Every hour as plain values, for a page."""
        return [
            {"hour_ms": hour, "task": task, "model": model, "impressions": f.impressions, "positives": f.positives}
            | {"ne": f.ne, "calibration": f.calibration}
            for hour, task, model, f in self.by_hour()
        ]

    def _close(self, now_ms: int) -> None:
        for task, due in self._due.items():
            while due:
                request_id = next(iter(due))
                shown = self._shown[request_id]
                if shown.time_ms + self.windows_ms[task] >= now_ms:
                    break
                del due[request_id]
                self._count(task, shown)
                if not any(request_id in waiting for waiting in self._due.values()):
                    self._drop(request_id)

    def _count(self, task: str, shown: _Shown) -> None:
        key = (shown.time_ms // HOUR_MS, task, shown.model)
        figures = self._figures.setdefault(key, HourFigures())
        for item, scores in shown.scores.items():
            if task in scores:
                figures.add(scores[task], task in shown.came.get(item, ()))
        newest = max(hour for hour, _, _ in self._figures)
        for old in [key for key in self._figures if key[0] <= newest - self._hours]:
            del self._figures[old]

    def _drop(self, request_id: str) -> None:
        shown = self._shown.pop(request_id)
        self._waiting -= len(shown.scores)
        for item in shown.scores:
            if self._latest.get((shown.user, item)) == request_id:
                del self._latest[shown.user, item]
        for due in self._due.values():
            due.pop(request_id, None)
