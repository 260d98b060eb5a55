"""Any log: `depthrank train` with its defaults against LightGBM on the same columns, counters, histories and split.

    python benchmarks/quality/any_log.py SPEC --log lmdb:FOLDER --artifact DIR
        [--trials 10] [--cpu-limit-s 40] [--lists] [--json F]

Trains into DIR unless an artifact is there. LightGBM once with its default parameters and once tuned by optuna on
validation (binary; with --lists also lambdarank), calibrated on validation. Differences are paired, with intervals by
bootstrap over users.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import lightgbm_rival
import numpy as np
import ours
import torch
from paired import calibrated, interval, list_differences, list_figures, row_of, table, task_differences, task_figures
from rows import Dataset, load_rows

from depthrank.artifact import load_artifact
from depthrank.data import load_dataset, load_examples
from depthrank.evaluate import ModelScorer, score_split
from depthrank.events import open_log
from depthrank.schema import Spec
from depthrank.training import train

DEFAULTS = {"objective": "binary", "num_threads": 1, "seed": 0, "verbose": -1, "feature_pre_filter": False}
Scores = dict[str, np.ndarray]


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    if not (options.artifact / "manifest.json").exists():
        train(options.spec, log=options.log, out=options.artifact, progress=False)
    data = load_rows(options.spec, options.log)
    levels_LNK = level_scores(options.spec, options.log, options.artifact)
    ours.check_same_rows(levels_LNK, data.test)
    summary = load_artifact(options.artifact).manifest.training
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "rows": {split: len(getattr(data, split)) for split in ("train", "validation", "test")},
        "ours": {name: summary[name] for name in ("epochs", "parameters", "seconds", "time")},
    }
    for k, task in enumerate(data.spec.tasks):
        result[task] = compare(data, k, levels_LNK[:, :, k], options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=float) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--log", required=True)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--cpu-limit-s", type=float, default=40.0)
    parser.add_argument("--lists", action="store_true")
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


def compare(data: Dataset, k: int, levels_LN: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of every model for one task, and ours minus each rival."""
    trees, facts = rivals(data, k, options)
    scores: Scores = {**trees, "ours, router": levels_LN[0].astype(float), "ours, expert": levels_LN[-1].astype(float)}
    rows, names = data.test, ("auc", "gauc", "ne", "mrr", "hit@1")
    figures = {m: {**task_figures(rows, k, p), **list_figures(rows, k, p)} for m, p in scores.items()}
    own = scores["ours, expert"]
    differences = {m: task_differences(rows, k, own, p) | list_differences(rows, k, own, p) for m, p in trees.items()}
    print(table("test", ["model", *names], [row_of(m, f, names) for m, f in figures.items()]))
    shown = [[m, *(interval(f[name]) for name in names)] for m, f in differences.items()]
    print(table("ours, expert minus", ["", *names], shown))
    return {"figures": figures, "differences": differences, "lightgbm": facts}


def rivals(data: Dataset, k: int, options: argparse.Namespace) -> tuple[Scores, dict[str, Any]]:
    """Scores of the test rows by rival, and what fitting it took."""
    label = data.validation.label[:, k].astype(np.float64)
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
    return scores, {m: {"trees": f.trees, "trials": f.trials, "cpu_s": f.cpu_s} for m, f in fitted.items()}


if __name__ == "__main__":
    main()
