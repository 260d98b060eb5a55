"""Where does a request's time go, and how far is each stage from its floor?

    python benchmarks/bench_request_path.py [--quick] [--artifact DIR] [--requests N] [--threads 1,2] [--json F]

Two worlds. ``demo``: the artifact of ``depthrank demo`` (trained here where there is none), with each person's unseen
films. ``synthetic``: ``synthetic_world``, 2,000 candidates with columns and a history of 200. Each world and number of
threads runs in a process of its own, on a fresh copy of the event log, with OMP_WAIT_POLICY=PASSIVE and the settings of
``depthrank serve``: first in process (decode, ``Ranker.rank``, encode), then against ``depthrank serve`` in another
process, over one keep-alive connection of one client that reads the answer and asks again. Served impressions are
logged meanwhile, as by default.

A stage's milliseconds are the median over the requests, as ``timings_ms`` of the answers tells them; its share is that
of the sum over all stages. Two parts the server does not tell: ``encode`` is measured in process, by the function that
the server calls; ``HTTP rest`` is the client's wall time minus everything else. ``wait`` is the way to the ranking
thread.

The floor of a stage is the longer of two times: its operations (the products of the very calls that ``rank`` makes,
counted) at the best fp32 rate measured here with as many threads, and the bytes it cannot avoid at the bandwidth of a
copy: weights and inputs read once, of tables only the rows fetched, results written once. ``kernels move`` is what the
kernels read and write as they are: the distance to ``needs`` is what fusion could save. Elementwise work is not
counted, and what a cache holds moves faster than a copy, so a floor is a scale and no promise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from depthrank.cli.threads import set_torch_threads
from machine_facts import machine_facts, measured_rates, show_facts, torch_facts, write_json
from served_artifact_client import KeepAliveClient, serving

MODES = ("full", "router")
NUM_USERS = 64
WARM_UP = 40
NOT_STAGES = ("total", "wait", "decode")
PACKAGES = ("depthrank", "numpy", "msgspec", "lmdb", "starlette", "uvicorn", "uvloop", "httptools")
NAMES = {"wait": "wait for thread", "user": "user side", "level0": "level 0 (router)", "level1": "level 1 (expert)"}
Milliseconds = dict[str, list[float]]


@dataclass(frozen=True)
class World:
    """What a worker is given: an artifact, a backup of its event log, and a file with one request a line."""

    name: str
    artifact: str
    backup: str
    bodies: str


# --- Worlds ----------------------------------------------------------------------------------------------------------


def demo_world(folder: Path, arguments: argparse.Namespace) -> World:
    """The demo's artifact, and unseen items of people who have a history."""
    from depthrank.artifact import load_artifact, read_manifest
    from depthrank.events import open_log

    artifact = arguments.artifact or Path("demo/artifact")
    if arguments.artifact is None and not (artifact / "manifest.json").is_file():
        artifact = train_demo(folder, 0.2 if arguments.quick else None)
    url = arguments.log or read_manifest(artifact).log_url or f"lmdb:{artifact.resolve().parent / 'events'}"
    ids = load_artifact(artifact).items.ids[1:]
    bodies = []
    with open_log(url, read_only=True) as log:
        log.backup(folder / "backup")
        known, now_ms = log.item_dictionary(), time.time_ns() // 1_000_000
        users = sorted({user for batch in log.scan() for user in batch.user})
        for user in np.random.default_rng(0).permutation(users)[:NUM_USERS].tolist():
            seen = {known[code] for code in log.history(user, now_ms, 100_000).item_code.tolist()}
            bodies.append({"user": user, "candidates": [i for i in ids if i not in seen], "top": arguments.top})
    return world(read_manifest(artifact).name, artifact, folder, bodies)


def train_demo(folder: Path, minutes: float | None) -> Path:
    """The demo's artifact, from the demo's own data, spec and training."""
    from depthrank.cli.movielens import cached_wheel, write_dataset
    from depthrank.training import train

    print("no demo/artifact here (make demo makes one): training the demo's model in a temporary folder", flush=True)
    write_dataset(folder, cached_wheel())
    spec, url, out = folder / "ranking.yaml", f"lmdb:{folder / 'events'}", folder / "artifact"
    train(spec, log=url, out=out, minutes=minutes, progress=False)
    return out


def synthetic_world(folder: Path, arguments: argparse.Namespace) -> World:
    """A made-up world, its model trained for one short epoch."""
    from depthrank.events import open_log
    from depthrank.training import train
    from synthetic_world import request_bodies, write_world

    print(f"training the synthetic world's model (preset {arguments.preset})", flush=True)
    spec, url = write_world(folder, arguments.preset), f"lmdb:{folder / 'events'}"
    train(spec, log=url, out=folder / "artifact", progress=False)
    with open_log(url, read_only=True) as log:
        log.backup(folder / "backup")
    return world(f"synthetic-{arguments.preset}", folder / "artifact", folder, list(request_bodies(arguments.top)))


def world(name: str, artifact: Path, folder: Path, bodies: Sequence[dict[str, Any]]) -> World:
    (folder / "bodies.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, bodies)))
    return World(name, str(artifact), str(folder / "backup"), str(folder / "bodies.jsonl"))


# --- One world, one number of threads, in a process of its own -------------------------------------------------------


def measure(given: World, threads: int, requests: int) -> dict[str, Any]:
    """Both modes in process and over HTTP, the work counted, and the rates of this machine before and after."""
    from counted_stages import counted_stages
    from depthrank.engine import Ranker
    from depthrank.events import EventLog

    set_torch_threads(threads)
    plain = [msgspec.json.decode(line) for line in Path(given.bodies).read_bytes().splitlines()]
    bodies = {mode: [msgspec.json.encode({**body, "mode": mode}) for body in plain] for mode in MODES}
    rates = [measured_rates()]
    result: dict[str, Any] = {"world": given.name, "threads": threads, "requests": requests, "modes": {}}
    with tempfile.TemporaryDirectory(dir=Path(given.backup).parent) as folder:
        url = f"lmdb:{folder}/events"
        with EventLog.restore(given.backup, url) as log:
            ranker = Ranker.load(given.artifact, log)
            ranker.warm()
            for mode in MODES:
                in_process = repeat(lambda body: rank_in_process(ranker, body), bodies[mode], requests)
                result["modes"][mode] = {"in_process": in_process, "work": counted_stages(ranker, bodies[mode])}
            result["parameters"] = sum(p.numel() for p in ranker.artifact.model.parameters())
        with serving(given.artifact, url, threads) as address:
            client = KeepAliveClient(address)
            for mode in MODES:
                over_http = repeat(lambda body: rank_over_http(client, body), bodies[mode], requests)
                result["modes"][mode]["http"] = over_http
            health = repeat(lambda _: {"wall": timed_ms(lambda: client.ask("GET", "/health/live"))[1]}, [b""], requests)
    rates.append(measured_rates())
    result["rates"] = {name: max(rate[name] for rate in rates) for name in rates[0]}
    result["health_ms"] = float(np.median(health["wall"]))
    result["modes"] = {mode: summary(measured, result["rates"]) for mode, measured in result["modes"].items()}
    return result | {"machine": machine_facts(*PACKAGES) | {"torch": torch_facts()}}


def repeat(ask: Callable[[bytes], dict[str, float]], bodies: Sequence[bytes], requests: int) -> Milliseconds:
    """Milliseconds of every stage, one request after the other, bodies in turn, after a warm-up."""
    found: Milliseconds = {}
    for number in range(-WARM_UP, requests):
        for stage, ms in ask(bodies[number % len(bodies)]).items():
            if number >= 0:
                found.setdefault(stage, []).append(ms)
    return found


def rank_in_process(ranker: Any, body: bytes) -> dict[str, float]:
    from depthrank.schema.wire import decode_request, encode_answer

    request, decode_ms = timed_ms(lambda: decode_request(body, ranker.limits))
    answer, rank_ms = timed_ms(lambda: ranker.rank(request))
    _, encode_ms = timed_ms(lambda: encode_answer(answer))
    stages = {name: ms for name, ms in answer.timings_ms.items() if name not in NOT_STAGES}
    other = rank_ms - sum(stages.values())
    return {"decode": decode_ms, **stages, "rest of rank": other, "encode": encode_ms, "rank": rank_ms}


def rank_over_http(client: KeepAliveClient, body: bytes) -> dict[str, float]:
    text, wall_ms = timed_ms(lambda: client.ask("POST", "/v1/rank", body))
    told = msgspec.json.decode(text)["timings_ms"]
    stages = {name: ms for name, ms in told.items() if name not in NOT_STAGES}
    other = told["total"] - told["wait"] - sum(stages.values())
    outside = wall_ms - told["total"] - told["decode"]
    return {"decode": told["decode"], "wait": told["wait"], **stages, "rest of rank": other, "outside": outside,
            "wall": wall_ms}  # fmt: skip


def timed_ms(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = call()
    return found, (time.perf_counter() - began) * 1e3


# --- Work and floors -------------------------------------------------------------------------------------------------


def summary(measured: dict[str, Any], rates: dict[str, float]) -> dict[str, Any]:
    """p50 and p99, and a row for each stage: medians, share, work, floors and how far above its floor it runs."""
    inside, http, work = measured["in_process"], measured["http"], measured["work"]
    encode_ms = float(np.median(inside["encode"]))
    over_http = {name: ms for name, ms in http.items() if name not in ("outside", "wall")}
    over_http |= {"encode": [encode_ms], "HTTP rest": [ms - encode_ms for ms in http["outside"]]}
    medians = {name: float(np.median(ms)) for name, ms in over_http.items()}
    rows = {}
    for name, ms in medians.items():
        rows[name] = {"http_ms": ms, "share": ms / sum(medians.values())}
        if name in inside:
            rows[name]["in_process_ms"] = float(np.median(inside[name]))
        rows[name] |= floor(work["stages"].get(name), ms, rates)
    return {
        "candidates": work["candidates"],
        "history": work["history"],
        "http": percentiles(http["wall"]),
        "in_process_rank": percentiles(inside["rank"]),
        "stages": rows,
    }


def floor(work: dict[str, float] | None, ms: float, rates: dict[str, float]) -> dict[str, float]:
    if work is None:
        return {}
    ops_ms = work["flops"] / rates["fp32_gemm_flops"] * 1e3
    bytes_ms = work["needed_bytes"] / rates["copy_bytes"] * 1e3
    floor_ms = max(ops_ms, bytes_ms)
    moved_ms = work["moved_bytes"] / rates["copy_bytes"] * 1e3
    times = {"ops_ms": ops_ms, "bytes_ms": bytes_ms, "floor_ms": floor_ms, "moved_ms": moved_ms}
    return work | times | ({"over_floor": ms / floor_ms} if floor_ms else {})


def percentiles(ms: Sequence[float]) -> dict[str, float]:
    return {f"p{q}_ms": float(np.percentile(ms, q)) for q in (50, 99)} | {"requests": len(ms)}


# --- Table -----------------------------------------------------------------------------------------------------------

COLUMNS = ("HTTP ms", "share", "in process", "MFLOP", "ops ms", "needs KB", "bytes ms", "time/floor", "kernels move KB")
WIDTH = 17


def show(result: dict[str, Any]) -> None:
    """One table a mode."""
    rates = result["rates"]
    print(
        f"\n{result['world']}, threads {result['threads']}, {result['parameters']:,} parameters; fp32 products "
        f"{rates['fp32_gemm_flops'] / 1e9:.1f} GFLOP/s, copy {rates['copy_bytes'] / 1e9:.1f} GB/s, load "
        f"{result['machine']['load'][0]}"
    )
    for mode, found in result["modes"].items():
        http, inside = found["http"], found["in_process_rank"]
        print(
            f"\n  mode {mode}: {found['candidates']:,.0f} candidates, history {found['history']:.0f}, "
            f"{http['requests']} requests, one client\n"
            f"  over HTTP p50 {http['p50_ms']:.2f} ms, p99 {http['p99_ms']:.2f} ms; "
            f"Ranker.rank in process p50 {inside['p50_ms']:.2f} ms, p99 {inside['p99_ms']:.2f} ms"
        )
        print(f"  {'stage':{WIDTH}}" + "".join(f"{name:>{WIDTH}}" for name in COLUMNS))
        for stage, row in found["stages"].items():
            print(f"  {NAMES.get(stage, stage):{WIDTH}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells(row)))
    print(f"\n  floor of HTTP rest: GET /health/live, same connection, p50 {result['health_ms']:.2f} ms", flush=True)


def cells(row: dict[str, float]) -> list[str]:
    in_process = f"{row['in_process_ms']:.3f}" if "in_process_ms" in row else "-"
    shown = [f"{row['http_ms']:.3f}", f"{row['share']:.1%}", in_process]
    if "floor_ms" not in row:
        return [*shown, *["-"] * 6]
    ops = [f"{row['flops'] / 1e6:.2f}", f"{row['ops_ms']:.3f}"] if row["flops"] else ["-", "-"]
    ratio = f"{row['over_floor']:,.1f}" if "over_floor" in row else "-"
    return [*shown, *ops, f"{row['needed_bytes'] / 1e3:,.1f}", f"{row['bytes_ms']:.4f}", ratio,
            f"{row['moved_bytes'] / 1e3:,.1f}"]  # fmt: skip


# --- Main ------------------------------------------------------------------------------------------------------------


def run_worker(given: World, threads: int, requests: int, folder: Path) -> dict[str, Any]:
    """``measure`` in a process whose OpenMP starts with these threads and sleeps while it waits."""
    task, target = folder / "task.json", folder / "result.json"
    task.write_bytes(msgspec.json.encode(given))
    command = [sys.executable, __file__, "--worker", str(task), str(target)]
    command += ["--threads", str(threads), "--requests", str(requests)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(command, env=environment, check=True)
    result: dict[str, Any] = json.loads(target.read_text())
    return result


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, help="default: demo/artifact, or one trained here")
    parser.add_argument("--log", help="that artifact's event log (default: the one it names); it is copied")
    parser.add_argument("--preset", default="small", help="size of the synthetic world's model")
    parser.add_argument("--worlds", default="demo,synthetic")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--requests", type=int, help="measured requests of a mode (default 500, quick 30)")
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="few requests, one thread, short training")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.threads = "1"
    arguments.requests = arguments.requests or (30 if arguments.quick else 500)
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.worker:
        task, target = arguments.worker
        given = msgspec.json.decode(task.read_bytes(), type=World)
        write_json(target, measure(given, int(arguments.threads), arguments.requests))
        return
    facts = machine_facts(*PACKAGES)
    show_facts(facts)
    results = []
    makers = {"demo": demo_world, "synthetic": synthetic_world}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.worlds.split(","):
            (Path(folder) / name).mkdir()
            given = makers[name](Path(folder) / name, arguments)
            for threads in map(int, arguments.threads.split(",")):
                results.append(run_worker(given, threads, arguments.requests, Path(folder)))
                show(results[-1])
                if arguments.json:
                    write_json(arguments.json, {"machine": facts, "results": results})


if __name__ == "__main__":
    main()
