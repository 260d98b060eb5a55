"""Does training levels together keep what the deepest would put on top? And what do its variants cost in quality?

    python recipes/kuairand/prepare.py && depthrank train work/kuairand/ranking.yaml --out work/kuairand/artifact0
    python benchmarks/quality/cotraining.py [--share 0.3] [--only together ...] --json F

Every variant is trained anew on the same share of KuaiRand's users for one epoch, one seed (small: it tells effects,
not the last digit), and judged on the test day: AUC of click and long view by level, and on lists of 1,000 videos
(``kuairand_slates.py``) recall@k, the share of the deepest level's first ten that the router has among its first k.

- ``together``: task loss at every exit, distillation from the deepest (the recipe); ``no distillation``; ``survival``:
  with the survival loss at widths 50 and 100, which cuts nothing off where a request shows some ten videos;
  ``unlabelled`` puts fifty items of the catalogue beside what was shown, for a fifth of the requests.
- ``apart``: the router trained alone, and the deepest level trained without the router's exit; recall@k is of one
  model's order inside the other's. Serving costs the same as together; CPU seconds of training are given: apart pays
  for both.
- ``light and deep level together``: the recipe for three levels; ``light level apart``, ``deep level apart``: a router
  and one of them. ``light_level`` of the file: what the light one keeps of the deep one's first ten, both ways.
- ``skipping``: layers of the level skipped at random in training; judged with all and with one of its attention
  layers, beside ``together`` judged so. ``sparse``: four sparse feed-forward experts, two of them active.

Results are added to the JSON file one by one, so that a run may be continued with --only.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml
from ablations import all_of, with_model, with_training
from kuairand_slates import Slates, write_slates

from depthrank.data import load_examples
from depthrank.evaluate import ModelScorer, score_split
from depthrank.events import EventLog, open_log
from depthrank.metrics import auc, mean_difference
from depthrank.model.expert import Expert
from depthrank.schema import Spec
from depthrank.training import train

TOP, KS, TASKS = 10, (10, 20, 50, 100, 200), ("click", "long_view")
THREE_LEVELS = Path(__file__).resolve().parents[2] / "recipes" / "kuairand" / "three_levels.yaml"
SPLIT_MS = 1_651_161_600_000  # 2022-04-29 in Beijing: days before it are training

Plain = dict[str, Any]
Values = list[npt.NDArray[np.float64]]  # of each list [L, N]

ROUTER, DEEPEST = "router apart", "deepest apart"
LIGHT, DEEP, BOTH = "light level apart", "deep level apart", "light and deep level together"


def with_levels(*numbers: int) -> Callable[[Plain], None]:
    """Levels of the recipe for three, in its model section, without unlabelled items."""

    def change(spec: Plain) -> None:
        three = yaml.safe_load(THREE_LEVELS.read_text())["model"]
        spec["model"] = three | {"levels": [three["levels"][number] for number in numbers]}
        spec["training"] = {k: v for k, v in spec["training"].items() if not k.startswith("unlabelled")}
        spec["training"]["distillation"] = 0.2

    return change


VARIANTS: dict[str, Callable[[Plain], None]] = {
    "together": all_of(),
    "no distillation": with_training(distillation=0.0),
    "survival": with_training(survival=0.5, survival_widths=[50, 100]),
    "unlabelled": with_training(unlabelled=50, unlabelled_share=0.2, distillation=1.0),
    "unlabelled and survival": with_training(
        unlabelled=50, unlabelled_share=0.2, distillation=1.0, survival=0.5, survival_widths=[15, 30]
    ),
    ROUTER: with_model(levels=0),
    DEEPEST: with_training(exits="deepest", distillation=0.0),
    "skipping": with_model(layer_skipping=0.3),
    "sparse": with_model(feed_forward_experts=4),
    BOTH: with_levels(0, 1),
    LIGHT: with_levels(0),
    DEEP: with_levels(1),
}
SHORTENED = ("together", "skipping")


@dataclass(frozen=True, eq=False)
class Judged:
    """AUC by task and level, values of the lists, and CPU seconds of training."""

    auc: dict[str, list[float]]
    values: Values
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/kuairand"), help="the prepared recipe with its log")
    parser.add_argument("--share", type=float, default=0.3, help="of users, that training sees")
    parser.add_argument("--lists", type=int, default=60, help="of 1,000 videos")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from depthrank.cli.threads import set_torch_threads

    set_torch_threads(1)
    fresh: Plain = {"command": shlex.join(["python", *sys.argv]), "share": options.share, "variants": {}}
    found = json.loads(options.json.read_text()) if options.json.exists() else fresh
    part_of(options.work, options.share)
    lists = write_slates(options.work, options.lists)
    apart: dict[str, Values] = {}
    for name in options.only:
        judged = trained_and_judged(options.work, lists, VARIANTS[name])
        for variant, one in judged.items():
            label = name if variant == "all" else f"{name}, one attention layer"
            if variant == "all" or name in SHORTENED:
                found["variants"][label] = {
                    "auc": one.auc,
                    "cpu_s": one.cpu_s,
                    "recall": recall(one.values, one.values),
                }
                print(label, json.dumps(found["variants"][label]), flush=True)
        apart[name] = judged["all"].values
        if {ROUTER, DEEPEST} <= set(apart):
            found["variants"]["apart"] = {"recall": recall(apart[ROUTER], apart[DEEPEST])}
            print("apart", found["variants"]["apart"])
        if {LIGHT, DEEP, BOTH} <= set(apart):
            found["light_level"] = light_level(apart[BOTH], apart[LIGHT], apart[DEEP])
            print("light level", json.dumps(found["light_level"]))
        options.json.write_text(json.dumps(found, indent=1))


def part_of(work: Path, share: float) -> None:
    """``part.parquet``: every impression from 04-29 on, before that those of a share of the users."""
    shown = pl.read_parquet(work / "impressions.parquet")
    users = shown["user_id"].unique().sort()
    some = users.sample(round(share * len(users)), seed=0)
    kept = shown.filter((pl.col("time_ms") >= SPLIT_MS) | pl.col("user_id").is_in(some.implode()))
    kept.write_parquet(work / "part.parquet")


def trained_and_judged(work: Path, lists: Path, change: Callable[[Plain], None]) -> dict[str, Judged]:
    """The variant as it is, and with one attention layer a level where it has several."""
    spec = yaml.safe_load((work / "ranking.yaml").read_text())
    spec["dataset"]["impressions"]["path"] = "part.parquet"
    spec["training"] |= {"epochs": 1, "minutes": 60}
    change(spec)
    path = work / "cotraining.yaml"  # beside the recipe: its paths start there
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    with TemporaryDirectory() as folder, open_log(f"lmdb:{work}/events") as log:
        started = time.process_time()
        train(path, log=log, out=Path(folder) / "artifact", seed=0, progress=False)
        cpu_s = time.process_time() - started
        one = Slates.load(lists, Path(folder) / "artifact", log)
        rows = Slates.load(path, Path(folder) / "artifact", log)
        judged = {"all": judge(one, rows, log, cpu_s)}
        experts = [cast(Expert, expert) for expert in one.artifact.model.experts]
        if experts:
            for slates in (one, rows):
                for expert in slates.artifact.model.experts:
                    expert.reads_of_step = lambda: 1  # type: ignore[method-assign,operator]
            judged["one"] = judge(one, rows, log, cpu_s)
    return judged


def judge(lists: Slates, rows: Slates, log: EventLog, cpu_s: float) -> Judged:
    """Of one model: the test day's impressions, and lists."""
    artifact, raw = rows.artifact, rows.raw
    spec = Spec.load(lists.held_out.spec.folder + "/cotraining.yaml")
    scorer = ModelScorer(artifact.spec, artifact.model, artifact.encoder, raw.items)
    split = score_split(scorer, artifact.encoder, artifact.spec, raw, load_examples(spec, raw), log, "test")
    label_NK = np.concatenate(split.label)
    by_task: dict[str, list[float]] = {}
    for k, task in enumerate(list(artifact.spec.tasks)[: len(TASKS)]):
        columns = [np.concatenate(level.probability)[:, k].astype(np.float64) for level in split.levels]
        by_task[task] = [auc(label_NK[:, k].astype(np.float64), p_N) for p_N in columns]
    return Judged(by_task, [lists.full.values(one) for one in lists.requests("test", 1 << 30)], cpu_s)


def recall(shallow: Values, deep: Values, level: int = 0) -> dict[str, float]:
    """Share of the deepest level's first ten among a level's first k, mean over lists."""
    return {f"@{k}": float(kept_M.mean()) for k, kept_M in zip(KS, recalls(shallow, deep, level), strict=True)}


def recalls(shallow: Values, deep: Values, level: int) -> list[npt.NDArray[np.float64]]:
    """The same of each list, by k."""
    best = [set(np.argsort(-d[-1], kind="stable")[:TOP].tolist()) for d in deep]
    order = [np.argsort(-s[level], kind="stable").tolist() for s in shallow]
    return [np.array([len(b & set(o[:k])) / TOP for b, o in zip(best, order, strict=True)]) for k in KS]


def light_level(together: Values, light: Values, deep: Values) -> Plain:
    """What the light level keeps of the deep one's first ten, trained together and apart, and the paired difference."""
    own, apart, every = recalls(together, together, 1), recalls(light, deep, -1), np.arange(len(deep))
    rows = {}
    for k, own_M, apart_M in zip(KS, own, apart, strict=True):
        difference = mean_difference(own_M, apart_M, every).to_plain()
        rows[f"@{k}"] = {
            "together": float(own_M.mean()),
            "apart": float(apart_M.mean()),
            "difference": difference,
        }
    return rows


if __name__ == "__main__":
    main()
