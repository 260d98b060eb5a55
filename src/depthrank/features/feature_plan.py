"""Which side a feature belongs to, where its values come from, and what kind of codec encodes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from depthrank.catalogue import Catalogue, Column, ListColumn, NumberColumn, TextColumn, VectorColumn
from depthrank.errors import FieldProblem, did_you_mean
from depthrank.features.codecs import (
    AgeCodec,
    CalendarCodec,
    CategoricalCodec,
    Codec,
    NumericCodec,
    PositionCodec,
    VectorCodec,
    elements_of,
    multi_hot_codec,
    text_codec,
)
from depthrank.features.numeric_scale import NumericScale
from depthrank.features.sources import Source
from depthrank.features.vocabulary import Vocabulary
from depthrank.schema import (
    Categorical,
    Counter,
    Feature,
    HistoryAlong,
    HistoryCount,
    HistoryMatch,
    MultiHot,
    Numeric,
    Position,
    Spec,
    Text,
    TimeParts,
    Vector,
)

Side = Literal["request", "item", "candidate"]
Origin = Literal["user_row", "user", "item", "context", "candidate", "time", "counter", "history", "match", "position"]
Learned = Vocabulary | NumericScale

# Values of user rows come first, so that they are one block of columns that can be kept encoded.
_ORDER: tuple[Origin, ...] = (
    "user_row",
    "user",
    "item",
    "context",
    "time",
    "candidate",
    "counter",
    "history",
    "match",
    "position",
)


@dataclass(frozen=True)
class Planned:
    """One part of a feature on one side. ``column`` is None for an entity's id."""

    name: str
    feature: Feature
    side: Side
    origin: Origin
    column: str | None
    is_age: bool = False


def planned_features(spec: Spec, items: Catalogue | None, users: Catalogue | None) -> list[Planned]:
    """All parts, in column order. The catalogues tell which column holds the ids."""
    parts = [part for name, feature in spec.features.items() for part in _parts(name, feature, items, users)]
    return sorted(parts, key=lambda part: _ORDER.index(part.origin))


def _parts(name: str, feature: Feature, items: Catalogue | None, users: Catalogue | None) -> Iterator[Planned]:
    if isinstance(feature, Counter):
        is_request = all(part.strip().startswith("user") for part in feature.of.split("*"))
        yield Planned(name, feature, "request" if is_request else "candidate", "counter", None)
        return
    if isinstance(feature, Position):
        yield Planned(name, feature, "candidate", "position", None)
        return
    if isinstance(feature, HistoryCount):
        yield Planned(name, feature, "request", "history", None)
        return
    if isinstance(feature, (HistoryMatch, HistoryAlong)):
        _, _, column = _place(feature.of if "." in feature.of else "item.id", items, users)
        yield Planned(name, feature, "candidate", "match", column)
        return
    side, origin, column = _place(feature.source, items, users)
    if not isinstance(feature, TimeParts):
        yield Planned(name, feature, side, origin, column)
        return
    if set(feature.parts) - {"age"}:
        yield Planned(name, feature, side, origin, column)
    if "age" in feature.parts:  # needs the request's time, hence no item-only value
        yield Planned(name, feature, "candidate" if side == "item" else side, origin, column, is_age=True)


def _place(source: str, items: Catalogue | None, users: Catalogue | None) -> tuple[Side, Origin, str | None]:
    entity, _, column = source.partition(".")
    if entity == "item":
        is_id = column == "id" or (items is not None and column == items.id_column)
        return "item", "item", None if is_id else column
    if entity == "user":
        is_id = column == "id" or (users is not None and column == users.id_column)
        return ("request", "user", None) if is_id else ("request", "user_row", column)
    if entity == "candidate":
        return "candidate", "candidate", column
    return "request", "time" if entity == "request" else "context", column


def learn(feature: Feature, source: Source) -> Learned | None:
    """What a feature learns of its training values."""
    if isinstance(feature, Categorical):
        return Vocabulary.of_counts(source.text_counts(lambda text: (text,)), feature.min_count)
    if isinstance(feature, MultiHot):
        return Vocabulary.of_counts(source.text_counts(elements_of(feature.separator)), feature.min_count)
    if isinstance(feature, Numeric):
        values, missing = source.numbers()
        return NumericScale.fit(feature.transform, values[~missing])
    return None


def codec_of(part: Planned, learned: Learned | None) -> Codec:
    """The frozen codec of a part (counters have none)."""
    feature = part.feature
    if isinstance(feature, (Categorical, MultiHot)):
        assert isinstance(learned, Vocabulary), part.name
        if isinstance(feature, Categorical):
            return CategoricalCodec(learned)
        return multi_hot_codec(learned, feature.separator, feature.max_values)
    if isinstance(feature, Numeric):
        assert isinstance(learned, NumericScale), part.name
        return NumericCodec(learned, within_request=feature.within is not None)
    if isinstance(feature, Text):
        return text_codec(feature.buckets, feature.max_values)
    if isinstance(feature, Vector):
        return VectorCodec(feature.size)
    if isinstance(feature, Position):
        return PositionCodec(feature.max_position)
    assert isinstance(feature, TimeParts), "counters and features of the history have no codec"
    unit = "ms" if part.origin == "time" else feature.unit  # a request's own time is always in ms
    if part.is_age:
        return AgeCodec(unit)
    parts = tuple(p for p in feature.parts if p != "age")
    return CalendarCodec(parts, unit, round(feature.utc_offset_h * 3_600_000))


def stored_problems(part: Planned, catalogue: Catalogue | None) -> Iterator[FieldProblem]:
    """Why a feature cannot read its catalogue column."""
    source = f"$.features.{part.name}.{'of' if part.origin == 'match' else 'source'}"
    if part.column is None or catalogue is None:
        if catalogue is None:
            yield FieldProblem(source, repr(part.column), "a dataset with a users file (there is none)")
        return
    if part.column not in catalogue.column_names:
        near = did_you_mean(part.column, catalogue.column_names)
        listed = ", ".join(catalogue.column_names) or "(there is none)"
        expected = f"a column of the {catalogue.entity}s: one of {listed}"
        yield FieldProblem(source, repr(part.column), expected, f"did you mean {near!r}?" if near else None)
        return
    column = catalogue.column(part.column)
    expected = _unfit(part.feature, column)
    if expected:
        yield FieldProblem(source, f"a {column.kind} column", expected)


def _unfit(feature: Feature, column: Column) -> str:
    """What the feature expects, where the column is not it."""
    if isinstance(feature, (HistoryMatch, HistoryAlong)) and not isinstance(column, (NumberColumn, TextColumn)):
        return "one text or number a row"
    if isinstance(feature, Categorical) and not isinstance(column, (NumberColumn, TextColumn)):
        return "one text or number a row (for lists: kind: multi_hot)"
    if isinstance(feature, MultiHot) and isinstance(column, VectorColumn):
        return "a list of texts or whole numbers (for numbers with a point: kind: vector)"
    if isinstance(feature, Text) and not isinstance(column, (TextColumn, ListColumn)):
        return "texts"
    if isinstance(feature, Numeric) and not isinstance(column, NumberColumn):
        return "numbers"
    if isinstance(feature, Vector):
        fits = isinstance(column, ListColumn) or (
            isinstance(column, VectorColumn) and column.values.shape[1] == feature.size
        )
        return "" if fits else f"lists of {feature.size} numbers"
    if isinstance(feature, TimeParts):
        is_time = isinstance(column, NumberColumn) or (isinstance(column, TextColumn) and feature.unit == "iso")
        return "" if is_time else f"times in {feature.unit}"
    return ""
