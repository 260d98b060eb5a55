"""Which ids own rows, moved while training runs: every table's ``Admission``, fed by the steps."""

from __future__ import annotations

import torch
from torch import Tensor

from depthrank.model import ElasticRanker
from depthrank.model.feature_tokens import FeatureTokens
from depthrank.schema.settings import TableSettings
from depthrank.tables import FusedTable
from depthrank.tables.admission import EVERY_STEPS, Admission
from depthrank.training.batch_inputs import StepInputs


class TableAdmission:
    """The tables of a model that have a directory. ``entered`` and ``left`` count moves over the whole run."""

    def __init__(self, model: ElasticRanker, *, admit: int, quiet_steps: int) -> None:
        self.entered, self.left, self.waiting = 0, 0, 0
        self._of_side: dict[str, Admission] = {}
        for side in ("request", "item", "candidate"):
            features = getattr(model, f"{side}_features")
            assert isinstance(features, FeatureTokens)
            if isinstance(features.table, FusedTable) and any(slot.has_directory for slot in features.table.slots):
                self._of_side[side] = Admission(features.table, admit=admit, quiet_steps=quiet_steps)
                self._of_side[side].step = 1  # the step whose batches are counted next

    def count(self, inputs: StepInputs) -> None:
        """Count the ids of a batch."""
        looked_up = {
            "request": inputs.routed.ids_UI,
            "item": inputs.item_ids_UI,
            "candidate": inputs.candidates.ids_NI,
        }
        for side, admission in self._of_side.items():
            admission.count(looked_up[side])

    def move(self, optimizer: torch.optim.Optimizer) -> None:
        """After a step; every so many ids move, and rows that change hands forget their momentum."""
        for admission in self._of_side.values():
            if admission.step % EVERY_STEPS == 0:
                moves = admission.move()
                self.entered, self.left = self.entered + moves.entered, self.left + moves.left
                self.waiting = moves.waiting
                _forget(optimizer, admission.table.weight, moves.fresh_rows)
            admission.step += 1

    def to_json(self) -> dict[str, int]:
        """Ids that moved in and out over the run, and those that waited for a row at the end."""
        return {"entered": self.entered, "left": self.left, "waiting": self.waiting}


def admission_of(model: ElasticRanker, settings: TableSettings, steps_per_epoch: int) -> TableAdmission | None:
    """As the spec says; None where its plan decides alone."""
    if not settings.admit:
        return None
    return TableAdmission(model, admit=settings.admit, quiet_steps=settings.quiet_epochs * max(steps_per_epoch, 1))


def _forget(optimizer: torch.optim.Optimizer, weight: Tensor, rows: Tensor) -> None:
    """Rows of a parameter lose what the optimizer remembers of them."""
    for value in optimizer.state.get(weight, {}).values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value[rows] = 0.0
