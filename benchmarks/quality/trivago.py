"""trivago: ours against LightGBM lambdarank on the same columns and histories, and against "last touched first".

    python recipes/trivago/prepare.py
    python benchmarks/quality/trivago.py [--json F] [--parts ours lightgbm] [--trials 50] [--seeds 3]

Test: the last 20 % of click-outs by time. The place in the displayed list is known when the list is re-ranked: it is a
candidate column of every model here. Differences are paired by user, between means over the seeds; positive is better
for ours. Lambdarank's later seeds use the parameters that its first one found.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import lightgbm_rival
import numpy as np
import ours
from paired import interval, list_differences, list_figures, list_losses, request_difference, row_of, table
from parts import Kept, Scores, about_run, arguments, kept_of
from rows import Dataset, Rows

PARTS = ("ours", "lightgbm")
CLICK = 0
SPLITS = ("validation", "test")
FIGURES = ("mrr", "hit@1")


def main() -> None:
    options = arguments("trivago", PARTS, __doc__)
    kept = kept_of(options)
    data = kept.rows()
    result = about_run(data)
    rivals = {name: [{split: rule(getattr(data, split)) for split in SPLITS}] for name, rule in _rules(data).items()}
    if "lightgbm" in options.parts:
        rivals["lightgbm lambdarank"], result["lightgbm"] = _lambdarank(kept, data, options)
    if "ours" in options.parts:
        models, result["ours"] = ours.kept_scores(kept, data, options.seeds, options.recipe)
        for name, level in (("router", 0), ("ours", -1)):
            rivals[name] = [{split: _logit(run[split][level, :, CLICK]) for split in SPLITS} for run in models]
    result |= _compare(data, rivals)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=float))


def _rules(data: Dataset) -> dict[str, Callable[[Rows], np.ndarray]]:
    """What a list does without a model."""
    place, touched = (data.float_names.index(name) for name in ("shown_at[0]", "touched[1]"))
    return {
        "shown order": lambda rows: -rows.floats[:, place].astype(np.float64),
        "last touched first": lambda rows: rows.floats[:, [touched, place]].astype(np.float64) @ np.array([1e3, -1.0]),
    }


def _logit(p_N: np.ndarray) -> np.ndarray:
    p_N = np.clip(p_N.astype(np.float64), 1e-9, 1 - 1e-9)
    return np.log(p_N) - np.log1p(-p_N)


def _lambdarank(kept: Kept, data: Dataset, options: Any) -> tuple[list[Scores], list[dict[str, Any]]]:
    """Scores by seed, and what was found of each."""

    def tuned() -> tuple[Scores, dict[str, Any]]:
        found = lightgbm_rival.tune(
            data, CLICK, listwise=True, trials=options.trials, cpu_limit_s=options.cpu_limit_s, threads=options.threads
        )
        facts = {"trials": found.trials, "trees": found.trees, "parameters": found.parameters, "cpu_s": found.cpu_s}
        return {"validation": found.validation_N, "test": found.test_N}, facts | {"gain": found.importance}

    first, facts = kept.scores("lightgbm", tuned)
    runs, told = [first], [facts]
    for seed in range(1, options.seeds):

        def again(seed: int = seed) -> tuple[Scores, dict[str, Any]]:
            found = lightgbm_rival.fit(data, CLICK, listwise=True, parameters=facts["parameters"], seed=seed)
            return {"validation": found.validation_N, "test": found.test_N}, {
                "trees": found.trees,
                "cpu_s": found.cpu_s,
            }

        more = kept.scores(f"lightgbm{seed}", again)
        runs.append(more[0])
        told.append(more[1])
    return runs, told


def _compare(data: Dataset, models: dict[str, list[Scores]]) -> dict[str, Any]:
    """Figures of all, and what ours (where it is among them) has more than each other: of list log loss, less."""
    rows, figures, losses, scores = data.test, {}, {}, {}
    for name, runs in models.items():
        scores[name], validation = (np.stack([run[split] for run in runs]) for split in ("test", "validation"))
        losses[name] = list_losses(rows, data.validation, CLICK, scores[name], validation)
        figures[name] = list_figures(rows, CLICK, scores[name]) | {"list logloss": float(np.nanmean(losses[name]))}
    differences = {}
    for name in [m for m in models if m != "ours"] if "ours" in models else ():
        differences[name] = list_differences(rows, CLICK, scores["ours"], scores[name])
        differences[name]["list logloss"] = request_difference(rows, losses[name], losses["ours"])
    shown = [[*row_of(m, f, FIGURES), f"{f['list logloss']:.4f}"] for m, f in figures.items()]
    print(table("test", ["model", "MRR", "hit@1", "list log loss"], shown))
    shown = [[m, *(interval(f[c]) for c in (*FIGURES, "list logloss"))] for m, f in differences.items()]
    print(table("ours minus", ["", "MRR", "hit@1", "list log loss (rival's minus ours)"], shown))
    return {"figures": figures, "differences": differences}


if __name__ == "__main__":
    main()
