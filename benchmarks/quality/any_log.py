"""Any log: `depthrank train` with its defaults against LightGBM on the same columns, counters, histories and split.

    python benchmarks/quality/any_log.py SPEC --log lmdb:FOLDER --artifact DIR
        [--trials 10] [--cpu-limit-s 40] [--lists] [--seed 0] [--json F]

Trains into DIR unless an artifact is there. LightGBM once with its default parameters and once tuned by optuna on
validation (binary; with --lists also lambdarank), calibrated on validation, and the share of positives of each item in
training, smoothed. Several tasks are also told as their value, by NDCG@10 of it; with --lists beside a lambdarank of
grades. Differences are paired, with intervals by bootstrap over users.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import lightgbm_rival
import numpy as np
import ours
import torch
from gains import gains_of, ndcg_of_gains
from paired import (
    calibrated,
    interval,
    list_differences,
    list_figures,
    request_difference,
    row_of,
    table,
    task_differences,
    task_figures,
)
from rows import Dataset, Rows, load_rows

from depthrank.artifact import load_artifact
from depthrank.data import load_dataset, load_examples
from depthrank.evaluate import ModelScorer, score_split
from depthrank.events import open_log
from depthrank.schema import Spec
from depthrank.training import train

DEFAULTS = {"objective": "binary", "num_threads": 1, "seed": 0, "verbose": -1, "feature_pre_filter": False}
PRIOR = 20.0
Scores = dict[str, np.ndarray]


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    trained_cpu_s: float | None = None  # None: the artifact was there
    if not (options.artifact / "manifest.json").exists():
        train(options.spec, log=options.log, out=options.artifact, seed=options.seed, progress=False)
        trained_cpu_s = time.process_time()
    data = load_rows(options.spec, options.log)
    levels_LNK = level_scores(options.spec, options.log, options.artifact)
    ours.check_same_rows(levels_LNK, data.test)
    summary = load_artifact(options.artifact).manifest.training
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "rows": {split: len(getattr(data, split)) for split in ("train", "validation", "test")},
        "seed": options.seed,
        "ours": {name: summary[name] for name in ("epochs", "parameters", "seconds", "time")}
        | {"cpu_s": trained_cpu_s},
    }
    by_task = []
    for k, task in enumerate(data.spec.tasks):
        result[task], scores = compare(data, k, levels_LNK[:, :, k], options)
        by_task.append(scores)
    if len(by_task) > 1:
        result["value"] = compare_value(data, by_task, options)
    if options.json:
        plain = json.loads(json.dumps(result, default=float), parse_constant=lambda _: None)  # NaN: no such figure
        options.json.write_text(json.dumps(plain, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--log", required=True)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--cpu-limit-s", type=float, default=40.0)
    parser.add_argument("--lists", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def level_scores(spec_path: Path, log_url: str, artifact: Path) -> np.ndarray:
    """Calibrated probabilities of the test rows at every level, float32 [L, N, K]."""
    spec, loaded = Spec.load(spec_path), load_artifact(artifact)
    raw = load_dataset(spec)
    with open_log(log_url) as log:
        scorer = ModelScorer(loaded.spec, loaded.model, loaded.encoder, raw.items)
        found = score_split(scorer, loaded.encoder, loaded.spec, raw, load_examples(spec, raw), log, "test")
    return np.stack([np.concatenate(level.probability) for level in found.levels])


def compare(data: Dataset, k: int, levels_LN: np.ndarray, options: argparse.Namespace) -> tuple[dict[str, Any], Scores]:
    """Figures of every model for one task, and ours minus each rival; the scores."""
    trees, facts = rivals(data, k, options)
    scores: Scores = {**trees, "ours, router": levels_LN[0].astype(float), "ours, expert": levels_LN[-1].astype(float)}
    rows, names = data.test, ("auc", "gauc", "ne", "mrr", "hit@1")
    figures = {m: {**task_figures(rows, k, p), **list_figures(rows, k, p)} for m, p in scores.items()}
    own = scores["ours, expert"]
    differences = {m: task_differences(rows, k, own, p) | list_differences(rows, k, own, p) for m, p in trees.items()}
    print(table("test", ["model", *names], [row_of(m, f, names) for m, f in figures.items()]))
    shown = [[m, *(interval(f[name]) for name in names)] for m, f in differences.items()]
    print(table("ours, expert minus", ["", *names], shown))
    return {"figures": figures, "differences": differences, "lightgbm": facts}, scores


def compare_value(data: Dataset, by_task: list[Scores], options: argparse.Namespace) -> dict[str, Any]:
    """NDCG@10 of the value by model, and ours minus each rival."""
    rows, weights = data.test, np.array([data.spec.value.weights.get(task, 0.0) for task in data.spec.tasks])
    scores = {model: np.stack([task[model] for task in by_task], axis=1) @ weights for model in by_task[0]}
    if options.lists:
        grades = lightgbm_rival.tune(
            data, None, listwise=True, trials=options.trials, cpu_limit_s=options.cpu_limit_s, threads=1
        )
        scores["LightGBM lambdarank of grades, tuned"] = grades.test_N
    gain_N = gains_of(rows, weights)
    ndcg = {model: ndcg_of_gains(rows, gain_N, score) for model, score in scores.items()}
    rivals = {model: found for model, found in ndcg.items() if not model.startswith("ours")}
    differences = {model: request_difference(rows, ndcg["ours, expert"], found) for model, found in rivals.items()}
    figures = {model: float(np.nanmean(found)) for model, found in ndcg.items()}
    print(table("value", ["model", "ndcg@10"], [[model, f"{figure:.4f}"] for model, figure in figures.items()]))
    print(table("ours, expert minus", ["", "ndcg@10"], [[m, interval(d)] for m, d in differences.items()]))
    return {"ndcg@10": figures, "differences": differences}


def rivals(data: Dataset, k: int, options: argparse.Namespace) -> tuple[Scores, dict[str, Any]]:
    """Scores of the test rows by rival, and what fitting it took."""
    label = data.validation.label[:, k].astype(np.float64)
    fitted: dict[str, lightgbm_rival.Tuned]
    fitted = {"LightGBM": lightgbm_rival.fit(data, k, listwise=False, parameters=DEFAULTS, seed=0)}
    for listwise in (False, True) if options.lists else (False,):
        name = "LightGBM lambdarank, tuned" if listwise else "LightGBM, tuned"
        fitted[name] = lightgbm_rival.tune(
            data, k, listwise=listwise, trials=options.trials, cpu_limit_s=options.cpu_limit_s, threads=1
        )
    scores = {}
    for name, found in fitted.items():
        p, of_validation = found.test_N, found.validation_N
        if "lambdarank" in name:  # its scores are no probabilities
            p, of_validation = 1 / (1 + np.exp(-p)), 1 / (1 + np.exp(-of_validation))
        scores[name] = calibrated(p, of_validation, label)
    if len(data.item_ids) > 2:  # row 0 is no item, and where candidates have no id there is one
        scores["share of positives by item"] = item_rate(data.train, data.test, k)
    return scores, {m: {"trees": f.trees, "trials": f.trials, "cpu_s": f.cpu_s} for m, f in fitted.items()}


def item_rate(train: Rows, rows: Rows, k: int) -> np.ndarray:
    """Positives of each row's item in training over its impressions, smoothed by ``PRIOR`` of the mean, [N]."""
    known = ~np.isnan(train.label[:, k])
    item, label = train.item[known], train.label[known, k].astype(np.float64)
    size = int(max(item.max(), rows.item.max())) + 1
    shown, taken = np.bincount(item, minlength=size), np.bincount(item, label, minlength=size)
    return ((taken + PRIOR * label.mean()) / (shown + PRIOR))[rows.item]


if __name__ == "__main__":
    main()
