"""Reading datasets: what comes out of good files, and one error for everything wrong with bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from small_dataset import MINUTE, T0, Make, impressions, items, users

from depthrank.data import load_dataset
from depthrank.data.shown import Shown
from depthrank.errors import DataError
from depthrank.schema import Spec


def problems(spec: Spec) -> dict[str, str]:
    """Path -> message of every problem in the one error."""
    with pytest.raises(DataError) as caught:
        load_dataset(spec)
    return {p.path: str(p) for p in caught.value.problems}


def shown(spec: Spec) -> Shown:
    main = load_dataset(spec).main
    assert isinstance(main, Shown)
    return main


def test_impressions_become_requests_in_time_order(small: Make) -> None:
    main = shown(small())
    assert main.user[:4] == ["u1", "u2", "u3", "u1"]
    assert (np.diff(main.time_ms) >= 0).all()
    assert main.item[:3].to_list() == ["11", "12", "13"]  # ids are text, whatever the file holds
    assert main.label.shape == (72, 2) and main.position[:3].tolist() == [0, 1, 2]
    assert main.context["device"][0] == "web"
    assert np.isnan(main.candidate["price"][0]) and main.candidate["price"][1] == 1.5


def test_all_mistakes_come_in_one_error_with_the_nearest_names(small: Make) -> None:
    found = problems(
        small(
            {
                "dataset": {"items": {"id": "itemid"}, "impressions": {"context": ["devise"], "position": "place"}},
                "features": {"genre": {"source": "item.gendre"}, "device": {"source": "context.devise"}},
                "tasks": {"like": {"column": "is_liked"}},
            },
            users=users().with_columns(pl.lit("old").alias("age")),
        )
    )
    assert "did you mean 'item_id'?" in found["$.dataset.items.id"]
    assert "did you mean 'genre'?" in found["$.features.genre.source"]
    assert "did you mean 'device'?" in found["$.dataset.impressions.context"]
    assert "did you mean 'is_like'?" in found["$.tasks.like.column"]
    assert "found column 'age' of users.parquet as text, expected numbers" in found["$.features.age.source"]
    assert len(found) == 5


def test_a_missing_file_names_its_nearest_sibling(small: Make) -> None:
    found = problems(small({"dataset": {"items": {"path": "item.parquet"}}}))
    assert "did you mean 'items.parquet'?" in found["$.dataset.items.path"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("bad.parquet", b"not parquet", "cannot be read"),
        ("bad.csv", b"", "cannot be read"),
        ("head.csv", b"item_id,genre\n", "without rows"),
        ("items.xlsx", b"x", "a file ending in"),
    ],
)
def test_unreadable_empty_and_unknown_files_are_told(
    small: Make, tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    spec = small({"dataset": {"items": {"path": name}}})
    (tmp_path / name).write_bytes(content)
    assert expected in problems(spec)["$.dataset.items.path"]


def test_a_truncated_parquet_file_is_told(small: Make, tmp_path: Path) -> None:
    spec = small()
    whole = (tmp_path / "impressions.parquet").read_bytes()
    (tmp_path / "impressions.parquet").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in problems(spec)["$.dataset.impressions.path"]


@pytest.mark.parametrize(("factor", "look"), [(1e-3, "seconds"), (1e3, "microseconds"), (1e6, "nanoseconds")])
def test_times_in_another_unit_are_told_with_the_fix(small: Make, factor: float, look: str) -> None:
    frame = impressions().with_columns((pl.col("time_ms") * factor).cast(pl.Int64))
    found = problems(small(impressions=frame))["$.dataset.impressions.time.unit"]
    assert f"look like {look}, not milliseconds" in found
    assert f"unit: {look[0] if look == 'seconds' else {'microseconds': 'us', 'nanoseconds': 'ns'}[look]}" in found


def test_ms_declared_as_s_are_told(small: Make) -> None:
    found = problems(small({"dataset": {"impressions": {"time": {"unit": "s"}}}}))
    assert "look like milliseconds, not seconds" in found["$.dataset.impressions.time.unit"]


def test_date_times_need_unit_iso_and_are_read_with_it(small: Make) -> None:
    frame = impressions().with_columns(pl.from_epoch("time_ms", time_unit="ms"))
    assert "unit: iso" in problems(small(impressions=frame))["$.dataset.impressions.time.unit"]
    iso = {"dataset": {"impressions": {"time": {"unit": "iso"}}}}
    assert shown(small(iso, impressions=frame)).time_ms[0] == T0 + 7 * MINUTE
    text = frame.with_columns(pl.col("time_ms").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert shown(small(iso, impressions=text)).time_ms[0] // 1000 == (T0 + 7 * MINUTE) // 1000


def test_a_text_that_is_no_time_and_a_missing_time_are_told(small: Make) -> None:
    frame = impressions().with_columns(pl.lit("yesterday").alias("time_ms"))
    iso = {"dataset": {"impressions": {"time": {"unit": "iso"}}}}
    assert "'yesterday'" in problems(small(iso, impressions=frame))["$.dataset.impressions.time"]
    holes = impressions().with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise("time_ms").alias("time_ms")
    )
    assert "1 of 72 values" in problems(small(impressions=holes))["$.dataset.impressions.time"]


def test_one_class_only_is_told(small: Make) -> None:
    found = problems(small(impressions=impressions().with_columns(is_like=False, is_click=1)))
    assert "0 positives among 72 labels" in found["$.tasks.like.column"]
    assert "72 positives among 72 labels" in found["$.tasks.click.column"]


def test_labels_beyond_0_and_1_need_a_limit(small: Make) -> None:
    frame = impressions().with_columns(pl.col("is_click") * 5)
    assert "give at_least" in problems(small(impressions=frame))["$.tasks.click.column"]
    limited = shown(small({"tasks": {"click": {"at_least": 4}}}, impressions=frame))
    assert limited.label[:, 0].sum() == impressions()["is_click"].sum()


def test_missing_labels_are_no_labels(small: Make) -> None:
    frame = impressions().with_columns(pl.when(pl.col("place") == 2).then(None).otherwise("is_click").alias("is_click"))
    main = shown(small(impressions=frame))
    assert np.isnan(main.label[main.position == 2, 0]).all() and not np.isnan(main.label[:, 1]).any()


def test_duplicated_and_missing_ids_are_told(small: Make) -> None:
    twice = pl.concat([items(), items().head(2)])
    assert "2 ids of items.parquet on more than one row" in problems(small(items=twice))["$.dataset.items.id"]
    holes = impressions().with_columns(
        pl.when(pl.int_range(pl.len()) < 5).then(None).otherwise("item_id").alias("item_id")
    )
    assert "5 of 72 rows" in problems(small(impressions=holes))["$.dataset.impressions.item"]


def test_items_and_users_only_the_logs_know_join_the_catalogue(small: Make) -> None:
    raw = load_dataset(small(items=items().head(3)))
    assert raw.items.size == 1 + 4 and raw.items.row_of(["13"])[0] == 4
    assert raw.users is not None and raw.users.row_of(["u3"])[0] == 3
    assert any("1 items are in the logs" in note for note in raw.notes)


def test_csv_ids_keep_their_zeros(small: Make, tmp_path: Path) -> None:
    padded = pl.col("item_id").cast(pl.String).str.zfill(4)
    items().with_columns(padded).write_csv(tmp_path / "items.csv")
    impressions().with_columns(padded).write_csv(tmp_path / "impressions.tsv", separator="\t")
    spec = small({"dataset": {"items": {"path": "items.csv"}, "impressions": {"path": "impressions.tsv"}}})
    raw = load_dataset(spec)
    assert raw.items.row_of(["0010"])[0] == 1
    assert isinstance(raw.main, Shown) and raw.main.item[0] == "0011"


def test_requests_by_id_column_and_a_request_of_two_users_is_told(small: Make) -> None:
    by_id: dict[str, Any] = {"dataset": {"impressions": {"request": {"gap": None, "column": "visit"}}}}
    frame = impressions().with_columns((pl.int_range(pl.len()) // 3).alias("visit"))
    assert np.diff(shown(small(by_id, impressions=frame)).offsets).tolist() == [3] * 24
    found = problems(small(by_id, impressions=frame.with_columns((pl.col("visit") * 0).alias("visit"))))
    assert "more than one value of 'user_id'" in found["$.dataset.impressions.user"]
    assert "belongs under candidate" in found["$.dataset.impressions.context"]


def test_a_gap_a_context_change_and_the_limit_each_start_another_request(small: Make) -> None:
    whole: dict[str, Any] = {"split": {"validation": 0.0, "test": 0.0}}
    assert len(shown(small(whole)).user) == 24
    gap = {**whole, "dataset": {"impressions": {"request": {"gap": "30s"}}}}
    assert len(shown(small(gap)).user) == 72
    few = {**whole, "dataset": {"impressions": {"request": {"max_candidates": 2}}}}
    assert sorted(set(np.diff(shown(small(few)).offsets).tolist())) == [1, 2]
    mixed = impressions().with_columns(
        pl.when(pl.col("place") == 1).then(pl.lit("tv")).otherwise("device").alias("device")
    )
    assert len(shown(small(whole, impressions=mixed)).user) == 72


def test_requests_by_a_gap_need_no_context_column(small: Make) -> None:
    whole: dict[str, Any] = {"split": {"validation": 0.0, "test": 0.0}}
    plain = {**whole, "dataset": {"impressions": {"context": []}}, "features": {"device": None}}
    assert len(shown(small(plain)).user) == 24


def test_the_values_that_keep_numbers_from_being_read_are_told(small: Make) -> None:
    numeric: dict[str, Any] = {"features": {"year": {"kind": "numeric", "source": "item.year"}}}
    years = items().with_columns(pl.Series("year", ["1995", "V", None, "2001"]))
    assert "only 'V' are no numbers" in problems(small(numeric, items=years))["$.features.year.source"]
    words = items().with_columns(pl.Series("year", ["a", "b", "c", "d"]))
    assert "only" not in problems(small(numeric, items=words))["$.features.year.source"]


def test_a_list_where_one_value_belongs_is_told(small: Make) -> None:
    lists = items().with_columns(pl.concat_list("genre"))
    assert "multi_hot" in problems(small(items=lists))["$.features.genre.source"]


@pytest.mark.parametrize(
    ("stamps", "look"),
    [((14102100, 14102123), "YYMMDDHH"), ((20141021, 20141101), "YYYYMMDD"), ((2014102100, 2014102123), "YYYYMMDDHH")],
)
def test_dates_written_as_digits_are_told_instead_of_read_as_a_clock(
    small: Make, stamps: tuple[int, int], look: str
) -> None:
    frame = impressions()
    column = pl.Series("time_ms", [stamps[row % 2] for row in range(len(frame))])
    spec = small({"dataset": {"impressions": {"time": {"unit": "s"}}}}, impressions=frame.with_columns(column))
    assert look in problems(spec)["$.dataset.impressions.time.unit"]


def test_a_small_clock_of_the_datas_own_is_no_date(small: Make) -> None:
    own = impressions().with_columns(time_ms=pl.int_range(pl.len()) * 7_200 + 10_000_000)
    assert shown(small({"dataset": {"impressions": {"time": {"unit": "s"}}}}, impressions=own)).time_ms[0] == 10**10


def test_anonymous_rows_are_told_what_to_put_in_place_of_a_user(small: Make) -> None:
    anonymous = impressions().with_columns(user_id=pl.lit(None, dtype=pl.String))
    assert "an id of its own" in problems(small(impressions=anonymous))["$.dataset.impressions.user"]


def test_a_time_feature_in_another_unit_or_without_times_is_told(small: Make) -> None:
    added = {"features": {"added": {"kind": "time", "source": "item.added", "parts": ["age"], "unit": "ms"}}}
    in_seconds = items().with_columns(added=pl.lit(T0 // 1000, dtype=pl.Int64))
    assert "unit: s" in problems(small(added, items=in_seconds))["$.features.added.unit"]
    load_dataset(small(added, items=in_seconds.with_columns(pl.col("added") * 1000)))  # positive control
    added["features"]["added"]["unit"] = "iso"
    by_month = items().with_columns(added=pl.lit("01/31/2026"))
    assert "'01/31/2026'" in problems(small(added, items=by_month))["$.features.added.source"]


def test_columns_that_nothing_can_read_are_told_with_their_type(small: Make) -> None:
    crew = {"features": {"crew": {"kind": "multi_hot", "source": "item.crew"}}}
    structs = items().with_columns(crew=pl.lit([{"name": "a"}], dtype=pl.List(pl.Struct({"name": pl.String}))))
    assert "list(struct" in problems(small(crew, items=structs))["$.features.crew.source"]
    names = items().with_columns(crew=pl.lit(["a"], dtype=pl.List(pl.String)).cast(pl.List(pl.Categorical)))
    assert "crew" in load_dataset(small(crew, items=names)).items.column_names


def test_categories_of_a_csv_keep_their_zeros(small: Make, tmp_path: Path) -> None:
    spec = small({"dataset": {"items": {"path": "items.csv"}}})
    for written, read in (("01", "01"), ("1.0", 1.0)):
        (tmp_path / "items.csv").write_text(f"item_id,genre\n10,{written}\n11,7\n12,\n13,7\n")
        genre = load_dataset(spec).items.column("genre")
        assert isinstance(read, str) == hasattr(genre, "dictionary")
