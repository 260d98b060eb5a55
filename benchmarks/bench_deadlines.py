"""Does a chunk of work ever start after its request's deadline, and how late is an answer?

    python benchmarks/bench_deadlines.py [--artifact DIR] [--requests 10000] [--seconds 270] [--burners 2] [--json F]

Requests with random deadlines (log-uniform from 2 to 80 ms), random candidates of the catalogue, users and modes go
through ``Ranker.rank``, one after the other, in this process, while ``--burners`` other processes keep the cores busy.
Every chunk of work (the user side, level 0, each piece of a deeper level) leaves its start, end and deadline in the
ranker's trace.

Proved from the trace: no chunk starts after its deadline. An answer may be late by the chunk that was running when the
deadline came, which cannot be interrupted, and by what follows it (order, answer): ``beyond the chunk`` is the
lateness without that chunk. Every answer is checked to be a complete order: deepest level first, then value.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from depthrank.cli.threads import set_torch_threads
from machine_facts import machine_facts, show_facts, torch_facts, write_json

DEADLINES_MS = (2.0, 80.0)
MODES = ("adaptive", "full", "router")
WARM_UP = 50
QUANTILES = (50, 99, 99.9)


def burn() -> None:
    """Keep a core busy until the process is ended."""
    while True:
        sum(range(100_000))


@contextmanager
def busy_machine(burners: int) -> Iterator[None]:
    """This many processes that compute without pause."""
    started = [multiprocessing.get_context("spawn").Process(target=burn, daemon=True) for _ in range(burners)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.join()


def measure(ranker: Any, requests: int, seconds: float, seed: int) -> dict[str, Any]:
    """Random requests against their deadlines, until they or the seconds end; everything that is reported, in
    milliseconds."""
    from depthrank.schema import Request

    random = np.random.default_rng(seed)
    ids = ranker.items.ids[1:]
    users = [str(user) for user in range(1, 200)]
    traces: list[list[Any]] = []
    ranker._trace = traces.append
    lateness, beyond, longest, chunks, started_late, disordered, cut = [], [], [], 0, 0, 0, 0
    until_s = time.perf_counter() + seconds
    for number in range(-WARM_UP, requests):
        if lateness and time.perf_counter() > until_s:
            break
        deadline_ms = float(np.exp(random.uniform(*np.log(DEADLINES_MS))))
        asked = random.choice(len(ids), int(random.integers(1, len(ids))), replace=False)
        candidates = [ids[i] for i in asked]
        mode: Any = MODES[int(random.integers(len(MODES)))]
        user = users[int(random.integers(len(users)))]
        request = Request(user=user, candidates=candidates, top=20, mode=mode, deadline_ms=deadline_ms)
        arrived_s = time.perf_counter()
        answer = ranker.rank(request, arrived_s=arrived_s)
        late_ms = (time.perf_counter() - arrived_s) * 1e3 - deadline_ms
        if number < 0:
            traces.clear()
            continue
        trace = traces.pop()
        chunks += len(trace)
        started_late += sum(chunk.started_s >= chunk.deadline_s for chunk in trace)
        running = [chunk for chunk in trace if chunk.ended_s > chunk.deadline_s]
        over_ms = sum(max(0.0, chunk.ended_s - chunk.deadline_s) * 1e3 for chunk in running)
        lateness.append(max(0.0, late_ms))
        beyond.append(max(0.0, late_ms - over_ms))
        longest.append(max((chunk.ended_s - chunk.started_s for chunk in trace), default=0.0) * 1e3)
        levels = [(item.level, item.value) for item in answer.items]
        disordered += levels != sorted(levels, key=lambda key: (-key[0], -key[1]))
        cut += any(reason.startswith("deadline") for reason in answer.degraded.reasons)
    return {
        "requests": len(lateness),
        "chunks": chunks,
        "chunks_started_after_deadline": started_late,
        "answers_out_of_order": disordered,
        "answers_cut_by_deadline": cut,
        "late_ms": percentiles(lateness),
        "beyond_the_chunk_ms": percentiles(beyond),
        "longest_chunk_ms": percentiles(longest),
    }


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{q:g}": float(np.percentile(values, q)) for q in QUANTILES} | {"max": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, default=Path("demo/artifact"))
    parser.add_argument("--log", help="its event log (default: the one it names); it is copied")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=270.0, help="at most; what was asked by then is reported")
    parser.add_argument("--burners", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    set_torch_threads(1)
    from depthrank.artifact import read_manifest
    from depthrank.engine import Ranker
    from depthrank.events import EventLog, open_log

    facts = machine_facts("depthrank", "numpy") | {"torch": torch_facts()}
    show_facts(facts)
    url = arguments.log or read_manifest(arguments.artifact).log_url
    with tempfile.TemporaryDirectory() as folder:
        with open_log(url, read_only=True) as log:
            log.backup(Path(folder) / "backup")
        with EventLog.restore(Path(folder) / "backup", f"lmdb:{folder}/events") as log:
            ranker = Ranker.load(arguments.artifact, log)
            ranker.warm()
            with busy_machine(arguments.burners):
                result = measure(ranker, arguments.requests, arguments.seconds, arguments.seed)
            result["cost_error"] = ranker.generation.costs.errors()
    result["burners"], result["adaptive_policy"] = arguments.burners, ranker.generation.policy is not None
    for name, value in result.items():
        print(f"{name:32} {value}")
    if arguments.json:
        write_json(arguments.json, {"machine": facts, "result": result})
    broken = result["chunks_started_after_deadline"] + result["answers_out_of_order"]
    sys.exit(f"{broken} broken promises" if broken else 0)


if __name__ == "__main__":
    main()
