"""List columns: real lists, or text split by a separator."""

from __future__ import annotations

import polars as pl

from depthrank.data.files import DataFile, Problems


def is_list(file: DataFile, column: str, separator: str | None) -> bool:
    """Whether ``column`` can be read as lists."""
    dtype = file.schema[column]
    return isinstance(dtype, (pl.List, pl.Array)) or (separator is not None and dtype == pl.String)


def check_list(file: DataFile, column: str, separator: str | None, field: str, problems: Problems) -> None:
    """Note a missing column, or one that is neither a list nor a text with a separator to split it by."""
    if file.has(column, field, problems) and not is_list(file, column, separator):
        text = file.schema[column] == pl.String
        hint = 'give the separator, such as separator: "|"' if text else None
        file.wrong_type(column, field, "a list a row, or text with a separator", problems, hint)


def as_lists(values: pl.Series, separator: str | None) -> pl.Series:
    """``values`` as a list series; a missing or empty text is an empty list."""
    if values.dtype == pl.String and separator is not None:
        split = values.str.split(separator)
        empty = pl.Series([[]], dtype=pl.List(pl.String))
        return split.to_frame().select(
            pl.when(values.fill_null("") == "").then(pl.lit(empty).first()).otherwise(pl.col(split.name))
        )[:, 0]
    if isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    if not isinstance(values.dtype, pl.List):
        values = values.to_frame().select(pl.concat_list(pl.all()))[:, 0]  # a scalar is a list of one
    return values.fill_null(pl.Series([[]], dtype=values.dtype))


def numbers_where_all_are(values: pl.Series) -> pl.Series:
    """Text that holds numbers only, as Float64 (prices out of a separated text); anything else unchanged."""
    if values.dtype != pl.String:
        return values
    numbers = values.str.strip_chars().replace("", None).cast(pl.Float64, strict=False)
    return numbers if numbers.null_count() == values.replace("", None).null_count() else values
