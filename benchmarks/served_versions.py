"""Servers whose model versions are changed and which are hurt: what the benchmarks of both share with the tests."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

TESTS = Path(__file__).parents[1] / "tests" / "server"
sys.path.insert(0, str(TESTS / "faults"))

from nursery import Nursery, Server, wait_for  # noqa: E402 - the tests' own

__all__ = ["Nursery", "Server", "memory_kinds", "model_folder", "resident_mb", "slope", "wait_for", "write_result"]


def model_folder(artifact: Path, events: Path, folder: Path) -> Path:
    """``v1`` (the artifact), ``v2`` (its twin) and a copy of the log ``events``."""
    folder.mkdir(parents=True)
    shutil.copytree(artifact, folder / "v1")
    shutil.copytree(events, folder / "events")
    save_twin(artifact, folder / "v2")
    return folder


def save_twin(source: Path, target: Path) -> None:
    """The artifact with its norms scaled by a hundredth, and so with another id; with the plan ladder of the first, as
    a version without one costs several times as much and a swap to it shows that and nothing else."""
    from depthrank.artifact import Contents, load_artifact, model_identity, save_artifact

    loaded = load_artifact(source)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "norm" in name:
                parameter.mul_(1.01)
    ladder = loaded.adaptive
    if ladder is not None:
        ladder = dataclasses.replace(ladder, made_for=model_identity(loaded.model))
    manifest = loaded.manifest
    contents = Contents(
        loaded.spec,
        loaded.model,
        loaded.encoder,
        loaded.items,
        loaded.users,
        manifest.log_position,
        training=manifest.training,
        adaptive=ladder,
    )
    save_artifact(target, contents)


def memory_kinds(pid: int) -> dict[str, float]:
    """Resident memory of a process, MB: its own (anonymous), and of mapped files."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) / 1024 for name, key in (("own", "RssAnon"), ("files", "RssFile"))}


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
