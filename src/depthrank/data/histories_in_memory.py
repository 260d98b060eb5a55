"""Histories of a fixed set of users, read from the log once and joined with requests in memory.

Training asks for the history of every request in every epoch. Reading each from the log costs about 0.1 ms a user;
holding the users' events as sorted columns makes a whole batch two searches. The answers equal ``EventLog.histories``
as of the moment of loading (a test compares them), so a run does not see events that arrive while it trains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from depthrank.data.shown import gather_ranges
from depthrank.events import EventLog, HistoryBatch

Int64 = npt.NDArray[np.int64]
MAX_EVENTS = 50_000_000
"""Logs with more events are read request by request: 30 bytes an event would not fit beside a model."""

_ALL = np.iinfo(np.int32).max
_END_OF_TIME_MS = 1 << 62


class HistoriesInMemory:
    """The events of ``actions`` of these users, as of any time up to the moment of loading."""

    def __init__(self, log: EventLog, users: Sequence[str], actions: Sequence[str]) -> None:
        names = list(dict.fromkeys(users))
        self._code_of = {user: code for code, user in enumerate(names)}
        as_of = np.full(len(names), _END_OF_TIME_MS, dtype=np.int64)
        self._events = log.histories(names, as_of, _ALL, list(actions))
        user_of_event = np.repeat(np.arange(len(names), dtype=np.int64), np.diff(self._events.offsets))
        # the rank of a time among all times: (user, rank) is one sortable number, whatever the span of times
        self._times = np.unique(self._events.time_ms)
        self._key = user_of_event * (len(self._times) + 1) + np.searchsorted(self._times, self._events.time_ms)
        late = self._events.appended_ms > self._events.time_ms
        self._has_late = np.bincount(user_of_event[late], minlength=len(names)) > 0

    def histories(self, users: Sequence[str], as_of_ms: Int64, limit: int) -> HistoryBatch:
        """The last ``limit`` events of n (user, time) pairs; see ``EventLog.histories``."""
        code = np.array([self._code_of[user] for user in users], dtype=np.int64)
        rank = np.searchsorted(self._times, as_of_ms)  # the first time that is not before the request
        stop = np.searchsorted(self._key, code * (len(self._times) + 1) + rank)
        start = np.maximum(self._events.offsets[code], stop - limit)
        rows = gather_ranges(start, stop - start)
        lengths = stop - start
        if self._has_late[code].any():
            rows, lengths = self._without_unseen(code, stop, as_of_ms, limit)
        events = self._events
        return HistoryBatch(
            offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
            item_code=events.item_code[rows],
            action_code=events.action_code[rows],
            time_ms=events.time_ms[rows],
            appended_ms=events.appended_ms[rows],
            log_position=events.log_position[rows],
        )

    def _without_unseen(self, code: Int64, stop: Int64, as_of_ms: Int64, limit: int) -> tuple[Int64, Int64]:
        """Rows and lengths where some events arrived late: those that had not arrived by the request are not seen."""
        picked = []
        for first, last, at in zip(self._events.offsets[code].tolist(), stop.tolist(), as_of_ms.tolist(), strict=True):
            seen = first + np.flatnonzero(self._events.appended_ms[first:last] <= at)
            picked.append(seen[max(len(seen) - limit, 0) :])
        return np.concatenate(picked).astype(np.int64), np.array([len(p) for p in picked], dtype=np.int64)
