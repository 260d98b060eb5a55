"""Ours by the recipe: trained by ``depthrank.train``, scored level by level in the order of ``rows.py``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from parts import Kept, Scores
from rows import Dataset, Rows

from depthrank.artifact import load_artifact
from depthrank.data import import_log, load_dataset, load_examples
from depthrank.evaluate import ModelScorer, score_split
from depthrank.events import open_log
from depthrank.schema import Spec
from depthrank.training import train

NO_LIMIT = 1e4  # minutes: epochs end a run here, so that a busy machine gives the same weights


@dataclass(frozen=True, eq=False)
class Levels:
    """Calibrated probabilities of each level, float32 [L, N, K], the process CPU seconds of training, and what its
    report says of steps, samples a second and where time went."""

    validation_LNK: npt.NDArray[np.float32]
    test_LNK: npt.NDArray[np.float32]
    cpu_s: float
    training: dict[str, Any]


def fit(spec_path: Path, log_url: str, out: Path, seed: int) -> Levels:
    """Train into ``out`` and score validation and test."""
    started = time.process_time()
    report = train(spec_path, log=log_url, out=out, seed=seed, progress=False, minutes=NO_LIMIT)
    cpu_s = time.process_time() - started
    training = {name: report.summary[name] for name in ("epochs", "parameters", "threads", "time")}
    return Levels(*score(spec_path, log_url, out), cpu_s, training)


def score(spec_path: Path, log_url: str, artifact: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Calibrated probabilities of each level on validation and test, float32 [L, N, K] each."""
    spec = Spec.load(spec_path)
    loaded, raw = load_artifact(artifact), load_dataset(spec)
    examples = load_examples(spec, raw)
    with open_log(log_url) as log:
        import_log(spec, raw, log)
        scorer = ModelScorer(loaded.spec, loaded.model, loaded.encoder, raw.items)
        both = [
            score_split(scorer, loaded.encoder, loaded.spec, raw, examples, log, split)
            for split in ("validation", "test")
        ]
    validation_LNK, test_LNK = (np.stack([np.concatenate(x.probability) for x in split.levels]) for split in both)
    return validation_LNK, test_LNK


def kept_scores(
    kept: Kept, data: Dataset, seeds: int, recipe: str = "ranking"
) -> tuple[list[Scores], list[dict[str, Any]]]:
    """Scores of each seed, trained unless they are kept, and what training took. Of another ``recipe`` than
    ``ranking``, an artifact that was trained by it (``work/RECIPE<seed>``) is scored as it is."""
    spec_path = kept.work / f"{recipe}.yaml"
    name = "artifact" if recipe == "ranking" else recipe

    def make(seed: int) -> tuple[Scores, dict[str, Any]]:
        artifact = kept.work / f"{name}{seed}"
        if recipe != "ranking" and artifact.exists():
            validation_LNK, test_LNK = score(spec_path, kept.log_url, artifact)
            return {"validation": validation_LNK, "test": test_LNK}, {"artifact": str(artifact)}
        found = fit(spec_path, kept.log_url, artifact, seed)
        return {"validation": found.validation_LNK, "test": found.test_LNK}, {"cpu_s": found.cpu_s} | found.training

    runs, facts = [], []
    for seed in range(seeds):
        part = f"ours{seed}" if recipe == "ranking" else f"ours {recipe} {seed}"
        scores, told = kept.scores(part, lambda seed=seed: make(seed))
        check_same_rows(scores["test"], data.test)
        runs.append(scores)
        facts.append(told)
    return runs, facts


def check_same_rows(levels_LNK: npt.NDArray[np.float32], rows: Rows) -> None:
    """Scores and rows come from two passes over the same split."""
    assert levels_LNK.shape[1:] == rows.label.shape, (levels_LNK.shape, rows.label.shape)
