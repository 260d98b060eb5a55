"""What ``bench_overload`` holds its steps against: what plans cost the server, measured at the server, and how many
full-depth answers a second it gives in time.

**Costs.** Clients that ask again at once keep the server busy; what its processes used of their core, over the answers,
is the cost of the plan: HTTP, queue, history and order included, shared passes where it shares them.

**Capacity.** Full depth is offered at rising rates to a server without any gate, which answers in the order of arrival;
the goodput of a rate is what it answers a second within the deadline, and capacity the most of that at any rate. (By
the rule of ``depthrank bench --ramp``, p99 within the deadline, the knee would be far lower: with services that all
take the same time and a deadline of three of them, a queue of Poisson arrivals has 1 % late at 37 % of utilisation
already. ``in_time_rps`` is that one. The higher figure makes the steps harder.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from depthrank.cli.load.server_cpu import cpu_s_in_metrics

Floats = NDArray[np.float64]
Ask = Callable[[float, float], dict[str, Any]]
CLIENTS = 6
BUDGETS = (0.2, 0.25, 0.3, 0.4)  # of full depth's predicted cost: some requests go deeper, then all
ROUNDS = 2
FULL_ROUNDS = 0.5
UTILISATIONS = (0.35, 0.55, 0.7, 0.8, 0.9)
LEAST_REQUESTS = 150
IN_TIME = 0.99


@dataclass(frozen=True)
class PlanCosts:
    """Core-milliseconds of a whole request: ``router_ms`` by the router alone; where level 1 scores ``width``
    candidates, ``once_ms + each_ms * width`` more. ``measured``: what these were fitted to."""

    router_ms: float
    once_ms: float
    each_ms: float
    full_ms: float
    measured: list[dict[str, float]]

    def of(self, width: Floats) -> Floats:
        """The cost of plans of these widths."""
        return self.router_ms + np.where(width > 0, self.once_ms + self.each_ms * width, 0.0)


def measured_costs(address: str, bodies: Callable[..., list[dict[str, Any]]]) -> PlanCosts:
    """``bodies(**fields)``: requests of all users, the same but for these fields."""
    for mode, rounds in (("router", 1.0), ("full", FULL_ROUNDS), ("router", 1.0)):  # states encoded, costs learned
        spent(address, bodies(mode=mode), rounds)
    router = spent(address, bodies(mode="router"), ROUNDS)
    found = []
    for budget in BUDGETS:
        spent(address, bodies(budget=budget), 0.5)
        found.append({"budget": budget, **spent(address, bodies(budget=budget), ROUNDS)})
    full = spent(address, bodies(mode="full"), FULL_ROUNDS)
    rows = np.array([[one["deeper"], one["width"]] for one in (*found, full)])
    beyond = np.array([one["core_ms"] for one in (*found, full)]) - router["core_ms"]
    weight = 1 / np.array([one["core_ms"] for one in (*found, full)])  # errors are relative
    once, each = np.linalg.lstsq(rows * weight[:, None], beyond * weight, rcond=None)[0].tolist()
    if not (once > 0 and each > 0):
        raise SystemExit(f"depth costs {once:.2f} ms and {each:.4f} a candidate: was the machine busy? {found}")
    return PlanCosts(router["core_ms"], once, each, full["core_ms"], [router, *found, full])


def spent(address: str, asked: Sequence[dict[str, Any]], rounds: float) -> dict[str, float]:
    """Of a request, the server kept busy: core-milliseconds, the share that went deeper than the router, and the mean
    candidates at level 1."""
    todo = [asked[k % len(asked)] for k in range(int(rounds * len(asked)))]
    widths, lock = list[float](), threading.Lock()

    def ask() -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            while True:
                with lock:
                    if not todo:
                        return
                    body = todo.pop()
                answer = client.post("/v1/rank", json=body).raise_for_status().json()
                widths.append(float(sum(answer["candidates_scored"][1:])))

    before = cpu_s(address)
    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    core_ms = (cpu_s(address) - before) * 1e3 / len(widths)
    deeper = float(np.mean([width > 0 for width in widths]))
    return {"core_ms": core_ms, "deeper": deeper, "width": float(np.mean(widths))}


def cpu_s(address: str) -> float:
    """CPU seconds of the server's processes until now; NaN where it does not tell."""
    answered = httpx.get(f"{address}/metrics", timeout=30)
    found = cpu_s_in_metrics(answered.content) if answered.status_code == 200 else None
    return float("nan") if found is None else found


def one_by_one(address: str, asked: Sequence[dict[str, Any]]) -> float:
    """Median milliseconds until the answer to a request alone, the user's state warm."""
    times = []
    with httpx.Client(base_url=address, timeout=60) as client:
        for body in [*asked[:8], *asked[:16]]:
            started = time.perf_counter()
            client.post("/v1/rank", json=body).raise_for_status()
            times.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times[8:]))


def goodput_curve(offer: Ask, full_ms: float, least_seconds: float) -> list[dict[str, Any]]:
    """Figures of rising rates of full depth, until goodput falls."""
    curve: list[dict[str, Any]] = []
    for utilisation in UTILISATIONS:
        rate = utilisation * 1e3 / full_ms
        figures = offer(rate, max(least_seconds, LEAST_REQUESTS / rate))
        kept = ("offered_rps", "goodput_rps", "p50_ms", "p99_ms", "sent", "good", "errors", "utilisation")
        curve.append({name: figures.get(name) for name in kept})
        print(f"    full depth: {curve[-1]}", flush=True)
        if curve[-1]["goodput_rps"] < 0.8 * max(step["goodput_rps"] for step in curve):
            break
    return curve


def capacity_of(curve: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The most goodput, and the highest rate at which nearly all were in time (0: none)."""
    in_time = [step["offered_rps"] for step in curve if step["good"] >= IN_TIME * step["sent"]]
    return max(step["goodput_rps"] for step in curve), max(in_time, default=0.0)
