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
from depthrank.features.window_counts import distinct

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
        self.events = log.histories(names, as_of, _ALL, list(actions))
        user_of_event = np.repeat(np.arange(len(names), dtype=np.int64), np.diff(self.events.offsets))
        self._times = distinct(np.asarray(self.events.time_ms, np.int64))
        self._key = self.keys_of(user_of_event, self.events.time_ms)
        late = self.events.appended_ms > self.events.time_ms
        self._has_late = np.bincount(user_of_event[late], minlength=len(names)) > 0
        self._last_arrival = np.full(len(names), -_END_OF_TIME_MS, dtype=np.int64)
        np.maximum.at(self._last_arrival, user_of_event[late], self.events.appended_ms[late])

    def codes_of(self, users: Sequence[str]) -> Int64:
        """The code of each user: its place in ``events``, int64 [n]."""
        return np.array([self._code_of[user] for user in users], dtype=np.int64)

    def keys_of(self, code: Int64, time_ms: Int64) -> Int64:
        """(user, the first time that is not before ``time_ms``) as one sortable number, whatever the span of times."""
        return code * (len(self._times) + 1) + np.searchsorted(self._times, time_ms)

    def stops_of(self, code: Int64, as_of_ms: Int64) -> Int64:
        """Where each user's events of before ``as_of_ms`` end in ``events``, int64 [n]."""
        return np.searchsorted(self._key, self.keys_of(code, as_of_ms)).astype(np.int64)

    def all_arrived(self, code: Int64, as_of_ms: Int64) -> npt.NDArray[np.bool_]:
        """Whether each user's late events, if any, had all arrived by then, bool [n]: what was past was known."""
        return np.asarray(self._last_arrival[code] <= as_of_ms, dtype=np.bool_)

    def histories(self, users: Sequence[str], as_of_ms: Int64, limit: int) -> HistoryBatch:
        """The last ``limit`` events of n (user, time) pairs; see ``EventLog.histories``."""
        code = self.codes_of(users)
        stop = self.stops_of(code, as_of_ms)
        start = np.maximum(self.events.offsets[code], stop - limit)
        rows = gather_ranges(start, stop - start)
        lengths = stop - start
        if self._has_late[code].any():
            rows, lengths = self._without_unseen(code, stop, as_of_ms, limit)
        events = self.events
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
        for first, last, at in zip(self.events.offsets[code].tolist(), stop.tolist(), as_of_ms.tolist(), strict=True):
            seen = first + np.flatnonzero(self.events.appended_ms[first:last] <= at)
            picked.append(seen[max(len(seen) - limit, 0) :])
        return np.concatenate(picked).astype(np.int64), np.array([len(p) for p in picked], dtype=np.int64)
