"""The largest preset on this machine: 2,000 candidates, a history of 1,024, in one process.

    python benchmarks/bench_large_preset.py [--preset large] [--threads 2] [--plan F] [--json F]

A model with random weights (time does not depend on them) is served by ``Ranker`` from an artifact and an event log
of ``synthetic_world``. Modes, interleaved request by request: the router alone, a plan, and full depth; each warm
(the user's state is in the cache, and one new event came since) and cold (the cache is empty). ``--widths`` is a
plan: candidates by level, router first; its default was set by hand, since random weights have no gain that a ladder
could keep. ``--plan`` is the JSON of ``quality/fitted_plan.py``: the cheapest rung that keeps 95 % in a ladder fitted
on a narrow model with the same levels, trained on KuaiRand. The floor is the operations of the very calls at the best
fp32 rate measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

import synthetic_world
from depthrank.cli.threads import set_torch_threads
from machine_facts import machine_facts, measured_rates, show_facts, torch_facts, write_json

HISTORY = 1_024
NUM_USERS = 12
Milliseconds = dict[str, list[float]]


def build(folder: Path, preset: str) -> tuple[Path, str]:
    """An artifact of the preset with the weights it starts from, and the log it is served with."""
    from depthrank.training import train

    synthetic_world.HISTORY = HISTORY
    spec = synthetic_world.write_world(folder, preset)
    spec.write_text(spec.read_text().replace("epochs: 1", "epochs: 0"), encoding="utf-8")
    url = f"lmdb:{folder / 'events'}"
    train(spec, log=url, out=folder / "artifact", progress=False)
    return folder / "artifact", url


def measure(ranker: Any, bodies: Sequence[dict[str, Any]], widths: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Milliseconds of every mode, warm and cold, and their stages."""
    from depthrank.engine.depth import FixedDepth
    from depthrank.events import EventBatch
    from depthrank.routing import Plan
    from depthrank.schema.wire import decode_request

    levels = ranker.artifact.model.config.num_levels
    plans = {
        "router": (widths[0], *[0] * (levels - 1)),
        "plan": widths,
        "full": (widths[0],) * levels,
    }
    found: dict[str, Milliseconds] = {f"{name} {state}": {} for name in plans for state in ("warm", "cold")}
    newest = max(synthetic_world.time.time_ns() // 1_000_000 - 1_000, 0)
    for number in range(-1, rounds):
        for body in bodies:
            request = decode_request(msgspec.json.encode(body), ranker.limits)
            for name, plan in plans.items():
                ranker._choose = lambda job, scores, pace, plan=plan: FixedDepth(Plan(plan))
                ranker.states.forget(str(body["user"]))
                for state in ("cold", "warm"):
                    answer = ranker.rank(request)
                    if number >= 0:
                        for stage, ms in answer.timings_ms.items():
                            found[f"{name} {state}"].setdefault(stage, []).append(ms)
                    newest += 1
                    ranker.append(EventBatch(user=[str(body["user"])], item=["item-7"], action=["click"],
                                             time_ms=np.array([newest])))  # fmt: skip
    return {
        key: {
            "p50_ms": float(np.median(stages["total"])),
            "p99_ms": float(np.percentile(stages["total"], 99)),
            "stages_p50_ms": {stage: float(np.median(ms)) for stage, ms in stages.items()},
        }
        for key, stages in found.items()
    } | {"plans": {name: list(plan) for name, plan in plans.items()}}


def floors(ranker: Any, plans: dict[str, list[int]], rate: float) -> dict[str, float]:
    """Milliseconds that the matrix products alone need, with a cold user state and with a warm one."""
    from depthrank.model import level_flops

    flops = level_flops(ranker.artifact.model.config)
    out = {}
    for name, plan in plans.items():
        candidates = sum(width * level.candidate for width, level in zip(plan, flops, strict=True))
        encoded = sum(level.request for width, level in zip(plan, flops, strict=True) if width)
        out[f"{name} warm"] = candidates / rate * 1e3
        out[f"{name} cold"] = (candidates + encoded) / rate * 1e3
    return out


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="large")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--widths", default="2000,256,64,24", help="a plan set by hand")
    parser.add_argument("--plan", type=Path, help="JSON with a fitted plan, instead")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    from depthrank.engine import Ranker
    from depthrank.model import level_flops

    arguments = parse()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    facts = machine_facts("depthrank", "numpy")
    show_facts(facts)
    set_torch_threads(arguments.threads)
    widths = tuple(int(w) for w in arguments.widths.split(","))
    fitted = None if arguments.plan is None else json.loads(arguments.plan.read_text())
    if fitted is not None:
        widths = tuple(fitted["plan"])
    with tempfile.TemporaryDirectory() as folder:
        artifact, url = build(Path(folder), arguments.preset)
        ranker = Ranker.load(artifact, url)
        ranker.warm()
        bodies = list(synthetic_world.request_bodies(10))[:NUM_USERS]
        rate = measured_rates()["fp32_gemm_flops"]
        result = measure(ranker, bodies, widths, arguments.rounds)
        floor_ms = floors(ranker, result["plans"], rate)
        config = ranker.artifact.model.config
        sizes = level_flops(config)
        ranker.close()
    unshared = sum(level.request + level.candidate for level in sizes)
    print(
        f"{arguments.preset}: {unshared / 1e9:.1f} GFLOP a candidate when nothing is shared, {rate / 1e9:.0f} GFLOP/s"
    )
    for key, ms in floor_ms.items():
        row = result[key]
        row["floor_ms"] = ms
        stages = ", ".join(f"{s} {t:.1f}" for s, t in row["stages_p50_ms"].items() if t >= 0.5 and s != "total")
        print(f"  {key:12} p50 {row['p50_ms']:7.1f} ms  p99 {row['p99_ms']:7.1f} ms  floor {ms:6.1f} ms   {stages}")
    if arguments.json:
        result |= {
            "preset": arguments.preset,
            "threads": arguments.threads,
            "gflop_per_candidate_unshared": unshared / 1e9,
            "levels_gflop": [{"request": s.request / 1e9, "candidate": s.candidate / 1e9} for s in sizes],
            "fp32_gemm_flops": rate,
            "plan_fitted": fitted,
            "machine": facts | {"torch": torch_facts()},
        }
        write_json(arguments.json, result)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
