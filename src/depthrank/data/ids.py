"""Id columns: whole numbers and texts compare as text; a row without an id is a mistake."""

from __future__ import annotations

import polars as pl

from depthrank.data.files import DataFile, Problems
from depthrank.errors import FieldProblem


def check_id(file: DataFile, column: str, field: str, problems: Problems) -> None:
    """Note a missing id column, or one that holds neither texts nor whole numbers."""
    if not file.has(column, field, problems):
        return
    dtype = file.schema[column]
    if dtype.is_nested() or dtype.is_temporal() or dtype == pl.Boolean or dtype == pl.Binary:
        file.wrong_type(column, field, "ids: text or whole numbers", problems)


def ids_as_text(values: pl.Series, field: str, problems: Problems) -> pl.Series:
    """Ids as text; notes how many are missing or empty, where ``field`` of the spec names them."""
    if values.dtype.is_float():  # whole numbers beside missing ones often arrive as floats
        whole = values.cast(pl.Int64, strict=False)
        values = whole if (whole.cast(values.dtype) == values).fill_null(True).all() else values
    text = values.cast(pl.String).replace("", None)
    if text.null_count():
        found = f"{text.null_count()} of {len(text)} rows of {values.name!r} without an id"
        hint = "drop these rows first"
        if field.endswith(".user"):  # dropping them could be dropping most of the data
            hint = "give each anonymous visit an id of its own, such as that of its session or request"
        problems.append(FieldProblem(field, found, "an id in every row", hint))
    return text.fill_null("")
