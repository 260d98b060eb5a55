"""One load: warm up, send on time, wait for the answers, measure."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from depthrank.cli.load.arrivals import Arrivals, Zipf
from depthrank.cli.load.connections import Connections
from depthrank.cli.load.figures import Usage, figures_of
from depthrank.cli.load.outcomes import Outcomes
from depthrank.cli.load.precise_timer import PreciseTimer
from depthrank.cli.load.server_cpu import cpu_s_in_metrics
from depthrank.cli.load.target import Target
from depthrank.errors import CapacityError

START_S = 0.02
FIRST_REQUESTS = 8


@dataclass(frozen=True)
class Load:
    """How a load is measured. ``limit_ms``: answers beyond it are not good (default: the deadline).

    ``deadline_ms`` goes into each request. ``warm_up_s``: load at the same rate before the window that is measured.
    ``told``: hears of every measured request: which body it had, milliseconds, status (0: none), the answer's body.
    """

    deadline_ms: float | None = None
    limit_ms: float | None = None
    warm_up_s: float = 1.0
    connections: int = 1_024
    timeout_s: float = 60.0
    told: Callable[[int, float, int, bytes], object] | None = None

    @property
    def limit(self) -> float | None:
        return self.deadline_ms if self.limit_ms is None else self.limit_ms


@dataclass(frozen=True)
class Requests:
    """What is sent: bodies, the most popular user's first. ``zipf`` None: round and round in their order."""

    bodies: Sequence[Mapping[str, Any]]
    zipf: Zipf | None = None
    said: str = ""

    def order(self, size: int) -> npt.NDArray[np.int64]:
        """Which body each request has."""
        if self.zipf is None:
            return np.arange(size, dtype=np.int64) % len(self.bodies)
        return self.zipf.draw(len(self.bodies), size)


@dataclass
class Measured:
    """One load's outcomes and what it cost."""

    outcomes: Outcomes
    usage: Usage
    seconds: float

    def figures(self) -> dict[str, Any]:
        """The figures for people and programs; raises CapacityError where nothing was answered."""
        return figures_of(self.outcomes, self.usage, self.seconds)


def run_load(
    target: Target | str,
    requests: Requests | Sequence[Mapping[str, Any]],
    arrivals: Arrivals | npt.NDArray[np.float64],
    load: Load | None = None,
    cpu_s: Callable[[], float | None] | None = None,
) -> Measured:
    """Offer the load; ``arrivals`` may be send times in seconds. ``cpu_s`` reads the server's CPU seconds.

    Without ``cpu_s`` they come from the server's /metrics, where it has them. Raises CapacityError where the server
    refuses the very first requests.
    """
    target = Target.of(target) if isinstance(target, str) else target
    requests = requests if isinstance(requests, Requests) else Requests(requests)
    load = load or Load()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run(target, requests, arrivals, load, cpu_s))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _run(
    target: Target,
    requests: Requests,
    arrivals: Arrivals | npt.NDArray[np.float64],
    load: Load,
    cpu_s: Callable[[], float | None] | None,
) -> Measured:
    connections = Connections(target, load.connections, load.timeout_s)
    try:
        payloads = _payloads(target, requests, load)
        await _first(connections, payloads[:FIRST_REQUESTS], target)
        times_s, seconds = _schedule(arrivals, load.warm_up_s)
        offer = Offer(connections, payloads, times_s, requests.order(len(times_s)).tolist(), load)
        offer.cpu_s = cpu_s
        await offer.run()
        return Measured(offer.outcomes, offer.usage, seconds)
    finally:
        await connections.close()


def _payloads(target: Target, requests: Requests, load: Load) -> list[bytes]:
    more = {} if load.deadline_ms is None else {"deadline_ms": load.deadline_ms}
    return [target.post({**body, **more}) for body in requests.bodies]


async def _first(connections: Connections, payloads: Sequence[bytes], target: Target) -> None:
    """A few requests one by one, so that a wrong body or address is told before a load of it."""
    for payload in payloads:
        try:
            status, body = await connections.ask(payload)
        except ConnectionError as error:
            raise CapacityError(str(error)) from None
        if status != 200 and status not in (429, 503, 504):  # an overloaded server may be loaded further
            said = body[:500].decode(errors="replace")
            raise CapacityError(f"{target.address}{target.path} answered {status} to the first request: {said}")


def _schedule(arrivals: Arrivals | npt.NDArray[np.float64], warm_up_s: float) -> tuple[npt.NDArray[np.float64], float]:
    """Send times from the start of the measured window (warm-up is before 0), and the window's seconds."""
    if isinstance(arrivals, np.ndarray):
        return arrivals, float(arrivals[-1]) if arrivals.size else 0.0
    times_s = arrivals.times_s()
    if warm_up_s:
        before_s = Arrivals(arrivals.rate, warm_up_s, seed=arrivals.seed + 1).times_s() - warm_up_s
        times_s = np.concatenate([before_s, times_s])
    return times_s, arrivals.seconds


@dataclass
class Offer:
    """Sends each request at its time, whether or not answers keep up."""

    connections: Connections
    payloads: list[bytes]
    times_s: npt.NDArray[np.float64]
    order: list[int]
    load: Load
    cpu_s: Callable[[], float | None] | None = None
    outcomes: Outcomes = field(init=False)
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self.outcomes = Outcomes(self.load.limit)
        self._times = self.times_s.tolist()
        self._next, self._under_way = 0, 0
        self._measuring = False
        self._begun: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Returns when the last answer is in."""
        loop = asyncio.get_running_loop()
        self._timer = PreciseTimer(loop, self._due)
        gc.collect()
        gc.freeze()  # a collection over all the bodies would delay what is due meanwhile
        try:
            self._start = perf_counter() + START_S - min(0.0, self._times[0] if self._times else 0.0)
            self._due()
            await self._over.wait()
            await self._end()
        finally:
            gc.unfreeze()
            self._timer.close()

    def _due(self) -> None:
        """Send whatever is due now, and set the timer to the next."""
        now = perf_counter() - self._start
        while self._next < len(self._times) and self._times[self._next] <= now:
            self._send(self._next, self._times[self._next], now)
            self._next += 1
            now = perf_counter() - self._start
        if self._next < len(self._times):
            self._timer.arm(self._times[self._next] - now)
        elif not self._under_way:
            self._over.set()

    def _send(self, i: int, due_s: float, now_s: float) -> None:
        measured = due_s >= 0
        if measured:
            if not self._measuring:
                self._begin()
            self.outcomes.left(now_s - due_s)
        self._under_way += 1

        def done(status: int, body: bytes, why: str | None) -> None:
            self._under_way -= 1
            self.usage.answers += why is None
            if measured:
                came_s = perf_counter() - self._start
                self.outcomes.came(due_s, came_s, status, body, why)
                if self.load.told is not None:
                    self.load.told(self.order[i], (came_s - due_s) * 1e3, status, body)
            if not self._under_way and self._next >= len(self._times):
                self._over.set()

        self.connections.request(self.payloads[self.order[i]], done)

    def _begin(self) -> None:
        self._measuring = True
        self.usage.client_began(time.process_time(), perf_counter())
        self._begun = asyncio.get_running_loop().create_task(self._read_cpu(self.usage.server_began))

    async def _end(self) -> None:
        self.usage.client_ended(time.process_time(), perf_counter())
        self.usage.waited_for_connection = self.connections.waited
        if self._begun is not None:
            await self._begun
        await self._read_cpu(self.usage.server_ended)

    async def _read_cpu(self, told: Callable[[float | None], None]) -> None:
        if self.cpu_s is not None:
            told(self.cpu_s())
            return
        try:
            status, text = await self.connections.get("/metrics")
        except ConnectionError:
            told(None)
        else:
            told(cpu_s_in_metrics(text) if status == 200 else None)
