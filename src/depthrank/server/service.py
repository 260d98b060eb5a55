"""What the endpoints share: the models, the engines that run them, the metrics, and the life of the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from depthrank.events import AppendResult, EventBatch
from depthrank.events.log import now_ms
from depthrank.schema import Answer, Request
from depthrank.schema.spec_reads import actions_read
from depthrank.server.admission.dispatcher import DeadlineError, Dispatcher
from depthrank.server.admission.metrics import AdmissionMetrics
from depthrank.server.admission.ranking import Ranking
from depthrank.server.bounded_pool import BoundedPool, OverloadError
from depthrank.server.decisions import rank_recorded
from depthrank.server.metrics import RankerMetrics, ServerMetrics
from depthrank.server.models import Models, ModelSettings
from depthrank.server.outcomes import Outcomes
from depthrank.server.ranker_port import ServedRanker
from depthrank.server.settings import ServerSettings
from depthrank.server.status.disk_watermark import DiskWatermark
from depthrank.server.status.live import LiveStatus
from depthrank.server.status.process_tree import ProcessTreeMetrics
from depthrank.server.table_metrics import TableMetrics
from depthrank.server.workers.engines import Engines, Pass, ThreadEngines, Work

if TYPE_CHECKING:
    from depthrank.server.models.delta_watch import DeltaWatch

logger = logging.getLogger("depthrank.server")
Result = TypeVar("Result")
TICK_S = 0.05

__all__ = ["DeadlineError", "Phase", "Service", "Watcher"]


class Phase(Enum):
    """Where a server is in its life; only a ready one should get traffic."""

    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Watcher(Protocol):
    """Somebody who is shown every answer, and every refusal, as it leaves; must be quick."""

    def answered(self, request: Request, answer: Answer, seconds: float) -> None: ...
    def refused(self, request: Request, reason: str) -> None: ...


class Service:
    """A ranker, or several versions of one (``Models``), served. ``clock``: milliseconds since 1970."""

    def __init__(
        self,
        ranker: ServedRanker,
        settings: ServerSettings,
        clock: Callable[[], int] = now_ms,
        engines: Engines | None = None,
        storage: Path | None = None,
    ) -> None:
        """``engines``: what runs the requests; by default threads of this process. ``storage``: the log's folder."""
        self.models = ranker if isinstance(ranker, Models) else Models(ranker, settings=settings.models)
        self.ranker: ServedRanker = self.models
        self.settings = settings
        self.clock = clock
        self.wall_clock = ranker.spec.dataset.main.time != "order"
        self.metrics = ServerMetrics()
        self.status = LiveStatus(clock)
        self.watchers: list[Watcher] = [self.status]
        self.engines = engines or ThreadEngines(settings.rank_threads)
        self.dispatcher = Dispatcher(
            self.engines, settings.admission, settings.rank_queue, clock, on_pass=self._count_pass
        )
        self.log_pool = BoundedPool("log", settings.log_threads, settings.log_queue)
        self.disk = DiskWatermark(storage, settings.storage, self.metrics.registry)
        self.outcomes = Outcomes(self.models, settings, self.metrics, self.has_waiting, clock, self.disk)
        self.deltas = delta_watch(self.models, settings.models)
        self._newest_event_ms = -1
        self._read_of, self._actions_read = ranker.spec, actions_read(ranker.spec)
        self._phase, self._closed = Phase.WARMING, False
        self._export_gauges()
        self.metrics.registry.register(RankerMetrics(self.models.measures))
        self.metrics.registry.register(TableMetrics(self.models.info, self.models.measures, self._deltas_refused))
        self.metrics.registry.register(AdmissionMetrics(self.dispatcher.status))
        self.metrics.registry.register(ProcessTreeMetrics())

    @property
    def phase(self) -> Phase:
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._phase = phase
        self.metrics.ready.set(phase is Phase.READY)

    async def run(self) -> None:
        """The service's own work beside requests, until it is closed: engines, warming, prices that follow the load."""
        await self.engines.open()
        running = asyncio.create_task(self.engines.run())
        await self._warm()
        while not self._closed:
            self.dispatcher.tick()
            await asyncio.sleep(TICK_S)
        await running

    async def _warm(self) -> None:
        """Make the first request as fast as the next ones, by the newest delta; ready when that is done."""
        try:
            if self.deltas is not None:
                await self.in_log_pool(self.deltas.look)
            await self.in_log_pool(self.ranker.warm)
            await self.in_log_pool(self._rank_recorded)
        except Exception:  # whatever it was, the server stays not ready and says so
            logger.exception("warming up failed; the server stays not ready")
            self.phase = Phase.FAILED
        else:
            if self.phase is Phase.WARMING:
                self.phase = Phase.READY
            if self.deltas is not None and not self._closed:
                self.deltas.start()

    def _rank_recorded(self) -> int:
        """What was asked last time, so that what it needs is in memory; answers go nowhere."""
        decisions = self.settings.decisions
        folder, most = self.outcomes.decisions.folder, decisions.warm_requests
        return rank_recorded(folder, most, self.ranker.rank, seconds=decisions.warm_seconds)

    @property
    def trouble(self) -> list[str]:
        """What works less than fully, for people."""
        deltas = [] if self.deltas is None else self.deltas.trouble
        return [*self.engines.trouble(), *self.outcomes.trouble, *self.disk.trouble, *deltas]

    def _deltas_refused(self) -> bool:
        return self.deltas is not None and self.deltas.status.why is not None

    def rank(
        self, request: Request, request_id: str, client: str | None = None, arrived_s: float | None = None
    ) -> Future[Answer]:
        """Queue a request; its deadline counts from ``arrived_s`` (``time.perf_counter``), by default from now.
        Cancelling the future withdraws it. Raises OverloadError where it is refused at once."""
        started_s = perf_counter() if arrived_s is None else arrived_s
        if request.time_ms is None:
            # An event acknowledged in this very millisecond must be visible: a history holds what lies before its time.
            request.time_ms = max(self.clock(), self._newest_event_ms + 1)
        asked, record = self.outcomes.asked(request, request_id)
        ranking = Ranking(self.models, self.dispatcher, asked, request_id, started_s, record)
        try:
            ranking.begin()
        except OverloadError as error:
            self.metrics.refused.labels("rank").inc()
            self._tell_refused(request, str(error))
            raise
        answered: Future[Answer] = Future()
        answered.add_done_callback(lambda future: ranking.cancel() if future.cancelled() else None)
        ranking.future.add_done_callback(lambda ranked: self._ranked(request, ranked, answered))
        return answered

    def _ranked(self, request: Request, ranked: Future[Answer], answered: Future[Answer]) -> None:
        """The engines are done with a request: what follows from the answer before it leaves."""
        if ranked.cancelled() or not answered.set_running_or_notify_cancel():
            return
        try:
            answer = self.outcomes.answered(request, ranked.result())
        except DeadlineError as error:
            self.metrics.late.inc()
            self._tell_refused(request, str(error))
            answered.set_exception(error)
        except OverloadError as error:
            self.metrics.refused.labels("rank").inc()
            self._tell_refused(request, str(error))
            answered.set_exception(error)
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            answered.set_exception(error)
        else:
            answered.set_result(answer)

    def _tell_refused(self, request: Request, reason: str) -> None:
        for watcher in self.watchers:
            watcher.refused(request, reason)

    def _count_pass(self, works: Sequence[Work], result: Pass) -> None:
        self.metrics.rank_seconds.observe(result.busy_s)
        for work in works:
            self.metrics.rank_wait_seconds.observe(max(0.0, work.claim.started_s - work.arrived_s))

    def after_answer(self, request: Request, answer: Answer, seconds: float) -> None:
        """The answer has left, so long after its request came: what follows from it, none of which waits or fails."""
        self._count(answer)
        for watcher in self.watchers:
            watcher.answered(request, answer, seconds)
        engine_ms = answer.timings_ms.get("total")  # from the arrival too; none: the ranker does not tell
        if engine_ms is not None and any(answer.candidates_scored):
            self.dispatcher.way_back.observed(max(0.0, seconds * 1e3 - engine_ms))
        self.outcomes.left(request, answer)

    def is_busy(self) -> bool:
        """Whether requests run or wait."""
        return self.dispatcher.admitted > 0

    def has_waiting(self) -> bool:
        """Whether requests wait."""
        return self.dispatcher.desk.waiting > 0

    def _count(self, answer: Answer) -> None:
        for stage, milliseconds in answer.timings_ms.items():
            if stage != "total":
                self.metrics.stage(stage).observe(milliseconds / 1000)
        if answer.candidates_scored:
            self.metrics.candidates.observe(answer.candidates_scored[0])
        if answer.degraded.is_:
            self.metrics.degraded.inc()
        if answer.warnings is not msgspec.UNSET:
            self.metrics.warned.inc()

    def actions_read(self) -> frozenset[str]:
        """The actions that the served spec reads."""
        spec = self.ranker.spec
        if self._read_of is not spec:
            self._read_of, self._actions_read = spec, actions_read(spec)
        return self._actions_read

    async def append(self, events: EventBatch) -> AppendResult:
        """Append events; returns when they are durable and readable."""
        now = self.clock()
        with self.metrics.append_seconds.time():
            result = await self.in_log_pool(self.disk.guarded(self.ranker.append), events)
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
        if self.deltas is not None:
            self.deltas.stop()
        self.dispatcher.close(self.settings.drain_timeout_s)
        self.outcomes.close()
        self.log_pool.close()
        self._closed = True

    def _admit(self, pool: BoundedPool, call: Callable[..., Result], *args: object) -> Future[Result]:
        try:
            return pool.submit(call, *args)
        except OverloadError:
            self.metrics.refused.labels(pool.name).inc()
            raise

    def _export_gauges(self) -> None:
        self.metrics.gauge("rank_queue", "Requests that run or wait", lambda: self.dispatcher.admitted)
        self.metrics.gauge("log_queue", "Log calls that run or wait", lambda: self.log_pool.admitted)
        self.metrics.gauge(
            "served_queue", "Answers whose impressions wait to be logged", lambda: self.outcomes.served.waiting
        )


def delta_watch(models: Models, settings: ModelSettings) -> DeltaWatch | None:
    """What keeps stable at the newest delta of the watched folder; None where none is watched."""
    if settings.deltas is None:
        return None
    from depthrank.server.models.delta_watch import DeltaWatch  # loads torch, which by now is there

    return DeltaWatch(models, settings.deltas, settings.deltas_every_s, settings.load_nice)
