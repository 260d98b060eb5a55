"""A request's clock: its deadline is asked before every chunk of work, and every chunk leaves a record.

Whether a chunk may start and when it started are one reading of the clock, so that a chunk's record never shows a start
that was not checked. What a chunk costs is the time of the thread that ran it, not the time on the wall, which a
neighbour on the machine lengthens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

USER_STAGE = "user"


@dataclass(frozen=True)
class Chunk:
    """One piece of work between two questions for the time: in seconds of the monotonic clock, and of its thread."""

    stage: str
    candidates: int
    started_s: float
    ended_s: float
    deadline_s: float
    thread_ms: float


class ChunkUnderWay:
    """``others_ms``: thread time meanwhile that went into other requests; ``left_out``: it did not run after all. Its
    record is left where the block ends well. (A class: a generator's context manager takes three times as long.)"""

    __slots__ = ("_candidates", "_pace", "_stage", "_started_s", "_thread_s", "left_out", "others_ms")

    def __init__(self, pace: Pace, stage: str, candidates: int, started_s: float) -> None:
        self._pace, self._stage, self._candidates, self._started_s = pace, stage, candidates, started_s
        self.others_ms, self.left_out = 0.0, False

    def __enter__(self) -> ChunkUnderWay:
        self._thread_s = self._pace.thread_s()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None or self.left_out:
            return
        pace = self._pace
        used_ms = (pace.thread_s() - self._thread_s) * 1e3 - self.others_ms
        ended_s = pace.monotonic_s()
        pace.chunks.append(Chunk(self._stage, self._candidates, self._started_s, ended_s, pace.deadline_s, used_ms))


@dataclass
class Pace:
    """``deadline_s`` is infinite where there is none. Not for several threads: a request has one."""

    monotonic_s: Callable[[], float]
    deadline_s: float = math.inf
    thread_s: Callable[[], float] = time.thread_time
    chunks: list[Chunk] = field(default_factory=list)
    _checked_s: float = field(default=-math.inf, init=False)

    @property
    def has_deadline(self) -> bool:
        """Whether there is one."""
        return self.deadline_s < math.inf

    def left_ms(self) -> float:
        """Milliseconds until the deadline; not below 0."""
        return max(0.0, (self.deadline_s - self.monotonic_s()) * 1e3)

    def may_start(self) -> bool:
        """Whether a chunk may start now."""
        self._checked_s = self.monotonic_s()
        return self._checked_s < self.deadline_s

    def chunk_candidates(self, stage: str, fitting: int) -> int:
        """Candidates of the next chunk of a stage, given how many fit; a replayed clock answers as it was then."""
        return fitting

    def chunk(self, stage: str, candidates: int) -> ChunkUnderWay:
        """A chunk that ``may_start`` allowed just before."""
        return ChunkUnderWay(self, stage, candidates, self._checked_s)

    def thread_ms(self, stage: str) -> float:
        """Thread time of all chunks of a stage so far."""
        return sum(chunk.thread_ms for chunk in self.chunks if chunk.stage == stage)
