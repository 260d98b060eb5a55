"""How long training goes on where the spec does not say: small logs need steps rather than epochs."""

from __future__ import annotations

from dataclasses import dataclass

from depthrank.schema.settings import TrainingSettings

EPOCHS, MOST_EPOCHS = 10, 30
STEPS = 600  # a log of 9,000 rows has 18 steps an epoch, and learned on after ten epochs (docs/quality.md)
PATIENCE, PATIENCE_SHARE = 2, 5


@dataclass(frozen=True)
class Length:
    """``epochs`` at most, and ``patience``: so many in a row without progress on validation are borne."""

    epochs: int
    patience: int


def length_of(settings: TrainingSettings, steps_per_epoch: int) -> Length:
    """As the spec says; else 10 epochs, or up to 30 for 600 steps, and a fifth of them, at least two, as patience."""
    epochs = settings.epochs
    if epochs is None:
        epochs = min(MOST_EPOCHS, max(EPOCHS, -(-STEPS // max(steps_per_epoch, 1))))
    patience = settings.patience
    return Length(epochs, max(PATIENCE, epochs // PATIENCE_SHARE) if patience is None else patience)
