"""The ``history``, ``split``, ``evaluation``, ``model``, ``tables`` and ``training`` sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from depthrank.schema.byte_size import ByteSize
from depthrank.schema.dataset import Count, Name, Section

LearningRate = Annotated[float, Meta(gt=0, le=10)]
Layers = Annotated[int, Meta(ge=0, le=64)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]


class HistorySettings(Section, frozen=True, kw_only=True):
    """A history is the user's last ``length`` events of these actions; empty ``actions`` means every task's action."""

    actions: tuple[Name, ...] = ()
    length: Annotated[int, Meta(ge=0, le=65_536)] = 100


class SplitSettings(Section, frozen=True, kw_only=True):
    """``time``: the last fractions (or from the named times on, ISO) are validation and test; ``leave_last_out``: a
    user's last event is test and the last but one validation."""

    by: Literal["time", "leave_last_out"] = "time"
    validation: Fraction = 0.1
    test: Fraction = 0.1
    validation_from: str | None = None
    test_from: str | None = None


class EvaluationSettings(Section, frozen=True, kw_only=True):
    """Whom a test request ranks: its own candidates, or the whole catalogue (without items already seen)."""

    candidates: Literal["own", "all"] = "own"
    exclude_seen: bool = False
    max_requests: Count | None = None


class ForeignSettings(Section, frozen=True, kw_only=True):
    """A PyTorch ranker of your own as level ``level``: 0 is the router, others replace the preset's or come after it.

    ``module``: ``file.py:Name`` beside the spec, or ``package.module:Name``; called with ``inputs`` and ``options`` it
    gives the module (see docs/foreign.md). ``inputs``: what it reads (empty: its parameters' names). ``tasks``: what
    its outputs are, in order (empty: all). ``adds``: its logits correct those of the level before, instead of replacing
    them. ``training``: over the ``shared`` form, or pair by pair (``pairs``), as dropout and batch statistics need it;
    ``none`` keeps its weights.
    """

    level: Annotated[int, Meta(ge=0, le=16)]
    module: Name
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    inputs: tuple[Name, ...] = ()
    tasks: tuple[Name, ...] = ()
    outputs: Literal["logits", "probabilities"] = "logits"
    adds: bool = False
    training: Literal["auto", "shared", "pairs", "none"] = "auto"


class LevelSettings(Section, frozen=True, kw_only=True):
    """One level beyond the router.

    ``reads``: layers of the user encoder that its candidates attend to, from 0; empty: none. ``width`` of its candidate
    states (default: the model's). ``interaction_layers`` of ``interaction_tokens`` tokens and rank ``interaction_rank``
    (0: none); ``cross_layers`` of raw inputs, of rank ``cross_rank`` (default: as the preset says; 0: none).
    """

    reads: tuple[Annotated[int, Meta(ge=0, le=63)], ...] = ()
    width: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    interaction_layers: Layers = 1
    interaction_tokens: Annotated[int, Meta(ge=2, le=1024)] = 8
    interaction_rank: Annotated[int, Meta(ge=1, le=1024)] = 8
    cross_layers: Layers | None = None
    cross_rank: Annotated[int, Meta(ge=1, le=1024)] = 16


class ModelSettings(Section, frozen=True, kw_only=True):
    """Size of the elastic ranker: a preset, and overrides of single numbers.

    ``feed_forward_experts``: parts of every feed-forward block of the deeper levels, of which a candidate runs one.
    ``layer_skipping``: share of training steps in which those levels leave out their last attention layers, so that
    a request may. ``levels`` beyond the router: the preset's first so many (0 leaves the router alone), or a list of
    them, shallowest first, each with its own sizes; levels pay where each costs several times the one before. Of each:
    ``expert_layers`` of target attention (0: none), ``interaction_layers`` of tokens (0: none), and ``cross_layers``,
    products of raw inputs, which pay where examples are few and columns tell much (default: two over candidates that
    were shown, in the presets demo and small; else none). ``time_gaps``: the encoder sees the time between events;
    ``recency``: target attention sees how old they are. ``transitions``: levels beyond the router read how often users
    went on from the last items to the candidate, counted in training for the so many most telling neighbours of each
    item; 0: not. ``levels_correct``: a level adds to the logits before it; false: each starts anew, where a router that
    learns examples by heart would spoil the level behind
    it. ``foreign``: levels that are your own modules.
    """

    preset: Literal["demo", "small", "medium", "large"] = "demo"
    width: Count | None = None
    heads: Count | None = None
    encoder_layers: Count | None = None
    expert_layers: Layers | None = None
    levels: Layers | tuple[LevelSettings, ...] | None = None
    interaction_layers: Layers | None = None
    cross_layers: Layers | None = None
    dropout: Fraction | None = None
    feature_dropout: Fraction | None = None
    time_gaps: bool = True
    recency: bool = True
    transitions: Annotated[int, Meta(ge=0, le=4096)] = 0
    levels_correct: bool = True
    feed_forward_experts: Annotated[int, Meta(ge=1, le=64)] = 1
    layer_skipping: Fraction = 0.0
    foreign: tuple[ForeignSettings, ...] = ()


class TableSettings(Section, frozen=True, kw_only=True):
    """What the embedding tables may cost, and how they spend it (docs/tables.md).

    ``budget``: bytes of all rows; frequent ids get rows of their own, the others share by hashing. ``width``: numbers
    a row (default: the preset's). ``rows``: how rows are stored; ``auto`` (the default with a budget) takes the
    format of the plan and, per table, narrower ones whose NE is within ``ne_limit``, as a fraction. ``sharing``:
    features of one side hash into one pool (``unified``) or each into its own part; ``auto``: what measures better in
    short trainings. ``prune``: rows and features that earn least leave until validation NE has grown by this
    fraction; 0: none do. ``admit``: an id gets its own row once training has seen it so often, and loses it when
    ``quiet_epochs`` pass without it; 0: as the plan says.
    """

    budget: ByteSize | None = None
    width: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    rows: Literal["auto", "fp32", "bf16", "int8", "int4"] | None = None
    ne_limit: Annotated[float, Meta(ge=0, le=1)] = 2e-4
    sharing: Literal["auto", "unified", "separate"] = "auto"
    prune: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    admit: Annotated[int, Meta(ge=0)] = 0
    quiet_epochs: Annotated[int, Meta(ge=1)] = 2

    @property
    def row_format(self) -> Literal["auto", "fp32", "bf16", "int8", "int4"]:
        """``rows``, or what its absence means."""
        return self.rows or ("auto" if self.budget is not None else "fp32")

    @property
    def fits_after_training(self) -> bool:
        """Whether a trained model's tables are pruned or stored in less than fp32."""
        return self.prune > 0 or self.row_format != "fp32"


class TrainingSettings(Section, frozen=True, kw_only=True):
    """The training loop.

    ``epochs``: 10, or up to 30 where an epoch has fewer than 60 steps, for 600 of them; ``patience``: so many in a row
    without progress on validation are borne (a fifth of the epochs, at least two).
    ``batch_candidates`` bounds the rows of a step: 4,096, or fewer (at least 1,024) where candidates that were shown
    make fewer than 128 steps an epoch; ``batch_requests`` its requests: 128, or up to 512 where they have fewer than
    four candidates each. Up to ``requests_per_user`` neighbouring requests of a user share one encoded
    history; where negatives are sampled, they are drawn (and levels beyond the router trained) for a
    ``deep_share`` of the requests; ``minutes`` stops early, keeping the best. Levels beyond the router are trained on
    ``deep_negatives`` of a request's negatives (default: all that are drawn): a ``survivor_share`` of them are those
    that the router ranks highest, as when serving, the others random, with the correction that each of both needs.
    ``distillation`` weighs the pull of shallow levels towards the deepest, ``survival`` the loss that keeps the deepest
    level's top items inside shallower levels' top ``survival_widths``. ``validation_requests``: a fixed random part of
    validation. ``min_window``: a training request may read its history from a later event on, so that more requests
    share an encoding, as long as this share of ``history.length`` is left; 1: exactly what serving reads. ``exits``:
    the levels that learn the labels; with ``deepest`` the others are parts of it and no exits (for ablations).
    ``router: keep``: what level 0 is made of stays as it is in the artifact to go on from, the levels beyond it are
    learned anew. ``replay_seconds``: at most so long the end of training replays validation to learn how deep to go.
    ``unlabelled``: in training an ``unlabelled_share`` of the requests ranks so many items of the catalogue beside what
    was shown; no task learns from them, but shallow levels learn the deepest's order of them (distillation, survival).
    ``batches_per_step``: a step learns from so many batches, their losses averaged; processes that train together
    share them evenly.
    """

    epochs: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    batch_requests: Count | None = None
    batch_candidates: Count | None = None
    batches_per_step: Count = 1
    requests_per_user: Count = 32
    deep_share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    learning_rate: LearningRate = 2e-3
    table_learning_rate: LearningRate | None = None
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    patience: Annotated[int, Meta(ge=0)] | None = None
    minutes: Annotated[float, Meta(gt=0)] | None = None
    deep_negatives: Count | None = None
    unlabelled: Count | None = None
    unlabelled_share: Annotated[float, Meta(gt=0, le=1)] = 0.05
    survivor_share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    exits: Literal["all", "deepest"] = "all"
    router: Literal["train", "keep"] = "train"
    replay_seconds: Annotated[float, Meta(gt=0)] = 20.0
    distillation: Annotated[float, Meta(ge=0)] = 0.2
    survival: Annotated[float, Meta(ge=0)] = 0.0
    survival_widths: tuple[Count, ...] = (50, 200)
    validation_requests: Count | None = None
    min_window: Annotated[float, Meta(gt=0, le=1)] = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
