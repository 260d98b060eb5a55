"""trivago: ours against LightGBM lambdarank on the same columns and histories, and against "last touched first".

    python recipes/trivago/prepare.py
    python benchmarks/quality/trivago.py [--json F] [--parts ours lightgbm] [--trials 50] [--seeds 3]

Test: the last 20 % of click-outs by time. The place in the displayed list is known when the list is re-ranked: it is a
candidate column of every model here. Differences are paired by user, between means over the seeds; positive is better
for ours. Lambdarank's later seeds use the parameters that its first one found.
"""

from __future__ import annotations

import json
from typing import Any

import lightgbm_rival
import numpy as np
import ours
from paired import interval, list_differences, list_figures, row_of, table
from parts import Kept, Scores, about_run, arguments, kept_of
from rows import Dataset

PARTS = ("ours", "lightgbm")
CLICK = 0
FIGURES = ("mrr", "hit@1")


def main() -> None:
    options = arguments("trivago", PARTS, __doc__)
    kept = kept_of(options)
    data = kept.rows()
    result = about_run(data)
    rivals = {"shown order": -_place(data), "last touched first": 1e3 * _touched(data) - _place(data)}
    if "lightgbm" in options.parts:
        rivals["lightgbm lambdarank"], result["lightgbm"] = _lambdarank(kept, data, options)
    models: list[Scores] = []
    if "ours" in options.parts:
        models, result["ours"] = ours.kept_scores(kept, data, options.seeds)
    result |= _compare(data, models, rivals)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=float))


def _place(data: Dataset) -> np.ndarray:
    return data.test.floats[:, data.float_names.index("shown_at[0]")].astype(np.float64)


def _touched(data: Dataset) -> np.ndarray:
    return data.test.floats[:, data.float_names.index("touched[1]")].astype(np.float64)


def _lambdarank(kept: Kept, data: Dataset, options: Any) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Scores of the test rows [S, N] by seed, and what was found of each."""

    def tuned() -> tuple[Scores, dict[str, Any]]:
        found = lightgbm_rival.tune(
            data, CLICK, listwise=True, trials=options.trials, cpu_limit_s=options.cpu_limit_s, threads=options.threads
        )
        facts = {"trials": found.trials, "trees": found.trees, "parameters": found.parameters, "cpu_s": found.cpu_s}
        return {"test": found.test_N}, facts | {"gain": found.importance}

    scores, facts = kept.scores("lightgbm", tuned)
    runs, told = [scores["test"]], [facts]
    for seed in range(1, options.seeds):

        def again(seed: int = seed) -> tuple[Scores, dict[str, Any]]:
            found = lightgbm_rival.fit(data, CLICK, listwise=True, parameters=facts["parameters"], seed=seed)
            return {"test": found.test_N}, {"trees": found.trees, "cpu_s": found.cpu_s}

        more = kept.scores(f"lightgbm{seed}", again)
        runs.append(more[0]["test"])
        told.append(more[1])
    return np.stack(runs), told


def _compare(data: Dataset, models: list[Scores], rivals: dict[str, np.ndarray]) -> dict[str, Any]:
    rows, scores = data.test, dict(rivals)
    if models:
        scores["router"] = np.stack([run["test"][0, :, CLICK] for run in models]).astype(np.float64)
        scores["ours"] = np.stack([run["test"][-1, :, CLICK] for run in models]).astype(np.float64)
    figures = {name: list_figures(rows, CLICK, score_SN) for name, score_SN in scores.items()}
    differences = {
        name: list_differences(rows, CLICK, scores["ours"], score_SN)
        for name, score_SN in scores.items()
        if models and name != "ours"
    }
    print(table("test", ["model", "MRR", "hit@1"], [row_of(m, f, FIGURES) for m, f in figures.items()]))
    shown = [[m, *(interval(f[c]) for c in FIGURES)] for m, f in differences.items()]
    print(table("ours minus", ["", "MRR", "hit@1"], shown))
    return {"figures": figures, "differences": differences}


if __name__ == "__main__":
    main()
