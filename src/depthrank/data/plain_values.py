"""Every type a file may hold, as one of the few that the rest knows: numbers, texts, and lists of either.

Booleans are 0 and 1; enums and categories are text; dates and date-times are ISO text in UTC; decimals are float64.
"""

from __future__ import annotations

import polars as pl


def plain(values: pl.Series) -> pl.Series | None:
    """``values`` as int, float, text, or lists of them; None where there is no such form (structs, binary, durations).

    Whole numbers beyond int64 (hashes) become text: they are ids, and a float would merge neighbours.
    """
    dtype = values.dtype
    if dtype == pl.Boolean:
        return values.cast(pl.Int64)
    if dtype == pl.Null:
        return values.cast(pl.Float64)
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return values.cast(pl.String)
    if dtype == pl.Date:
        return values.dt.strftime("%Y-%m-%d")
    if isinstance(dtype, pl.Datetime):
        utc = values if dtype.time_zone is None else values.dt.convert_time_zone("UTC")
        return utc.dt.strftime("%Y-%m-%dT%H:%M:%S%.3f")
    if isinstance(dtype, pl.Decimal):
        return values.cast(pl.Float64)
    if dtype.is_integer():
        return _within_int64(values)
    if isinstance(dtype, pl.Array):
        return plain(values.arr.to_list())
    if isinstance(dtype, pl.List):
        return _plain_lists(values)
    return values if dtype == pl.String or dtype.is_float() else None


def plain_type(dtype: pl.DataType) -> pl.DataType | None:
    """The type of ``plain`` values of a column of ``dtype``; None where there is none."""
    values = plain(pl.Series([], dtype=dtype))
    return None if values is None else values.dtype


def _within_int64(values: pl.Series) -> pl.Series:
    if values.dtype not in (pl.UInt64, pl.Int128, pl.UInt128):
        return values
    fits = values.cast(pl.Int64, strict=False)
    return fits if fits.null_count() == values.null_count() else values.cast(pl.String)


def _plain_lists(values: pl.Series) -> pl.Series | None:
    inner = plain(values.explode(empty_as_null=False, keep_nulls=False))
    if inner is None or isinstance(inner.dtype, pl.List):
        return None
    if values.dtype == pl.List(inner.dtype):
        return values
    lengths = values.list.len().fill_null(0)
    row = pl.int_range(len(values), eager=True, dtype=pl.Int64)
    of_row = row.gather(row.cast(pl.Int64).repeat_by(lengths).explode(empty_as_null=False))
    grouped = pl.DataFrame({"row": of_row, "v": inner}).group_by("row", maintain_order=True).agg("v")
    joined = pl.DataFrame({"row": row, "null": values.is_null()}).join(grouped, on="row", how="left", maintain_order="left")
    empty = pl.lit([], dtype=pl.List(inner.dtype))
    return joined.select(pl.when("null").then(None).otherwise(pl.coalesce("v", empty)).alias(values.name)).to_series()
