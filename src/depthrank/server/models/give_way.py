"""Long work in a thread of a server that answers: it stands still while requests are under way.

Python threads share one lock. A thread that loads a model holds it for 5 ms at a time, and a request that ranks lets go
of it at every operation of torch, some hundred times: beside a loading thread each of them may wait those 5 ms, however
nice that thread is (a nice one that is off its core still has the lock). So a loading thread looks up between any two
calls that it makes, by ``sys.setprofile``: every ``SLICE_S`` it lets go of the lock, and while requests are under way
it sleeps. A server that is never idle would never load, hence ``MOST_S``: after that long it works for ``FORCED_S``;
where requests wait already, so that any delay is theirs too, after ``MOST_CROWDED_S``.

A thread that stands still keeps the locks that it holds, another reason for ``MOST_S`` to be short, and for not running
anything here that takes locks which requests need: those of the versions and of the costs of the one that serves.

What is given up: calls cost the loading thread about a tenth of a microsecond more, and one long call into C (a sort, a
parse) is not interrupted. Such calls mostly let go of the lock by themselves.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
SLICE_S = 0.5e-3
LET_GO_S = 50e-6
LOOK_S = 1e-3
MOST_S = 15e-3
MOST_CROWDED_S = 30e-3
FORCED_S = 1e-3


class GiveWay:
    """``busy``: whether requests are under way now; ``crowded``: whether some wait for others. ``nice``: of the
    thread."""

    def __init__(
        self,
        busy: Callable[[], bool],
        nice: int = 5,
        crowded: Callable[[], bool] = lambda: False,
        *,
        clock_s: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.busy, self.crowded, self.nice = busy, crowded, nice
        self._clock_s, self._sleep = clock_s, sleep

    def be_nice(self) -> None:
        """Let this thread, which is one of its own, run behind the others."""
        with suppress(OSError, AttributeError):  # a system without priorities of threads works all the same
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self.nice)

    def run(self, call: Callable[[], Result]) -> Result:
        """Run ``call`` in this thread, standing still again and again."""
        slice_until_s = self._clock_s() + SLICE_S
        clock_s = self._clock_s

        def between_calls(_frame: FrameType, _event: str, _given: Any) -> None:
            nonlocal slice_until_s
            if clock_s() >= slice_until_s:
                slice_s = self._stand_still()
                slice_until_s = clock_s() + slice_s

        before = sys.getprofile()
        sys.setprofile(between_calls)
        try:
            return call()
        finally:
            sys.setprofile(before)

    def _stand_still(self) -> float:
        """Let go of the lock, and wait while requests are under way; returns how long to work now."""
        self._sleep(LET_GO_S)
        began_s = self._clock_s()
        while self.busy():
            if self._clock_s() - began_s >= (MOST_CROWDED_S if self.crowded() else MOST_S):
                return FORCED_S
            self._sleep(LOOK_S)
        return SLICE_S
