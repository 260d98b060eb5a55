"""Foreign levels in an artifact: a shared graph each, of allow-listed operators, and its tensors; no Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from depthrank.artifact.fit import HOSTILE
from depthrank.errors import ArtifactError, DepthrankError
from depthrank.features import EncoderLayout
from depthrank.model import ElasticRanker, ForeignLevel, SharedScorer, example_inputs, foreign_inputs
from depthrank.model.foreign_level import task_scores

if TYPE_CHECKING:
    from depthrank.sharing import Shared

FOLDER = "foreign"


def save_foreign(model: ElasticRanker, folder: Path) -> None:
    """Write the shared form of every foreign level below ``folder``, with the weights of now."""
    for level in model.foreign_levels():
        scorer = level.scorer
        assert scorer is not None
        shared: Shared = scorer.shared  # type: ignore[assignment]
        shared.save(folder / FOLDER / f"level{level.config.level}")


def load_foreign(model: ElasticRanker, folder: Path, layout: EncoderLayout) -> None:
    """Attach every foreign level's graph; raises ArtifactError where one does not fit its place."""
    config = model.config
    if not model.foreign_levels():
        return
    from depthrank.sharing import Shared, load_shared  # slow, and most models have no use for it

    known = foreign_inputs(layout, config.num_actions, config.history_length)
    for level in model.foreign_levels():
        for wanted in level.config.inputs:
            if known.get(wanted.name) != wanted:
                raise ArtifactError(f"{folder}: level {level.config.level} reads {wanted}, which no feature gives")
        shared = load_shared(folder / FOLDER / f"level{level.config.level}")
        if not isinstance(shared, Shared):
            raise ArtifactError(f"{folder}: level {level.config.level} is bound to a catalogue of its own")
        level.scorer = SharedScorer(shared)
        try:
            _try_once(level)
        except (*HOSTILE, DepthrankError, RuntimeError) as error:
            raise ArtifactError(
                f"{folder}: level {level.config.level} does not fit its place: {type(error).__name__}: {error}"
            ) from error


def _try_once(level: ForeignLevel) -> None:
    """Made-up pairs with the largest ids there are."""
    inputs = level.config.inputs
    made = example_inputs(inputs, 3)
    for i in inputs:
        if i.num_rows:
            made[i.name][0] = i.num_rows - 1
    request = {i.name: made[i.name] for i in inputs if i.is_request}
    candidate = {i.name: made[i.name] for i in inputs if not i.is_request}
    assert isinstance(level.scorer, SharedScorer)
    out = level.scorer.score(level.scorer.encode(request), candidate, torch.arange(3))
    task_scores(out, level.own_tasks, f"level {level.config.level}")
