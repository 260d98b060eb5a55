"""Parts of a comparison that are computed once and kept: a rival's scores, ours by seed, the encoded rows.

A part is an ``.npz`` (scores) or a pickle (rows) under ``work/<set>/quality``; it is made again when the recipe is
newer, or with ``--again``.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rows import Dataset, load_rows

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine_facts import machine_facts

Scores = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Kept:
    """Where the parts of one set lie; ``work`` is the prepared recipe."""

    work: Path
    log_url: str
    again: frozenset[str]

    @property
    def spec_path(self) -> Path:
        return self.work / "ranking.yaml"

    def scores(self, name: str, make: Callable[[], tuple[Scores, dict[str, Any]]]) -> tuple[Scores, dict[str, Any]]:
        """Scores and facts of a part: kept ones, or those of ``make``."""
        path, facts_path = self._path(f"{name}.npz"), self._path(f"{name}.json")
        if not self._is_fresh(name, path):
            found, facts = make()
            np.savez_compressed(path, **found)
            facts_path.write_text(json.dumps(facts, indent=1, default=float))
            print(f"{name}: made", flush=True)
        with np.load(path) as stored:
            return dict(stored), json.loads(facts_path.read_text())

    def rows(self) -> Dataset:
        """The encoded rows of all splits."""
        path = self._path("rows.pickle")
        if not self._is_fresh("rows", path):
            path.write_bytes(pickle.dumps(load_rows(self.spec_path, self.log_url)))
            print("rows: encoded", flush=True)
        return pickle.loads(path.read_bytes())  # our own file of a moment ago

    def _path(self, name: str) -> Path:
        folder = self.work / "quality"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def _is_fresh(self, name: str, path: Path) -> bool:
        fresh = path.exists() and path.stat().st_mtime > self.spec_path.stat().st_mtime
        return fresh and name not in self.again and name.rstrip("0123456789") not in self.again


def about_run(data: Dataset) -> dict[str, Any]:
    """The head of a result: its command, machine and versions, and the rows of each split."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine_facts("torch", "depthrank", "lightgbm", "torch-rechub", "optuna"),
        "rows": {split: len(getattr(data, split)) for split in ("train", "validation", "test")},
    }


def arguments(name: str, parts: tuple[str, ...], doc: str | None) -> argparse.Namespace:
    """The options of both sets."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(f"work/{name}"), help="the prepared recipe")
    parser.add_argument("--log", default=None, help="its event log; default lmdb:WORK/events")
    parser.add_argument("--parts", nargs="*", choices=parts, default=list(parts), help="what to compare")
    parser.add_argument("--again", nargs="*", default=[], help="parts to make anew: rows, ours, lightgbm, ...")
    parser.add_argument("--seeds", type=int, default=3, help="of every part")
    parser.add_argument("--trials", type=int, default=50, help="of LightGBM, a task")
    parser.add_argument("--cpu-limit-s", type=float, default=480.0, help="of tuning LightGBM, a task")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipe", default="ranking", help="of ours: the name of a yaml file in --work")
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args()


def kept_of(options: argparse.Namespace) -> Kept:
    """Sets threads too, before torch does any work."""
    from depthrank.cli.threads import set_torch_threads

    set_torch_threads(options.threads)
    return Kept(options.work, options.log or f"lmdb:{options.work}/events", frozenset(options.again))
