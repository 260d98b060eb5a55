"""How fast is the event log: reads against LMDB's own cursor, batch reads, appends, import, erasure.

    python benchmarks/bench_events.py [--events 1000000] [--users 500] [--redis URL] [--json FILE]

The cursor rival walks the same chunk values of the same file in the same process, interleaved with the log's reads, and
copies the values out; it decodes nothing. ``cursor, an event a value`` is the layout one would write first.
"""

from __future__ import annotations

import argparse
import statistics
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from depthrank.events import EventBatch, EventLog, open_log
from depthrank.events.on_lmdb.records import CHUNK_BYTES, HEAD, id_key
from depthrank.events.on_lmdb.shared_generations import acquire, release
from machine_facts import machine_facts, write_json

START_MS = 1_700_000_000_000
SPAN_MS = 10**9
NOW_MS = START_MS + 2 * SPAN_MS
ACTIONS = ("click", "like", "view")
HISTORY = 1000
USERS_APART = 61


def make_events(count: int, users: int, seed: int = 0) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        [f"user-{n}" for n in rng.integers(0, users, count)],
        [f"item-{n}" for n in rng.zipf(1.2, count) % 50_000],
        [ACTIONS[n] for n in rng.integers(0, len(ACTIONS), count)],
        np.sort(rng.integers(START_MS, START_MS + SPAN_MS, count)),
    )


def interleaved_us(rivals: dict[str, Callable[[int], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """p50 and p99 of each rival in microseconds; every round runs each of them once.

    Each is at another user at any moment, as whoever reads a user first pays for the cache misses of the others.
    """
    times: dict[str, list[int]] = {name: [] for name in rivals}
    for number in range(rounds + rounds // 10):
        for place, (name, call) in enumerate(rivals.items()):
            begin = time.perf_counter_ns()
            call(number + USERS_APART * place)
            times[name].append(time.perf_counter_ns() - begin)
    cut = rounds // 10  # warm-up
    return {
        name: {"p50_us": statistics.median(t[cut:]) / 1e3, "p99_us": float(np.percentile(t[cut:], 99)) / 1e3}
        for name, t in times.items()
    }


def cursor_walk(log: EventLog, users: int) -> Callable[[int], list[bytes]]:
    """LMDB's own cursor over the last chunks of a user."""
    generation = acquire(Path(log.url.removeprefix("lmdb:")), writable=True)
    env, chunks = generation.env, generation.chunks
    with generation.reading() as transaction:
        codes = [
            HEAD.unpack(transaction.get(id_key(f"user-{n}".encode()), db=generation.users))[0] for n in range(users)
        ]
    release(generation)
    wanted = HISTORY * 32

    def walk(number: int) -> list[bytes]:
        code, found, size = codes[number % users], [], 0
        prefix = struct.pack(">I", code)
        with env.begin(db=chunks) as transaction:
            cursor = transaction.cursor()
            (cursor.set_range(struct.pack(">I", code + 1)) and cursor.prev()) or cursor.last()
            for key, value in cursor.iterprev():
                if size >= wanted or not key.startswith(prefix):
                    break
                found.append(value)
                size += len(value)
        return found

    return walk


def event_a_value_walk(folder: str, events: EventBatch, users: int) -> Callable[[int], list[bytes]]:
    """LMDB's own cursor over the last thousand events of a user, stored as one value each."""
    env = lmdb.open(folder, map_size=1 << 34, sync=False)
    with env.begin(write=True) as transaction:
        for row, (user, time_ms) in enumerate(zip(events.user, events.time_ms.tolist())):
            transaction.put(struct.pack(">IQQ", int(user[5:]), time_ms, row), bytes(32))

    def walk(number: int) -> list[bytes]:
        user, found = number % users, []
        with env.begin() as transaction:
            cursor = transaction.cursor()
            (cursor.set_range(struct.pack(">I", user + 1)) and cursor.prev()) or cursor.last()
            for _, value in zip(range(HISTORY), cursor.iterprev(keys=False)):
                found.append(value)
        return found

    return walk


def bench_reads(log: EventLog, events: EventBatch, users: int, rounds: int, scratch: str) -> dict[str, Any]:
    middle = START_MS + SPAN_MS * 9 // 10
    reads = interleaved_us(
        {
            "history": lambda n: log.history(f"user-{n % users}", NOW_MS, HISTORY),
            "lmdb cursor, same chunks": cursor_walk(log, users),
            "history, two of three actions": lambda n: log.history(
                f"user-{n % users}", NOW_MS, HISTORY, ["click", "view"]
            ),
            "history, as of an earlier time": lambda n: log.history(f"user-{n % users}", middle, HISTORY),
            "user_version": lambda n: log.user_version(f"user-{n % users}"),
        },
        rounds,
    )
    reads |= interleaved_us({"lmdb cursor, an event a value": event_a_value_walk(scratch, events, users)}, rounds // 10)
    ratio = reads["history"]["p50_us"] / reads["lmdb cursor, same chunks"]["p50_us"]
    return {"reads": reads, "history_over_cursor": ratio}


def bench_batch(log: EventLog, users: int) -> dict[str, float]:
    """Histories for training: many requests a user, at random times."""
    rng = np.random.default_rng(1)
    who = [f"user-{n}" for n in rng.integers(0, users, 4096)]
    when = rng.integers(START_MS, START_MS + SPAN_MS, 4096)
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        found = log.histories(who, when, 200)
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times)
    return {"histories_per_s": 4096 / seconds, "events_per_s": int(found.offsets[-1]) / seconds}


def bench_appends(url: str, durable: bool, threads: int, seconds: float) -> dict[str, float]:
    """Single-event appends: rate of all threads, latency of one call."""
    log = open_log(url, durable=durable)
    end, latencies = time.perf_counter() + seconds, [[] for _ in range(threads)]

    def work(own: list[float], thread: int) -> None:
        number = 0
        while time.perf_counter() < end:
            number += 1
            event = EventBatch(
                [f"user-{(number * 7 + thread) % 500}"],
                [f"item-{number % 1000}"],
                ["click"],
                np.array([START_MS + number]),
            )
            begin = time.perf_counter()
            log.append(event)
            own.append(time.perf_counter() - begin)

    workers = [threading.Thread(target=work, args=(latencies[n], n)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    log.close()
    every = np.concatenate(latencies)
    return {
        "appends_per_s": len(every) / seconds,
        "p50_us": float(np.median(every)) * 1e6,
        "p99_us": float(np.percentile(every, 99)) * 1e6,
    }


def bench_batched_append(url: str, durable: bool, rows: int, batches: int = 50) -> float:
    """Events per second where a call appends many."""
    events, times = make_events(rows * batches, 500, seed=3), []
    with open_log(url, durable=durable) as log:
        for piece in events.pieces(rows):
            begin = time.perf_counter()
            log.append(piece)
            times.append(time.perf_counter() - begin)
    return rows / statistics.median(times)


def bench_operations(log: EventLog) -> dict[str, float]:
    results = {}
    for name, work in (
        ("scan_s", lambda: sum(len(b) for b in log.scan())),
        ("verify_s", log.verify),
        ("erase_s", lambda: log.erase("user-3")),
    ):
        begin = time.perf_counter()
        work()
        results[name] = time.perf_counter() - begin
    return results


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {
        "machine": machine_facts("depthrank", "numpy", "lmdb", "redis"),
        "shapes": {
            "events": arguments.events,
            "users": arguments.users,
            "history": HISTORY,
            "chunk_bytes": CHUNK_BYTES,
        },
    }
    events = make_events(arguments.events, arguments.users)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        url = arguments.redis or f"lmdb:{folder}/log"
        with open_log(url) as log:
            begin = time.perf_counter()
            for piece in events.pieces(100_000):
                log.import_events(piece)
            results["import_events_per_s"] = arguments.events / (time.perf_counter() - begin)
            results["bytes_per_event"] = log.stats().bytes_per_event
            if arguments.redis is None:
                results |= bench_reads(log, events, arguments.users, arguments.rounds, f"{folder}/per-event")
            results["batch"] = bench_batch(log, arguments.users)
            results["operations"] = bench_operations(log)
        for durable in (True, False):
            for threads in (1, 8):
                name = f"append {'durable' if durable else 'relaxed'}, threads {threads}"
                place = arguments.redis or f"lmdb:{folder}/{name.replace(' ', '-')}"
                results[name] = bench_appends(place, durable, threads, arguments.seconds)
            place = arguments.redis or f"lmdb:{folder}/batched-{durable}"
            name = f"append {'durable' if durable else 'relaxed'}, 100 events a call, events per s"
            results[name] = bench_batched_append(place, durable, 100)
    return results


def show(results: dict[str, Any], indent: str = "") -> None:
    for name, value in results.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{name}: {f'{value:,.2f}' if isinstance(value, float) else value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each append measurement")
    parser.add_argument("--folder", help="where the logs go (default: the system's temporary folder)")
    parser.add_argument("--redis", help="measure a Redis log at this URL, which must be empty, instead of LMDB")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = run(arguments)
    show(results)
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
