"""A requests file: list columns, separated text, positive ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from small_dataset import T0, Make

from depthrank.data import load_dataset
from depthrank.data.shown import Shown
from depthrank.errors import DataError

CHANGE: dict[str, Any] = {
    "dataset": {
        "impressions": None,
        "requests": {
            "path": "requests.parquet",
            "user": "user",
            "time": {"column": "at", "unit": "s"},
            "candidates": "shown",
            "candidate": {"price": "prices"},
            "context": ["device"],
            "separator": "|",
        },
    },
    "features": {"place": None},
    "tasks": {"click": {"column": None, "ids": "clicked"}, "like": None},
    "value": {"weights": {"click": 1.0, "like": None}},
}


def requests() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user": ["u2", "u1", "u1"],
            "at": [T0 // 1000 + 60, T0 // 1000, T0 // 1000 + 120],
            "shown": ["10|11|12", "13|10", ""],
            "prices": ["5|6.5|7", "8|9", ""],
            "clicked": ["11", "99", None],
            "device": ["ios", "web", "web"],
        }
    )


def test_separated_text_and_clicked_ids_become_flat_candidates(small: Make) -> None:
    main = load_dataset(small(CHANGE, requests=requests())).main
    assert isinstance(main, Shown)
    assert main.user == ["u1", "u2"]  # in time order; a request without candidates is none
    assert main.offsets.tolist() == [0, 2, 5] and main.item.to_list() == ["13", "10", "10", "11", "12"]
    assert main.label[:, 0].tolist() == [0, 0, 0, 1, 0]
    assert main.candidate["price"].tolist() == [8, 9, 5, 6.5, 7]
    assert main.position.tolist() == [0, 1, 0, 1, 2] and main.time_ms[0] == T0


def test_real_lists_equal_separated_text(small: Make) -> None:
    frame = requests().head(2)
    lists = frame.with_columns(
        pl.col("shown").str.split("|").cast(pl.List(pl.Int64)),
        pl.col("prices").str.split("|").cast(pl.List(pl.Float64)),
        pl.concat_list("clicked"),
    )
    text, real = (load_dataset(small(CHANGE, requests=f)).main for f in (frame, lists))
    assert isinstance(text, Shown) and isinstance(real, Shown)
    assert text.item.to_list() == real.item.to_list()
    np.testing.assert_array_equal(text.label, real.label)
    np.testing.assert_array_equal(text.candidate["price"], real.candidate["price"])


def test_lists_of_other_lengths_are_told(small: Make) -> None:
    frame = requests().with_columns(pl.Series("prices", ["5|6", "8|9", ""]))
    with pytest.raises(DataError, match=r"1 rows where 'prices' is not as long as 'shown' \(one has 2 values for 3"):
        load_dataset(small(CHANGE, requests=frame))


def test_text_without_a_separator_is_told(small: Make) -> None:
    change = {**CHANGE, "dataset": {**CHANGE["dataset"]}}
    change["dataset"]["requests"] = {k: v for k, v in CHANGE["dataset"]["requests"].items() if k != "separator"}
    with pytest.raises(DataError, match="give the separator"):
        load_dataset(small(change, requests=requests()))


def test_a_label_list_is_read_beside_the_candidates(small: Make) -> None:
    change = {**CHANGE, "tasks": {"click": {"column": "labels", "ids": None}, "like": None}}
    frame = requests().with_columns(pl.Series("labels", ["0|1|0", "0|0", ""]))
    main = load_dataset(small(change, requests=frame)).main
    assert isinstance(main, Shown) and main.label[:, 0].tolist() == [0, 0, 0, 1, 0]
