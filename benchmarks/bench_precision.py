"""What number formats by layer, and compiled levels, are worth on this machine: the largest preset.

    python benchmarks/bench_precision.py [--threads 1] [--seconds 240] [--no-compile] [--rivals] [--world DIR]
        [--plan F] [--json F]

The large preset with random weights (time does not depend on them) is tuned at plan (2000, 256, 64, 24), set by hand,
or at a fitted one (``--plan``: JSON of ``quality/fitted_plan.py``), and then runs in turn: eager fp32 with torch's
defaults, eager fp32 with ``set_float32_matmul_precision("medium")`` (the best fp32 setting, which every speed-up is
quoted against), bf16 in every layer, the tuned policy with the levels compiled that are faster so (20 to 60 s a level,
once a cache), and the same without compiled levels. ``--rivals``: ``precision_rivals`` with this policy.

The Amdahl bound is what the layers' own times promise for the whole, everything else unchanged; compiled levels also
fuse what is around layers, so they may pass it. MFU: operations of all products, each over the peak of its format
(products that are no layer: fp32), over the time of the warm request (``request``) and of its levels (``levels``, the
heavy part). The table of consumers is of the eager form: layers timed alone, and what a level takes beside its layers,
whose floor is its products. Accuracy on held-out data: ``bench_held_out``; another instruction set: ``bench_isa``.

OpenVINO is in no extra: give it an environment of its own that sees this one's packages (``python -m venv V``, a
``.pth`` file there that names this one's site-packages and ``src``, ``V/bin/pip install openvino==2026.4.1
nncf==3.4.0``), and run this file with that Python.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import bench_large_preset
import precision_rivals
from depthrank.cli.threads import set_torch_threads
from machine_facts import machine_facts, show_facts, torch_facts, write_json

PLAN = (2_000, 256, 64, 24)
CANDIDATES = 2_000
LARGEST = 10
MFU_TIMES = {"request": "warm_ms", "levels": "levels_ms"}


def main() -> None:
    arguments = parse()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    facts = machine_facts("depthrank", "numpy", "onnxruntime", "torchao")
    show_facts(facts)
    set_torch_threads(arguments.threads)
    facts |= {"torch": torch_facts()}
    results: dict[str, Any] = {"machine": facts}
    with tempfile.TemporaryDirectory() as folder:
        results["large"] = large_preset(Path(arguments.world or folder), arguments)
    if arguments.json:
        write_json(arguments.json, results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=240.0, help="about how long to measure")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="try compiled levels")
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--plan", type=Path, help="JSON with a fitted plan, instead of the one set by hand")
    parser.add_argument("--world", type=Path, help="where the large preset was built before, or is to be")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def large_preset(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tune the large preset at the plan, then run every form of it in turn."""
    from depthrank.evaluate.tune_artifact import tune
    from depthrank.training.tuning_requests import Settings

    if not (folder / "artifact").is_dir():
        bench_large_preset.build(folder, "large")
    url = f"lmdb:{folder / 'events'}"
    plan = PLAN if arguments.plan is None else tuple(json.loads(arguments.plan.read_text())["plan"])
    settings = Settings(
        requests=24,
        candidates=CANDIDATES,
        plans=(plan,),
        judge_seconds=arguments.seconds / 6,
        compile=arguments.compile,
    )
    keep = arguments.world is not None  # for precision_rivals
    tuned = tune(folder / "artifact", folder / "ranking.yaml", url, settings, write=keep, on_phase=print)
    figures = tuned.figures
    has_bf16 = [row["layer"] for row in figures["layers"] if "bf16" in row["relative_time"]]
    forms = timed_forms(folder, url, tuned.policy, has_bf16, plan, seconds=arguments.seconds / 4)
    fp32, eager = forms["fp32 medium"], forms.get("tuned, no level compiled", forms["tuned"])
    bound = amdahl_bound(figures["layers_ms"], fp32["warm_ms"])
    found = {
        "plan": list(plan),
        "forms": forms,
        "speedup_over_fp32_medium": {
            form: {state: fp32[state] / row[state] for state in ("warm_ms", "cold_ms", "levels_ms")}
            for form, row in forms.items()
        },
        "amdahl_bound": bound,
        "reached_of_bound": fp32["warm_ms"] / forms["tuned"]["warm_ms"] / bound["speedup"],
        "mfu": {
            form: {part: figures["best_ms"][part] / forms[form][name] for part, name in MFU_TIMES.items()}
            for form in forms
            if form.startswith("tuned")
        },
        "not_product_share": 1.0 - figures["layers_ms"]["tuned"] / eager["warm_ms"],
        "peaks": figures["peaks"],
        "formats": formats_by_count(figures["layers"]),
        "compiled": figures["compiled"],
        "layers": figures["layers"],
        "largest": consumers(figures, eager),
        "fingerprint": figures["hardware"]["fingerprint"],
    }
    if arguments.rivals:
        found["rivals"] = precision_rivals.measure(folder, tuned.policy.choices, arguments.seconds / 6)
    show_large(found)
    return found


def timed_forms(
    folder: Path, url: str, policy: Any, has_bf16: list[str], plan: tuple[int, ...], seconds: float
) -> dict[str, dict[str, float]]:
    """Milliseconds of a whole request through the engine, by form, user state warm and cold, interleaved."""
    import msgspec

    import synthetic_world
    from depthrank.artifact import load_artifact
    from depthrank.engine import Ranker
    from depthrank.engine.compiled_levels import with_compiled_level
    from depthrank.engine.depth import FixedDepth
    from depthrank.events import open_log
    from depthrank.precision import Format, LayerChoice, in_formats
    from depthrank.routing import Plan
    from depthrank.schema.wire import decode_request

    artifact = load_artifact(folder / "artifact")
    all_bf16 = {name: LayerChoice(Format.BF16) for name in has_bf16}
    tuned = not_compiled = in_formats(artifact.model, policy.choices)
    for level in policy.compiled:
        tuned = with_compiled_level(artifact.model, tuned, level, policy.choices, policy.fingerprint)
    models = {
        "fp32 default": artifact.model,
        "fp32 medium": artifact.model,
        "bf16": in_formats(artifact.model, all_bf16),
        "tuned": tuned,
    } | ({"tuned, no level compiled": not_compiled} if policy.compiled else {})
    log = open_log(url)
    rankers = {}
    for form, model in models.items():
        rankers[form] = Ranker(replace(artifact, model=model), log)
        rankers[form]._choose = lambda job, scores, pace: FixedDepth(Plan(plan))  # type: ignore[method-assign]
    bodies = list(synthetic_world.request_bodies(10))[:4]
    requests = [decode_request(msgspec.json.encode(body), rankers["tuned"].limits) for body in bodies]
    times: dict[str, dict[str, list[float]]] = {form: {} for form in rankers}
    until, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < until:
        for form, ranker in rankers.items():
            torch.set_float32_matmul_precision("highest" if form == "fp32 default" else "medium")
            for request in requests:
                ranker.states.forget(str(request.user))
                for state in ("cold", "warm"):
                    row = timed_stages(ranker, request, state)
                    for name, ms in row.items() if rounds else ():
                        times[form].setdefault(name, []).append(ms)
        rounds += 1
    torch.set_float32_matmul_precision("medium")
    log.close()
    return {form: {state: middle(values) for state, values in by.items()} for form, by in times.items()}


def timed_stages(ranker: Any, request: Any, state: str) -> dict[str, float]:
    """Milliseconds of a request; of a warm one also of all levels together, and of each."""
    started = time.perf_counter()
    answer = ranker.rank(request)
    found = {f"{state}_ms": (time.perf_counter() - started) * 1e3}
    if state == "warm":
        levels = {f"{k}_ms": ms for k, ms in answer.timings_ms.items() if k.startswith("level") and k != "level0"}
        found |= levels | {"levels_ms": sum(levels.values())}
    return found


def consumers(figures: dict[str, Any], eager: dict[str, float]) -> list[dict[str, Any]]:
    """Layers, and what each level takes beside its own; those that take most first."""
    num_levels = len(figures["level_layers_ms"])
    beside = [
        {
            "name": f"level {k}, everything that is no layer",
            "format": "fp32",
            "ms": eager[f"level{k}_ms"] - layers_ms,
            "floor_ms": figures["other_products_ms"] / num_levels,
        }
        for k, layers_ms in enumerate(figures["level_layers_ms"], start=1)
        if f"level{k}_ms" in eager  # the plan has candidates for it
    ]
    return sorted([*figures["largest"], *beside], key=lambda row: -row["ms"])


def amdahl_bound(layers_ms: dict[str, float], fp32_ms: float) -> dict[str, float]:
    """What the layers' own times promise for the whole request, everything that is no layer as it was in fp32."""
    share = min(1.0, layers_ms["fp32"] / fp32_ms)
    promised = fp32_ms * (1.0 - share) + layers_ms["tuned"]
    return {
        "layers_fp32_ms": layers_ms["fp32"],
        "layers_tuned_ms": layers_ms["tuned"],
        "share_of_layers": share,
        "speedup": fp32_ms / promised,
    }


def formats_by_count(layers: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Layers by format."""
    counts: dict[str, int] = {}
    for row in layers:
        counts[row["format"]] = counts.get(row["format"], 0) + 1
    return counts


def show_large(found: dict[str, Any]) -> None:
    for form, row in found["forms"].items():
        ratio = found["speedup_over_fp32_medium"][form]
        print(
            f"  {form:24} warm {row['warm_ms']:7.1f} ms ({ratio['warm_ms']:.2f}x)  cold {row['cold_ms']:7.1f} ms "
            f"({ratio['cold_ms']:.2f}x)  levels {row['levels_ms']:7.1f} ms ({ratio['levels_ms']:.2f}x)"
        )
    print(f"  bound {found['amdahl_bound']}, reached {found['reached_of_bound']:.2f} of it")
    for form, mfu in found["mfu"].items():
        print(f"  MFU of {form}: {mfu['request']:.2f} of the request, {mfu['levels']:.2f} of the levels")
    print(f"  {found['not_product_share']:.2f} of the eager request is no layer; compiled: {found['compiled']}")
    print("  largest consumers of time, against their floor at the peak of their format:")
    for row in found["largest"][:LARGEST]:
        print(f"    {row['name']:46} {row['ms']:7.2f} ms  floor {row['floor_ms']:6.2f} ms  {row['format']}")


def middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    main()
