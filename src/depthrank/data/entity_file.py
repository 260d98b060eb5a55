"""The items and users files: one row an entity, into a ``Catalogue``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from depthrank.catalogue import Catalogue
from depthrank.data.files import DataFile, Problems
from depthrank.data.ids import check_id, ids_as_text
from depthrank.data.plain_values import plain, plain_type
from depthrank.data.times import check_time_values
from depthrank.errors import FieldProblem
from depthrank.schema import (
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
from depthrank.schema.dataset import ItemsFile, UsersFile


def sources(spec: Spec, side: str) -> dict[str, tuple[str, Feature]]:
    """The columns of ``side`` that features read: spec field -> (column, feature); ``id`` is no column."""
    found: dict[str, tuple[str, Feature]] = {}
    for name, feature in spec.features.items():
        if isinstance(feature, (Position, HistoryCount)):
            continue
        if isinstance(feature, (Counter, HistoryAlong, HistoryMatch)):
            field, parts = f"$.features.{name}.of", feature.of.split("*")
        else:
            field, parts = f"$.features.{name}.source", [feature.source]
        for part in parts:
            part_side, _, column = part.partition(".")
            if part_side == side and column not in ("", "id"):
                found[field] = (column, feature)
    return found


def check_entity_file(file: DataFile, form: ItemsFile | UsersFile, side: str, spec: Spec, problems: Problems) -> None:
    """Note a missing id column, and every feature whose column is missing or of the wrong type."""
    check_id(file, form.id, f"{file.where}.id", problems)
    for field, (column, feature) in sources(spec, side).items():
        if file.has(column, field, problems):
            check_feature_type(file, column, feature, field, problems)


def check_feature_type(file: DataFile, column: str, feature: Feature, field: str, problems: Problems) -> None:
    """Note a column whose type the feature kind cannot read."""
    if file.schema[column] == pl.Null:  # every value is missing, which any kind can encode
        return
    temporal = file.schema[column].is_temporal()
    dtype = plain_type(file.schema[column])
    if dtype is None:
        file.wrong_type(column, field, "numbers, texts, times, or lists of them", problems, "take its parts out first")
        return
    listed = isinstance(dtype, pl.List)
    if isinstance(feature, (HistoryAlong, HistoryMatch)):
        if listed:
            file.wrong_type(column, field, "one text or number a row", problems)
        return
    if isinstance(feature, Numeric) and not dtype.is_numeric():
        hint = "use kind: time" if temporal else _no_number(file, column) if dtype == pl.String else None
        file.wrong_type(column, field, "numbers for kind: numeric", problems, hint)
    elif isinstance(feature, Vector) and not listed:
        file.wrong_type(column, field, f"a list of {feature.size} numbers for kind: vector", problems)
    elif isinstance(feature, Text) and dtype != pl.String:
        file.wrong_type(column, field, "text for kind: text", problems)
    elif isinstance(feature, MultiHot) and dtype == pl.String and feature.separator is None:
        hint = 'give a separator, such as separator: "|", or use kind: categorical'
        file.wrong_type(column, field, "a list, or text with a separator, for kind: multi_hot", problems, hint)
    elif isinstance(feature, TimeParts) and feature.unit != "iso" and not (dtype.is_numeric() or listed):
        file.wrong_type(column, field, f"numbers for unit: {feature.unit}", problems, "unit: iso reads date-times")
    elif listed and not isinstance(feature, (MultiHot, Vector)):
        file.wrong_type(column, field, "one value a row", problems, "kind: multi_hot reads lists")


def _no_number(file: DataFile, column: str) -> str:
    """What keeps a column of text from being numbers: few odd values, or all of them."""
    text = pl.col(column).cast(pl.String)
    odd = file.frame.select(text).filter(text.is_not_null() & text.cast(pl.Float64, strict=False).is_null())
    found = odd.unique(maintain_order=True).head(4).collect()[column].to_list()
    if not 0 < len(found) < 4:
        return "use kind: categorical"
    return f"only {' and '.join(map(repr, found))} are no numbers: make them missing, or use kind: categorical"


def load_entities(file: DataFile, form: ItemsFile | UsersFile, side: str, spec: Spec, problems: Problems) -> Entities:
    """All columns of the file that a catalogue can hold, with ids as text; notes duplicated ids."""
    frame = file.read(file.schema.names(), problems)
    if frame is None:
        return Entities([], {})
    ids = ids_as_text(frame[form.id], f"{file.where}.id", problems)
    _check_unique(ids, file, form.id, problems)
    columns = {c: plain(frame[c]) for c in frame.columns if c != form.id}
    check_time_features(columns, side, spec, problems)
    return Entities(ids.to_list(), {c: v for c, v in columns.items() if v is not None}, form.id)


def check_time_features(columns: Mapping[str, pl.Series | None], side: str, spec: Spec, problems: Problems) -> None:
    """Note columns of ``side`` whose times another unit would explain: as a feature they would be wrong silently."""
    for field, (column, feature) in sources(spec, side).items():
        values = columns.get(column)
        if isinstance(feature, TimeParts) and values is not None:
            check_time_values(values, column, feature.unit, field.removesuffix(".source"), problems)


class Entities:
    """Ids and columns on their way into a catalogue; ids that only the logs know join with every column missing."""

    def __init__(self, ids: list[str], columns: dict[str, pl.Series], id_column: str | None = None) -> None:
        self.ids, self.columns, self.id_column = ids, columns, id_column

    def add_unlisted(self, logged: Sequence[pl.Series]) -> int:
        """Add the ids of ``logged`` that no row has, in text order (deterministic); returns how many."""
        known = pl.Series(self.ids, dtype=pl.String)
        seen = pl.concat([*logged, pl.Series([], dtype=pl.String)]).unique()
        extra = seen.filter(~seen.is_in(known.implode())).sort().to_list()
        self.ids = self.ids + extra
        self.columns = {
            name: values.extend_constant(None, len(extra)) if len(extra) else values
            for name, values in self.columns.items()
        }
        return len(extra)

    def catalogue(self, entity: str) -> Catalogue:
        """The catalogue of these rows."""
        columns = {name: values.to_arrow() for name, values in self.columns.items()}
        return Catalogue.build(entity, self.ids, columns, id_column=self.id_column)


def _check_unique(ids: pl.Series, file: DataFile, column: str, problems: Problems) -> None:
    repeated = ids.filter(ids.is_duplicated()).unique(maintain_order=True)
    if len(repeated):
        some = ", ".join(map(repr, repeated.head(3).to_list()))
        found = f"{len(repeated)} ids of {file.name} on more than one row ({some})"
        problems.append(FieldProblem(f"{file.where}.id", found, f"one row an id in column {column!r}"))
