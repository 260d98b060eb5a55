"""trivago: ours against LightGBM lambdarank on the same columns and histories, and against "last touched first".

    python recipes/trivago/prepare.py
    python benchmarks/quality/trivago.py [--json F] [--parts ours lightgbm] [--trials 50] [--seeds 3]

Test: the last 20 % of click-outs by time. The place in the displayed list is known when the list is re-ranked: it is a
candidate column of every model here. Differences are paired by user; positive is better for ours.
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import lightgbm_rival
import numpy as np
import ours
from paired import interval, list_differences, list_figures, table
from parts import Scores, arguments, kept_of
from rows import Dataset

PARTS = ("ours", "lightgbm")
CLICK = 0


def main() -> None:
    options = arguments("trivago", PARTS, __doc__)
    kept = kept_of(options)
    data = kept.rows()
    result: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "rows": {s: len(getattr(data, s)) for s in ("train", "validation", "test")},
    }
    rivals = {"shown order": -_place(data), "last touched first": 1e3 * _touched(data) - _place(data)}
    if "lightgbm" in options.parts:
        scores, result["lightgbm"] = kept.scores("lightgbm", lambda: _lambdarank(data, options))
        rivals["lightgbm lambdarank"] = scores["test"]
    seeds = range(options.seeds) if "ours" in options.parts else ()
    models = {seed: ours.kept_scores(kept, data, seed) for seed in seeds}
    result |= _compare(data, models, rivals)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=float))


def _place(data: Dataset) -> np.ndarray:
    return data.test.floats[:, data.float_names.index("shown_at[0]")].astype(np.float64)


def _touched(data: Dataset) -> np.ndarray:
    return data.test.floats[:, data.float_names.index("touched[1]")].astype(np.float64)


def _lambdarank(data: Dataset, options: Any) -> tuple[Scores, dict[str, Any]]:
    found = lightgbm_rival.tune(
        data,
        CLICK,
        listwise=True,
        trials=options.trials,
        cpu_limit_s=options.cpu_limit_s,
        threads=options.threads,
    )
    facts = {"trials": found.trials, "trees": found.trees, "parameters": found.parameters, "cpu_s": found.cpu_s}
    return {"test": found.test_N}, facts | {"gain": found.importance}


def _compare(data: Dataset, models: dict[int, Scores], rivals: dict[str, np.ndarray]) -> dict[str, Any]:
    rows = data.test
    figures = {name: list_figures(rows, CLICK, score) for name, score in rivals.items()}
    differences = {}
    for seed, scores in models.items():
        deepest, router = (scores["test"][i, :, CLICK].astype(np.float64) for i in (-1, 0))
        figures |= {f"ours, seed {seed}": list_figures(rows, CLICK, deepest)}
        figures |= {f"router, seed {seed}": list_figures(rows, CLICK, router)}
        for name, rival in {"router": router, **rivals}.items():
            differences[f"seed {seed} over {name}"] = list_differences(rows, CLICK, deepest, rival)
    shown = [[m, *(f"{f[c]:.4f}" for c in ("mrr", "hit@1"))] for m, f in figures.items()]
    print(table("test", ["model", "MRR", "hit@1"], shown))
    shown = [[m, *(interval(f[c]) for c in ("mrr", "hit@1"))] for m, f in differences.items()]
    print(table("ours minus", ["", "MRR", "hit@1"], shown))
    return {"figures": figures, "differences": differences}


if __name__ == "__main__":
    main()
