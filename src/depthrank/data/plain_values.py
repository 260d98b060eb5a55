"""Every type a file may hold, as one of the few that the rest knows: numbers, texts, and lists of either.

Booleans are 0 and 1; enums and categories are text; dates and date-times are ISO text in UTC; decimals are float64;
whole numbers beyond int64 (hashes) are text, because a float would merge neighbours.
"""

from __future__ import annotations

import polars as pl

_WIDE = (pl.UInt64, pl.Int128, pl.UInt128)


def plain(values: pl.Series) -> pl.Series | None:
    """``values`` as numbers, text, or lists of them; None where they have no such form (structs, bytes, durations)."""
    if isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    if isinstance(values.dtype, pl.List):
        inner = values.dtype.inner
        element = _plain_expression(inner if isinstance(inner, pl.DataType) else inner(), pl.element())
        return None if element is None else values.list.eval(element)
    if values.dtype in _WIDE:
        narrow = values.cast(pl.Int64, strict=False)
        return narrow if narrow.null_count() == values.null_count() else values.cast(pl.String)
    column = _plain_expression(values.dtype, pl.col(values.name))
    return None if column is None else values.to_frame().select(column).to_series()


def plain_type(dtype: pl.DataType) -> pl.DataType | None:
    """The type that ``plain`` makes of a column of ``dtype``; None where there is none."""
    values = plain(pl.Series("", [], dtype=dtype))
    return None if values is None else values.dtype


def _plain_expression(dtype: pl.DataType, values: pl.Expr) -> pl.Expr | None:
    if dtype == pl.Boolean:
        return values.cast(pl.Int64)
    if dtype == pl.Null or isinstance(dtype, pl.Decimal):
        return values.cast(pl.Float64)
    if isinstance(dtype, (pl.Categorical, pl.Enum)) or dtype in _WIDE:
        return values.cast(pl.String)
    if dtype == pl.Date:
        return values.dt.strftime("%Y-%m-%d")
    if isinstance(dtype, pl.Datetime):
        utc = values if dtype.time_zone is None else values.dt.convert_time_zone("UTC")
        return utc.dt.strftime("%Y-%m-%dT%H:%M:%S%.3f")
    return values if dtype == pl.String or dtype.is_numeric() else None
