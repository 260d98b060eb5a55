"""MovieLens-1M over seeds: mean and range of what ``ml1m.py`` found of each, and in how many the interval is above zero.

    for s in 0 1; do
      depthrank train work/ml1m/ranking.yaml --out work/ml1m/artifact$s --log lmdb:work/ml1m/log --minutes 20 --seed $s --threads 1
      depthrank train work/ml1m/deeper.yaml --from work/ml1m/artifact$s --out work/ml1m/deeper$s --log lmdb:work/ml1m/log --seed $s
      python benchmarks/quality/ml1m_sasrec.py --cpu-seconds 1200 --learning-rate 0.002 --seed $s --ranks work/ml1m/sasrec$s.npy
      python benchmarks/quality/ml1m.py work/ml1m/deeper$s --spec work/ml1m/deeper.yaml --log lmdb:work/ml1m/log \\
          --sasrec work/ml1m/sasrec$s.npy --json work/ml1m/quality$s.json
    done
    python benchmarks/quality/ml1m_by_seed.py work/ml1m/quality?.json --json benchmarks/results/quality_ml1m_seeds.json
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from paired import spread

Plain = dict[str, Any]


def over_seeds(runs: list[Plain]) -> Plain:
    """Figures of levels and rival, and differences."""
    levels = zip(*(run["levels"] for run in runs), strict=True)
    return {
        "levels": [
            {
                "ndcg@10": spread([one["ndcg@10"]["estimate"] for one in level]),
                "r@10": spread([o["r@10"] for o in level]),
            }
            for level in levels
        ],
        "sasrec_ndcg@10": spread([run["sasrec_ndcg@10"] for run in runs]),
        "deepest_over_router": _differences([run["deepest_over_router"] for run in runs]),
        "over_sasrec": [_differences(list(level)) for level in zip(*(run["over_sasrec"] for run in runs), strict=True)],
    }


def _differences(found: list[Plain]) -> Plain:
    told = spread([one["estimate"] for one in found])
    return told | {"above": sum(one["low"] > 0 for one in found), "of": len(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in options.runs]
    found = over_seeds(runs)
    print(json.dumps(found, indent=1))
    if options.json:
        told = {"command": shlex.join(["python", *sys.argv]), **found, "runs": runs}
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
