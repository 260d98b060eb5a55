"""KuaiRand-Pure: ours against LightGBM, DIN and DCN-V2 on the same columns, histories and days.

    python recipes/kuairand/prepare.py
    python benchmarks/quality/kuairand.py [--json F] [--parts ours lightgbm din dcnv2] [--trials 50] [--seeds 3]
        [--recipe three_levels]

Train on 04-25 to 04-28, tune on 04-29, test on 04-30. Every model is calibrated on 04-29. Differences are paired by
user, between means over the seeds; positive is better for ours. Each part is kept in work/kuairand/quality, so the
parts may run one by one. ``--seeds`` is of every part; a rival's later seeds use the setting that its first one chose.
"""

from __future__ import annotations

import json
from typing import Any

import lightgbm_rival
import numpy as np
import ours
import rechub_rivals
from paired import calibrated, interval, row_of, table, task_differences, task_figures
from parts import Kept, Scores, about_run, arguments, kept_of
from rows import Dataset

TASKS = ("click", "long_view")
PARTS = ("ours", "lightgbm", "din", "dcnv2")
FIGURES = ("auc", "gauc", "ne")


def main() -> None:
    options = arguments("kuairand", PARTS, __doc__)
    kept = kept_of(options)
    data = kept.rows()
    tasks = [list(data.spec.tasks).index(task) for task in TASKS]
    result = about_run(data)
    rivals: dict[str, list[Scores]] = {}
    for part in PARTS[1:]:
        if part in options.parts:
            rivals[part], result[part] = _rival(kept, data, part, tasks, options)
    models: list[Scores] = []
    if "ours" in options.parts:
        models, result["ours"] = ours.kept_scores(kept, data, options.seeds, options.recipe)
    result |= _compare(data, models, rivals, tasks)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=float))


def _rival(kept: Kept, data: Dataset, part: str, tasks: list[int], options: Any) -> tuple[list[Scores], list[Any]]:
    """Calibrated probabilities of the test rows [N, tasks] by seed, and what was found of each."""
    scores, facts = kept.scores(part, lambda: _fit(data, part, tasks, options, 0, {}))
    runs, told = [scores], [facts]
    for seed in range(1, options.seeds):
        more = kept.scores(f"{part}{seed}", lambda seed=seed: _fit(data, part, tasks, options, seed, facts))
        runs.append(more[0])
        told.append(more[1])
    return runs, told


def _fit(
    data: Dataset, part: str, tasks: list[int], options: Any, seed: int, first: dict[str, Any]
) -> tuple[Scores, dict[str, Any]]:
    """One seed of a rival; ``first``: what its first seed found, empty for that one."""
    columns, facts = [], {}
    for name, k in zip(TASKS, tasks, strict=True):
        if part == "lightgbm":
            found, facts[name] = _trees(data, k, options, seed, first.get(name))
        else:
            chosen = first[name]["setting"] if first else None
            grid = rechub_rivals.GRID
            if chosen is not None:
                grid = ((chosen["learning_rate"], chosen["width"], chosen["weight_decay"]),)
            found = rechub_rivals.fit(data, k, part, seed=seed, grid=grid)
            facts[name] = {"setting": found.setting, "cpu_s": found.cpu_s}
        columns.append(calibrated(found.test_N, found.validation_N, data.validation.label[:, k].astype(np.float64)))
    return {"test": np.stack(columns, axis=1)}, facts


def _trees(
    data: Dataset, k: int, options: Any, seed: int, first: dict[str, Any] | None
) -> tuple[lightgbm_rival.Tuned, dict[str, Any]]:
    if first is not None:
        found = lightgbm_rival.fit(data, k, listwise=False, parameters=first["parameters"], seed=seed)
        return found, {"trees": found.trees, "cpu_s": found.cpu_s}
    found = lightgbm_rival.tune(
        data, k, listwise=False, trials=options.trials, cpu_limit_s=options.cpu_limit_s, threads=options.threads
    )
    facts = {"trials": found.trials, "trees": found.trees, "parameters": found.parameters, "cpu_s": found.cpu_s}
    return found, facts | {"gain": found.importance}


def _compare(data: Dataset, models: list[Scores], rivals: dict[str, list[Scores]], tasks: list[int]) -> dict[str, Any]:
    result: dict[str, Any] = {"figures": {}, "differences": {}}
    rows = data.test
    for column, (name, k) in enumerate(zip(TASKS, tasks, strict=True)):
        scores = {part: np.stack([run["test"][:, column] for run in runs]) for part, runs in rivals.items()}
        if models:
            scores["router"] = np.stack([run["test"][0, :, k] for run in models]).astype(np.float64)
            scores["ours"] = np.stack([run["test"][-1, :, k] for run in models]).astype(np.float64)
        figures = {part: task_figures(rows, k, p_SN) for part, p_SN in scores.items()}
        differences = {
            part: task_differences(rows, k, scores["ours"], p_SN)
            for part, p_SN in scores.items()
            if models and part != "ours"
        }
        result["figures"][name], result["differences"][name] = figures, differences
        print(table(f"{name}, test", ["model", *FIGURES], [row_of(m, f, FIGURES) for m, f in figures.items()]))
        shown = [[m, *(interval(f[c]) for c in FIGURES)] for m, f in differences.items()]
        print(table(f"{name}: ours minus", ["", "AUC", "GAUC", "NE (rival's minus ours)"], shown))
    return result


if __name__ == "__main__":
    main()
