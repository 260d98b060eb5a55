"""Events, more_events and histories files."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from small_dataset import MINUTE, T0, Make

from depthrank.data import load_dataset, load_examples
from depthrank.data.event_rows import EventRows
from depthrank.data.times import MS_PER_ROW, ORDER_START_MS
from depthrank.errors import DataError

CHANGE: dict[str, Any] = {
    "dataset": {
        "impressions": None,
        "events": {
            "path": "events.parquet",
            "user": "user",
            "item": "item",
            "time": {"column": "at", "unit": "ms"},
            "action": "click",
            "context": ["device"],
        },
    },
    "features": {"place": None, "price": None},
    "tasks": {"click": {"column": None}, "like": {"column": "stars", "at_least": 4}},
    "split": {"by": "leave_last_out"},
}


def events() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user": ["u1"] * 4 + ["u2"] * 3 + ["u3"] * 2,
            "item": [10, 11, 12, 13, 10, 12, 13, 11, 10],
            "at": [T0 + i * MINUTE for i in (0, 1, 2, 3, 1, 5, 6, 2, 4)],
            "stars": [5, 3, 4, 2, 5, 1, 5, 3, None],
            "device": ["ios"] * 9,
        }
    )


def test_an_events_file_gives_positives_with_labels_of_every_task(small: Make) -> None:
    spec = small(CHANGE, events=events())
    examples = load_examples(spec, load_dataset(spec))
    assert len(examples) == 9 and examples.sampled
    assert (np.diff(examples.time_ms) >= 0).all()
    assert examples.label[:, 0].tolist() == [1.0] * 9
    liked = {(u, int(r)) for u, r, y in zip(examples.user, examples.item_row, examples.label[:, 1]) if y > 0}
    assert liked == {("u1", 1), ("u1", 3), ("u2", 1), ("u2", 4)}


def test_the_last_event_of_a_user_is_test_and_two_events_are_too_few(small: Make) -> None:
    spec = small(CHANGE, events=events())
    examples = load_examples(spec, load_dataset(spec))
    split = {(u, int(r)): int(s) for u, r, s in zip(examples.user, examples.item_row, examples.split)}
    assert split["u1", 4] == 2 and split["u1", 3] == 1 and split["u1", 2] == 0
    assert split["u2", 4] == 2 and split["u2", 3] == 1
    assert split["u3", 1] == split["u3", 2] == 0


def test_actions_from_a_column_join_into_one_request(small: Make) -> None:
    frame = pl.concat([events().with_columns(act=pl.lit("click")), events().head(2).with_columns(act=pl.lit("like"))])
    change = {**CHANGE, "tasks": {"click": {"column": None}, "like": {"column": None}}}
    change["dataset"] = {**CHANGE["dataset"], "events": {**CHANGE["dataset"]["events"], "action": {"column": "act"}}}
    spec = small(change, events=frame)
    examples = load_examples(spec, load_dataset(spec))
    assert len(examples) == 9 and examples.label[:, 1].sum() == 2


def test_an_action_that_never_occurs_is_told(small: Make) -> None:
    change = {**CHANGE, "tasks": {"click": {"column": None}, "like": {"column": None, "action": "likes"}}}
    with pytest.raises(DataError, match=r"no positive among actions 'click', expected some events with action 'likes'"):
        load_dataset(small(change, events=events()))


def test_time_by_order_is_the_row_number(small: Make) -> None:
    change = {**CHANGE, "dataset": {**CHANGE["dataset"], "events": {**CHANGE["dataset"]["events"], "time": "order"}}}
    main = load_dataset(small(change, events=events())).main
    assert isinstance(main, EventRows)
    assert main.frame["time_ms"].to_list() == [ORDER_START_MS + i * MS_PER_ROW for i in range(9)]


def test_several_items_in_a_row_are_several_events(small: Make) -> None:
    frame = events().with_columns(pl.col("item").cast(pl.String) + "|13")
    change = {**CHANGE, "dataset": {**CHANGE["dataset"], "events": {**CHANGE["dataset"]["events"], "separator": "|"}}}
    main = load_dataset(small(change, events=frame)).main
    assert isinstance(main, EventRows) and len(main.frame) == 18
    assert main.frame["item"].head(2).to_list() == ["10", "13"]


HISTORY: dict[str, Any] = {"path": "past.parquet", "user": "user", "items": "seen", "action": "click", "spacing": "1m"}


@pytest.mark.parametrize("dating", ["times", "last", "none"])
def test_histories_are_dated_by_times_by_the_last_time_or_before_the_data(small: Make, dating: str) -> None:
    past = pl.DataFrame({"user": ["u1", "u2"], "seen": [[10, 11, 12], []], "last": [T0 - 5 * MINUTE] * 2}).with_columns(
        at=pl.Series([[T0 - 9 * MINUTE, T0 - 8 * MINUTE, T0 - 7 * MINUTE], []])
    )
    more = {
        "times": {"times": {"column": "at", "unit": "ms"}},
        "last": {"last_time": {"column": "last", "unit": "ms"}},
        "none": {},
    }[dating]
    change = {**CHANGE, "dataset": {**CHANGE["dataset"], "histories": [{**HISTORY, **more}]}}
    rows = load_dataset(small(change, events=events(), past=past)).past[0].frame
    minutes = [(t - T0) // MINUTE for t in rows["time_ms"].to_list()]
    assert minutes == {"times": [-9, -8, -7], "last": [-7, -6, -5], "none": [-3, -2, -1]}[dating]
    assert rows["item"].to_list() == ["10", "11", "12"] and rows["user"].unique().to_list() == ["u1"]


def test_times_of_another_length_than_the_items_are_told(small: Make) -> None:
    past = pl.DataFrame({"user": ["u1"], "seen": [[10, 11]], "at": [[T0]]})
    change = {
        **CHANGE,
        "dataset": {**CHANGE["dataset"], "histories": [{**HISTORY, "times": {"column": "at", "unit": "ms"}}]},
    }
    with pytest.raises(DataError, match="lists as long as those of 'seen'"):
        load_dataset(small(change, events=events(), past=past))


def test_more_events_join_the_past(small: Make) -> None:
    change = {
        **CHANGE,
        "dataset": {
            **CHANGE["dataset"],
            "more_events": [{**CHANGE["dataset"]["events"], "action": "view", "context": []}],
        },
    }
    raw = load_dataset(small(change, events=events()))
    assert raw.past[0].frame["action"].unique().to_list() == ["view"]


def test_several_undated_lists_of_a_user_are_told_because_later_ones_would_leak(small: Make) -> None:
    change = {**CHANGE, "dataset": {**CHANGE["dataset"], "histories": [HISTORY]}}
    first = pl.DataFrame({"user": ["u1", "u1"], "seen": [[10, 11], [10, 11, 12]]})
    same = first.with_columns(seen=pl.lit([10, 11], dtype=pl.List(pl.Int64)))
    with pytest.raises(DataError, match="give last_time"):
        load_dataset(small(change, events=events(), past=first))
    load_dataset(small(change, events=events(), past=same))  # positive control: the list repeated beside each row
