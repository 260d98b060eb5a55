"""What happens when more is asked than the machine can do: goodput, latency, depth and price, from half of the capacity
to ten times of it, beside rivals with the same model behind the same server.

    python benchmarks/bench_overload.py --json benchmarks/results/overload.json

The server process (front and engine) runs on one core, an open-loop client on another; latency counts from the intended
send time, and the client's own lag is printed. Capacity is the most full-depth answers a second within the deadline.
``good`` means answered within the deadline and scored at least by level 0. Rivals: the same plan for every request
(``budget``, no price), and full depth with a limit on how many may wait. ``--workers 1`` serves by an engine process.

The model is of a made-up marketplace (``synthetic_world``), trained for a minute: it has the costs of its size, and no
taste. Its router alone must carry ten times the capacity, which the script checks.
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
from pathlib import Path
from typing import Any

import httpx

CORES = sorted(os.sched_getaffinity(0))
STEPS = (0.5, 1.0, 2.0, 4.0, 7.0, 10.0)
GATES = ("deadline", "concurrency", "cohorts", "price", "share", "full", "input_order")
OFF = {f"DEPTHRANK_ADMISSION__GATES__{gate.upper()}": "off" for gate in GATES}


def prepare(folder: Path, preset: str) -> tuple[Path, str]:
    """A trained artifact and its log; made once a folder."""
    artifact, log = folder / "artifact", f"lmdb:{folder / 'events'}"
    if not (artifact / "manifest.json").exists():
        import torch

        from depthrank.training import train
        from synthetic_world import write_world

        torch.set_num_threads(len(CORES))
        train(write_world(folder, preset), log=log, out=artifact, minutes=1.0, progress=False)
    return artifact, log


def bodies(num_candidates: int, deadline_ms: float, **fields: Any) -> list[dict[str, Any]]:
    """One request a user, narrowed to so many candidates."""
    from synthetic_world import request_bodies

    made = []
    for body in request_bodies(top=10):
        columns = {name: values[:num_candidates] for name, values in body["candidates"].items()}
        made.append({**body, "candidates": columns, "deadline_ms": deadline_ms, **fields})
    return made


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


def offer(address: str, asked: list[dict[str, Any]], rate: float, seconds: float, deadline_ms: float) -> dict[str, Any]:
    """One step: its figures, and what the server says of its price and depth at its end."""
    from depthrank.cli.load import Arrivals, Load, run_load

    before = status(address)
    figures = run_load(address, asked, Arrivals(rate, seconds, seed=1), Load(deadline_ms=deadline_ms)).figures()
    after = status(address)
    return {**figures, "gates": acted(before, after), "price_ratio": after["price_ratio"], "speed": after["speed"]}


def status(address: str) -> dict[str, Any]:
    """Price, speed and counts of the gates, from the metrics."""
    text = httpx.get(f"{address}/metrics", timeout=30).text
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
        figures = offer(address, asked, rate, seconds, deadline_ms)
        print(f"    {rate:.1f} a second: {figures['goodput_rps']} good, p99 {figures['p99_ms']} ms", flush=True)
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
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--candidates", type=int, default=250)
    parser.add_argument("--deadline-ms", type=float, default=None, help="default: three times a full-depth request")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a step")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="of: ours, limit, fixed 0.25, fixed 0.1")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, CORES)
    artifact, log = prepare(arguments.folder, arguments.preset)
    os.sched_setaffinity(0, {CORES[-1]})
    results = measure(artifact, log, arguments)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def measure(artifact: Path, log: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Capacity, then every policy at every step."""
    n, seconds, workers = arguments.candidates, arguments.seconds, arguments.workers
    with server(artifact, log, workers, OFF) as address:
        full_ms = _one_by_one(address, bodies(n, 60_000, mode="full"))
        router_ms = _one_by_one(address, bodies(n, 60_000, mode="router"))
        deadline_ms = arguments.deadline_ms or 3 * full_ms
        capacity = knee(address, bodies(n, deadline_ms, mode="full"), deadline_ms, max(4.0, seconds / 2))
    print(f"full {full_ms:.1f} ms, router {router_ms:.2f} ms, deadline {deadline_ms:.0f} ms: {capacity:.1f} a second")
    policies: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
        "ours": ({}, {}),
        "limit": ({**OFF, "DEPTHRANK_RANK_QUEUE": "3"}, {"mode": "full"}),
        "fixed 0.25": ({**OFF, "DEPTHRANK_RANK_QUEUE": "12"}, {"budget": 0.25}),
        "fixed 0.1": ({**OFF, "DEPTHRANK_RANK_QUEUE": "30"}, {"budget": 0.1}),
    }
    rows = []
    for name, (environment, fields) in policies.items():
        if arguments.only and name not in arguments.only:
            continue
        with server(artifact, log, workers, environment) as address:
            asked = bodies(n, deadline_ms, **fields)
            offer(address, asked, capacity * 0.5, 2.0, deadline_ms)
            for times in STEPS:
                row = {"policy": name, "times": times, **offer(address, asked, capacity * times, seconds, deadline_ms)}
                rows.append(row)
                print(told(row), flush=True)
    from machine_facts import machine_facts

    return {
        "machine": machine_facts(),
        "command": shlex.join(["python", *sys.argv]),
        "full_ms": full_ms,
        "router_ms": router_ms,
        "router_times_capacity": 1e3 / router_ms / capacity,
        "deadline_ms": deadline_ms,
        "capacity_rps": capacity,
        "workers": workers,
        "rows": rows,
    }


def told(row: dict[str, Any]) -> str:
    """A line for people."""
    return (
        f"{row['policy']:>10} {row['times']:5.1f}x offered {row['offered_rps']:7.1f} good {row['goodput_rps']:7.1f} "
        f"p50 {row['p50_ms']:7.1f} p99 {row['p99_ms']:7.1f} errors {row['errors']:5d} degraded {row['degraded']:5d} "
        f"price x{row['price_ratio']:.3g} lag p99 {row.get('client_lag_p99_ms', 0):.2f} {row['gates']}"
    )


if __name__ == "__main__":
    main()
