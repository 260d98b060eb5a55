"""Whether the hashed ids of a side's features share one pool of rows, or have a part each: tried on the data.

Which is better depends on the features: a shared pool evens out their load, parts keep a feature of many rare values
out of the rows of the others. Both plans cost the same bytes, so each is trained for a few steps from the same starting
points, and the one with the lower loss on a slice of validation is taken, where it is lower for every starting point;
else the shared pool, which is better on most data (arXiv 2305.12102).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from statistics import mean
from typing import Any

import msgspec
import torch

from depthrank.data import Batch, BatchLoader
from depthrank.model import ElasticRanker, ModelConfig
from depthrank.schema import Spec
from depthrank.schema.settings import TableSettings
from depthrank.tables.plan import Sharing, SlotTraffic, TablePlan
from depthrank.training.batch_inputs import ItemColumns
from depthrank.training.fit_statistics import fit_statistics_
from depthrank.training.fit_tables import planned_config
from depthrank.training.loop import TrainingLoop
from depthrank.training.losses import TaskLoss
from depthrank.training.step_losses import picks_from_catalogue

USUAL: Sharing = "unified"
WAYS: tuple[Sharing, ...] = (USUAL, "separate")
SEEDS = 2
MOST_STEPS, FEWEST_STEPS = 150, 20
VALIDATION_REQUESTS = 1_000

Loader = Callable[[str, bool, int | None], BatchLoader]


@dataclass(frozen=True)
class SharingTrials:
    """Short trainings of a config on the data of a run. ``loader``: batches of a split, whether the step picks its
    negatives, and of how many requests at most."""

    spec: Spec
    items: ItemColumns
    tasks: list[TaskLoss]
    loader: Loader

    def loss(self, config: ModelConfig, seed: int) -> float:
        """Validation loss of the deepest level after a few steps, at most a quarter of an epoch."""
        picks = picks_from_catalogue(config, self.items.num_rows)
        train, validation = self.loader("train", picks, None), self.loader("validation", picks, VALIDATION_REQUESTS)
        steps = min(train.num_batches, MOST_STEPS, max(train.num_batches // 4, FEWEST_STEPS))
        torch.manual_seed(seed)
        model = ElasticRanker(config)
        fit_statistics_(model, self.items, [train], floats=True, counts=True)
        settings = msgspec.structs.replace(self.spec.training, epochs=1)
        taken = -(-steps // settings.batches_per_step)
        loop = TrainingLoop(model, self.items, self.tasks, settings, steps_per_epoch=taken)
        with closing(train.epoch(0)) as batches:
            loop.run(lambda _: _first(batches, steps), lambda _: validation.epoch(0))
        return loop.state.history[-1].validation_loss_L[-1]


def choose_sharing(
    config: ModelConfig, settings: TableSettings, traffic: list[SlotTraffic], trials: SharingTrials | None
) -> tuple[ModelConfig, TablePlan, dict[str, Any]]:
    """The config and plan of the way that ``settings.sharing`` says, and what was tried; ``auto``: that of the trials.

    Nothing is tried where both ways are the same, and where there are no ``trials``. The caller's random numbers go on
    as if nothing had been. Raises SpecError where the budget is too small.
    """
    named = USUAL if settings.sharing == "auto" else settings.sharing
    made = {way: planned_config(config, msgspec.structs.replace(settings, sharing=way), traffic) for way in WAYS}
    same = made[WAYS[0]][0] == made[WAYS[1]][0]
    if settings.sharing != "auto" or same or trials is None:
        return *made[named], {"chosen": named, "tried": []}
    with torch.random.fork_rng(devices=[]):
        losses = {way: [trials.loss(made[way][0], seed) for seed in range(SEEDS)] for way in WAYS}
    chosen = decided(losses)
    tried = [{"sharing": way, "losses": each, "loss": mean(each)} for way, each in losses.items()]
    return *made[chosen], {"chosen": chosen, "tried": tried}


def decided(losses: dict[Sharing, list[float]]) -> Sharing:
    """The usual way, unless another is better from every starting point."""
    for way in WAYS[1:]:
        if all(other < usual for other, usual in zip(losses[way], losses[USUAL], strict=True)):
            return way
    return USUAL


def _first(batches: Iterator[Batch], steps: int) -> Iterator[Batch]:
    return islice(batches, steps)
