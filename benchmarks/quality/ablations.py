"""What each part of the ranker is worth: the recipe with one part changed, trained anew and scored on the test split.

    python recipes/trivago/prepare.py
    python benchmarks/quality/ablations.py [--work work/trivago] [--only full "no history" ...] [--epochs 3] --json F

One seed each, by default what the recipe's own parts are worth (``PARTS``); ``--only`` names others. Task figures of
the router and of the deepest level, what the whole recipe's deepest level has more, paired by user, and for lists
recall@k: which share of the deepest level's first ten the router keeps in its first k. "apart" trains the two levels
separately: a router alone, and a ranker whose router is no exit; its recall@k is of one model's order inside the
other's. Scores are kept in WORK/quality, so that a run may be continued.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import ours
import yaml
from paired import list_differences, list_figures, task_differences, task_figures
from parts import Kept, about_run
from rows import Rows

from depthrank.metrics import rank_in_request, recall_at_k

Plain = dict[str, Any]
Scores = npt.NDArray[np.float32]  # [L, N, K]
OF_HISTORY = ("history_match", "history_count", "history_along")
TOP, KS = 10, (10, 12, 15, 18)


def with_model(**settings: Any) -> Callable[[Plain], None]:
    return lambda spec: spec.setdefault("model", {}).update(settings)


def with_training(**settings: Any) -> Callable[[Plain], None]:
    return lambda spec: spec.setdefault("training", {}).update(settings)


def without_kinds(*kinds: str) -> Callable[[Plain], None]:
    def change(spec: Plain) -> None:
        spec["features"] = {n: f for n, f in spec["features"].items() if f["kind"] not in kinds}

    return change


def all_of(*changes: Callable[[Plain], None]) -> Callable[[Plain], None]:
    def change(spec: Plain) -> None:
        for one in changes:
            one(spec)

    return change


ROUTER_ALONE = "router alone"
DEEPEST_ALONE = "deepest alone"
VARIANTS: dict[str, Callable[[Plain], None]] = {
    "full": all_of(),
    "no history": all_of(without_kinds(*OF_HISTORY), lambda spec: spec["history"].update(length=0)),
    "no sequence, history features kept": with_model(expert_layers=0, encoder_layers=1),
    "no target attention": with_model(expert_layers=0),
    "no interaction": with_model(interaction_layers=0, cross_layers=0),
    "no time signal": all_of(without_kinds("time"), with_model(time_gaps=False, recency=False)),
    "no counters": without_kinds("counter"),
    "crosses": with_model(cross_layers=2),
    "levels start anew": with_model(levels_correct=False),
    "no distillation": with_training(distillation=0.0),
    "survival loss": with_training(survival=0.5, survival_widths=[10, 15]),
    "layer skipping": with_model(layer_skipping=0.3),
    "sparse experts": with_model(feed_forward_experts=4),
    "bf16": with_training(precision="bf16"),
    ROUTER_ALONE: with_model(levels=0),
    DEEPEST_ALONE: all_of(with_model(levels_correct=False), with_training(exits="deepest", distillation=0.0)),
}


PARTS = (
    "full",
    "no history",
    "no sequence, history features kept",
    "no target attention",
    "no interaction",
    "no time signal",
    "no counters",
    ROUTER_ALONE,
    DEEPEST_ALONE,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/trivago"), help="the prepared recipe")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(PARTS))
    parser.add_argument("--epochs", type=int, default=None, help="of each, instead of the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from depthrank.cli.threads import set_torch_threads

    set_torch_threads(options.threads)
    kept = Kept(options.work, f"lmdb:{options.work}/events", frozenset())
    data = kept.rows()
    rows = data.test
    found = about_run(data) | {"epochs": options.epochs, "variants": {}}
    scores: dict[str, Scores] = {}
    for name in options.only:
        scores[name], facts = _train(kept, name, options.epochs)
        variant = _figures(rows, scores[name]) | facts
        if "full" in scores and name != "full":
            variant["full has more"] = _differences(rows, scores["full"][-1], scores[name][-1])
        found["variants"][name] = variant
        print(name, json.dumps(variant), flush=True)
        if {ROUTER_ALONE, DEEPEST_ALONE} <= set(scores):
            found["variants"]["apart"] = _recall(rows, scores[ROUTER_ALONE][0], scores[DEEPEST_ALONE][-1])
        options.json.write_text(json.dumps(found, indent=1, default=float))


def _train(kept: Kept, name: str, epochs: int | None) -> tuple[Scores, Plain]:
    """Test scores of a variant and what training it took, trained unless they are kept."""
    spec = yaml.safe_load(kept.spec_path.read_text())
    VARIANTS[name](spec)
    if epochs is not None:
        spec["training"]["epochs"] = epochs
    path = kept.work / "ablation.yaml"  # beside the recipe: its paths start there

    def make() -> tuple[dict[str, Scores], Plain]:
        path.write_text(yaml.safe_dump(spec, sort_keys=False))
        with TemporaryDirectory() as folder:
            fitted = ours.fit(path, kept.log_url, Path(folder), seed=0)
        return {"test": fitted.test_LNK}, {"cpu_s": fitted.cpu_s} | fitted.training

    found, facts = kept.scores(f"ablation {name}, {spec['training']['epochs']} epochs", make)
    return found["test"], facts


def _is_listed(rows: Rows) -> bool:
    return bool(np.bincount(rows.request).mean() > 2)


def _differences(rows: Rows, full_NK: Scores, changed_NK: Scores) -> Plain:
    """What the whole recipe has more, with intervals."""
    full_NK, changed_NK = full_NK.astype(np.float64), changed_NK.astype(np.float64)
    if _is_listed(rows):
        return list_differences(rows, 0, full_NK[:, 0], changed_NK[:, 0])
    return {str(k): task_differences(rows, k, full_NK[:, k], changed_NK[:, k]) for k in (0, 1)}


def _figures(rows: Rows, scores_LNK: Scores) -> Plain:
    lists = _is_listed(rows)
    found: Plain = {}
    for name, scores_NK in (("router", scores_LNK[0]), ("deepest", scores_LNK[-1])):
        if lists:
            found[name] = list_figures(rows, 0, scores_NK[:, 0].astype(np.float64))
        else:
            found[name] = {str(k): task_figures(rows, k, scores_NK[:, k].astype(np.float64)) for k in (0, 1)}
    return found | (_recall(rows, scores_LNK[0], scores_LNK[-1]) if lists else {})


def _recall(rows: Rows, shallow_NK: Scores, deepest_NK: Scores) -> Plain:
    """Share of the deepest level's first ten in the shallow one's first k, mean over lists of more than k."""
    offsets = np.r_[0, np.flatnonzero(np.diff(rows.request)) + 1, len(rows)].astype(np.int64)
    size_R = np.diff(offsets)
    shallow, deepest = (rank_in_request(s[:, 0].astype(np.float64), offsets) for s in (shallow_NK, deepest_NK))
    return {f"recall@{k}": float(recall_at_k(shallow, deepest, offsets, k, TOP)[size_R > k].mean()) for k in KS}


if __name__ == "__main__":
    main()
