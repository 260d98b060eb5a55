"""One artifact, one host, three instruction sets by environment: two policies side by side, and a machine without one.

    python benchmarks/bench_isa.py [--world FOLDER] [--seconds 15] [--json F]      (two to three minutes)

The large preset (random weights; ``bench_large_preset``) is tuned at plan (2000, 256, 64, 24) as it is, and in a
process that ``ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2`` holds to AVX2: another machine to it. Both policies
lie in one folder, and each process serves its own. A third process, limited to ``ONEDNN_MAX_CPU_ISA=SSE41``, was never
tuned: it serves fp32 and says why. Told: layers by format, layers whose format differs, peaks, the speed of the plan.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import bench_large_preset
from machine_facts import machine_facts, show_facts, write_json

PLAN = "2000,256,64,24"
LIMITS: dict[str, dict[str, str]] = {
    "as it is": {},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "SSE41, never tuned": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
}
SERVED = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from depthrank.engine import Ranker
ranker = Ranker.load(sys.argv[1], sys.argv[2])
print(json.dumps(ranker.info()["precision"]))
"""


def tuned(artifact: Path, world: Path, limits: dict[str, str], seconds: float, report: Path) -> dict[str, Any]:
    """What ``depthrank tune`` tells of a process with these limits."""
    command = [sys.executable, "-m", "depthrank.cli", "tune", str(artifact), str(world / "ranking.yaml")]
    options = ["--log", f"lmdb:{world / 'events'}", "--no-compile", "--requests", "16", "--plan", PLAN]
    options += ["--candidates", "2000", "--seconds", str(seconds), "--json", str(report)]
    subprocess.run([*command, *options], env=os.environ | limits, check=True, stdout=subprocess.DEVNULL)
    figures: dict[str, Any] = json.loads(report.read_text())
    return {
        "fingerprint": figures["hardware"]["fingerprint"],
        "limits": figures["hardware"]["limits"],
        "torch_isa": figures["hardware"]["torch_isa"],
        "peaks": figures["peaks"],
        "layers_by_format": dict(Counter(row["format"] for row in figures["layers"])),
        "formats": {row["layer"]: row["format"] for row in figures["layers"]},
        "speedup_vs_fp32": figures["speedup_vs_fp32"],
        "plans": figures["plans"],
    }


def served(artifact: Path, world: Path, limits: dict[str, str]) -> dict[str, Any]:
    """How a process with these limits serves the artifact, and the line in its log where that is no policy."""
    command = [sys.executable, "-c", SERVED, str(artifact), f"lmdb:{world / 'events'}"]
    done = subprocess.run(command, env=os.environ | limits, check=True, capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if "fp32" in line]
    return {"precision": json.loads(done.stdout.splitlines()[-1]), "log": told}


def measure(world: Path, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as own:
        artifact = Path(own) / "artifact"
        shutil.copytree(world / "artifact", artifact, ignore=shutil.ignore_patterns("policies"))
        policies = {
            name: tuned(artifact, world, limits, seconds, Path(own) / "report.json")
            for name, limits in LIMITS.items()
            if "never" not in name
        }
        serving = {name: served(artifact, world, limits) for name, limits in LIMITS.items()}
        files = sorted(path.stem for path in (artifact / "policies").iterdir())
    here, there = policies["as it is"], policies["AVX2"]
    both = here["formats"].keys() & there["formats"].keys()
    differing = {
        name: [here["formats"][name], there["formats"][name]]
        for name in sorted(both)
        if here["formats"][name] != there["formats"][name]
    }
    return {"policies": policies, "served": serving, "files": files, "layers": len(both), "differing": differing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, help="where the large preset was built before, or is to be")
    parser.add_argument("--seconds", type=float, default=15.0, help="for judging layers alone, each time")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = machine_facts("depthrank", "torch")
    show_facts(facts)
    with tempfile.TemporaryDirectory() as own:
        world = options.world or Path(own)
        if not (world / "artifact").is_dir():
            bench_large_preset.build(world, "large")
        found = measure(world, options.seconds)
    for name, row in found["policies"].items():
        peaks = ", ".join(f"{kind} {rate / 1e9:.0f}" for kind, rate in row["peaks"].items())
        print(
            f"{name}: {row['fingerprint']}, {row['layers_by_format']}, {row['speedup_vs_fp32']:.2f}x fp32 ({peaks} G/s)"
        )
    print(f"{len(found['differing'])} of {found['layers']} layers have another format")
    for name, row in found["served"].items():
        print(f"served {name}: {row['precision']} {row['log']}")
    if options.json:
        write_json(options.json, {"machine": facts, **found})


if __name__ == "__main__":
    main()
