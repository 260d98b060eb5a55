"""Where admitted requests are run: threads of this process, or processes of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from depthrank.schema import Answer, Request
from depthrank.schema.ask import Ask
from depthrank.server.admission.claim import Claim
from depthrank.server.ranker_port import RanksTogether, ServedRanker


@dataclass(frozen=True)
class Work:
    """One request as it is to be run: ``request`` carries the terms it was admitted on."""

    claim: Claim
    ranker: ServedRanker
    request: Request
    request_id: str
    arrived_s: float
    price: float | None
    record: bool


@dataclass(frozen=True)
class Pass:
    """What came of works that ran together, in their order; times from start to end, on the wall and of the thread."""

    outcomes: list[Answer | Exception]
    busy_s: float
    thread_s: float


class Hub(Protocol):
    """What engines tell of what they run."""

    def passed(self, lane: int, works: Sequence[Work], result: Pass) -> None: ...
    def lane_down(self, lane: int, why: str) -> None: ...
    def lane_up(self, lane: int) -> None: ...


class Engines(Protocol):
    """``window_ms``: work that may be in an engine's hands beside what it does. ``restarts``: engines started again.
    ``trouble``: what works less than fully, for people. ``open`` comes before the first request, on ``run``'s loop.
    ``close`` returns when what was started is done.
    """

    @property
    def num_lanes(self) -> int: ...
    @property
    def window_ms(self) -> float: ...
    @property
    def restarts(self) -> int: ...
    def attach(self, hub: Hub) -> None: ...
    def start(self, lane: int, works: Sequence[Work]) -> None: ...
    async def open(self) -> None: ...
    async def run(self) -> None: ...
    def trouble(self) -> list[str]: ...
    def close(self) -> None: ...


@dataclass
class ThreadEngines:
    """``threads`` threads of this process, each a lane."""

    threads: int
    window_ms: float = 0.0
    restarts: int = 0
    _hub: Hub = field(init=False)
    _executors: list[ThreadPoolExecutor] = field(init=False)

    def __post_init__(self) -> None:
        alone = _rank_here if self.threads == 1 else None
        self._executors = [
            ThreadPoolExecutor(1, thread_name_prefix=f"depthrank-rank-{lane}", initializer=alone)
            for lane in range(self.threads)
        ]

    @property
    def num_lanes(self) -> int:
        return self.threads

    def attach(self, hub: Hub) -> None:
        """Tell ``hub`` of everything from now on."""
        self._hub = hub

    def start(self, lane: int, works: Sequence[Work]) -> None:
        """Begin a pass; the hub is told when it is done."""
        self._executors[lane].submit(self._run, lane, works)

    def _run(self, lane: int, works: Sequence[Work]) -> None:
        started_s, thread_s = time.perf_counter(), time.thread_time()
        outcomes = ranked_together(works) if len(works) > 1 else [ranked(works[0])]
        self._hub.passed(lane, works, Pass(outcomes, time.perf_counter() - started_s, time.thread_time() - thread_s))

    async def open(self) -> None:
        """Threads are there."""

    async def run(self) -> None:
        """Threads need nobody to look after them."""

    def trouble(self) -> list[str]:
        return []

    def close(self) -> None:
        for executor in self._executors:
            executor.shutdown(wait=True)


def _rank_here() -> None:
    """This thread is the only one that ranks."""
    from depthrank.precision.product_mode import rank_in_this_thread  # torch, which a taken port should not wait for

    rank_in_this_thread()


def ranked(work: Work) -> Answer | Exception:
    """One request, ranked in this thread."""
    try:
        return work.ranker.rank(
            work.request,
            arrived_s=work.arrived_s,
            request_id=work.request_id,
            checked=True,
            record=work.record,
            price=work.price,
            spent=True,
        )
    except Exception as error:  # noqa: BLE001 - whoever asked gets it
        return error


def ranked_together(works: Sequence[Work]) -> list[Answer | Exception]:
    """Requests that start together, ranked in this thread: at once by a ranker that can, which all of them ask for."""
    ranker = works[0].ranker
    if not isinstance(ranker, RanksTogether) or any(work.ranker is not ranker for work in works):
        return [ranked(work) for work in works]
    return ranker.rank_together([Ask(w.request, w.request_id, w.arrived_s, w.price, w.record) for w in works])
