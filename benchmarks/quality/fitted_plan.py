"""A plan from a fitted ladder for models with the levels of the largest preset: 2,000 candidates, three deeper levels.

    python recipes/kuairand/prepare.py && depthrank train work/kuairand/ranking.yaml --out work/kuairand/artifact0
    python benchmarks/quality/fitted_plan.py [--minutes 2] [--requests 60] [--candidates 2000] --json F
    python benchmarks/bench_large_preset.py --plan F

The largest preset cannot be trained here, and random weights have no gain that a ladder could keep. So a narrow model
with the same levels (what each reads, its interaction layers, ranks and tokens), 64 wide, is trained on KuaiRand for
a few minutes; each level corrects the one before, as by default (the recipe starts them anew: ``--anew``). Days of
users as lists of 2,000 videos (``kuairand_slates.py``) are replayed at full depth; the ladder is fitted on those of
04-29 with the costs that the largest preset has by its FLOPs (warm, history 1,024), with all plans of its Pareto
front as rungs. The plan is the cheapest that keeps ``--keep`` there; what it keeps on 04-30 is printed with its
interval over users.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from kuairand_slates import Slates, write_slates

from depthrank.evaluate.rivals import FixedPlan, run_fixed
from depthrank.events import open_log
from depthrank.metrics import kept_gain
from depthrank.model import config as sizes
from depthrank.model import level_flops
from depthrank.routing import CostModel, CostRates
from depthrank.training import train
from depthrank.training.fit_policy import fit_ladder
from depthrank.training.replay_requests import replay

PRESET, HISTORY, WIDTH = "large", 1_024, 64
EVERY = 1_000  # rungs


def trained(work: Path, out: Path, minutes: float, anew: bool) -> None:
    """A narrow model with the levels of the largest preset."""
    whole = sizes._PRESETS[PRESET]
    levels = tuple(replace(level, width=None) for level in whole["levels"])
    narrow = {"width": WIDTH, "table_width": 32, "heads": 4, "levels": levels}
    spec = yaml.safe_load((work / "ranking.yaml").read_text())
    spec["model"] |= {"preset": PRESET, "levels_correct": not anew}
    spec["training"] |= {"minutes": minutes, "epochs": 1}
    path = work / "fitted_plan.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    sizes._PRESETS[PRESET] = whole | narrow
    try:
        train(path, log=f"lmdb:{work}/events", out=out, seed=0, progress=False)
    finally:
        sizes._PRESETS[PRESET] = whole


def costs_of_preset(config: sizes.ModelConfig) -> CostRates:
    """What levels of the largest preset cost by FLOPs with a warm user state (what deeper levels do once a request
    is nearly all encoder layers), for a model with these columns."""
    largest = replace(sizes.preset(config, PRESET), history_length=HISTORY)
    router, *deeper = level_flops(largest)
    own = [(router.request, router.candidate), *((0.0, level.candidate) for level in deeper)]
    return CostModel.from_flops(own, HISTORY).rates()


def fitted(slates: Slates, most: int, keep: float, candidates: int) -> dict[str, Any]:
    """The cheapest rung that keeps ``keep`` on validation, and what it keeps on test."""
    rates = costs_of_preset(slates.artifact.model.config)
    validation, judged = (replay(slates.full, slates.requests(split, most)) for split in ("validation", "test"))
    ladder = fit_ladder(validation, rates, most_rungs=EVERY)
    rung = next(rung for rung in ladder.rungs if rung.kept_gain >= keep)
    plan = FixedPlan(rung.widths, ladder.usual, ladder.power)
    kept = kept_gain(
        judged.worth(run_fixed(judged, plan, rates).top_RX),
        judged.worth(judged.router_top_RX),
        judged.worth(judged.full_top_RX),
        judged.user_R,
    )
    return {
        "plan": [candidates, *(min(width, candidates) for width in rung.widths)],
        "cost": rung.cost,
        "kept_gain_validation": rung.kept_gain,
        "kept_gain_test": kept.to_plain(),
        "ladder": [each.to_plain() for each in ladder.rungs],
        "requests": {"validation": len(validation), "test": len(judged)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/kuairand"), help="the prepared recipe with its log")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training")
    parser.add_argument("--anew", action="store_true", help="no level corrects the one before")
    parser.add_argument("--requests", type=int, default=60, help="of each day, at most")
    parser.add_argument("--candidates", type=int, default=2_000)
    parser.add_argument("--keep", type=float, default=0.95)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from depthrank.cli.threads import set_torch_threads

    set_torch_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trained(options.work, Path(folder) / "artifact", options.minutes, options.anew)
        with open_log(f"lmdb:{options.work}/events", read_only=True) as log:
            spec = write_slates(options.work, options.requests, options.candidates)
            slates = Slates.load(spec, Path(folder) / "artifact", log)
            found = fitted(slates, options.requests, options.keep, options.candidates)
    print(json.dumps({name: value for name, value in found.items() if name != "ladder"}))
    options.json.write_text(json.dumps({"command": shlex.join(["python", *sys.argv]), **found}, indent=1))


if __name__ == "__main__":
    main()
