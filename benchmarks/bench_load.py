"""How long from nothing to the first answer, against reading the needed bytes once at the disk's speed?

    python benchmarks/bench_load.py [--gb 5] [--items 20000] [--folder DIR] [--rounds 3] [--json F]

Writes a synthetic artifact (one embedding table of so many GB), then in a fresh process each: load a prepared copy of
it from the cache, bring its pages into memory (``warm``), answer one request. Cold: its pages were dropped before.
The floor is a sequential read of the same bytes that bypasses the page cache, measured in the same round. Beside it:
the first answer without bringing pages, fetching into an empty cache (copied and hashed), and the import of Python
packages, which no artifact changes.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from machine_facts import machine_facts, show_facts, write_json

CHILD = """
import json, sys, time
started = time.perf_counter()
import torch
from depthrank.engine import Ranker
from depthrank.events import open_log
from depthrank.schema import Request
torch.set_num_threads(1)
imported = time.perf_counter()
path, log, touch = sys.argv[1:4]
ranker = Ranker.load(path, log, copy=True)
loaded = time.perf_counter()
if touch == "touch":
    touched_bytes = ranker.artifact.touch_ahead()
touched = time.perf_counter()
answer = ranker.rank(Request(user="u", candidates=[f"i{k}" for k in range(1000)], context={"query": "word1 word2"}))
assert len(answer.items) == 10
answered = time.perf_counter()
print(json.dumps({"import_s": imported - started, "load_s": loaded - imported, "touch_s": touched - loaded,
    "answer_s": answered - touched, "total_s": answered - imported}))
"""
PART = 4 << 20


def drop_pages(folder: Path) -> None:
    """Ask the kernel to forget the files' pages."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def read_directly(path: Path) -> float:
    """Seconds to read a file past the page cache, by four threads."""
    fd, size = os.open(path, os.O_RDONLY | os.O_DIRECT), path.stat().st_size

    def read(start: int) -> int:
        with mmap.mmap(-1, PART) as buffer:
            return os.preadv(fd, [buffer], start)

    started = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        total = sum(pool.map(read, range(0, size, PART)))
    os.close(fd)
    assert total == size
    return time.perf_counter() - started


def in_process(artifact: Path, log: str, touch: bool) -> dict[str, float]:
    """One load in a fresh process."""
    command = [sys.executable, "-c", CHILD, str(artifact), log, "touch" if touch else "no"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}


def measure(folder: Path, gb: float, items: int, rounds: int) -> dict[str, Any]:
    from depthrank.artifact import Cache, fetch_artifact, read_manifest
    from synthetic_artifact import write_artifact

    os.environ["DEPTHRANK_CACHE"] = str(folder / "cache")
    log, width = f"lmdb:{folder / 'events'}", 32
    artifact = folder / "artifact"
    write_artifact(artifact, item_rows=int(gb * 1e9 / (4 * width)), request_rows=1_000, items=items, width=width)
    started = time.perf_counter()
    held = fetch_artifact(artifact, Cache())
    fetched_s = time.perf_counter() - started
    manifest = read_manifest(artifact)
    largest = max(manifest.files, key=lambda name: manifest.files[name].bytes)
    table = held.path / manifest.folder / largest
    needed = sum(entry.bytes for entry in manifest.files.values())
    shutil.rmtree(artifact / manifest.folder / "tables")  # the copy serves; the original's pages would only confuse
    found: dict[str, list[dict[str, float]]] = {"cold": [], "cold_untouched": [], "cached": []}
    floors = []
    for _ in range(rounds):
        drop_pages(held.path)
        floors.append(read_directly(table) * needed / table.stat().st_size)
        drop_pages(held.path)
        found["cold"].append(in_process(artifact, log, touch=True))
        found["cached"].append(in_process(artifact, log, touch=True))
        drop_pages(held.path)
        found["cold_untouched"].append(in_process(artifact, log, touch=False))
    result: dict[str, Any] = {name: medians(each) for name, each in found.items()}
    floor_s = statistics.median(floors)
    result |= {
        "bytes": needed,
        "floor_s": round(floor_s, 3),
        "floors_s": [round(f, 3) for f in floors],
        "disk_gb_s": round(needed / floor_s / 1e9, 3),
        "cold_over_floor": round(result["cold"]["total_s"] / floor_s, 3),
        "fetch_into_empty_cache_s": round(fetched_s, 3),
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=5.0)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine_facts("torch", "depthrank")
    show_facts(facts)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.gb, options.items, options.rounds)
    for name in ("cold", "cached", "cold_untouched"):
        print(f"{name:16s}", "  ".join(f"{part} {seconds:.2f}" for part, seconds in found[name].items()))
    print(
        f"floor {found['floor_s']:.2f} s ({found['disk_gb_s']:.2f} GB/s); cold is {found['cold_over_floor']:.2f} of it"
    )
    print(
        f"cached: {found['cached']['total_s']:.2f} s; "
        f"fetched into an empty cache in {found['fetch_into_empty_cache_s']:.1f} s"
    )
    if options.json is not None:
        write_json(options.json, {"machine": facts, **found})


if __name__ == "__main__":
    main()
