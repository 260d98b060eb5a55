"""Do the limits hold on data that nothing was fitted on, and what do they forbid? A trained model wide enough to gain.

    python benchmarks/bench_held_out.py [--data demo] [--preset medium] [--minutes 1.5] [--seconds 30] [--json F]
    python benchmarks/bench_held_out.py --trained FOLDER [--seconds 30] [--json F]            (a quarter of an hour)

MovieLens-100K as ``depthrank demo`` left it in ``--data``, trained in another preset (width 256) for so many minutes:
not a good model, but one with trained weights. ``--trained``: a folder with ``artifact0``, ``ranking.yaml`` and
``events`` instead. Tuned on requests of the validation split, judged on the test split against the same model in fp32,
with intervals by bootstrap over users: NE, top-10 overlap, kept gain. ``refused``: layers that do not run in the format
that is fastest for them, since the limits did not allow it, with what it would cost alone where that was judged. Tuned
again with limits a tenth as wide, more of them are.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from depthrank.cli.threads import set_torch_threads
from machine_facts import machine_facts, show_facts, torch_facts, write_json

REQUESTS = 32
TEST_REQUESTS = 200
TIGHT = {"ne_change": 0.00002, "top10_overlap": 0.997, "kept_gain": 0.999}


def trained(folder: Path, data: Path, preset: str, minutes: float) -> Path:
    """The demo's data and spec with another preset, trained: a folder as ``--trained`` takes it."""
    from depthrank.training import train

    for name in ("events", "items", "users"):
        shutil.copy(data / f"{name}.parquet", folder)
    spec = (data / "ranking.yaml").read_text(encoding="utf-8")
    spec = re.sub(r"model: \{.*\}", f"model: {{preset: {preset}}}", spec)
    spec = re.sub(r"minutes: [0-9.]+", f"minutes: {minutes}", spec)
    (folder / "ranking.yaml").write_text(spec, encoding="utf-8")
    train(folder / "ranking.yaml", log=f"lmdb:{folder / 'events'}", out=folder / "artifact0", progress=False)
    return folder


def measure(folder: Path, seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tuned twice, judged on the test split."""
    from depthrank.evaluate.tune_artifact import judge_split, tune
    from depthrank.training.judge_precision import Limits
    from depthrank.training.tuning_requests import Settings

    spec, url = folder / "ranking.yaml", f"lmdb:{folder / 'events'}"
    settings = Settings(requests=REQUESTS, judge_seconds=seconds, compile=False)
    with tempfile.TemporaryDirectory() as own:
        artifact = Path(own) / "artifact"
        shutil.copytree(folder / "artifact0", artifact, ignore=shutil.ignore_patterns("policies"))
        for name, limits in {"limits": Limits(), "limits a tenth as wide": Limits(**TIGHT)}.items():
            tuned = tune(artifact, spec, url, replace(settings, limits=limits), write=False, on_phase=print)
            figures = tuned.figures
            row = {
                "limits": limits.to_plain(),
                "layers_by_format": dict(Counter(row["format"] for row in figures["layers"])),
                "refused": refused(figures["layers"]),
                "speedup_vs_fp32": figures["speedup_vs_fp32"],
                "plans": figures["plans"],
                "verified_on_validation": {key: figures[key] for key in limits.to_plain()},
                "test": judge_split(artifact, spec, url, tuned.policy, "test", TEST_REQUESTS),
            }
            yield name, row


def refused(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Layers that are not in their fastest format."""
    rows = []
    for row in layers:
        fastest = min(row["relative_time"], key=row["relative_time"].get)
        if row["format"] != fastest:
            rows.append(
                {
                    "layer": row["layer"],
                    "fastest": fastest,
                    "chosen": row["format"],
                    "time_given_up": row["relative_time"][row["format"]] - row["relative_time"][fastest],
                    "alone": row["alone"].get(fastest),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("demo"))
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0, help="for judging layers alone, each time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine_facts("depthrank")
    show_facts(facts)
    set_torch_threads(options.threads)
    found: dict[str, Any] = {}
    model = str(options.trained or f"{options.data}, preset {options.preset}, {options.minutes} minutes")
    with tempfile.TemporaryDirectory() as own:
        folder = options.trained or trained(Path(own), options.data, options.preset, options.minutes)
        for name, row in measure(folder, options.seconds):
            found[name] = row
            print(f"{name}: {row['layers_by_format']}, {row['speedup_vs_fp32']:.2f}x fp32; test {row['test']}")
            for layer in row["refused"]:
                print(f"  {layer['layer']}: {layer['chosen']}, not {layer['fastest']}; alone {layer['alone']}")
            if options.json:  # after each: a run that is cut short keeps what it has
                write_json(options.json, {"machine": facts | {"torch": torch_facts()}, "model": model, **found})


if __name__ == "__main__":
    main()
