"""KuaiRand-Pure: ours against LightGBM, DIN and DCN-V2 on the same columns, histories and days.

    python recipes/kuairand/prepare.py
    python benchmarks/quality/kuairand.py [--json F] [--parts ours lightgbm din dcnv2] [--trials 50] [--seeds 3]

Train on 04-25 to 04-28, tune on 04-29, test on 04-30. Every model is calibrated on 04-29. Differences are paired by
user; positive is better for ours. Each part is kept in work/kuairand/quality, so the parts may run one by one.
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import lightgbm_rival
import numpy as np
import ours
import rechub_rivals
from paired import calibrated, interval, table, task_differences, task_figures
from parts import Scores, arguments, kept_of
from rows import Dataset

TASKS = ("click", "long_view")
PARTS = ("ours", "lightgbm", "din", "dcnv2")


def main() -> None:
    options = arguments("kuairand", PARTS, __doc__)
    kept = kept_of(options)
    data = kept.rows()
    tasks = [list(data.spec.tasks).index(task) for task in TASKS]
    result: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "rows": {s: len(getattr(data, s)) for s in ("train", "validation", "test")},
    }
    rivals: dict[str, Scores] = {}
    for part in PARTS[1:]:
        if part in options.parts:
            rivals[part], result[part] = kept.scores(part, lambda part=part: _rival(data, part, tasks, options))
    seeds = range(options.seeds) if "ours" in options.parts else ()
    models = {seed: ours.kept_scores(kept, data, seed) for seed in seeds}
    result |= _compare(data, models, rivals, tasks)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=float))


def _rival(data: Dataset, part: str, tasks: list[int], options: Any) -> tuple[Scores, dict[str, Any]]:
    """Calibrated probabilities of the test rows, [N, tasks]."""
    columns, facts = [], {}
    for name, k in zip(TASKS, tasks, strict=True):
        if part == "lightgbm":
            found = lightgbm_rival.tune(
                data,
                k,
                listwise=False,
                trials=options.trials,
                cpu_limit_s=options.cpu_limit_s,
                threads=options.threads,
            )
            facts[name] = {"trials": found.trials, "trees": found.trees, "parameters": found.parameters}
            facts[name] |= {"cpu_s": found.cpu_s, "gain": found.importance}
        else:
            fitted = rechub_rivals.fit(data, k, part)
            found = fitted
            facts[name] = {"setting": fitted.setting, "cpu_s": fitted.cpu_s}
        columns.append(calibrated(found.test_N, found.validation_N, data.validation.label[:, k].astype(np.float64)))
    return {"test": np.stack(columns, axis=1)}, facts


def _compare(data: Dataset, models: dict[int, Scores], rivals: dict[str, Scores], tasks: list[int]) -> dict[str, Any]:
    result: dict[str, Any] = {"figures": {}, "differences": {}}
    rows = data.test
    for column, (name, k) in enumerate(zip(TASKS, tasks, strict=True)):
        figures = {f"{part}": task_figures(rows, k, scores["test"][:, column]) for part, scores in rivals.items()}
        differences = {}
        for seed, scores in models.items():
            deepest = scores["test"][-1, :, k].astype(np.float64)
            router = scores["test"][0, :, k].astype(np.float64)
            figures |= {f"ours, seed {seed}": task_figures(rows, k, deepest)}
            figures |= {f"router, seed {seed}": task_figures(rows, k, router)}
            against = {"router": router, **{part: s["test"][:, column] for part, s in rivals.items()}}
            for part, rival in against.items():
                differences[f"seed {seed} over {part}"] = task_differences(rows, k, deepest, rival)
        result["figures"][name], result["differences"][name] = figures, differences
        shown = [[m, *(f"{f[c]:.4f}" for c in ("auc", "gauc", "ne"))] for m, f in figures.items()]
        print(table(f"{name}, test", ["model", "AUC", "GAUC", "NE"], shown))
        shown = [[m, *(interval(f[c]) for c in ("auc", "gauc", "ne"))] for m, f in differences.items()]
        print(table(f"{name}: ours minus", ["", "AUC", "GAUC", "NE (rival's minus ours)"], shown))
    return result


if __name__ == "__main__":
    main()
