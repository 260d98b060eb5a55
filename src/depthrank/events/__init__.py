"""The event log: append, history as of a time, erase; backends behind one conformance suite."""

from __future__ import annotations

from depthrank.events.batch import EventBatch
from depthrank.events.check_events import check_times
from depthrank.events.history import History, HistoryBatch
from depthrank.events.log import AppendResult, EraseResult, EventLog, LogStats, UserVersion, VerifyReport, now_ms
from depthrank.events.open import open_log

__all__ = [
    "AppendResult",
    "EraseResult",
    "EventBatch",
    "EventLog",
    "History",
    "HistoryBatch",
    "LogStats",
    "UserVersion",
    "VerifyReport",
    "check_times",
    "now_ms",
    "open_log",
]
