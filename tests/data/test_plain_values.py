"""Types of data files: each becomes numbers, text or lists of them, or is told."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from depthrank.data.plain_values import plain, plain_type
from depthrank.data.shown import column_array, context_list

CASES: list[tuple[pl.Series, list[Any]]] = [
    (pl.Series("a", [True, None]), [1, None]),
    (pl.Series("a", ["x", None], dtype=pl.Categorical), ["x", None]),
    (pl.Series("a", ["x", None], dtype=pl.Enum(["x"])), ["x", None]),
    (pl.Series("a", [Decimal("2.50"), None]), [2.5, None]),
    (pl.Series("a", [date(2026, 1, 31), None]), ["2026-01-31", None]),
    (pl.Series("a", [7, 2**63 + 1], dtype=pl.UInt64), ["7", str(2**63 + 1)]),
    (pl.Series("a", [7, None], dtype=pl.UInt64), [7, None]),
    (pl.Series("a", [[1, 2]], dtype=pl.Array(pl.Int64, 2)), [[1, 2]]),
    (pl.Series("a", [["x", None], None, []], dtype=pl.List(pl.Categorical)), [["x", None], None, []]),
    (pl.Series("a", [[Decimal("0.5")]]), [[0.5]]),
    (pl.Series("a", [[date(2026, 1, 31)]]), [["2026-01-31"]]),
]


@pytest.mark.parametrize(("values", "expected"), CASES, ids=[str(values.dtype) for values, _ in CASES])
def test_every_type_becomes_numbers_text_or_lists_of_them(values: pl.Series, expected: list[Any]) -> None:
    found = plain(values)
    assert found is not None and found.to_list() == expected and found.name == "a"
    assert context_list(values) == expected


def test_a_date_time_of_a_zone_is_the_same_moment_in_utc() -> None:
    noon = pl.Series("at", [datetime(2026, 1, 31, 12, tzinfo=UTC)]).dt.convert_time_zone("Asia/Shanghai")
    found = plain(noon)
    assert found is not None and found.to_list() == ["2026-01-31T12:00:00.000"]


def test_structs_bytes_and_durations_have_no_plain_form() -> None:
    for dtype in (pl.Struct({"x": pl.Int64}), pl.List(pl.Struct({"x": pl.Int64})), pl.Binary, pl.Duration("ms")):
        assert plain_type(dtype) is None
    assert plain_type(pl.Float32()) == pl.Float32  # positive control


def test_hashes_of_candidates_stay_exact_beside_missing_ones() -> None:
    assert column_array(pl.Series([2**60 + 1, None])).tolist() == [2**60 + 1, None]
    assert column_array(pl.Series([2**63 + 1, 5], dtype=pl.UInt64)).tolist() == [str(2**63 + 1), "5"]
    assert column_array(pl.Series([3, None])).dtype.kind == "f"  # small numbers stay numbers
