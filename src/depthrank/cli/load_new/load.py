"""An open-loop load: requests leave at times set beforehand, and latency counts from the intended time.

A closed loop waits for an answer before it asks again, so a slow server is asked less and its queue never shows
(coordinated omission). Here the send times are a Poisson process fixed by the seed; whatever delays a request, in this
client or in the server, is in its latency. ``client_lag_p99_ms`` tells how late this client was itself: where it is not
small beside the latencies, the client was the bottleneck.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from depthrank.errors import CapacityError

TIMEOUT_S = 60.0
WARM_UP_REQUESTS = 8


@dataclass(frozen=True)
class Arrivals:
    """rate: requests a second, times ``surge`` in the middle third of ``seconds``."""

    rate: float
    seconds: float
    surge: float = 1.0
    seed: int = 0

    def times_s(self) -> npt.NDArray[np.float64]:
        """Intended send times from 0, ascending: a Poisson process, thinned outside the surge."""
        rng = np.random.default_rng(self.seed)
        peak = self.rate * self.surge
        gaps = rng.exponential(1 / peak, size=int(peak * self.seconds * 2) + 64)
        times = np.cumsum(gaps)
        times = times[times < self.seconds]
        third = self.seconds / 3
        in_surge = (times >= third) & (times < 2 * third)
        return times[in_surge | (rng.random(len(times)) < 1 / self.surge)]


@dataclass
class Outcomes:
    """What happened to each request that was sent."""

    latency_ms: list[float] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)
    good: int = 0
    degraded: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    def failed(self, what: str) -> None:
        self.failures[what] = self.failures.get(what, 0) + 1


def run_load(
    address: str, bodies: list[dict[str, object]], arrivals: Arrivals, deadline_ms: float | None
) -> dict[str, Any]:
    """Offer the load and return its figures; raises CapacityError where no request was answered."""
    if deadline_ms is not None:
        bodies = [{**body, "deadline_ms": deadline_ms} for body in bodies]
    return asyncio.run(_run(address, bodies, arrivals, deadline_ms))


async def _run(
    address: str, bodies: list[dict[str, object]], arrivals: Arrivals, deadline_ms: float | None
) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT_S, limits=limits) as client:
        for body in bodies[:WARM_UP_REQUESTS]:
            (await client.post("/v1/rank", json=body)).raise_for_status()
        cpu_before = await _server_cpu_s(client)
        outcomes, wall_s = await _offer(client, bodies, arrivals.times_s(), deadline_ms)
        cpu_after = await _server_cpu_s(client)
    cpu_s = None if cpu_before is None or cpu_after is None else cpu_after - cpu_before
    return _figures(outcomes, wall_s, arrivals.seconds, cpu_s)


async def _offer(
    client: httpx.AsyncClient,
    bodies: list[dict[str, object]],
    times_s: npt.NDArray[np.float64],
    deadline_ms: float | None,
) -> tuple[Outcomes, float]:
    """Send each request at its time; returns when the last answer is in, with the seconds that took."""
    outcomes = Outcomes()
    start = time.perf_counter()
    sent = []
    for i, at in enumerate(times_s):
        await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
        sent.append(asyncio.create_task(_send(client, bodies[i % len(bodies)], start + at, deadline_ms, outcomes)))
    await asyncio.gather(*sent)
    return outcomes, time.perf_counter() - start


async def _send(
    client: httpx.AsyncClient, body: dict[str, object], intended: float, deadline_ms: float | None, outcomes: Outcomes
) -> None:
    outcomes.lag_ms.append((time.perf_counter() - intended) * 1000)
    try:
        response = await client.post("/v1/rank", json=body)
    except httpx.TransportError as error:
        outcomes.failed(type(error).__name__)
        return
    latency_ms = (time.perf_counter() - intended) * 1000
    if response.status_code != 200:
        outcomes.failed(str(response.status_code))
        return
    answer = response.json()
    outcomes.latency_ms.append(latency_ms)
    outcomes.degraded += bool(answer["degraded"]["is"])
    in_time = deadline_ms is None or latency_ms <= deadline_ms
    outcomes.good += in_time and all(item["level"] >= 0 for item in answer["items"])


async def _server_cpu_s(client: httpx.AsyncClient) -> float | None:
    """CPU seconds of the server process, from its own metrics."""
    response = await client.get("/metrics")
    for line in response.text.splitlines():
        if line.startswith("process_cpu_seconds_total "):
            return float(line.split()[1])
    return None


def _figures(outcomes: Outcomes, wall_s: float, seconds: float, cpu_s: float | None) -> dict[str, Any]:
    """errors and degraded are counts; latencies are of answered requests, from the intended send time."""
    answered = len(outcomes.latency_ms)
    if not answered:
        raise CapacityError(f"no request was answered: {outcomes.failures}")
    p50, p99 = np.percentile(outcomes.latency_ms, [50, 99])
    return {
        "offered_rps": round(len(outcomes.lag_ms) / seconds, 3),
        "goodput_rps": round(outcomes.good / max(wall_s, seconds), 3),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "errors": sum(outcomes.failures.values()),
        "degraded": outcomes.degraded,
        "core_s_per_1000": None if cpu_s is None else round(1000 * cpu_s / answered, 3),
        "answered": answered,
        "errors_by_kind": outcomes.failures,
        "client_lag_p99_ms": round(float(np.percentile(outcomes.lag_ms, 99)), 3),
    }
