"""Time columns to int64 milliseconds since 1970, UTC, with a check that the unit is plausible."""

from __future__ import annotations

import datetime

import polars as pl

from depthrank.data.files import DataFile, Problems
from depthrank.errors import FieldProblem
from depthrank.schema.dataset import Time, TimeColumn, TimeUnit

MS_PER_ROW = 1_000
ORDER_START_MS = 946_684_800_000
"""Where ``time: order`` starts (2000-01-01): far from zero, so that histories laid before it stay positive."""

_PER_MS = {"s": 1e-3, "ms": 1.0, "us": 1e3, "ns": 1e6}
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_PLAUSIBLE_MS = (631_152_000_000, 4_102_444_800_000)  # 1990 to 2100
_DATE, _HOUR, _60 = r"(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", r"([01]\d|2[0-3])", r"[0-5]\d"
_YEAR = r"(19[89]\d|20\d\d)"
_CALENDARS = {
    "YYYYMMDD": _YEAR + _DATE,
    "YYMMDDHH": r"\d\d" + _DATE + _HOUR,
    "YYYYMMDDHH": _YEAR + _DATE + _HOUR,
    "YYYYMMDDHHMM": _YEAR + _DATE + _HOUR + _60,
    "YYYYMMDDHHMMSS": _YEAR + _DATE + _HOUR + _60 + _60,
}


def column_of(time: Time) -> tuple[str, ...]:
    """The columns that ``time`` reads."""
    return () if isinstance(time, str) else (time.column,)


def check_time(file: DataFile, time: Time | None, field: str, problems: Problems, of_lists: bool = False) -> None:
    """Note a missing time column or one whose type does not go with its unit."""
    if time is None or isinstance(time, str) or not file.has(time.column, f"{field}.column", problems):
        return
    dtype = file.schema[time.column]
    if of_lists:
        if not isinstance(dtype, pl.List):
            file.wrong_type(time.column, f"{field}.column", "a list of times a row", problems)
            return
        dtype = _inner(dtype)
    if dtype.is_temporal() and time.unit != "iso":
        file.wrong_type(time.column, f"{field}.unit", "unit: iso for date-times", problems)
    elif dtype == pl.String and time.unit != "iso":
        hint = "unit: iso reads texts such as 2026-01-31T12:00:00"
        file.wrong_type(time.column, f"{field}.column", f"numbers for unit: {time.unit}", problems, hint)
    elif dtype.is_numeric() and time.unit == "iso":
        file.wrong_type(time.column, f"{field}.unit", "unit: s, ms, us or ns for numbers", problems)


def _inner(dtype: pl.DataType) -> pl.DataType:
    assert isinstance(dtype, pl.List)
    inner = dtype.inner
    return inner if isinstance(inner, pl.DataType) else inner()


def times_ms(values: pl.Series, time: TimeColumn, field: str, problems: Problems) -> pl.Series:
    """``values`` as int64 milliseconds; notes missing values, texts that are no date-time and implausible units."""
    converted = _from_iso(values) if time.unit == "iso" else _from_number(values, time.unit)
    unread = converted.null_count()
    if unread:
        sample = values.filter(converted.is_null()).head(1).to_list()[0]
        found = f"{unread} of {len(values)} values of {time.column!r} without a time (such as {sample!r})"
        expected = "a date-time such as 2026-01-31T12:00:00" if time.unit == "iso" else "a time in every row"
        problems.append(FieldProblem(field, found, expected))
    elif time.unit != "iso":
        _check_unit(values, time.column, time.unit, field, problems)
    return converted.fill_null(0)


def order_times_ms(num_rows: int) -> pl.Series:
    """Synthetic times by row for ``time: order``, one second a row."""
    return pl.int_range(num_rows, eager=True, dtype=pl.Int64) * MS_PER_ROW + ORDER_START_MS


def iso_ms(text: str) -> int:
    """Milliseconds of an ISO date or date-time; naive ones are UTC. Raises ValueError."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return round(moment.timestamp() * 1000)


def _from_number(values: pl.Series, unit: str) -> pl.Series:
    if values.dtype.is_integer():
        if unit == "s":
            # a wrong unit may overflow: such values become implausible, not an error
            return (values.cast(pl.Float64) * 1000.0).cast(pl.Int64, strict=False)
        return (values // int(_PER_MS[unit])).cast(pl.Int64, strict=False)
    numbers = values.cast(pl.Float64, strict=False)
    return (numbers / _PER_MS[unit]).floor().cast(pl.Int64, strict=False)


def _from_iso(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        return pl.Series(values.name, [_iso_or_none(v) for v in values], dtype=pl.Int64)
    if values.dtype == pl.Date:
        values = values.cast(pl.Datetime("ms"))
    return values.dt.epoch("ms")  # a naive Datetime counts as UTC


def _iso_or_none(text: str | None) -> int | None:
    try:
        return None if text is None else iso_ms(text)
    except ValueError:
        return None


def check_time_values(values: pl.Series, column: str, unit: TimeUnit, field: str, problems: Problems) -> None:
    """Note a column of a time feature whose numbers are in another unit, or whose texts are mostly no date-times."""
    if values.dtype.is_numeric():
        _check_unit(values, column, "ms" if unit == "iso" else unit, field, problems, old=True)  # such as a birthday
    elif values.dtype == pl.String:
        given = values.drop_nulls()
        unread = given.filter([_iso_or_none(text) is None for text in given])
        if 2 * len(unread) > len(given):
            found = f"{len(unread)} of {len(given)} values of {column!r} that are no date-time (such as {unread[0]!r})"
            problems.append(FieldProblem(f"{field}.source", found, "date-times such as 2026-01-31T12:00:00"))


def _check_unit(values: pl.Series, column: str, unit: str, field: str, problems: Problems, old: bool = False) -> None:
    """Times that are implausible in the given unit and plausible in another are in that other unit; ``old``: times
    before 1970 may be meant."""
    middle = values.cast(pl.Float64, strict=False).median()
    if not isinstance(middle, float):
        return
    digits = calendar_digits(values)
    if digits is not None:
        found = f"{column!r} around {middle:.0f}, which look like dates written as {digits}, not {_NAMES[unit]}"
        problems.append(FieldProblem(f"{field}.unit", found, "date-times", "make them date-times first, for unit: iso"))
        return
    low, high = _PLAUSIBLE_MS
    if low <= middle / _PER_MS[unit] <= high:
        return
    fits = [other for other, per_ms in _PER_MS.items() if low <= middle / per_ms <= high]
    if fits:
        found = f"{column!r} around {middle:.0f}, which look like {_NAMES[fits[0]]}, not {_NAMES[unit]}"
        problems.append(FieldProblem(f"{field}.unit", found, f"unit: {fits[0]}"))
    elif not old and (middle < 0 or middle / _PER_MS[unit] > high):
        found = f"{column!r} around {middle:.0f}"
        problems.append(FieldProblem(field, found, f"times between 1990 and 2100 in {_NAMES[unit]}"))


def likely_unit(values: pl.Series) -> TimeUnit | None:
    """The unit that known values seem to have if they are times; None where no unit makes them such."""
    if not len(values):
        return None
    if values.dtype == pl.String:
        some = values.head(200)
        return "iso" if len(some) and all(_iso_or_none(text) is not None for text in some) else None
    if not values.dtype.is_numeric() or calendar_digits(values) is not None:
        return None
    middle, (low, high) = values.cast(pl.Float64).median(), _PLAUSIBLE_MS
    units: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
    assert isinstance(middle, float)
    return next((unit for unit in units if low <= middle / _PER_MS[unit] <= high), None)


def calendar_digits(values: pl.Series) -> str | None:
    """How all values spell a date in decimal digits, such as YYMMDDHH; None where they are plain numbers."""
    distinct = values.drop_nulls().unique()
    if len(distinct) < 2:  # a single number proves nothing
        return None
    text = distinct.cast(pl.Int64, strict=False).cast(pl.String)
    return next((name for name, form in _CALENDARS.items() if text.str.contains(f"^{form}$").all()), None)
