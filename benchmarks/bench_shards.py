"""What does a lookup cost on Ray actors, what does a dead one cost, and does a sharded table train like a single one?

    python benchmarks/bench_shards.py [--rows 1000000] [--lookups 300] [--json F]
    python benchmarks/bench_shards.py --train [--data demo] [--users 150] [--buckets 1000000] [--epochs 1] [--json F]

Lookups of 2,000 Zipf-distributed rows of width 64 (int8) of a table on 1, 2 and 4 actors, interleaved with the same of
the table here; every answer is compared. Then one actor is killed: lookups that are degraded, and the time until all
rows are there again.

With --train instead: ``depthrank train`` with one process and with two that share the rows of the tables (TorchRec over
gloo; requirements-torchrec.lock), on MovieLens-100K as ``depthrank demo`` left it, with a large table of title words.
Told: how far the two models are apart, seconds, and the memory of each process.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from machine_facts import machine_facts, show_facts, write_json

WIDTH = 64
ASKED = 2_000
SHARDS = (1, 2, 4)

SPEC_CHANGES = (
    (r"buckets: \d+", "buckets: {buckets}"),
    (r"(?m)^tables:.*\n", ""),
    (
        r"training: \{.*\}",
        "training: {{epochs: {epochs}, batch_requests: 256, batch_candidates: 2048, batches_per_step: 2, "
        "deep_share: 0.1, learning_rate: 3e-3, replay_seconds: 1}}",
    ),
)


def training(data: Path, users: int, buckets: int, epochs: int) -> dict[str, Any]:
    """One process and two, of the same steps: how far apart, how long, and the most memory of each process."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_data(data, folder, users, buckets, epochs)
        runs = {count: trained(folder, count) for count in (1, 2)}
        return {**runs, "apart": apart(folder / "of1", folder / "of2")}


def write_data(data: Path, folder: Path, users: int, buckets: int, epochs: int) -> None:
    """The demo's data with fewer users, and its spec with as many buckets of title words."""
    import polars as pl

    for name in ("items", "users"):
        shutil.copy(data / f"{name}.parquet", folder)
    events = pl.read_parquet(data / "events.parquet")
    first = events["user"].unique(maintain_order=True)[:users]
    events.filter(pl.col("user").is_in(first.implode())).write_parquet(folder / "events.parquet")
    spec = (data / "ranking.yaml").read_text(encoding="utf-8")
    for pattern, new in SPEC_CHANGES:
        spec = re.sub(pattern, new.format(buckets=buckets, epochs=epochs), spec)
    (folder / "ranking.yaml").write_text(spec, encoding="utf-8")


def trained(folder: Path, count: int) -> dict[str, Any]:
    """``depthrank train --processes COUNT``; seconds, and MB of each of its processes at its highest."""
    command = [sys.executable, "-m", "depthrank.cli", "train", "ranking.yaml", "--out", f"of{count}"]
    command += ["--log", f"lmdb:log{count}", "--threads", str(count), "--processes", str(count)]
    started, highest_mb = time.perf_counter(), dict[int, float]()
    run = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    leader = psutil.Process(run.pid)
    while run.poll() is None:
        try:
            for process in (leader, *leader.children()):
                highest_mb[process.pid] = max(highest_mb.get(process.pid, 0), process.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.02)
    said = run.communicate()[0]
    if run.returncode:
        sys.exit(f"training failed: {said}")
    memory = sorted((round(mb) for mb in highest_mb.values() if mb > 200), reverse=True)
    return {"seconds": round(time.perf_counter() - started, 1), "highest_mb": memory}


def apart(one: Path, other: Path) -> dict[str, Any]:
    """The largest difference of a dense weight, of a row, and of a validation figure; and how far rows moved."""
    import torch

    from depthrank.artifact import load_artifact
    from depthrank.tables import served_tables

    a, b = load_artifact(one), load_artifact(other)
    theirs = b.model.state_dict()
    dense = max(
        float((x - theirs[n]).abs().max())
        for n, x in a.model.state_dict().items()
        if x.is_floating_point() and x.numel()
    )
    rows = {}
    for (name, mine), yours in zip(served_tables(a.model).items(), served_tables(b.model).values(), strict=True):
        every = torch.arange(mine.source.num_rows)
        x, y = mine.source.rows(every), yours.source.rows(every)
        rows[name] = {"rows": len(every), "apart": float((x - y).abs().max()), "deviation": float(x.std())}
    levels = [x.manifest.training["validation"]["levels"] for x in (a, b)]
    figures = [
        abs(p[task][figure] - q[task][figure])
        for p, q in zip(*levels, strict=True)
        for task in p
        for figure in p[task]
        if p[task][figure] is not None
    ]
    return {"steps": a.manifest.training["time"]["steps"], "dense": dense, "rows": rows, "figures": max(figures)}


def lookups(rows: int, count: int) -> dict[str, Any]:
    import ray
    import torch

    from depthrank.cluster import Circuit
    from depthrank.cluster.ray_shards import start_shards
    from depthrank.tables import PackedRows, noting_missing_rows, pack_rows, write_row_file

    torch.set_num_threads(1)
    packed = pack_rows(torch.randn(rows, WIDTH), "int8")
    here = PackedRows(packed, "int8", WIDTH)
    found: dict[str, Any] = {"lookups": {}}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.rows"
        write_row_file(path, [packed], "int8", WIDTH, rows)
        sources = {shards: start_shards(path, shards, timeout_s=5.0) for shards in SHARDS}
        rng, took = np.random.default_rng(0), {name: [] for name in ("here", *SHARDS)}
        for _ in range(count):
            asked = torch.from_numpy(np.minimum(rng.zipf(1.2, ASKED) - 1, rows - 1))
            expected = None
            for name, source in (("here", here), *sources.items()):
                started = time.perf_counter()
                got = source.rows(asked)
                took[name].append((time.perf_counter() - started) * 1e3)
                assert expected is None or torch.equal(got, expected)
                expected = got
        for name, each in took.items():
            found["lookups"][str(name)] = {
                "p50_ms": float(np.percentile(each, 50)),
                "p99_ms": float(np.percentile(each, 99)),
            }
        found["killed"] = killed(
            ray, start_shards(path, 2, circuit=lambda: Circuit(time.monotonic)), noting_missing_rows
        )
    ray.shutdown()
    return found


def killed(ray: Any, source: Any, noting: Any) -> dict[str, Any]:
    """A lookup every 20 ms from the moment one of two shards is killed until nothing is missing."""
    import torch

    asked, took, degraded = torch.arange(ASKED), [], 0
    with noting():
        source.rows(asked)
    ray.kill(source.shards[1].actor, no_restart=False)
    started = time.perf_counter()
    while True:
        begun = time.perf_counter()
        with noting() as missing:
            source.rows(asked)
        took.append((time.perf_counter() - begun) * 1e3)
        if degraded and not missing:
            break
        degraded += bool(missing)
        time.sleep(0.02)
    return {
        "recovered_s": time.perf_counter() - started,
        "degraded_lookups": degraded,
        "most_ms": max(took),
        "p50_ms": float(np.median(took)),
        "status": source.status(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=300)
    parser.add_argument("--train", action="store_true", help="compare training in one process and in two instead")
    parser.add_argument("--data", type=Path, default=Path("demo"))
    parser.add_argument("--users", type=int, default=150)
    parser.add_argument("--buckets", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine_facts("torch", "torchrec" if options.train else "ray", "depthrank")
    show_facts(facts)
    if options.train:
        found: dict[str, Any] = {"training": training(options.data, options.users, options.buckets, options.epochs)}
    else:
        found = lookups(options.rows, options.lookups)
    print(json.dumps(found, indent=1))
    if options.json is not None:
        write_json(options.json, {"machine": facts, **found})


if __name__ == "__main__":
    main()
