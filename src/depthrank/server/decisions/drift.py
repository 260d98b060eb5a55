"""Do predictions still fit what users do? Normalized entropy and calibration per hour, task and model version.

A shown item waits, with its predicted probabilities, for the actions that are its positives: those with its request id
and item, or, without a request id, with its user and item within the task's window. When the window closes the
impression counts: label 1 where the action came, else 0, in the hour it was shown in. NE is mean log loss over the
entropy of the mean label (He et al., ADKDD 2014); calibration is mean prediction over mean label. ``drift_file``
keeps the figures of closed windows over a restart.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from depthrank.events import EventBatch
from depthrank.schema import Answer, Request, Spec
from depthrank.server.decisions.shown_requests import ShownRequest, ShownRequests

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


class Drift:
    """Safe for several threads. ``most_impressions`` wait at most; ``left_out`` counts requests beyond it."""

    def __init__(self, spec: Spec, hours: int = 48, most_impressions: int = 200_000) -> None:
        self.left_out = 0
        self._tasks = tuple(spec.tasks)
        self._task_of = {spec.action_of(task): task for task in spec.tasks}
        self._window_ms = {task: int(settings.window) for task, settings in spec.tasks.items()}
        self._hours, self._most = hours, most_impressions
        self._lock = threading.Lock()
        self._shown = ShownRequests(self._window_ms)
        self._figures: dict[tuple[int, str, str], HourFigures] = {}

    @property
    def waiting(self) -> int:
        """Impressions whose labels are awaited."""
        return self._shown.num_items

    def shown(self, request: Request, answer: Answer, time_ms: int) -> None:
        """The items of an answer were shown."""
        scores = {item.item: item.scores for item in answer.items if item.level >= 0}
        with self._lock:
            self._close(time_ms)
            if not scores or answer.request_id in self._shown:
                return
            if self.waiting + len(scores) > self._most:
                self.left_out += 1
                return
            shown = ShownRequest(str(request.user), answer.model, time_ms, self._tasks, scores)
            self._shown.add(answer.request_id, shown)

    def acted(self, events: EventBatch, now_ms: int) -> None:
        """Events came in; those that are a task's action label what was shown."""
        with self._lock:
            self._close(now_ms)
            for i, action in enumerate(events.action):
                task = self._task_of.get(action)
                if task is None:
                    continue
                item, request_id = events.item[i], None if events.request_id is None else events.request_id[i]
                if request_id is not None:
                    found = self._shown.find(request_id, item)
                else:
                    found = self._shown.newest(events.user[i], item)
                if found is None:
                    continue
                shown, row = found
                if request_id is None and not 0 <= int(events.time_ms[i]) - shown.time_ms <= self._window_ms[task]:
                    continue
                shown.came(row, task)

    def forget(self, user: str) -> None:
        """Drop what waits of an erased user; sums name nobody and stay."""
        with self._lock:
            self._shown.forget(user)

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
        total, first = HourFigures(), self._tasks[0]
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
        for shown, tasks in self._shown.closed(now_ms):
            for task in tasks:
                self._count(task, shown)

    def _count(self, task: str, shown: ShownRequest) -> None:
        key = (shown.time_ms // HOUR_MS, task, shown.model)
        figures = self._figures.setdefault(key, HourFigures())
        for probability, positive in shown.labelled(task):
            figures.add(probability, positive)
        newest = max(hour for hour, _, _ in self._figures)
        for old in [key for key in self._figures if key[0] <= newest - self._hours]:
            del self._figures[old]
