"""Drift by hour on disk, beside the decision records, so that it outlives the process.

Sums only, which name no user; impressions whose labels are awaited are left out, so those of the last window before a
restart count for nothing. Written a minute after something has changed, and at the end; what a kill -9 costs is that
minute.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from depthrank.server.decisions.drift import HOUR_MS, Drift, HourFigures

logger = logging.getLogger("depthrank.server")
NAME = "drift.json"
FORMAT = 1
EVERY_S = 60.0
Count = Annotated[int, Meta(ge=0)]


class Hour(msgspec.Struct, frozen=True):
    """Sums over the labelled impressions of one hour, task and version; ``hour``: hours since 1970."""

    hour: Count
    task: str
    model: str
    impressions: Count
    predicted: float
    positives: Count
    log_loss: float


class DriftHours(msgspec.Struct, frozen=True):
    """The whole file."""

    format: int
    hours: list[Hour]


class DriftFile:
    """``folder`` None: nothing is kept. Safe for several threads."""

    def __init__(self, folder: Path | None, drift: Drift, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.path = None if folder is None else folder / NAME
        self._drift, self._clock_s = drift, clock_s
        self._saving = threading.Lock()
        self._next_s = clock_s() + EVERY_S
        self._saved: list[Hour] = []

    def load(self) -> None:
        """Go on from the file; one that cannot be read is told and written anew later."""
        if self.path is None or not self.path.exists():
            return
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=DriftHours)
            if found.format != FORMAT:
                raise ValueError(f"it has format {found.format}, this version reads {FORMAT}")
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            logger.warning("%s cannot be read, drift by hour begins anew: %s", self.path, error)
            return
        self._saved = found.hours
        figures = [(h.hour, h.task, h.model, _figures(h)) for h in found.hours]
        self._drift.restore(figures)

    def is_due(self) -> bool:
        """Whether it is time to save; whoever is told so saves."""
        if self.path is None or self._clock_s() < self._next_s:
            return False
        self._next_s = self._clock_s() + EVERY_S
        return True

    def save(self) -> None:
        """Write what has changed since the last time; raises OSError, and leaves the old file then."""
        if self.path is None:
            return
        hours = [
            Hour(start_ms // HOUR_MS, task, model, f.impressions, f.predicted, f.positives, f.log_loss)
            for start_ms, task, model, f in self._drift.by_hour()
        ]
        with self._saving:
            if hours == self._saved:
                return
            fresh = self.path.with_name(f".{NAME}.new")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(msgspec.json.encode(DriftHours(FORMAT, hours)))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
            self._saved = hours


def _figures(hour: Hour) -> HourFigures:
    return HourFigures(hour.impressions, hour.predicted, hour.positives, hour.log_loss)
