"""What the endpoints share: the ranker, its threads and queues, the metrics, and the life of the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from time import perf_counter
from typing import TypeVar

from depthrank.errors import DepthrankError
from depthrank.events import AppendResult, EventBatch
from depthrank.events.log import now_ms
from depthrank.schema import Answer, Request
from depthrank.server.bounded_pool import BoundedPool, OverloadError
from depthrank.server.metrics import RankerMetrics, ServerMetrics
from depthrank.server.models import Models
from depthrank.server.outcomes import Outcomes
from depthrank.server.ranker_port import ServedRanker
from depthrank.server.settings import ServerSettings

logger = logging.getLogger("depthrank.server")
Result = TypeVar("Result")


class DeadlineError(DepthrankError):
    """The deadline passed before anything was scored (HTTP 504)."""


class Phase(Enum):
    """Where a server is in its life; only a ready one should get traffic."""

    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Service:
    """A ranker, or several versions of one (``Models``), served. ``clock``: milliseconds since 1970."""

    def __init__(self, ranker: ServedRanker, settings: ServerSettings, clock: Callable[[], int] = now_ms) -> None:
        self.models = ranker if isinstance(ranker, Models) else Models(ranker, settings=settings.models)
        self.ranker: ServedRanker = self.models
        self.settings = settings
        self.clock = clock
        self.wall_clock = ranker.spec.dataset.main.time != "order"
        self.metrics = ServerMetrics()
        self.rank_pool = BoundedPool("rank", settings.rank_threads, settings.rank_queue)
        self.log_pool = BoundedPool("log", settings.log_threads, settings.log_queue)
        self.outcomes = Outcomes(self.models, settings, self.metrics, self._is_busy, clock)
        self._newest_event_ms = -1
        self._phase = Phase.WARMING
        self._export_gauges()
        self.metrics.registry.register(RankerMetrics(self.models.measures))

    @property
    def phase(self) -> Phase:
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._phase = phase
        self.metrics.ready.set(phase is Phase.READY)

    async def warm(self) -> None:
        """Make the first request as fast as the next ones; ready when that is done."""
        try:
            await self.rank_pool.run(self.ranker.warm)
        except Exception:  # whatever it was, the server stays not ready and says so
            logger.exception("warming up failed; the server stays not ready")
            self.phase = Phase.FAILED
        else:
            if self.phase is Phase.WARMING:
                self.phase = Phase.READY

    def rank(self, request: Request, request_id: str) -> Future[Answer]:
        """Queue a request; its deadline counts from now. Raises OverloadError where the queue is full."""
        if request.time_ms is None:
            # An event acknowledged in this very millisecond must be visible: a history holds what lies before its time.
            request.time_ms = max(self.clock(), self._newest_event_ms + 1)
        return self._admit(self.rank_pool, self._rank_now, request, request_id, perf_counter())

    def after_answer(self, request: Request, answer: Answer) -> None:
        """The answer has left: what follows from it, none of which waits or fails."""
        self.outcomes.left(request, answer)

    def _is_busy(self) -> bool:
        """Whether requests wait."""
        return self.rank_pool.admitted > self.settings.rank_threads

    def _rank_now(self, request: Request, request_id: str, arrived_s: float) -> Answer:
        started = perf_counter()
        waited_ms = (started - arrived_s) * 1000
        self.metrics.rank_wait_seconds.observe(waited_ms / 1000)
        if request.deadline_ms is not None and waited_ms >= request.deadline_ms:
            self.metrics.late.inc()
            raise DeadlineError(f"the deadline passed while the request waited {waited_ms:.1f} ms for its turn")
        asked, record = self.outcomes.asked(request, request_id)
        wanted = {"record": True} if record else {}
        answer = self.ranker.rank(asked, arrived_s=arrived_s, request_id=request_id, checked=True, **wanted)
        answer = self.outcomes.answered(request, answer)
        self.metrics.rank_seconds.observe(perf_counter() - started)
        answer.timings_ms["wait"] = round(waited_ms, 3)
        self._count(answer)
        return answer

    def _count(self, answer: Answer) -> None:
        for stage, milliseconds in answer.timings_ms.items():
            if stage != "total":
                self.metrics.stage_seconds.labels(stage).observe(milliseconds / 1000)
        if answer.candidates_scored:
            self.metrics.candidates.observe(answer.candidates_scored[0])
        if answer.degraded.is_:
            self.metrics.degraded.inc()

    async def append(self, events: EventBatch) -> AppendResult:
        """Append events; returns when they are durable and readable."""
        now = self.clock()
        with self.metrics.append_seconds.time():
            result = await self.in_log_pool(self.ranker.append, events)
        past = events.time_ms[events.time_ms <= now]
        if len(past):
            self._newest_event_ms = max(self._newest_event_ms, int(past.max()))
        self.outcomes.events_came(events)
        self.metrics.events.inc(result.appended)
        self.metrics.duplicates.inc(result.duplicates)
        return result

    async def in_log_pool(self, call: Callable[..., Result], *args: object) -> Result:
        """Run a call that may wait for a disk, without blocking anybody else."""
        return await asyncio.wrap_future(self._admit(self.log_pool, call, *args))

    async def decode(self, decode: Callable[..., Result], body: bytes, *args: object) -> Result:
        """Decode a body; a large one not on the event loop."""
        if len(body) < self.settings.decode_in_thread_bytes:
            return decode(body, *args)
        return await self.in_log_pool(decode, body, *args)

    def close(self) -> None:
        """Finish what was admitted and log every served impression; the ranker stays open, it is the caller's."""
        self.phase = Phase.DRAINING
        self.rank_pool.close()
        self.outcomes.close()
        self.log_pool.close()

    def _admit(self, pool: BoundedPool, call: Callable[..., Result], *args: object) -> Future[Result]:
        try:
            return pool.submit(call, *args)
        except OverloadError:
            self.metrics.refused.labels(pool.name).inc()
            raise

    def _export_gauges(self) -> None:
        self.metrics.gauge("rank_queue", "Requests that run or wait", lambda: self.rank_pool.admitted)
        self.metrics.gauge("log_queue", "Log calls that run or wait", lambda: self.log_pool.admitted)
        self.metrics.gauge(
            "served_queue", "Answers whose impressions wait to be logged", lambda: self.outcomes.served.waiting
        )
