"""What happens when more is asked than the machine can do: goodput, latency, depth, price and gain, from half of the
capacity to ten times of it and beyond, beside rivals with the same model and the same client.

    python benchmarks/bench_overload.py --artifact work/ml1m/deeper --log lmdb:work/ml1m/log \\
        --json benchmarks/results/overload.json [--only capacity | ours | ...]

The server (front and engine) runs on one core, an open-loop client on another; latency counts from the intended send
time, and the client's own lag is printed. Capacity is the most full-depth answers a second within the deadline, which
is three times a full-depth request (``overload_capacity``). ``good`` means answered within the deadline and scored at
least by level 0; ``utilisation`` is what the server used of its core. A step lasts at least ``--seconds``, and until it
has had 150 requests.

The model (``overload_world``) ranks 1,500 films for 64 users; its router alone carries ten times the capacity, which is
printed. What every plan is worth to every user is known from ranking once at full depth, so the gain of an answer over
the router's is known too (an answer that is late, in input order or none gains nothing). ``kept`` is the gain of all
answers of a step over that of full depth. ``best`` is the same of the knapsack optimum for the requests of that step,
which knows every gain beforehand and may use as much as full depth had at the capacity; ``best_of_core`` may use all
of the core, which nobody can who has to answer in time, and ``below_best`` is measured from there. ``fitted``: the
fitted policy at one price for all, with all of the core. Costs are measured ones, shared passes included.

Rivals behind this server: the same plan for every request (``budget``, no price; or the router alone), and full depth
with a limit on how many may wait. ``alone``: ours without shared passes. ``--rivals``: FastAPI, LitServe and Ray Serve
with their usual settings, each of which ranks at full depth by the same in-process ``Ranker``; started anew for each
step, since they go on with what nobody waits for any more. They live in an environment of their own:

    .venv/bin/python -m venv --system-site-packages /tmp/venv-rivals
    echo $PWD/.venv/lib/python3.11/site-packages > /tmp/venv-rivals/lib/python3.11/site-packages/depthrank_env.pth
    /tmp/venv-rivals/bin/pip install fastapi litserve "ray[serve]"
    ... --rivals --rival-python /tmp/venv-rivals/bin/python

The results file is written after every step and read at the start: what it holds is kept, so a run may be cut into
several. ``--only capacity`` first, once; everything else uses the capacity that stands there.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import torch

from depthrank.errors import CapacityError
from overload_capacity import LEAST_REQUESTS, PlanCosts, capacity_of, cpu_s, goodput_curve, measured_costs, one_by_one
from overload_rivals import rival
from overload_world import Known, bodies, known_of, prepare

CORES = sorted(os.sched_getaffinity(0))
STEPS = (0.5, 1.0, 2.0, 4.0, 7.0, 10.0, 14.0)
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
    """Adds up what answers gained; ``capacity_ms_per_s``: core time a second that full depth had at the capacity."""

    known: Known
    costs: PlanCosts
    capacity_ms_per_s: float
    deadline_ms: float
    gain: float = 0.0
    rows: list[int] = field(default_factory=list)

    def told(self, row: int, took_ms: float, status: int, body: bytes) -> None:
        """One request has ended."""
        self.rows.append(row)
        if status == 200 and took_ms <= self.deadline_ms:
            items = msgspec.json.decode(body)["items"]
            if items[-1]["level"] >= 0:  # in input order: nothing was ranked
                self.gain += self.known.gain_of(row, [item["item"] for item in items])

    def figures(self, seconds: float) -> dict[str, float]:
        """Gains as shares of full depth's."""
        row_Q = np.array(self.rows)
        full, core_ms = float(self.known.full_gain_R[row_Q].sum()), 1e3 * seconds
        found = {
            "kept": self.gain / full,
            "best": self.known.best(row_Q, self.costs, self.capacity_ms_per_s * seconds) / full,
            "best_of_core": self.known.best(row_Q, self.costs, core_ms) / full,
            "fitted": self.known.best_of_policy(row_Q, self.costs, core_ms) / full,
        }
        return {**found, "below_best": found["best_of_core"] - found["kept"]}


def offer(
    address: str,
    asked: list[dict[str, Any]],
    rate: float,
    seconds: float,
    limit_ms: float,
    judge: Judge | None,
    *,
    deadline: bool = True,
) -> dict[str, Any]:
    """One step: its figures, and what the server says of its price and depth at its end. ``deadline``: whether requests
    name theirs."""
    from depthrank.cli.load import Arrivals, Load, run_load

    load = Load(
        deadline_ms=limit_ms if deadline else None,
        limit_ms=limit_ms,
        timeout_s=GIVES_UP * limit_ms / 1e3,
        told=judge and judge.told,
    )
    before, used_s, started_s = status(address), cpu_s(address), time.monotonic()
    try:
        figures = run_load(address, asked, Arrivals(rate, seconds, seed=1), load).figures()
    except CapacityError as error:
        return {"offered_rps": rate, "goodput_rps": 0.0, "failed": str(error)}
    wall_s, used_s = time.monotonic() - started_s, cpu_s(address) - used_s
    after = status(address)
    figures |= {"gates": acted(before, after), "price_ratio": after["price_ratio"], "speed": after["speed"]}
    figures["utilisation"] = round(used_s / wall_s, 3) if used_s == used_s else None
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


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "depthrank-overload")
    parser.add_argument("--artifact", type=Path, help="with a plan ladder and two levels; default: made in --folder")
    parser.add_argument("--log", help="of that artifact")
    parser.add_argument("--preset", default="small", help="of the one that is made")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a step, at least")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=float, nargs="*", help="multiples of the capacity")
    parser.add_argument(
        "--only", nargs="*", help="of: capacity, ours, alone, limit, fixed 0.4, fixed 0.3, router, rivals"
    )
    parser.add_argument("--rivals", action="store_true", help="FastAPI, LitServe and Ray Serve too")
    parser.add_argument("--rival-python", default=sys.executable, help="of an environment that has them")
    parser.add_argument("--prepare", action="store_true", help="make the model, rank once for all users, and end")
    parser.add_argument("--json", type=Path, default=Path("overload.json"))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, CORES)
    torch.set_num_threads(len(CORES))
    artifact, log = arguments.artifact, arguments.log
    if artifact is None:
        artifact, log = prepare(arguments.folder, arguments.preset)
    os.sched_setaffinity(0, {CORES[-1]})
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    known = known_of(artifact, log, arguments.folder)
    if not arguments.prepare:
        Bench(artifact, log, known, arguments).run()


class Bench:
    """Capacity, then every policy at every step; ``results`` are those of the file, and written after each step."""

    def __init__(self, artifact: Path, log: str, known: Known, arguments: argparse.Namespace) -> None:
        self.artifact, self.log, self.known, self.arguments = artifact, log, known, arguments
        self.seconds, self.workers = arguments.seconds, arguments.workers
        path: Path = arguments.json
        self.results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def run(self) -> None:
        """What is asked for, in its order."""
        only = self.arguments.only
        if "capacity" not in self.results or (only and "capacity" in only):
            self._save(capacity=self._capacity(), rows=[])
        capacity = self.results["capacity"]
        self.costs = PlanCosts(**capacity["costs"])
        self.deadline_ms, self.capacity = capacity["deadline_ms"], capacity["capacity_rps"]
        names = [*POLICIES, *(RIVALS if self.arguments.rivals else ())]
        for name in [name for name in names if not only or name in only]:
            (self._rival if name in RIVALS else self._ours)(name)

    def _save(self, **found: Any) -> None:
        from machine_facts import machine_facts

        commands = [*self.results.get("commands", []), shlex.join(["python", *sys.argv])]
        self.results |= {"machine": machine_facts(), "commands": list(dict.fromkeys(commands)), **found}
        self.arguments.json.write_text(json.dumps(self.results, indent=1) + "\n")

    def _add(self, row: dict[str, Any]) -> None:
        """A step, in the place of the one before it."""
        print(told(row), flush=True)
        key = row["policy"], row["times"]
        others = [one for one in self.results.get("rows", []) if (one["policy"], one["times"]) != key]
        self._save(rows=[*others, {**row, "when": time.strftime("%Y-%m-%d %H:%M")}])

    def _capacity(self) -> dict[str, Any]:
        with server(self.artifact, self.log, self.workers, OFF) as address:
            costs = measured_costs(address, partial(self._asked, None))
            print(f"core-milliseconds of a request: {costs}", flush=True)
            full = self._asked(None, mode="full")
            full_ms, router_ms = one_by_one(address, full), one_by_one(address, self._asked(None, mode="router"))
            deadline_ms = 3 * full_ms

            def at(rate: float, seconds: float) -> dict[str, Any]:
                return offer(address, full, rate, seconds, deadline_ms, None, deadline=False)

            curve = goodput_curve(at, costs.full_ms, self.seconds)
        capacity, in_time = capacity_of(curve)
        print(
            f"full {full_ms:.1f} ms, router {router_ms:.2f} ms, deadline {deadline_ms:.0f} ms: {capacity:.2f} a second"
        )
        return {
            "artifact": str(self.artifact),
            "full_ms": full_ms,
            "router_ms": router_ms,
            "deadline_ms": deadline_ms,
            "costs": dataclasses.asdict(costs),
            "capacity_rps": capacity,
            "in_time_rps": in_time,
            "router_times_capacity": 1e3 / costs.router_ms / capacity,
            "curve": curve,
            "workers": self.workers,
        }

    def _ours(self, name: str) -> None:
        environment, fields = POLICIES[name]
        asked = self._asked(self.deadline_ms, **fields)
        with server(self.artifact, self.log, self.workers, environment) as address:
            one_by_one(address, self._asked(None, mode="full"))
            for own in ({"mode": "router"}, fields):  # histories are encoded and costs known before the first step
                with httpx.Client(base_url=address, timeout=60) as client:
                    for body in self._asked(None, **own):
                        client.post("/v1/rank", json=body).raise_for_status()
            for times in self._steps(STEPS if name in EVERY_STEP else RIVAL_STEPS):
                self._step(name, address, asked, times)

    def _rival(self, name: str) -> None:
        asked = self._asked(self.deadline_ms, mode="full")
        for times in self._steps(RIVAL_STEPS):
            with rival(name, self.arguments.rival_python, self.artifact, self.log, CORES[0]) as address:
                self._step(name, address, asked, times)

    def _asked(self, deadline_ms: float | None, **fields: Any) -> list[dict[str, Any]]:
        return bodies(self.known.users, self.known.item_N, deadline_ms, **fields)

    def _steps(self, usual: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(self.arguments.steps or usual)

    def _step(self, name: str, address: str, asked: list[dict[str, Any]], times: float) -> None:
        judge = Judge(self.known, self.costs, self.capacity * self.costs.full_ms, self.deadline_ms)
        rate = self.capacity * times
        figures = offer(address, asked, rate, max(self.seconds, LEAST_REQUESTS / rate), self.deadline_ms, judge)
        self._add({"policy": name, "times": times, **figures})


POLICIES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "ours": ({}, {}),
    "alone": ({"DEPTHRANK_ADMISSION__REQUESTS_TOGETHER": "1"}, {}),
    "limit": ({**OFF, "DEPTHRANK_RANK_QUEUE": "3"}, {"mode": "full"}),
    "fixed 0.4": ({**OFF, "DEPTHRANK_RANK_QUEUE": "8"}, {"budget": 0.4}),
    "fixed 0.3": ({**OFF, "DEPTHRANK_RANK_QUEUE": "12"}, {"budget": 0.3}),
    "router": ({**OFF, "DEPTHRANK_RANK_QUEUE": "24"}, {"mode": "router"}),
}
EVERY_STEP = ("ours", "alone")


def told(row: dict[str, Any]) -> str:
    """A line for people."""
    if "failed" in row:
        return f"{row['policy']:>10} {row['times']:5.1f}x {row['failed'][:100]}"
    return (
        f"{row['policy']:>10} {row['times']:5.1f}x offered {row['offered_rps']:6.1f} good {row['goodput_rps']:6.1f} "
        f"p50 {row['p50_ms']:6.1f} p99 {row['p99_ms']:6.1f} errors {row['errors']:4d} busy {row['utilisation']} "
        f"kept {row['kept']:.3f} best {row['best']:.3f} of core {row['best_of_core']:.3f} fitted {row['fitted']:.3f} "
        f"price x{row['price_ratio']:.3g} lag p99 {row.get('client_lag_p99_ms', 0):.2f} {row['gates']}"
    )


if __name__ == "__main__":
    main()
