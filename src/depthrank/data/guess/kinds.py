"""The feature kind of a column, by the values it holds."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from depthrank.data.guess.names import words
from depthrank.data.guess.tables import Column

FEW_VALUES = 32  # whole numbers of so few values are codes rather than amounts
MANY_VALUES = 1_000
MAX_VECTOR = 4_096
CODES = {"id", "code", "zip", "pin", "cat", "category", "class", "type", "group", "segment", "status", "kind", "hash"}
CODES |= {"subclass", "subcategory", "department", "aisle", "sector", "brand", "author", "level1", "level2"}


@dataclass(frozen=True)
class Guess:
    """A feature of a column, as YAML without braces, and what to say of it; ``kind`` empty: no feature."""

    kind: str
    options: str = ""
    why: str = ""


def kind_of(column: Column) -> Guess:
    """What a column could be to the model."""
    if not len(column.known):
        return Guess("", why="no value that can be read")
    if column.is_listed:
        return _of_lists(column)
    if column.time_unit is not None:
        return Guess("time", f"parts: [age], unit: {column.time_unit}")
    if column.unread_dates is not None:
        return Guess("", why=f"dates such as {column.unread_dates}: make them date-times first, 2026-01-31T12:00:00")
    if column.num_distinct < 2:
        return Guess("", why="one value only")
    if column.is_text:
        return _of_texts(column)
    coded = not CODES.isdisjoint(words(column.name)) or column.name.lower().endswith("id")
    if column.is_binary or (column.is_whole and (coded or column.num_distinct <= FEW_VALUES)):
        return _categorical(column)
    return Guess("numeric")


def _categorical(column: Column) -> Guess:
    if column.is_nearly_unique:
        return Guess("", why="nearly every row has a value of its own")
    return Guess("categorical", "min_count: 5" if column.num_distinct > MANY_VALUES else "")


def _of_texts(column: Column) -> Guess:
    if column.separator is not None:
        return Guess("multi_hot", f'separator: "{column.separator}"')
    spaces = column.known.str.count_matches(r"\S+\s+\S").mean()
    if column.is_nearly_unique and isinstance(spaces, float) and spaces >= 1:
        return Guess("text")
    numbers = column.known.cast(pl.Float64, strict=False)
    if numbers.null_count() * 10 < len(numbers) and column.num_distinct > FEW_VALUES:
        odd = column.known.filter(numbers.is_null()).head(1).to_list()
        return Guess("categorical", "min_count: 5", f"text, because of values such as {odd[0]!r}" if odd else "")
    return _categorical(column)


def _of_lists(column: Column) -> Guess:
    lengths = column.known.list.len().unique()
    inner = column.known.list.explode().drop_nulls()
    if inner.dtype.is_float() and len(lengths) == 1 and 2 <= int(lengths[0]) <= MAX_VECTOR:
        return Guess("vector", f"size: {lengths[0]}")
    if inner.dtype == pl.String or inner.dtype.is_integer():
        return Guess("multi_hot", f"max_values: {min(int(column.known.list.len().quantile(0.95) or 1), 32)}")
    return Guess("", why="lists of numbers, of several lengths")
