"""How the cost of a request grows with the size of the model: per candidate, shared, and shared with a ladder's widths.

    python benchmarks/bench_scaling.py [--plan F] [--seconds 200] [--json benchmarks/results/scaling.json]

One family (``evaluate/scaling_curve.py``): width, layers and history grow together over more than two orders of
magnitude of FLOPs a candidate when nothing is shared; what a candidate costs at full sharing grows faster than the
square root of that (``shared_growth`` is the exponent). Weights are random: time does not depend on them. Time is that
of the thread, so that a busy machine lengthens it little; the fastest of three passes counts. ``--plan``: widths of a
fitted ladder (``quality/fitted_plan.py``), as shares of its candidates; without it those of the curve, set by hand.

The exponent is the slope of log milliseconds over log FLOPs a candidate (a straight line through all sizes, and its
standard error); 1 is what the per-candidate rival pays on a machine whose rate does not depend on the size. Quality at
each size is not measured here: a random model has none.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from machine_facts import machine_facts, show_facts, torch_facts, write_json

MODES = ("per_candidate", "shared", "shared+adaptive")


def slope(points: list[dict[str, Any]], mode: str, key: str) -> dict[str, float]:
    """Exponent and its standard error."""
    own = [p for p in points if p["mode"] == mode]
    return fitted_slope([p["gflop_per_candidate"] for p in own], [p[key] for p in own])


def fitted_slope(gflop: list[float], cost: list[float]) -> dict[str, float]:
    """Of the logarithms: the exponent of a straight line and its standard error."""
    x, y = np.log(gflop), np.log(cost)
    (slope, offset), n = np.polyfit(x, y, 1), len(x)
    residual = y - slope * x - offset
    error = np.sqrt((residual**2).sum() / max(n - 2, 1) / ((x - x.mean()) ** 2).sum())
    return {"exponent": float(slope), "standard_error": float(error)}


def widths_of(path: Path | None, candidates: int) -> tuple[int, ...] | None:
    """Widths of levels 1.. of a fitted plan, for so many candidates."""
    if path is None:
        return None
    first, *deeper = json.loads(path.read_text())["plan"]
    return tuple(max(1, round(width * candidates / first)) for width in deeper)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, help="JSON of quality/fitted_plan.py")
    parser.add_argument("--seconds", type=float, default=200.0, help="of CPU; sizes beyond are left out")
    parser.add_argument("--candidates", type=int, default=1_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from depthrank.cli.threads import set_torch_threads
    from depthrank.evaluate.scaling_curve import ADAPTIVE_WIDTHS, scaling_curve

    facts = machine_facts("depthrank", "numpy") | {"torch": torch_facts()}
    show_facts(facts)
    set_torch_threads(1)
    fitted = widths_of(arguments.plan, arguments.candidates)
    widths = fitted or ADAPTIVE_WIDTHS
    points = scaling_curve(
        seconds=arguments.seconds, candidates=arguments.candidates, widths=widths, clock_s=time.thread_time
    )
    for point in points:
        print({name: round(v, 4) if isinstance(v, float) else v for name, v in point.items()})
    exponents = {mode: {key: slope(points, mode, key) for key in ("ms", "ms_cold")} for mode in MODES}
    growth = slope(points, "shared", "candidate_gflop")
    for mode, found in exponents.items():
        shown = {key: f"{f['exponent']:.2f} +- {f['standard_error']:.2f}" for key, f in found.items()}
        print(f"{mode:16} warm {shown['ms']}  cold {shown['ms_cold']}")
    print(f"a candidate at full sharing grows with exponent {growth['exponent']:.2f}")
    if arguments.json:
        result = {"exponents": exponents, "shared_growth": growth, "widths": list(widths), "points": points}
        write_json(arguments.json, result | {"widths_fitted": fitted is not None, "machine": facts})


if __name__ == "__main__":
    main()
