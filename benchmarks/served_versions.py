"""Servers whose model versions are changed and which are hurt: what the benchmarks of both share with the tests."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1] / "tests" / "server"
for part in ("faults", "models"):
    sys.path.insert(0, str(TESTS / part))

from nursery import Nursery, Server, wait_for  # noqa: E402 - the tests' own
from world_versions import save_version  # noqa: E402

__all__ = ["Nursery", "Server", "model_folder", "resident_mb", "slope", "wait_for", "write_result"]


def model_folder(artifact: Path, events: Path, folder: Path) -> Path:
    """``v1`` (the artifact), ``v2`` (the same with other weights) and a copy of the log ``events``."""
    folder.mkdir(parents=True)
    shutil.copytree(artifact, folder / "v1")
    shutil.copytree(events, folder / "events")
    save_version(artifact, folder / "v2", scale=1.01)
    return folder


def resident_mb(pid: int) -> float:
    """Resident memory of a process, MB."""
    line = next(t for t in Path(f"/proc/{pid}/status").read_text().splitlines() if t.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def slope(values: Sequence[float]) -> float:
    """Least-squares slope a step over the later half; 0 where there is too little."""
    later = np.asarray(values[len(values) // 2 :], np.float64)
    return float(np.polyfit(np.arange(len(later)), later, 1)[0]) if len(later) > 2 else 0.0


def write_result(result: dict[str, Any], path: Path | None) -> None:
    """Print it, and keep it where asked."""
    text = json.dumps(result, indent=1)
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
