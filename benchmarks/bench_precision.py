"""What number formats by layer are worth on this machine: the largest preset, and accuracy on held-out data.

    python benchmarks/bench_precision.py [--threads 1] [--seconds 240] [--compile] [--rivals] [--real FOLDER] [--json F]

The large preset with random weights (time does not depend on them) is tuned at plan (2000, 256, 64, 24) and then runs,
plan by plan and in turn: eager fp32 with torch's defaults, eager fp32 with ``set_float32_matmul_precision("medium")``
(the best fp32 setting, which every speed-up is quoted against), bf16 in every layer, and the tuned policy. ``--rivals``
adds the deepest level through ``torch.compile`` in bf16 (it needs a C++ compiler and minutes), and ONNX Runtime and
OpenVINO in int8 on a stack of that level's products. The Amdahl bound is what the layers' own times promise for the
whole, everything else unchanged. ``--real``: a folder with ``artifact0``, ``ranking.yaml`` and ``events``
(work/trivago), tuned on validation requests and judged on its test split, with intervals by bootstrap over users.

OpenVINO is in no extra: give it an environment of its own that sees this one's packages (``python -m venv V``, a
``.pth`` file there that names this one's site-packages, ``V/bin/pip install openvino==2026.4.1 nncf==3.4.0``), and run
this file with that Python.
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
from collections.abc import Callable, Sequence
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
OTHER_ISA = "ONEDNN_MAX_CPU_ISA=AVX2"


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
    if arguments.real:
        results["held_out"] = held_out(arguments.real, arguments.seconds / 4)
    if arguments.json:
        write_json(arguments.json, results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=240.0, help="about how long to measure")
    parser.add_argument("--compile", action="store_true", help="try compiled levels too (a minute a level, once)")
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--real", type=Path)
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
    settings = Settings(
        requests=24,
        candidates=CANDIDATES,
        plans=(PLAN,),
        judge_seconds=arguments.seconds / 6,
        compile=arguments.compile,
    )
    tuned = tune(folder / "artifact", folder / "ranking.yaml", url, settings, write=False, on_phase=print)
    figures = tuned.figures
    forms = timed_forms(folder, url, tuned.policy, seconds=arguments.seconds / 4)
    fp32 = forms["fp32 medium"]
    bound = amdahl_bound(figures["layers_ms"], fp32["warm_ms"])
    found = {
        "plan": list(PLAN),
        "forms": forms,
        "speedup_over_fp32_medium": {
            form: {state: fp32[state] / row[state] for state in ("warm_ms", "cold_ms")} for form, row in forms.items()
        },
        "amdahl_bound": bound,
        "reached_of_bound": fp32["warm_ms"] / forms["tuned"]["warm_ms"] / bound["speedup"],
        "mfu": figures["mfu"],
        "peaks": figures["peaks"],
        "formats": formats_by_count(figures["layers"]),
        "compiled": figures["compiled"],
        "layers": figures["layers"],
        "largest": figures["largest"],
        "fingerprint": figures["hardware"]["fingerprint"],
    }
    if arguments.rivals:
        found["rivals"] = precision_rivals.measure()
    show_large(found)
    return found


def timed_forms(folder: Path, url: str, policy: Any, seconds: float) -> dict[str, dict[str, float]]:
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
    all_bf16 = {name: LayerChoice(Format.BF16) for name in policy.choices}
    tuned = in_formats(artifact.model, policy.choices)
    for level in policy.compiled:
        tuned = with_compiled_level(artifact.model, tuned, level, policy.choices, policy.fingerprint)
    models = {
        "fp32 default": artifact.model,
        "fp32 medium": artifact.model,
        "bf16": in_formats(artifact.model, all_bf16),
        "tuned": tuned,
    }
    log = open_log(url)
    rankers = {}
    for form, model in models.items():
        rankers[form] = Ranker(replace(artifact, model=model), log)
        rankers[form]._choose = lambda job, scores, pace: FixedDepth(Plan(PLAN))  # type: ignore[method-assign]
    bodies = list(synthetic_world.request_bodies(10))[:4]
    requests = [decode_request(msgspec.json.encode(body), rankers["tuned"].limits) for body in bodies]
    times: dict[str, dict[str, list[float]]] = {form: {"cold_ms": [], "warm_ms": []} for form in rankers}
    until, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < until:
        for form, ranker in rankers.items():
            torch.set_float32_matmul_precision("highest" if form == "fp32 default" else "medium")
            for request in requests:
                ranker.states.forget(str(request.user))
                for state in ("cold_ms", "warm_ms"):
                    ms = milliseconds(lambda ranker=ranker, request=request: ranker.rank(request))  # type: ignore[misc]
                    times[form][state] += [ms] if rounds else []
        rounds += 1
    torch.set_float32_matmul_precision("medium")
    log.close()
    return {form: {state: middle(values) for state, values in by.items()} for form, by in times.items()}


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


def held_out(folder: Path, seconds: float) -> dict[str, Any]:
    """Tune a trained artifact on validation requests; judge it on test requests that nothing was fitted on."""
    from depthrank.evaluate.tune_artifact import judge_split, tune
    from depthrank.training.tuning_requests import Settings

    with tempfile.TemporaryDirectory() as own:
        artifact = Path(own) / "artifact"
        shutil.copytree(folder / "artifact0", artifact)
        spec, url = folder / "ranking.yaml", f"lmdb:{folder / 'events'}"
        settings = Settings(requests=256, judge_seconds=seconds)
        tuned = tune(artifact, spec, url, settings, on_phase=print)
        judged = judge_split(artifact, spec, url, tuned.policy, "test", 2_000)
        elsewhere = other_instruction_set(artifact, spec, url)
    figures = tuned.figures
    found = {
        "verified_on_validation": {name: figures[name] for name in ("ne_change", "top10_overlap", "kept_gain")},
        "test": judged,
        "speedup_vs_fp32": figures["speedup_vs_fp32"],
        "formats": formats_by_count(figures["layers"]),
        "plans": figures["plans"],
        "fingerprint": figures["hardware"]["fingerprint"],
        f"with {OTHER_ISA}": elsewhere,
    }
    print(f"held-out: {judged}")
    return found


def other_instruction_set(artifact: Path, spec: Path, url: str) -> dict[str, Any]:
    """The same artifact tuned in a process that may use AVX2 only: another machine to it, with a policy of its own."""
    name, _, value = OTHER_ISA.partition("=")
    report = artifact.parent / "other.json"
    command = [sys.executable, "-m", "depthrank.cli", "tune", str(artifact), str(spec), "--log", url]
    options = ["--no-compile", "--requests", "64", "--seconds", "10", "--json", str(report)]
    subprocess.run([*command, *options], env=os.environ | {name: value}, check=True, stdout=subprocess.DEVNULL)
    figures = json.loads(report.read_text())
    return {
        "fingerprint": figures["hardware"]["fingerprint"],
        "formats": formats_by_count(figures["layers"]),
        "peaks": figures["peaks"],
        "speedup_vs_fp32": figures["speedup_vs_fp32"],
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
            f"  {form:14} warm {row['warm_ms']:7.1f} ms ({ratio['warm_ms']:.2f}x)  cold {row['cold_ms']:7.1f} ms "
            f"({ratio['cold_ms']:.2f}x)"
        )
    print(f"  bound {found['amdahl_bound']}, reached {found['reached_of_bound']:.2f} of it; MFU {found['mfu']:.2f}")
    print("  largest consumers of time, against their floor at the peak of their format:")
    for row in found["largest"][:LARGEST]:
        print(f"    {row['name']:46} {row['ms']:7.2f} ms  floor {row['floor_ms']:6.2f} ms  {row['format']}")


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


def middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    main()
