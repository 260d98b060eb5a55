"""The user's history as of a request, read from the log; where that fails, none, and the answer says so."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from depthrank.engine.generation import Generation
from depthrank.engine.pace import Pace
from depthrank.engine.patient_reads import PATIENCE_S, PatientReads
from depthrank.errors import LogError
from depthrank.events import EventLog, HistoryBatch
from depthrank.features import EncodedHistory
from depthrank.schema import Spec

NO_HISTORY_READ = "the event log cannot be read: ranked without history"

logger = logging.getLogger("depthrank.engine")
Result = TypeVar("Result")


class HistoryReader:
    """Reads of one log for many requests; a log that may hang is waited for only so long."""

    def __init__(self, log: EventLog, spec: Spec) -> None:
        self._log, self._spec = log, spec
        self.patient = PatientReads() if log.may_hang else None
        self._is_down, self._unread = False, 0

    def read(self, generation: Generation, user: str, time_ms: int, pace: Pace, reasons: list[str]) -> EncodedHistory:
        """The user's events as of the request; a log that cannot be read is a reason, and gives no events."""
        as_of = np.array([time_ms], dtype=np.int64)
        rows, actions = self._spec.history_events, self._spec.history_actions
        left_s = pace.left_ms() / 1e3 if self.patient is not None and pace.has_deadline else math.inf
        try:
            history = self._within_patience(
                lambda: generation.encode_history(self._log.histories([user], as_of, rows, actions), time_ms), left_s
            )
        except LogError as error:
            self._failed(error)
            return unread_history(generation, time_ms, reasons)
        if self._is_down:
            logger.warning("the event log can be read again")
        self._is_down = False
        return history

    def log_position(self) -> int | None:
        """The log's newest position; None where it cannot be read now."""
        try:
            return self._within_patience(self._log.position, PATIENCE_S)
        except LogError:
            return None

    def measures(self) -> dict[str, float]:
        """How many requests went without history, and whether the latest did."""
        return {"histories_unread": self._unread, "log_down": float(self._is_down)}

    def _within_patience(self, call: Callable[[], Result], left_s: float) -> Result:
        return call() if self.patient is None else self.patient.read(call, left_s)

    def _failed(self, error: LogError) -> None:
        self._unread += 1
        if not self._is_down:  # once a trouble, not once a request; it may name paths: not for a client
            logger.warning("the event log cannot be read, requests are ranked without history: %s", error)
        self._is_down = True


def unread_history(generation: Generation, time_ms: int, reasons: list[str]) -> EncodedHistory:
    """No events, and the reason."""
    reasons.append(NO_HISTORY_READ)
    nothing = np.zeros(0, np.int64)
    none = HistoryBatch(
        offsets=np.zeros(2, np.int64),
        item_code=nothing.astype(np.int32),
        action_code=nothing.astype(np.int16),
        time_ms=nothing,
        appended_ms=nothing,
        log_position=nothing,
    )
    return generation.encode_history(none, time_ms)
