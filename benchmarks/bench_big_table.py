"""A table of 10 billion int4 parameters served in a memory cgroup of 2 GB, page cache included.

    python benchmarks/bench_big_table.py [--parameters 1e10] [--limit 2GB] [--folder DIR] [--seconds 15] [--json F]

Writes a row file of width 64 (about 5.6 GB: one random block over and over, each with its checksum), drops it from the
page cache, and measures in a child process inside a cgroup whose limit counts every page that the child maps. Traffic:
2,000 candidates a lookup, ranks by Zipf (exponent 1.05) over all rows; row numbers are the ranks (as plans lay rows:
frequent ids first) or scattered by a permutation (the worst case for pages). Each with the mapping alone and with
hot rows before it, made and filled by what loading uses (``artifact.hot_tables.hot_rows``: half of the slots, by the
order of the rows, which says nothing of scattered ones), looked up by a ``ServedTable``. Each twice, in the order
A B B A, every run with other lookups: pages that are dropped here may be in the host's memory yet, which a later run
finds. Cold: the first lookups after the cache was dropped (and hot rows were filled). Warm: the last third of the run.
About 4 minutes, of which writing takes one or two.

The cgroup is made below the one this process is in (v1 ``memory`` or v2) and removed afterwards; where that is not
allowed, the run says so and measures without a limit. Needs the file's size of free disk; the file is deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

WIDTH = 64
CANDIDATES = 2_000
EXPONENT = 1.05
PATTERN_ROWS = 1 << 20
COLD_LOOKUPS = 50
HOW = ("mapping alone", "hot rows")


def write_table(path: Path, num_rows: int) -> dict[str, Any]:
    """The file, and what writing it took."""
    import torch

    from depthrank.tables import pack_rows, write_row_file

    pattern = pack_rows(torch.randn(PATTERN_ROWS, WIDTH, generator=torch.Generator().manual_seed(0)), "int4")

    def parts() -> Iterator[torch.Tensor]:
        yield pack_rows(torch.zeros(1, WIDTH), "int4")  # padding
        for first in range(1, num_rows, PATTERN_ROWS):
            yield pattern[: num_rows - first]

    started = time.perf_counter()
    write_row_file(path, parts(), "int4", WIDTH, num_rows)
    return {"file_bytes": path.stat().st_size, "write_s": round(time.perf_counter() - started, 1)}


def drop_from_cache(path: Path) -> None:
    """Forget the file's pages, so that whoever reads them next pays for them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[tuple[Path, str] | tuple[None, str]]:
    """A cgroup of our own below the one we are in, with a limit; (None, why) where it cannot be had."""
    lines = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    if "memory" in lines:
        parent, limit = Path("/sys/fs/cgroup/memory") / lines["memory"].lstrip("/"), "memory.limit_in_bytes"
    else:
        parent, limit = Path("/sys/fs/cgroup") / lines.get("", "").lstrip("/"), "memory.max"
    own = parent / f"depthrank-bench-{os.getpid()}"
    try:
        own.mkdir()
        (own / limit).write_text(str(limit_bytes))
    except OSError as error:
        if own.exists():
            own.rmdir()
        yield None, f"no cgroup: {error}"
        return
    try:
        yield own, f"{own.parent.name}/{own.name}: {limit} = {limit_bytes}"
    finally:
        for _ in range(50):
            try:
                own.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def cgroup_numbers(cgroup: Path) -> dict[str, int]:
    """What the kernel counted for the cgroup."""
    names = ("memory.max_usage_in_bytes", "memory.usage_in_bytes", "memory.failcnt", "memory.peak", "memory.current")
    found = {name: int((cgroup / name).read_text()) for name in names if (cgroup / name).exists()}
    stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    return found | {name: int(stat[name]) for name in ("cache", "rss", "file", "anon") if name in stat}


def serve(path: str, how: str, order: str, hot_bytes: int, seconds: float, seed: int, cgroup: str) -> None:
    """In the child: join the cgroup, then look up until the time is over; one JSON line on stdout."""
    if cgroup:
        (Path(cgroup) / "cgroup.procs").write_text(str(os.getpid()))
    import numpy as np
    import torch

    from depthrank.artifact.hot_tables import hot_rows
    from depthrank.tables import RowFile, ServedTable, TableSlot

    torch.set_num_threads(1)
    file = RowFile.open(path)
    num_rows = file.header.num_rows
    slots = [TableSlot("id", num_rows, 0, 1)]
    table = ServedTable(slots, WIDTH, file.source())
    file.advise_random()
    first = time.perf_counter()
    hot = hot_rows(file, table.row_map, hot_bytes) if how == "hot rows" else None
    fill_s = time.perf_counter() - first
    if hot is not None:
        table = ServedTable(slots, WIDTH, hot)
    rng = np.random.default_rng(seed)
    step = 2_654_435_761  # a prime larger than the table: a permutation of its rows

    def ranks() -> torch.Tensor:
        u = rng.random(CANDIDATES)
        rank = ((num_rows ** (1 - EXPONENT) - 1) * u + 1) ** (1 / (1 - EXPONENT))
        rows = np.minimum(rank.astype(np.int64) - 1, num_rows - 1)
        return torch.from_numpy(rows if order == "frequency" else rows * step % num_rows)

    times, hits, started = [], [], time.perf_counter()
    while time.perf_counter() - started < seconds or len(times) < 3 * COLD_LOOKUPS:
        rows = ranks()
        before = (hot.stats.hits, hot.stats.lookups) if hot is not None else (0, 0)
        if hot is None:
            first = time.perf_counter()
            file.prefetch(rows)
            table(rows.unsqueeze(1))
        else:
            first = time.perf_counter()
            table(rows.unsqueeze(1))
            hits.append((hot.stats.hits - before[0]) / (hot.stats.lookups - before[1]))
        times.append(1_000 * (time.perf_counter() - first))
    warm = times[-len(times) // 3 :]
    told = {
        "rows": how,
        "order": order,
        "lookups": len(times),
        "resident_bytes": 0 if hot is None else hot.resident_bytes,
    }
    for name, part in (("cold", times[:COLD_LOOKUPS]), ("warm", warm)):
        p50, p99 = np.percentile(part, [50, 99])
        told[name] = {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3), "max_ms": round(max(part), 3)}
    told |= {"fill_s": round(fill_s, 1)} if hot is not None else {}
    if hits:
        told["hit_rate"] = {
            "cold": float(np.mean(hits[:COLD_LOOKUPS])),
            "warm": float(np.mean(hits[-len(hits) // 3 :])),
        }
    if cgroup:
        told["cgroup"] = cgroup_numbers(Path(cgroup))
    print(json.dumps(told))


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        path, how, order, hot_bytes, seconds, seed, cgroup = sys.argv[2:]
        serve(path, how, order, int(hot_bytes), float(seconds), int(seed), cgroup)
        return
    from depthrank.schema.byte_size import ByteSize
    from machine_facts import machine_facts

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parameters", type=float, default=1e10)
    parser.add_argument("--limit", type=ByteSize.parse, default=ByteSize.parse("2GB"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--hot", type=ByteSize.parse, default=ByteSize.parse("800MB"), help="memory for hot rows")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each of the eight runs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    num_rows = int(args.parameters / WIDTH)
    folder = Path(tempfile.mkdtemp(dir=args.folder, prefix="big-table-"))
    path = folder / "big.rows"
    try:
        free = shutil.disk_usage(folder).free
        if free < 1.2 * num_rows * (WIDTH // 2 + 4):
            raise SystemExit(f"{folder} has {free:,} bytes free: give --folder with room for the table")
        told: dict[str, Any] = {"machine": machine_facts("torch", "numpy"), "parameters": num_rows * WIDTH}
        told |= {"width": WIDTH, "candidates": CANDIDATES, "exponent": EXPONENT} | write_table(path, num_rows)
        told["runs"] = []
        for order in ("frequency", "scattered"):
            for how in (*HOW, *HOW[::-1]):
                drop_from_cache(path)
                with memory_cgroup(int(args.limit)) as (cgroup, why):
                    told["limit"] = why
                    options = [str(path), how, order, str(int(args.hot)), str(args.seconds)]
                    options += [str(len(told["runs"])), str(cgroup or "")]
                    command = [sys.executable, __file__, "--serve", *options]
                    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
                    if done.returncode:
                        raise SystemExit(f"{how}, {order}: exit code {done.returncode}\n{done.stderr}")
                told["runs"].append(json.loads(done.stdout))
                print(json.dumps(told["runs"][-1]), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if args.json is not None:
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
