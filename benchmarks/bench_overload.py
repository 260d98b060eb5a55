"""What happens when more is asked than the machine can do: goodput, latency, depth, price and gain, from half of the
capacity to ten times of it, beside rivals with the same model and the same client.

    python benchmarks/bench_overload.py --folder /tmp/overload --rivals --json benchmarks/results/overload.json

The server (front and engine) runs on one core, an open-loop client on another; latency counts from the intended send
time, and the client's own lag is printed. Capacity is the most full-depth answers a second within the deadline, which
is three times a full-depth request. ``good`` means answered within the deadline and scored at least by level 0.

The model (``overload_world``) ranks 1,682 films for 64 users; its router alone carries ten times the capacity, which is
printed. What every plan is worth to every user is known from ranking once at full depth, so the gain of an answer over
the router's is known too (an answer that is late or none gains nothing). ``kept`` is the gain of all answers of a step
over that of full depth; ``best`` the same of the knapsack optimum for the requests of that step at the same capacity,
which knows every gain beforehand; ``fitted`` that of the fitted policy at one price for all.

Rivals behind this server: the same plan for every request (``budget``, no price), and full depth with a limit on how
many may wait. ``alone``: ours without shared passes. ``--rivals``: FastAPI, LitServe and Ray Serve with their usual
settings, each of which ranks at full depth by the same in-process ``Ranker``; started anew for each step, since they go
on with what nobody waits for any more.
They live in an environment of their own:

    .venv/bin/python -m venv --system-site-packages /tmp/venv-rivals
    echo $PWD/.venv/lib/python3.11/site-packages > /tmp/venv-rivals/lib/python3.11/site-packages/depthrank_env.pth
    /tmp/venv-rivals/bin/pip install fastapi litserve "ray[serve]"
    ... --rivals --rival-python /tmp/venv-rivals/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import torch

from depthrank.errors import CapacityError
from overload_rivals import rival
from overload_world import Known, bodies, known_of, prepare, users_of

CORES = sorted(os.sched_getaffinity(0))
STEPS = (0.5, 1.0, 2.0, 4.0, 7.0, 10.0)
RIVAL_STEPS = (1.0, 4.0, 10.0)
RIVALS = ("fastapi", "litserve", "ray")
GIVES_UP = 4.0  # deadlines, after which the client waits no longer
GATES = ("deadline", "concurrency", "cohorts", "price", "share", "full", "input_order")
OFF = {f"DEPTHRANK_ADMISSION__GATES__{gate.upper()}": "off" for gate in GATES}


@contextmanager
def server(artifact: Path, log: str, workers: int, environment: dict[str, str]) -> Iterator[str]:
    """``depthrank serve`` on the first core; yields its address when it is ready."""
    from depthrank.cli.served_artifact import free_port

    port = free_port()
    command = ["taskset", "-c", str(CORES[0]), sys.executable, "-m", "depthrank.cli", "serve", str(artifact)]
    command += ["--port", str(port), "--log", log, "--threads", "1", "--workers", str(workers)]
    settings = {"DEPTHRANK_LOG_SERVED": "false", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **environment}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=said, stderr=said)
        try:
            _until_ready(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with code {process.returncode}")
        with suppress(httpx.TransportError):
            if httpx.get(f"{address}/health/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the server was not ready within 120 s")


@dataclass
class Judge:
    """Adds up what answers gained; ``capacity_ms_per_s``: thread time a second at full load."""

    known: Known
    capacity_ms_per_s: float
    deadline_ms: float
    gain: float = 0.0
    rows: list[int] = field(default_factory=list)

    def told(self, row: int, took_ms: float, status: int, body: bytes) -> None:
        """One request has ended."""
        self.rows.append(row)
        if status == 200 and took_ms <= self.deadline_ms:
            items = [item["item"] for item in msgspec.json.decode(body)["items"]]
            self.gain += self.known.gain_of(self.known.users[row], items)

    def figures(self, seconds: float) -> dict[str, float]:
        """Gains as shares of full depth's."""
        row_Q = np.array(self.rows)
        full, capacity_ms = float(self.known.full_gain_R[row_Q].sum()), self.capacity_ms_per_s * seconds
        found = {
            "kept": self.gain / full,
            "best": self.known.best(row_Q, capacity_ms) / full,
            "fitted": self.known.best_of_policy(row_Q, capacity_ms) / full,
        }
        return {**found, "below_best": found["best"] - found["kept"]}


def offer(
    address: str, asked: list[dict[str, Any]], rate: float, seconds: float, deadline_ms: float, judge: Judge | None
) -> dict[str, Any]:
    """One step: its figures, and what the server says of its price and depth at its end."""
    from depthrank.cli.load import Arrivals, Load, run_load

    load = Load(deadline_ms=deadline_ms, timeout_s=GIVES_UP * deadline_ms / 1e3, told=judge and judge.told)
    before = status(address)
    try:
        figures = run_load(address, asked, Arrivals(rate, seconds, seed=1), load).figures()
    except CapacityError as error:
        return {"offered_rps": rate, "goodput_rps": 0.0, "failed": str(error)}
    after = status(address)
    figures |= {"gates": acted(before, after), "price_ratio": after["price_ratio"], "speed": after["speed"]}
    return figures if judge is None else {**figures, **judge.figures(seconds)}


def status(address: str) -> dict[str, Any]:
    """Price, speed and counts of the gates, from the metrics."""
    answered = httpx.get(f"{address}/metrics", timeout=30)
    text = answered.text if answered.status_code == 200 else ""  # rivals have none
    found: dict[str, Any] = {"gates": {}, "price_ratio": 1.0, "speed": []}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("depthrank_admission_total{"):
            labels = dict(part.split("=") for part in name[name.index("{") + 1 : -1].replace('"', "").split(","))
            found["gates"][f"{labels['gate']} {labels['what']}"] = float(value)
        elif name.startswith("depthrank_price_ratio{"):
            found["price_ratio"] = float(value)
        elif name.startswith("depthrank_engine_speed{"):
            found["speed"].append(round(float(value), 3))
        elif name.startswith("depthrank_rank_stage_seconds_sum{"):
            found.setdefault("stage_s", {})[name.split('"')[1]] = float(value)
    return found


def acted(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """How often gates acted in between."""
    counts = {name: times - before["gates"].get(name, 0.0) for name, times in after["gates"].items()}
    return {name: times for name, times in counts.items() if times}


def knee(address: str, asked: list[dict[str, Any]], deadline_ms: float, seconds: float) -> float:
    """Full-depth answers a second within the deadline, at most: rates rise by 1.4 until goodput stops following."""
    full_ms = _one_by_one(address, asked)
    rate, best = 0.3 * 1e3 / full_ms, 0.0
    while rate < 4e3 / full_ms:
        figures = offer(address, asked, rate, seconds, deadline_ms, None)
        print(f"    {rate:.1f} a second: {figures['goodput_rps']} good, p99 {figures.get('p99_ms')} ms", flush=True)
        if figures["goodput_rps"] < 0.5 * best:
            break
        best, rate = max(best, figures["goodput_rps"]), rate * 1.4
    if not best:
        raise SystemExit("no full-depth answer came within the deadline at any rate: is the machine busy?")
    return best


def _one_by_one(address: str, asked: list[dict[str, Any]]) -> float:
    """Median milliseconds of a request alone, the user's state warm."""
    times = []
    with httpx.Client(base_url=address, timeout=60) as client:
        for body in [*asked[:8], *asked[:8]]:
            started = time.perf_counter()
            client.post("/v1/rank", json={**body, "deadline_ms": None}).raise_for_status()
            times.append((time.perf_counter() - started) * 1e3)
    return sorted(times[8:])[4]


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "depthrank-overload")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--deadline-ms", type=float, default=None, help="default: three times a full-depth request")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a step")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="of: ours, alone, limit, fixed 0.25, fixed 0.12, and the rivals")
    parser.add_argument("--rivals", action="store_true", help="FastAPI, LitServe and Ray Serve too")
    parser.add_argument("--rival-python", default=sys.executable, help="of an environment that has them")
    parser.add_argument("--prepare", action="store_true", help="make the model and end")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, CORES)
    torch.set_num_threads(len(CORES))
    artifact, log = prepare(arguments.folder, arguments.preset)
    if arguments.prepare:
        return
    os.sched_setaffinity(0, {CORES[-1]})
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    results = Bench(artifact, log, arguments).results()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


class Bench:
    """Capacity, then every policy at every step."""

    def __init__(self, artifact: Path, log: str, arguments: argparse.Namespace) -> None:
        self.artifact, self.log, self.arguments = artifact, log, arguments
        self.seconds, self.workers = arguments.seconds, arguments.workers
        users = users_of(artifact, log)
        with server(artifact, log, self.workers, OFF) as address:
            self.full_ms = _one_by_one(address, bodies(users, 60_000, mode="full"))
            self.router_ms = _one_by_one(address, bodies(users, 60_000, mode="router"))
            self.deadline_ms = arguments.deadline_ms or 3 * self.full_ms
            asked = bodies(users, self.deadline_ms, mode="full")
            self.capacity = knee(address, asked, self.deadline_ms, max(4.0, self.seconds / 2))
        print(f"full {self.full_ms:.1f} ms, router {self.router_ms:.2f} ms, deadline {self.deadline_ms:.0f} ms:")
        print(f"{self.capacity:.1f} a second; the router alone {1e3 / self.router_ms / self.capacity:.1f} times that")
        self.known = known_of(artifact, log, self.router_ms)

    def results(self) -> dict[str, Any]:
        """Rows of all policies, and what they were measured with."""
        from machine_facts import machine_facts

        rows = []
        for name in self._names():
            rows += self._rival(name) if name in RIVALS else self._ours(name)
        return {
            "machine": machine_facts(),
            "command": shlex.join(["python", *sys.argv]),
            "full_ms": self.full_ms,
            "router_ms": self.router_ms,
            "router_times_capacity": 1e3 / self.router_ms / self.capacity,
            "deadline_ms": self.deadline_ms,
            "capacity_rps": self.capacity,
            "workers": self.workers,
            "rows": rows,
        }

    def _names(self) -> list[str]:
        names = [*POLICIES, *(RIVALS if self.arguments.rivals else ())]
        return [name for name in names if not self.arguments.only or name in self.arguments.only]

    def _ours(self, name: str) -> list[dict[str, Any]]:
        environment, fields = POLICIES[name]
        asked = bodies(self.known.users, self.deadline_ms, **fields)
        with server(self.artifact, self.log, self.workers, environment) as address:
            offer(address, asked, self.capacity * 0.5, 2.0, self.deadline_ms, None)
            return [self._step(name, address, asked, t) for t in (STEPS if name in EVERY_STEP else RIVAL_STEPS)]

    def _rival(self, name: str) -> list[dict[str, Any]]:
        rows, asked = [], bodies(self.known.users, self.deadline_ms, mode="full")
        for times in RIVAL_STEPS:
            with rival(name, self.arguments.rival_python, self.artifact, self.log, CORES[0]) as address:
                rows.append(self._step(name, address, asked, times))
        return rows

    def _step(self, name: str, address: str, asked: list[dict[str, Any]], times: float) -> dict[str, Any]:
        full_ms = float(self.known.cost_RJ[:, -1].mean()) + self.known.beside_ms
        judge = Judge(self.known, self.capacity * full_ms, self.deadline_ms)
        figures = offer(address, asked, self.capacity * times, self.seconds, self.deadline_ms, judge)
        row = {"policy": name, "times": times, **figures}
        print(told(row), flush=True)
        return row


POLICIES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "ours": ({}, {}),
    "alone": ({"DEPTHRANK_ADMISSION__REQUESTS_TOGETHER": "1"}, {}),
    "limit": ({**OFF, "DEPTHRANK_RANK_QUEUE": "3"}, {"mode": "full"}),
    "fixed 0.25": ({**OFF, "DEPTHRANK_RANK_QUEUE": "12"}, {"budget": 0.25}),
    "fixed 0.12": ({**OFF, "DEPTHRANK_RANK_QUEUE": "24"}, {"budget": 0.12}),
}
EVERY_STEP = ("ours", "alone")


def told(row: dict[str, Any]) -> str:
    """A line for people."""
    if "failed" in row:
        return f"{row['policy']:>10} {row['times']:5.1f}x {row['failed'][:100]}"
    return (
        f"{row['policy']:>10} {row['times']:5.1f}x offered {row['offered_rps']:6.1f} good {row['goodput_rps']:6.1f} "
        f"p50 {row['p50_ms']:6.1f} p99 {row['p99_ms']:6.1f} errors {row['errors']:4d} kept {row['kept']:.3f} "
        f"best {row['best']:.3f} fitted {row['fitted']:.3f} "
        f"price x{row['price_ratio']:.3g} lag p99 {row.get('client_lag_p99_ms', 0):.2f} {row['gates']}"
    )


if __name__ == "__main__":
    main()
