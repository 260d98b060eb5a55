"""The ``history``, ``split``, ``evaluation``, ``model`` and ``training`` sections."""

from __future__ import annotations

from typing import Literal

from depthrank.schema.dataset import Section
from depthrank.schema.durations import Duration


class HistorySettings(Section, frozen=True, kw_only=True):
    """A history is the user's last ``length`` events of these actions; empty ``actions`` means every task's action."""

    actions: tuple[str, ...] = ()
    length: int = 100


class SplitSettings(Section, frozen=True, kw_only=True):
    """``time``: the last fractions (or from the named times on, ISO) are validation and test; ``leave_last_out``: a
    user's last event is test and the last but one validation."""

    by: Literal["time", "leave_last_out"] = "time"
    validation: float = 0.1
    test: float = 0.1
    validation_from: str | None = None
    test_from: str | None = None


class EvaluationSettings(Section, frozen=True, kw_only=True):
    """Whom a test request ranks: its own candidates, or the whole catalogue (without items already seen)."""

    candidates: Literal["own", "all"] = "own"
    exclude_seen: bool = False
    max_requests: int | None = None


class ModelSettings(Section, frozen=True, kw_only=True):
    """Size of the elastic ranker: a preset, and overrides of single numbers."""

    preset: Literal["demo", "small", "medium", "large"] = "demo"
    width: int | None = None
    heads: int | None = None
    encoder_layers: int | None = None
    expert_layers: int | None = None
    dropout: float | None = None
    time_gaps: bool = True


class TrainingSettings(Section, frozen=True, kw_only=True):
    """The training loop. ``batch_candidates`` bounds the rows of a step; ``minutes`` stops early, keeping the best."""

    epochs: int = 10
    batch_requests: int = 128
    batch_candidates: int = 4_096
    learning_rate: float = 2e-3
    table_learning_rate: float | None = None
    weight_decay: float = 0.01
    patience: int = 2
    minutes: float | None = None
    distillation: float = 0.2
    precision: Literal["fp32", "bf16"] = "fp32"
    start_from: Duration | None = None
