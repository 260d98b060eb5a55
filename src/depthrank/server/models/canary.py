"""Judges the canary every second or so, from both versions' figures since it got its label."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from depthrank.server.models.labels import Labels
from depthrank.server.models.rollback_rule import CanaryRule, Figures, Verdict, judge
from depthrank.server.models.version import Version


class Quality(Protocol):
    """How well a version predicts what users then do."""

    def quality(self, model: str) -> tuple[int, float | None]:
        """Impressions whose labels are known, and their normalized entropy (None: not known)."""


class Canary:
    """``verdict``: the latest; ``rollbacks``: how many there were. Only ``judge`` decides; this keeps time."""

    def __init__(self, rule: CanaryRule, clock_s: Callable[[], float], quality: Quality | None = None) -> None:
        self.rule, self.quality = rule, quality
        self.verdict = Verdict(False)
        self.rollbacks = 0
        self._clock_s = clock_s
        self._next_s = 0.0
        self._lock = threading.Lock()

    def due(self, labels: Labels) -> Verdict | None:
        """The verdict, where it is time for one that counts; a dry run is kept in ``verdict`` only."""
        if labels.canary is None or self.rule.mode == "off":
            return None
        with self._lock:
            if self._clock_s() < self._next_s:
                return None
            self._next_s = self._clock_s() + self.rule.every_s
        since_s = labels.since_s
        self.verdict = judge(self._figures(labels.stable, since_s), self._figures(labels.canary, since_s), self.rule)
        return self.verdict if self.rule.mode == "enforce" else None

    def _figures(self, version: Version, since_s: float) -> Figures:
        figures = version.recent.figures(self.rule.window_s, since_s)
        if self.quality is None:
            return figures
        labelled, ne = self.quality.quality(version.model)
        return replace(figures, labelled=labelled, ne=ne)
