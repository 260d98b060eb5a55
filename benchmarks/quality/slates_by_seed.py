"""Curves of several seeds as one: mean and range of what the adaptive policy keeps at each share of the cost.

    python benchmarks/quality/slates_by_seed.py S0.json S1.json S2.json --json benchmarks/results/F.json

The files are of ``kuairand_slates.py``, one a trained seed, on the same lists. ``above``: in how many of them the
paired interval of the difference lies above zero. ``full_over_router_on_shown`` of each seed is copied.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from paired import spread

Plain = dict[str, Any]


def summary(curves: list[Plain]) -> list[Plain]:
    """A row for each state and target that all seeds reach."""
    rows = []
    for entries in zip(*(curve["comparisons"] for curve in curves), strict=True):
        if not all(entry.get("over") for entry in entries):
            continue
        row = {"state": entries[0]["state"], "target_cost": entries[0]["target_cost"]}
        row["cost"] = spread([entry["cost"] for entry in entries])
        row["kept_gain"] = spread([entry["kept_gain"]["estimate"] for entry in entries])
        for rival in entries[0]["over"]:
            own = [entry["over"][rival] for entry in entries]
            if all(own):
                difference = [one["difference"] for one in own]
                row[f"over_{rival}"] = spread([d["estimate"] for d in difference]) | {
                    "above": sum(d["low"] > 0 for d in difference),
                    "below": sum(d["high"] < 0 for d in difference),
                }
                row[f"ndcg@10_over_{rival}"] = spread([one["ndcg@10_difference"]["estimate"] for one in own])
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    curves = [json.loads(path.read_text()) for path in options.curves]
    rows = summary(curves)
    for row in rows:
        print(json.dumps(row))
    if options.json:
        told = {
            "command": shlex.join(["python", *sys.argv]),
            "seeds": [
                {
                    "command": curve["command"],
                    "model": curve["about"]["model"],
                    "full_ms": curve["about"]["full_ms"],
                    "costs": curve["about"]["costs"],
                    "full_over_router_on_shown": curve["full_over_router_on_shown"],
                    "timing": curve["timing"]["said"],
                    "comparisons": curve["comparisons"],
                }
                for curve in curves
            ],
            "summary": rows,
        }
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
