"""What counters cost a request: the first one of a bucket, which finds the counts of a new time, and later ones.

    python recipes/kuairand/prepare.py
    depthrank train work/kuairand/ranking.yaml --out work/kuairand/artifact0 --log lmdb:work/kuairand/events
    python benchmarks/bench_counters.py [--work work/kuairand] [--hours 12] [--json F]

All counters of the recipe (of users, items, columns and pairs; buckets of 10 minutes, an hour and a day) over the
events of its log, with 1,000 candidates; the clock moves by ten minutes, and every request is of another user, but for
the second of one user within a bucket (``again``). CPU time of one thread, in milliseconds. ``--root`` runs the code of
another checkout, for a comparison with what was before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
CANDIDATES = 1_000
Plain = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/kuairand"), help="the prepared recipe, with a log")
    parser.add_argument("--hours", type=int, default=12, help="how far the clock moves")
    parser.add_argument("--root", type=Path, help="a checkout whose src is measured instead of this one's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.root:
        sys.path.insert(0, str((options.root / "src").resolve()))
    found = measured(options.work, options.hours)
    print(json.dumps(found, indent=1))
    if options.json:
        from machine_facts import machine_facts

        options.json.write_text(json.dumps({"machine": machine_facts("depthrank", "numpy"), **found}, indent=1))


def measured(work: Path, hours: int) -> Plain:
    """Milliseconds of the features of counters, by what the clock crossed since the request before."""
    from depthrank.data import load_dataset
    from depthrank.events import open_log
    from depthrank.features import Counters
    from depthrank.schema import Spec

    spec = Spec.load(work / "ranking.yaml")
    raw = load_dataset(spec)
    with open_log(f"lmdb:{work}/events", read_only=True) as log:
        started = time.thread_time()
        counters = Counters.rebuild(spec, log, raw.items, raw.users)
        counted_s = time.thread_time() - started
        users = list(dict.fromkeys(next(iter(log.scan(batch_size=1 << 14))).user))
        newest = max(int(np.max(batch.time_ms)) for batch in log.scan(batch_size=1 << 16))
    rng = np.random.default_rng(0)
    item_rows = rng.permutation(raw.items.size - 1)[:CANDIDATES] + 1
    none = np.zeros(len(item_rows), np.int64)

    def ask(at_ms: int, user: str | None = None) -> float:
        user = user or users[int(rng.integers(len(users)))]
        started = time.thread_time()
        query = counters.query([user], np.array([at_ms]), item_rows, none)
        for name in counters.features:
            query.floats(name)
        return 1e3 * (time.thread_time() - started)

    start = newest - newest % DAY_MS
    times: dict[str, list[float]] = {
        "first ever": [ask(start)],
        "ten minutes": [],
        "hour": [],
        "day": [],
        "later": [],
        "again": [],
    }
    for tick in range(1, 1 + 6 * hours):
        at_ms = start + tick * 10 * MINUTE_MS
        crossed = "day" if at_ms % DAY_MS == 0 else "hour" if at_ms % HOUR_MS == 0 else "ten minutes"
        times[crossed].append(ask(at_ms))
        user = users[tick]
        times["later"].append(ask(at_ms, user))
        times["again"].append(ask(at_ms, user))
    figures = {name: [round(statistics.median(ms), 2), round(max(ms), 2)] for name, ms in times.items() if ms}
    return {
        "events": counters.log_position + 1,
        "counters": len(counters.features),
        "counting_all_s": round(counted_s, 1),
        "median_and_most_ms": figures,
    }


if __name__ == "__main__":
    main()
