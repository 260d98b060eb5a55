"""What a larger model of the family brings on real data, and what a request of it costs.

    python recipes/kuairand/prepare.py && depthrank train work/kuairand/ranking.yaml --out work/kuairand/artifact0
    python benchmarks/quality/scaling_quality.py [--share 0.3] [--epochs 2] [--sizes 5] --json F

Width, layers, history and interaction of KuaiRand's recipe grow together, over more than two orders of magnitude of
FLOPs a candidate when nothing is shared; a light level lies between router and deep level in every size. Every size is
trained on the same share of users with the same epochs (one seed), and judged on the test day: AUC, GAUC and NE of
click and long view of the deepest level, and what the largest one has more than it, paired by user. ``saturates``:
from which size on no larger one is better with an interval above zero in AUC of either task. Costs are of lists of
1,000 videos, one thread, as the engine learns them (``kuairand_slates.py``): full depth, and the cheapest price of the
adaptive policy that keeps 95 % of the gain of full depth (``kept`` says what it kept); ``per_candidate_ms``: 1,000
pairs by the same model, each with a history of its own, thread time. The exponents are slopes of log milliseconds over
log FLOPs, with their standard errors.

Sizes are added to the JSON file one by one; those that it holds are not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import ours
import yaml
from ablations import Plain
from cotraining import part_of
from kuairand_slates import Slates, replayed_slates, write_slates
from paired import task_differences, task_figures
from parts import Kept, about_run
from rows import Rows

from bench_scaling import fitted_slope
from depthrank.evaluate import ModelScorer
from depthrank.evaluate.curve import curve_of
from depthrank.events import open_log
from depthrank.model import level_flops

TASKS = ("click", "long_view")
LISTS, PAIRS, CANDIDATES = 60, 64, 1_000
KEPT = 0.95
LIGHT: Plain = {"interaction_layers": 1, "interaction_tokens": 4, "interaction_rank": 4}
SIZES: tuple[Plain, ...] = (  # reads, interaction (layers, tokens, rank) and width of the deep level
    {"width": 16, "heads": 2, "encoder_layers": 1, "history": 8, "deep": (1, (1, 6, 4), 16)},
    {"width": 32, "heads": 4, "encoder_layers": 1, "history": 16, "deep": (1, (1, 8, 8), 32)},
    {"width": 64, "heads": 4, "encoder_layers": 2, "history": 32, "deep": (2, (2, 8, 8), 64)},
    {"width": 128, "heads": 4, "encoder_layers": 2, "history": 64, "deep": (2, (3, 12, 12), 128)},
    {"width": 192, "heads": 6, "encoder_layers": 3, "history": 128, "deep": (3, (3, 16, 16), 256)},
)
WAYS = ("per_candidate_ms", "full_ms", "full_cold_ms", "adaptive_ms", "adaptive_cold_ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/kuairand"), help="the prepared recipe with its log")
    parser.add_argument("--share", type=float, default=0.3, help="of users, that training sees")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="of the family, from the smallest on")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from depthrank.cli.threads import set_torch_threads

    set_torch_threads(1)
    kept = Kept(options.work, f"lmdb:{options.work}/events", frozenset())
    data = kept.rows()
    found = json.loads(options.json.read_text()) if options.json.exists() else about_run(data) | {"points": {}}
    part_of(options.work, options.share)
    lists = write_slates(options.work, LISTS)
    scores = {}
    for sizes in SIZES[: options.sizes]:
        name = f"width {sizes['width']}, {options.share:g} of users, {options.epochs} epochs"
        artifact = options.work / f"scaling{sizes['width']}"

        def make(sizes: Plain = sizes, artifact: Path = artifact) -> tuple[dict[str, Any], Plain]:
            spec = sized(options.work, sizes, options.epochs)
            fitted = ours.fit(spec, kept.log_url, artifact, seed=0)
            return {"test": fitted.test_LNK}, {"cpu_s": fitted.cpu_s} | fitted.training

        both, facts = kept.scores(f"scaling {name}", make)
        scores[name] = both["test"][-1].astype(np.float64)
        ours.check_same_rows(both["test"], data.test)
        if name not in found["points"]:
            found["points"][name] = (
                sizes | facts | quality(data.test, both["test"]) | costs(options.work, artifact, lists)
            )
        print(name, json.dumps(found["points"][name]), flush=True)
        options.json.write_text(json.dumps(found, indent=1, default=float))
    found["larger_minus"] = larger_minus(data.test, scores)
    found["saturates"] = next(name for name in scores if not any(_is_better(found["larger_minus"].get(name, {}))))
    found["exponents"] = {way: exponent(list(found["points"].values()), way) for way in WAYS}
    options.json.write_text(json.dumps(found, indent=1, default=float))
    print(json.dumps({key: found[key] for key in ("saturates", "exponents")}, indent=1))


def sized(work: Path, sizes: Plain, epochs: int) -> Path:
    """The recipe in another size, as a spec beside it."""
    spec = yaml.safe_load((work / "ranking.yaml").read_text())
    spec["dataset"]["impressions"]["path"] = "part.parquet"
    spec["history"]["length"] = sizes["history"]
    layers, (interactions, tokens, rank), width = sizes["deep"]
    deep = {"reads": list(range(layers)), "width": width, "interaction_layers": interactions}
    deep |= {"interaction_tokens": tokens, "interaction_rank": rank}
    model = {k: v for k, v in spec["model"].items() if k not in ("expert_layers", "interaction_layers")}
    spec["model"] = model | {k: sizes[k] for k in ("width", "heads", "encoder_layers")} | {"levels": [LIGHT, deep]}
    fixed = {"epochs": epochs, "distillation": 0.1}
    spec["training"] = {k: v for k, v in spec["training"].items() if not k.startswith("unlabelled")} | fixed
    path = work / "scaling.yaml"  # beside the recipe: its paths start there
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def quality(rows: Rows, scores_LNK: npt.NDArray[np.float32]) -> Plain:
    """Figures of the deepest level and of the router, by task."""
    return {
        level: {task: task_figures(rows, k, scores_LNK[at][:, k].astype(np.float64)) for k, task in enumerate(TASKS)}
        for level, at in (("deepest", -1), ("router", 0))
    }


def larger_minus(rows: Rows, scores: dict[str, npt.NDArray[np.float64]]) -> Plain:
    """What every larger size has more than each, by name and task."""
    names = list(scores)
    return {
        small: {
            large: {
                task: task_differences(rows, k, scores[large][:, k], scores[small][:, k])
                for k, task in enumerate(TASKS)
            }
            for large in names[at + 1 :]
        }
        for at, small in enumerate(names)
    }


def _is_better(larger: Plain) -> list[bool]:
    return [tasks[task]["auc"]["low"] > 0 for tasks in larger.values() for task in TASKS]


def costs(work: Path, artifact: Path, lists: Path) -> Plain:
    """Milliseconds of a request with 1,000 candidates, and FLOPs of a candidate when nothing is shared."""
    with open_log(f"lmdb:{work}/events", read_only=True) as log:
        slates = Slates.load(lists, artifact, log)
        points = curve_of(replayed_slates(slates, log, LISTS), replicates=200).to_json()["points"]
        pairs = Slates.load(work / "scaling.yaml", artifact, log)
        per_pair_s = pair_seconds(pairs)
    full = next(point for point in points if point["policy"] == "full")
    cheapest = {
        cold: min(
            (p for p in points if p["policy"] == "adaptive" and (p[f"kept_gain{cold}"] or 0) >= KEPT),
            key=lambda p: p[f"ms{cold}"],
            default=full,
        )
        for cold in ("", "_cold")
    }
    flops = level_flops(slates.artifact.model.config)
    return {
        "gflop_per_candidate": sum(level.request + level.candidate for level in flops) / 1e9,
        "candidate_gflop": sum(level.candidate for level in flops) / 1e9,
        "per_candidate_ms": 1e3 * CANDIDATES * per_pair_s,
        "full_ms": full["ms"],
        "full_cold_ms": full["ms_cold"],
        "adaptive_ms": cheapest[""]["ms"],
        "adaptive_cold_ms": cheapest["_cold"]["ms_cold"],
        "kept": [cheapest[""]["kept_gain"], cheapest["_cold"]["kept_gain_cold"]],
    }


def pair_seconds(pairs: Slates) -> float:
    """Thread seconds of a (user, candidate) pair with its own history, in batches; the fastest of five."""
    artifact, held_out = pairs.artifact, pairs.held_out
    scorer = ModelScorer(artifact.spec, artifact.model, artifact.encoder, pairs.raw.items)
    alone = msgspec.structs.replace(held_out.spec.training, requests_per_user=1)
    held_out = replace(held_out, spec=msgspec.structs.replace(held_out.spec, training=alone))
    loader, _ = held_out.requests("test", PAIRS, batch_requests=PAIRS)
    batch = next(iter(loader.epoch(0)))
    times = []
    for _ in range(5):
        started = time.thread_time()
        scorer.score_batch(batch)
        times.append(time.thread_time() - started)
    return min(times) / len(batch)  # impressions of the same second are one request: a few have two candidates


def exponent(points: list[Plain], way: str) -> dict[str, float]:
    """Exponent of a way's milliseconds and its standard error."""
    return fitted_slope([point["gflop_per_candidate"] for point in points], [point[way] for point in points])


if __name__ == "__main__":
    main()
