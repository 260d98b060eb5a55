"""Sizes of the elastic ranker, derived from the spec and the feature layout; frozen, saved in the manifest.

Legend of sizes: D width, E embedding width, H heads, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from depthrank.errors import SpecError
from depthrank.features import EncoderLayout, SideLayout
from depthrank.model.foreign_inputs import ForeignInput
from depthrank.schema import Spec
from depthrank.schema.dataset import EventsFile
from depthrank.schema.features import Vector
from depthrank.schema.settings import LevelSettings, ModelSettings
from depthrank.tables import ROW_FORMATS, RowFormat, TableSlot

# What was added after the first release, at its default.
_ADDED_TO_SLOTS = {"own_rows": None, "pool": (0, 0), "has_directory": False}
_ADDED_TO_SIDES = {"row_format": "fp32", "bins": None}
_ADDED_TO_LEVELS = {"cross_layers": 0, "cross_rank": 16, "corrects": True}
_ADDED = {"recency": True, "transitions": None}


def _without_defaults(plain: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plain.items() if name not in added or value != added[name]}


@dataclass(frozen=True)
class SideConfig:
    """One side's encoded columns: id slots, the number of float columns, and how the rows of its table are stored.

    ``bins`` of each float column; None: the model's, or none where there are more columns than ``MAX_BINNED``.
    """

    slots: tuple[TableSlot, ...] = ()
    num_floats: int = 0
    row_format: RowFormat = "fp32"
    bins: int | None = None

    @classmethod
    def of(cls, side: SideLayout) -> SideConfig:
        """The model's view of a side's layout."""
        slots = tuple(TableSlot(s.feature, s.num_rows, s.start, s.stop) for s in side.ids)
        return cls(slots, side.num_floats)

    def columns(self) -> SideConfig:
        """The same without what a plan decided: what must fit the encoder's layout."""
        return SideConfig(tuple(TableSlot(s.feature, s.num_rows, s.start, s.stop) for s in self.slots), self.num_floats)

    def to_plain(self) -> dict[str, Any]:
        """Plain data; what is as without a plan is left out, so that such a model is what it always was."""
        plain = asdict(self)
        plain["slots"] = [_without_defaults(slot, _ADDED_TO_SLOTS) for slot in plain["slots"]]
        return _without_defaults(plain, _ADDED_TO_SIDES)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> SideConfig:
        """Inverse of ``to_plain``; raises TypeError, KeyError or ValueError where the data is of another form."""
        slots = tuple(_slot(slot) for slot in plain["slots"])
        form = plain.get("row_format", "fp32")
        if form not in ROW_FORMATS:
            raise ValueError(f"row_format is {form!r}, expected one of {', '.join(ROW_FORMATS)}")
        bins = plain.get("bins")
        if bins is not None and not (type(bins) is int and 0 <= bins <= MAX_BINNED):
            raise ValueError(f"bins is {bins!r}, expected a whole number up to {MAX_BINNED}")
        return cls(slots, int(plain["num_floats"]), form, bins)


@dataclass(frozen=True)
class LevelConfig:
    """A level beyond the router: which encoder layers its candidates attend to, and its interaction.

    ``width`` of its candidate states (None: the encoder's). ``experts``: feed-forward parts per attention layer, of
    which a candidate runs through one. ``skipping``: share of training steps that leave out its last attention layers,
    so that a request may. ``cross_layers`` of crosses of raw inputs, of rank ``cross_rank``.
    ``corrects``: its head is added to the logits of the level before it; otherwise to the prior, starting anew.
    """

    reads: tuple[int, ...]
    interaction_layers: int = 2
    interaction_rank: int = 8
    interaction_tokens: int = 8
    width: int | None = None
    experts: int = 1
    skipping: float = 0.0
    cross_layers: int = 0
    cross_rank: int = 16
    corrects: bool = True


@dataclass(frozen=True)
class TransitionConfig:
    """Counts from item to item: the item id's column among the encoded item columns, its codes, and the neighbours
    that an item keeps."""

    column: int
    num_items: int
    neighbours: int


@dataclass(frozen=True)
class ForeignConfig:
    """A level that is somebody else's module: what it reads, what its outputs are, and its FLOPs once shared."""

    level: int
    module: str
    inputs: tuple[ForeignInput, ...]
    tasks: tuple[str, ...] = ()
    outputs: str = "logits"
    adds: bool = False
    flops_request: float = 0.0
    flops_candidate: float = 0.0


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build an ElasticRanker."""

    tasks: tuple[str, ...]
    prior_logit: tuple[float, ...]
    num_actions: int
    request: SideConfig
    item: SideConfig
    candidate: SideConfig
    history_length: int = 100
    width: int = 64
    table_width: int = 32
    float_bins: int = 12
    feature_dropout: float = 0.0
    small_tables: bool = False
    heads: int = 4
    ffn_multiple: int = 2
    request_tokens: int = 4
    item_tokens: int = 3
    candidate_tokens: int = 2
    router_layers: int = 2
    levels: tuple[LevelConfig, ...] = field(default_factory=lambda: (LevelConfig(reads=(0, 1)),))
    dropout: float = 0.1
    time_gaps: bool = True
    recency: bool = True
    foreign: tuple[ForeignConfig, ...] = ()
    transitions: TransitionConfig | None = None

    @property
    def num_levels(self) -> int:
        """Router and the levels beyond it."""
        return 1 + len(self.levels)

    def level_width(self, level: int) -> int:
        """Width of the candidate states that a level leaves; before level 1 the encoder's."""
        if level == 0:
            return self.width
        if self.foreign_at(level) is not None:
            return self.level_width(level - 1)
        return self.levels[level - 1].width or self.width

    def foreign_at(self, level: int) -> ForeignConfig | None:
        """The foreign module that is this level, if any; its LevelConfig is a place in the order only."""
        return next((f for f in self.foreign if f.level == level), None)

    @property
    def keeps_item_columns(self) -> bool:
        """Whether levels read encoded item columns beside the tokens made of them."""
        return bool(self.foreign) or self.transitions is not None

    @property
    def has_crosses(self) -> bool:
        """Whether some level crosses raw inputs."""
        return any(level.cross_layers for level in self.levels)

    def with_sides(self, sides: Mapping[str, SideConfig]) -> ModelConfig:
        """The config with some sides (request, item, candidate) as given."""
        request, item = sides.get("request", self.request), sides.get("item", self.item)
        return replace(self, request=request, item=item, candidate=sides.get("candidate", self.candidate))

    @property
    def num_positions(self) -> int:
        """Positions a history and a query after it can take: the start token, L events, the query."""
        return self.history_length + 2

    @property
    def encoder_layers(self) -> int:
        """Layers of the user encoder: as deep as the deepest level reads."""
        return max([self.router_layers, *(max(level.reads, default=-1) + 1 for level in self.levels)])

    def to_plain(self) -> dict[str, Any]:
        """Plain data for the manifest. What later versions added is left out at its default, so that a model from
        before is what it was (its identity binds what was fitted for it)."""
        sides = {side: getattr(self, side).to_plain() for side in ("request", "item", "candidate")}
        plain = {**asdict(self), **sides}
        plain["levels"] = tuple(_without_defaults(level, _ADDED_TO_LEVELS) for level in plain["levels"])
        return _without_defaults(plain, _ADDED)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> ModelConfig:
        """Inverse of ``to_plain``; raises TypeError or KeyError where the data is of another form."""

        def level(value: dict[str, Any]) -> LevelConfig:
            return LevelConfig(**{**value, "reads": tuple(value["reads"])})

        def foreign(value: dict[str, Any]) -> ForeignConfig:
            inputs = tuple(ForeignInput(**i) for i in value["inputs"])
            return ForeignConfig(**{**value, "inputs": inputs, "tasks": tuple(value["tasks"])})

        return cls(
            **{
                **plain,
                "tasks": tuple(plain["tasks"]),
                "prior_logit": tuple(plain["prior_logit"]),
                "request": SideConfig.from_plain(plain["request"]),
                "item": SideConfig.from_plain(plain["item"]),
                "candidate": SideConfig.from_plain(plain["candidate"]),
                "levels": tuple(level(v) for v in plain["levels"]),
                "foreign": tuple(foreign(v) for v in plain.get("foreign", ())),
                "transitions": None if plain.get("transitions") is None else TransitionConfig(**plain["transitions"]),
            }
        )


def _slot(plain: dict[str, Any]) -> TableSlot:
    first, num_rows = plain.get("pool", (0, 0))
    slot = TableSlot(**{**plain, "pool": (int(first), int(num_rows))})
    numbers = (slot.num_rows, slot.start, slot.stop, slot.rows_owned, *slot.pool)
    if any(type(number) is not int or number < 0 for number in numbers) or not 1 <= slot.rows_owned <= slot.num_rows:
        raise ValueError(f"the table slot of {slot.feature!r:.100} is out of bounds: {numbers}")
    return slot


_PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "width": 64,
        "table_width": 32,
        "heads": 4,
        "request_tokens": 2,
        "item_tokens": 2,
        "candidate_tokens": 1,
        "router_layers": 2,
        "levels": (LevelConfig(reads=(0, 1), interaction_layers=1, interaction_tokens=6),),
    },
    "small": {"width": 128, "table_width": 48, "heads": 4, "router_layers": 2, "levels": (LevelConfig((0, 1, 2), 3),)},
    "medium": {
        "width": 256,
        "table_width": 64,
        "heads": 8,
        "router_layers": 2,
        "levels": (LevelConfig((0, 1), 2), LevelConfig((2, 3), 3, 16, 16)),
    },
    # With a history of 1,024 about 15 GFLOP a candidate when nothing is shared; the deepest level is 1,024 wide.
    "large": {
        "width": 384,
        "table_width": 96,
        "heads": 6,
        "router_layers": 2,
        "levels": (
            LevelConfig((0, 1), 1, width=256),
            LevelConfig((1, 2), 2, 16, 12, width=512),
            LevelConfig((2, 3), 3, 24, 16, width=1_024),
        ),
    },
}


def preset(config: ModelConfig, name: str) -> ModelConfig:
    """The config in the sizes of a preset; what comes from the data stays."""
    return replace(config, **_PRESETS[name])


# Shown candidates come with features and few examples an id, learned by heart within an epoch (docs/quality.md).
# Positives alone are often nothing but ids: there they carry the prediction.
_FROM_SHOWN: dict[str, Any] = {"feature_dropout": 0.1, "small_tables": True}
# And with columns that tell much, which levels cross (docs/quality.md, data from outside). In the presets for
# such data; what suits the larger ones was not measured.
_CROSSES_FROM_SHOWN = 2
_SMALL_PRESETS = ("demo", "small")


MAX_BINNED = 64  # a side with more float columns may hold vectors: there bins cost more than they tell
_WIDE_INPUTS, _LEAST_BINS = 2_048, 4  # a side of many numbers has fewer bins each, as many as fit


def _side(side: SideLayout, spec: Spec) -> SideConfig:
    """The model's view of a side; numbers in many columns keep their bins, those of vectors have none."""
    config = SideConfig.of(side)
    vectors = [slot for slot in side.floats if isinstance(spec.features.get(slot.feature), Vector)]
    if config.num_floats <= MAX_BINNED or vectors:
        return config
    return replace(config, bins=max(_LEAST_BINS, min(ModelConfig.float_bins, _WIDE_INPUTS // config.num_floats)))


def derive_model_config(
    spec: Spec, layout: EncoderLayout, prior_logit: tuple[float, ...], foreign: Sequence[ForeignConfig] = ()
) -> ModelConfig:
    """The sizes for a spec: its preset with its overrides. ``prior_logit``: log-odds of each task in training.

    ``foreign`` levels take the place of the preset's, or come after them. Raises SpecError where that leaves a gap.
    """
    from_shown = not isinstance(spec.dataset.main, EventsFile)
    config = ModelConfig(
        tasks=tuple(spec.tasks),
        prior_logit=prior_logit,
        num_actions=len(spec.history_actions),
        request=_side(layout.request, spec),
        item=_side(layout.item, spec),
        candidate=_side(layout.candidate, spec),
        history_length=spec.history.length,
        time_gaps=spec.model.time_gaps,
        recency=spec.model.recency,
        **_FROM_SHOWN if from_shown else {},
    )
    config = preset(config, spec.model.preset)
    settings = spec.model
    for name in ("width", "heads", "dropout", "feature_dropout"):
        if (value := getattr(settings, name)) is not None:
            config = replace(config, **{name: value})
    if settings.encoder_layers is not None:
        config = replace(config, router_layers=settings.encoder_layers)
    if isinstance(settings.levels, tuple):
        config = replace(config, levels=tuple(LevelConfig(**_own_sizes(level)) for level in settings.levels))
    elif settings.expert_layers is not None:
        reads = tuple(range(settings.expert_layers))
        config = replace(config, levels=(replace(config.levels[-1], reads=reads),))
    if from_shown and settings.preset in _SMALL_PRESETS:
        crossed = tuple(replace(level, cross_layers=_CROSSES_FROM_SHOWN) for level in config.levels)
        config = replace(config, levels=crossed)
    levels = tuple(_with_settings(level, settings) for level in config.levels)
    if isinstance(settings.levels, tuple):
        pairs = zip(levels, settings.levels, strict=True)
        levels = tuple(c if s.cross_layers is None else replace(c, cross_layers=s.cross_layers) for c, s in pairs)
    else:
        levels = levels[: settings.levels]
    return _with_foreign(replace(config, levels=levels, transitions=_transitions(spec, config.item)), foreign)


def _transitions(spec: Spec, item: SideConfig) -> TransitionConfig | None:
    """Counts over the codes of the item's own id, where the spec asks for them (it was checked to have one)."""
    neighbours, feature = spec.model.transitions, spec.item_id_feature
    if not neighbours or feature is None:
        return None
    slot = next(slot for slot in item.slots if slot.feature == feature)
    return TransitionConfig(slot.start, slot.num_rows, neighbours)


def _own_sizes(level: LevelSettings) -> dict[str, Any]:
    """What a level's own section says, but for its crosses: those may be the preset's."""
    names = ("reads", "width", "interaction_layers", "interaction_tokens", "interaction_rank", "cross_rank")
    return {name: getattr(level, name) for name in names}


def _with_settings(level: LevelConfig, settings: ModelSettings) -> LevelConfig:
    """The level as the spec's model section changes it."""
    level = replace(
        level,
        experts=settings.feed_forward_experts,
        skipping=settings.layer_skipping,
        corrects=settings.levels_correct,
    )
    for name in ("interaction_layers", "cross_layers"):
        if (value := getattr(settings, name)) is not None:
            level = replace(level, **{name: value})
    return level


def _with_foreign(config: ModelConfig, foreign: Sequence[ForeignConfig]) -> ModelConfig:
    """The foreign levels in their places; a foreign router needs no user encoder of ours."""
    levels = list(config.levels)
    for own in sorted(foreign, key=lambda f: f.level):
        if own.level > len(levels) + 1:
            raise SpecError(
                f"model.foreign has level {own.level}, but the levels before it end at {len(levels)}: "
                f"number it {len(levels) + 1}, or give the levels between"
            )
        if own.level:
            levels[own.level - 1 : own.level] = [LevelConfig(reads=())]
    routed = any(own.level == 0 for own in foreign)
    layers = 0 if routed else config.router_layers
    return replace(config, levels=tuple(levels), foreign=tuple(foreign), router_layers=layers)
