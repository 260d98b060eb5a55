"""N engine processes behind one front: started together, watched, replaced when they die or hang.

Engines are told of nothing that they could read: they open the same files and the same log, and every request says how
far the log had come when it left (``Seen``). Only what must be dropped at once is said to each of them (``Forget``).

The first start blocks, so that an artifact that cannot be served is an error of ``serve``; afterwards everything runs
on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from depthrank.errors import CapacityError, LogError
from depthrank.events import EventLog
from depthrank.schema import Answer, Limits, Request
from depthrank.server.workers.engines import Hub, Pass, Work
from depthrank.server.workers.faults import error_of
from depthrank.server.workers.fleet_version import FleetVersion
from depthrank.server.workers.link import EngineEnded, EngineLink, reaped, start_process
from depthrank.server.workers.messages import (
    ApplyDelta,
    CatchUp,
    Failed,
    Forget,
    Frames,
    Load,
    Loaded,
    Outcome,
    Rank,
    Ranked,
    Report,
    Seen,
    Start,
    ToFront,
    Unload,
    Warm,
    asked,
    encode,
)
from depthrank.server.workers.settings import WorkerSettings

logger = logging.getLogger("depthrank.server")
LOOK_EVERY_S = 0.1
STEADY_S = 30.0  # an engine that lived this long starts anew without a pause


@dataclass
class Slot:
    """One lane: the engine in it, if any, and what became of its predecessors."""

    number: int
    process: subprocess.Popen[bytes]
    connection: socket.socket | None
    link: EngineLink | None = None
    under_way: dict[int, Sequence[Work]] = field(default_factory=dict)
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    ready: bool = False
    started_s: float = 0.0
    heard_s: float = 0.0
    deaths: int = 0
    restarts: int = 0
    why: str = ""


class Fleet:
    """``workers`` engine processes over one log. ``log``: the front's, the only one that appends."""

    def __init__(
        self,
        workers: int,
        log: EventLog,
        limits: Limits,
        settings: WorkerSettings | None = None,
        user_state_bytes: int | None = None,
        hot_row_bytes: int = 0,
        monotonic_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.settings = settings or WorkerSettings()
        self.log = log
        self._start = Start(log.url, limits, user_state_bytes, hot_row_bytes)
        self._now = monotonic_s
        self._versions: dict[str, FleetVersion] = {}
        self._seen = Seen(_position(log), -1)
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hub: Hub | None = None
        self._closing = False
        self._restarting: set[asyncio.Task[None]] = set()
        self._slots = [Slot(number, *start_process(self.settings.engine_threads)) for number in range(workers)]
        for slot in self._slots:
            slot.started_s = slot.heard_s = self._now()
            _send_blocking(slot, encode(self._start))

    # ------------------------------------------------------------------ what the dispatcher asks

    @property
    def num_lanes(self) -> int:
        return len(self._slots)

    @property
    def window_ms(self) -> float:
        return self.settings.window_ms

    def attach(self, hub: Hub) -> None:
        """Tell ``hub`` of everything from now on."""
        self._hub = hub

    def start(self, lane: int, works: Sequence[Work]) -> None:
        """Send a pass to the lane's engine; the hub is told when it is done."""
        self._on_loop(lambda: self._send_pass(lane, works))

    def _send_pass(self, lane: int, works: Sequence[Work]) -> None:
        slot = self._slots[lane]
        ranker = works[0].ranker
        assert isinstance(ranker, FleetVersion), "the versions of a fleet are its own"
        call = self._next_call()
        if not slot.under_way:
            slot.heard_s = self._now()
        slot.under_way[call] = works
        if slot.link is None or slot.link.ended:
            return  # its end is on the way, and everything under way moves then
        message = Rank(
            call,
            ranker.key,
            self._seen,
            [asked(w.request, w.request_id, w.arrived_s, w.price, w.record) for w in works],
        )
        slot.link.send(message)

    def trouble(self) -> list[str]:
        """Which engines are missing, for /health/ready."""
        return [
            f"engine {slot.number} is not running: {slot.why or 'it is starting'}"
            for slot in self._slots
            if not slot.ready
        ]

    @property
    def restarts(self) -> int:
        """Engines started again so far."""
        return sum(slot.restarts for slot in self._slots)

    @property
    def process_ids(self) -> list[int]:
        """Of the engines, lane by lane."""
        return [slot.process.pid for slot in self._slots]

    def measures_of(self, version: str) -> dict[str, float]:
        """What the engines measure of a version: counts are summed, errors are the worst."""
        total: dict[str, float] = {}
        for slot in self._slots:
            for name, value in slot.measures.get(version, {}).items():
                known = total.get(name, 0.0)
                total[name] = max(known, value) if name.startswith("cost_error") else known + value
        return total

    def rank_now(self, version: FleetVersion, request: Request, **options: Any) -> Answer:
        """Rank past the queue, on the engine with the least to do; called from threads, and blocks."""
        assert self._loop is not None, "a fleet ranks once the server runs"
        return asyncio.run_coroutine_threadsafe(self._rank_now(version, request, **options), self._loop).result()

    async def _rank_now(
        self,
        version: FleetVersion,
        request: Request,
        *,
        arrived_s: float | None = None,
        request_id: str | None = None,
        checked: bool = False,
        record: bool = False,
        price: float | None = None,
        spent: bool = False,
    ) -> Answer:
        ready = [slot for slot in self._slots if slot.ready]
        if not ready:
            raise CapacityError("no engine process is running")
        slot = min(ready, key=lambda slot: len(slot.under_way))
        assert slot.link is not None
        started_s = self._now() if arrived_s is None else arrived_s
        one = asked(request, request_id or uuid.uuid4().hex, started_s, price, record, checked=checked)
        message = Rank(self._next_call(), version.key, self._seen, [one])
        try:
            ranked: Ranked = await slot.link.call(message)
        except EngineEnded:
            raise CapacityError("an engine process was lost") from None
        (outcome,) = ranked.outcomes
        if not isinstance(outcome, Outcome):
            raise error_of(outcome)
        if not spent:
            outcome.answer.spent = msgspec.UNSET
        return outcome.answer

    # ------------------------------------------------------------------ versions, the log

    def load(self, path: str | Path) -> FleetVersion:
        """A model version, loaded by every engine. Blocks. Raises ArtifactError, LogError."""
        self._number += 1
        version = FleetVersion.open(self, f"version {self._number}", path)
        message = _load_message(version, self._next_call())
        if self._loop is None:
            for slot in self._slots:
                _send_blocking(slot, encode(message))
            answers = [self._loaded_blocking(slot, message) for slot in self._slots]
        else:
            self._versions[version.key] = version  # an engine that is started meanwhile loads it too
            try:
                answers = [a for a in self.tell_all(message) if isinstance(a, Loaded)]
            except BaseException:
                self.unload(version.key)
                raise
        self._versions[version.key] = version
        for answer in answers:
            version.learn(answer.economy, answer.info)
        return version

    def _loaded_blocking(self, slot: Slot, message: Load) -> Loaded:
        """Before there is a loop: wait for the answer of one engine."""
        assert slot.connection is not None
        frames = Frames(ToFront)
        give_up_s = time.monotonic() + self.settings.load_timeout_s
        while True:
            left_s = give_up_s - time.monotonic()
            if left_s <= 0 or not select.select([slot.connection], [], [], left_s)[0]:
                raise CapacityError(f"an engine process did not load {message.artifact} in time")
            arrived = slot.connection.recv(1 << 20)
            if not arrived:
                code = slot.process.wait(10)
                raise CapacityError(f"an engine process ended with code {code} while it loaded {message.artifact}")
            for answer in frames.feed(arrived):
                if isinstance(answer, Failed):
                    raise error_of(answer.fault)
                assert isinstance(answer, Loaded)
                return answer

    def unload(self, key: str) -> None:
        """Let every engine drop a version."""
        self._versions.pop(key, None)
        if self._loop is not None and not self._closing:
            self.tell_all(Unload(0, key))

    def apply_delta(self, key: str, path: str) -> None:
        """Let every engine put a delta into service. Blocks. Raises ArtifactError."""
        self.tell_all(ApplyDelta(0, key, path))

    def warm(self, key: str) -> None:
        """Let every engine rank once with a version. Blocks."""
        self.tell_all(Warm(0, key))

    def forget(self, user: str) -> None:
        """Return when no engine holds anything of a user whom the log has erased: one that ends instead holds
        nothing."""
        self.tell_all(Forget(0, user))

    def appended(self, position: int) -> None:
        """Events up to a log position are acknowledged: whoever ranks from now on has counted them."""
        self._seen = Seen(max(self._seen.position, position), self._seen.upsert)

    def upserted(self, number: int) -> None:
        """Return when every engine has applied the upserts up to ``number``; requests say so too, for later engines."""
        self._seen = Seen(self._seen.position, max(self._seen.upsert, number))
        self.tell_all(CatchUp(0, self._seen))

    def tell_all(self, message: Any) -> list[Any]:
        """Send a message to every engine and wait for their answers; called from threads. An engine that ends meanwhile
        is left out: its successor begins with all there is. Raises what an engine raised."""
        if self._loop is None:
            return []  # nobody has ranked yet, and a first request catches up
        return asyncio.run_coroutine_threadsafe(self._tell_all(message), self._loop).result()

    async def _tell_all(self, message: Any) -> list[Any]:
        links = [slot.link for slot in self._slots if slot.link is not None and not slot.link.ended]
        calls = [link.call(msgspec.structs.replace(message, call=self._next_call())) for link in links]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, EngineEnded):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    # ------------------------------------------------------------------ life

    async def open(self) -> None:
        """Attach to the running loop: from here on engines can be asked."""
        self._loop = asyncio.get_running_loop()
        for slot in self._slots:
            await self._connect(slot)
            self._is_ready(slot)

    async def run(self) -> None:
        """Watch the engines until ``close``, and end them."""
        while not self._closing:
            self._look_for_hanging()
            await asyncio.sleep(LOOK_EVERY_S)
        for task in list(self._restarting):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*(self._finish(slot) for slot in self._slots))

    @staticmethod
    async def _finish(slot: Slot) -> None:
        """Close the connection, which ends the engine, and wait for both."""
        if slot.link is not None:
            slot.link.close()
            await slot.link.closed.wait()
        if slot.connection is not None:
            slot.connection.close()
        await reaped(slot.process)

    async def _connect(self, slot: Slot) -> None:
        assert self._loop is not None and slot.connection is not None
        connection, slot.connection = slot.connection, None
        connection.setblocking(False)
        link = EngineLink(
            slot.process,
            lambda message: self._heard(slot, message),
            lambda: self._ended(slot),
            lambda: self._alive(slot),
        )
        slot.link = link
        await self._loop.create_unix_connection(lambda: link, sock=connection)

    def _alive(self, slot: Slot) -> None:
        slot.heard_s = self._now()

    def _heard(self, slot: Slot, message: Ranked | Report) -> None:
        if isinstance(message, Report):
            slot.measures = message.measures
            for key, economy in message.economies.items():
                if key in self._versions:
                    self._versions[key].learn(economy)
            return
        works = slot.under_way.pop(message.call)
        outcomes: list[Answer | Exception] = [
            outcome.answer if isinstance(outcome, Outcome) else error_of(outcome) for outcome in message.outcomes
        ]
        assert self._hub is not None
        self._hub.passed(slot.number, works, Pass(outcomes, message.busy_s, message.thread_s))

    def _is_ready(self, slot: Slot) -> None:
        slot.ready, slot.why = True, ""
        if self._hub is not None:
            self._hub.lane_up(slot.number)

    def _ended(self, slot: Slot) -> None:
        """An engine is gone: its requests move, and after a pause another one takes its place."""
        slot.ready = False
        slot.under_way.clear()
        if self._closing:
            return
        assert self._loop is not None and self._hub is not None
        slot.why = slot.why or "it died"
        lived_s = self._now() - slot.started_s
        slot.deaths = 1 if lived_s > STEADY_S else slot.deaths + 1
        logger.error("engine %d (process %d) is gone: %s", slot.number, slot.process.pid, slot.why)
        self._hub.lane_down(slot.number, "an engine process was lost")
        task = self._loop.create_task(self._restart(slot))
        self._restarting.add(task)
        task.add_done_callback(self._restarting.discard)

    async def _restart(self, slot: Slot) -> None:
        code = await reaped(slot.process)
        settings = self.settings
        pause_s = min(settings.restart_most_s, settings.restart_first_s * 2 ** (slot.deaths - 1))
        logger.info("engine %d ended with code %d; another one starts in %.1f s", slot.number, code, pause_s)
        await asyncio.sleep(pause_s)
        slot.process, slot.connection = start_process(settings.engine_threads)
        slot.started_s, slot.why = self._now(), "it is starting"
        slot.restarts += 1
        await self._connect(slot)
        link = slot.link
        assert link is not None
        link.send(self._start)
        try:
            async with asyncio.timeout(settings.load_timeout_s):
                for key, version in list(self._versions.items()):
                    await link.call(_load_message(version, self._next_call()))
                    await link.call(Warm(self._next_call(), key))
        except EngineEnded:
            return  # ``_ended`` has been called, and tries again
        except Exception as error:  # noqa: BLE001 - whatever keeps it from serving, it is replaced
            slot.why = f"it could not load: {error}"
            logger.error("engine %d could not load: %s", slot.number, error)
            link.kill()
            return
        self._is_ready(slot)

    def _look_for_hanging(self) -> None:
        """Kill an engine that holds requests and has said nothing for too long."""
        now_s = self._now()
        for slot in self._slots:
            if not slot.ready or not slot.under_way or slot.link is None or slot.link.ended:
                continue
            expected_ms = sum(work.claim.expected_ms for works in slot.under_way.values() for work in works)
            silent_s = now_s - slot.heard_s
            if silent_s > self.settings.hang_after_s + 10 * expected_ms / 1e3:
                slot.why = f"it said nothing for {silent_s:.1f} s while it held {len(slot.under_way)} requests"
                slot.link.kill()

    def close(self) -> None:
        """End the engines; ``run`` returns when they have."""
        self._closing = True
        if self._loop is None:
            for slot in self._slots:
                if slot.connection is not None:
                    slot.connection.close()
                slot.process.kill()
                slot.process.wait(10)

    def _next_call(self) -> int:
        self._number += 1
        return self._number

    def _on_loop(self, call: Callable[[], object]) -> None:
        """Run on the event loop: at once where this is its thread."""
        assert self._loop is not None, "a fleet ranks once the server runs"
        try:
            if asyncio.get_running_loop() is self._loop:
                call()
                return
        except RuntimeError:
            pass  # a thread without a loop
        self._loop.call_soon_threadsafe(call)


def _load_message(version: FleetVersion, call: int) -> Load:
    return Load(call, version.key, version.location, str(version.path), version.model_id, list(version.deltas))


def _send_blocking(slot: Slot, message: bytes) -> None:
    assert slot.connection is not None
    slot.connection.sendall(message)


def _position(log: EventLog) -> int:
    """The log's end, which engines read up to when they start; one that cannot be read now is caught up with later."""
    try:
        return log.position()
    except LogError:
        return -1
