"""How much faster is a shared ranker than the same model pair by pair, and than every rival that exists?

    python benchmarks/bench_sharing.py [--models DeepFM,DIN] [--quick] [--minutes M] [--json F] [--again]

``--brief`` measures every model of torch-rechub at one thread and two in about a quarter of an hour: no vmap, short
timing, one process for both numbers of threads, and compiled variants for three models at one thread only.
With ``--json`` a run goes on where the last one stopped: what the file holds of a model, a number of threads and an N
is not measured again. So the whole table can be made in pieces of minutes (``--models DIN --candidates 1000``); every
line keeps the command and the time of its own piece. ``--variants`` measures these alone.

One request with N candidates, fp32, the same matmul setting for all. Each (model, threads) has a process of its own
(``sharing_worker``: how it is timed, floors, caps), since dynamo caches code by class. ``sharing_variants`` says what
the variants are.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sharing_worker
from machine_facts import machine_facts, show_facts
from sharing_table import summary, table
from sharing_variants import zoo

COMPILED_WHEN_BRIEF = ("DCN", "MMOE", "DIN")  # half a minute to a minute each


def run_worker(
    name: str, threads: list[int], sizes: list[int], args: argparse.Namespace, brief: str, limit_s: float
) -> list[dict[str, Any]]:
    """One model in a process of its own; a crash or a time-out keeps what was measured before it."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--worker", str(target), "--models", name, "--threads",
                   ",".join(map(str, threads)), "--seconds", str(args.seconds), "--candidates",
                   ",".join(map(str, sizes)), "--worker-brief", brief, "--variants", args.variants]  # fmt: skip
        command += ["--small"] * args.small + ["--no-compile"] * args.no_compile + ["--ahead"] * args.ahead
        env = os.environ | {"OMP_NUM_THREADS": str(max(threads)), "OMP_WAIT_POLICY": "PASSIVE"}
        with open(Path(folder) / "stderr", "w+") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
            try:
                code: int | str = process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = f"timed out after {limit_s:.0f} s"
            log.seek(0)
            tail = log.read().strip().splitlines()[-1:]
        results: list[dict[str, Any]] = json.loads(target.read_text()) if target.exists() else []
    if code != 0:
        done = [r["threads"] for r in results]
        results += [{"model": name, "threads": t, "sizes": {}} for t in threads if t not in done]
        results[-1]["stopped"] = code if isinstance(code, str) else f"exit {code}: {' '.join(tail)[:300]}"
    return results


def measured_before(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The results of the JSON file; with ``--again`` without the lines that this run measures."""
    if not args.json or not args.json.exists():
        return []
    known: list[dict[str, Any]] = json.loads(args.json.read_text())["results"]
    for result in known:
        result.pop("stopped", None)
        if args.again and result["model"] in args.models.split(",") and result["threads"] in integers(args.threads):
            result["sizes"] = {n: row for n, row in result["sizes"].items() if int(n) not in args.candidates}
    return known


def merged(known: list[dict[str, Any]], found: dict[str, Any]) -> dict[str, Any]:
    """The lines of one model and number of threads, those of this run among them; put in its place in ``known``."""
    here = (found["model"], found["threads"])
    place = next((k for k, r in enumerate(known) if (r["model"], r["threads"]) == here), None)
    if place is None:
        known.append(found)
        return found
    sizes = known[place]["sizes"] | found["sizes"]
    order = sorted(sizes, key=int)
    known[place] = known[place] | found | {"sizes": {n: sizes[n] for n in order}}
    return known[place]


def missing(known: list[dict[str, Any]], name: str, threads: int, sizes: list[int]) -> list[int]:
    """The numbers of candidates that were not measured yet."""
    done = {n for r in known if (r["model"], r["threads"]) == (name, threads) for n in r["sizes"]}
    return [n for n in sizes if str(n) not in done]


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(zoo.RECHUB), help="comma list, or 'all' for our own zoo too")
    parser.add_argument("--candidates", type=integers, default=[100, 1000, 5000])
    parser.add_argument("--threads", default="1,2", help="comma list of thread counts")
    parser.add_argument("--seconds", type=float, default=8.0, help="timing budget of all variants at one N")
    parser.add_argument("--minutes", type=float, default=240.0, help="stop starting models after this long")
    parser.add_argument("--model-minutes", type=float, default=12.0, help="limit for one (model, threads)")
    parser.add_argument("--quick", action="store_true", help="N=100 and 1000, one thread, short timing")
    parser.add_argument("--brief", action="store_true", help="all of it in about a quarter of an hour, see above")
    parser.add_argument("--small", action="store_true", help="the small sizes of the tests")
    parser.add_argument("--no-compile", action="store_true", help="leave compiled variants out")
    parser.add_argument("--ahead", action="store_true", help="AOTInductor packages too, of the original and of ours")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--again", action="store_true", help="measure these models again")
    parser.add_argument("--variants", default="", help="comma list; all that the other options leave, if empty")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--worker-brief", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.candidates, args.threads, args.seconds = [100, 1000], "1", 2.0
    if args.brief:
        args.seconds, args.model_minutes = min(args.seconds, 1.5), min(args.model_minutes, 4.0)
    if args.models == "all":
        args.models = ",".join(zoo.NAMES)
    return args


def plan(args: argparse.Namespace) -> list[tuple[str, list[int], str]]:
    """What to run, each in a process of its own: (model, threads, which variants)."""
    names, threads = args.models.split(","), integers(args.threads)
    if not args.brief:
        return [(name, [t], "") for t in threads for name in names]
    jobs = [(name, threads, "plain") for name in names if args.no_compile or name not in COMPILED_WHEN_BRIEF]
    if not args.no_compile:
        jobs += [(name, [t], "compiled" if t == 1 else "plain") for name in names if name in COMPILED_WHEN_BRIEF
                 for t in threads]  # fmt: skip
    return jobs


def main() -> None:
    args = parse()
    if args.worker:
        args.threads, args.brief = integers(args.threads), args.worker_brief
        sharing_worker.run(args)
        return
    about = machine_facts("depthrank", "numpy", "torch-rechub", "onnxruntime")
    show_facts(about)
    print(f"{zoo.SMALL if args.small else zoo.FULL}, one request, fp32", flush=True)
    deadline, results = time.monotonic() + 60 * args.minutes, measured_before(args)
    for name, threads, brief in plan(args):
        todo = [t for t in threads if missing(results, name, t, args.candidates)]
        sizes = [n for n in args.candidates if any(n in missing(results, name, t, args.candidates) for t in todo)]
        if not todo:
            continue
        left = deadline - time.monotonic()
        if left < 10:
            print(f"{name}: not run, the {args.minutes:g} minutes are over")
            continue
        for found in run_worker(name, todo, sizes, args, brief, min(left, 60 * args.model_minutes)):
            for row in found["sizes"].values():
                row |= {"command": about["command"], "when": about["when"]}
            print(table(merged(results, found)), flush=True)
        if args.json:
            record = {"machine": about, "results": results, "summary": summary(results)}
            args.json.write_text(json.dumps(record, indent=1))
    print("\ngeometric means")
    for row in summary(results):
        print("  " + " ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
