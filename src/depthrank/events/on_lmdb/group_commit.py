"""Appends of several threads share one transaction and one sync.

The first to come leads: it commits for all that wait, wakes them, and hands the lead to the first of those who came
meanwhile. So while one group syncs the next one gathers. Those just woken come back a moment later: where the last
group was of several, the leader waits that moment, or every other group would be of one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from depthrank.events.batch import Int64
from depthrank.events.check_events import CheckedEvents
from depthrank.events.log import AppendResult

GATHER_S = 0.0001  # a sync takes longer


@dataclass(slots=True, eq=False)
class Append:
    """One caller's events, and what became of them. appended_ms None: stamped inside the transaction."""

    events: CheckedEvents
    appended_ms: Int64 | None
    result: AppendResult | None = None
    error: Exception | None = None
    woken: threading.Event = field(default_factory=threading.Event)  # when it is done, or has to lead

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None


class GroupCommit:
    """``commit`` inserts all appends of a list in one durable transaction and sets their results, or raises."""

    def __init__(self, commit: Callable[[list[Append]], None]) -> None:
        self._commit = commit
        self._queue = threading.Lock()
        self._waiting: list[Append] = []
        self._has_leader = False
        self._last_group = 0

    def append(self, own: Append) -> AppendResult:
        """Returns when ``own`` is committed. Raises what its commit raised."""
        with self._queue:
            self._waiting.append(own)
            leads, self._has_leader = not self._has_leader, True
        if not leads:
            self._wait(own)
        if not own.is_done:
            self._lead()
        if own.error is not None:
            raise own.error
        assert own.result is not None, "a committed append has a result"
        return own.result

    def _wait(self, own: Append) -> None:
        try:
            own.woken.wait()
        except BaseException:  # an interrupt: leave the queue, and leave no group without a leader
            with self._queue:
                if own in self._waiting:
                    self._waiting.remove(own)
            if own.woken.is_set() and not own.is_done:
                self._pass_lead()
            raise

    def _lead(self) -> None:
        if self._last_group > 1:
            time.sleep(GATHER_S)
        with self._queue:
            group, self._waiting = self._waiting, []
        self._last_group = len(group)
        try:
            self._commit_group(group)
        finally:
            for one in group:
                one.woken.set()
            self._pass_lead()

    def _pass_lead(self) -> None:
        with self._queue:
            self._has_leader = bool(self._waiting)
            if self._waiting:
                self._waiting[0].woken.set()

    def _commit_group(self, group: list[Append]) -> None:
        try:
            self._commit(group)
        except Exception as error:  # noqa: BLE001 - handed to the thread whose append it is
            if len(group) == 1:
                group[0].error = error
                return
            for one in group:  # the fault of one must not fail its neighbours
                one.result = None
                self._commit_group([one])
        except BaseException as error:
            for one in group:
                one.error = RuntimeError(f"the thread that committed this append was stopped: {error!r}")
            raise
