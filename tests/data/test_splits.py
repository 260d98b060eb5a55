"""Splits by time: what each period holds, and that nothing leaks between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_dataset import T0, Make

from depthrank.data import load_dataset, load_examples
from depthrank.data.shown import Shown
from depthrank.data.split_times import boundaries_ms, leave_last_out, period
from depthrank.errors import DataError
from depthrank.schema.settings import SplitSettings


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=80),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
)
def test_periods_are_in_order_and_equal_times_stay_together(times: list[int], validation: float, test: float) -> None:
    time_ms = np.array(times, dtype=np.int64)
    split = period(time_ms, boundaries_ms(SplitSettings(validation=validation, test=test), time_ms))
    for earlier in (0, 1):
        if (split == earlier).any() and (split > earlier).any():
            assert time_ms[split == earlier].max() < time_ms[split > earlier].min()


def test_fractions_count_labelled_rows() -> None:
    time_ms = np.arange(1_000, dtype=np.int64)
    split = period(time_ms, boundaries_ms(SplitSettings(validation=0.1, test=0.2), time_ms))
    assert np.bincount(split).tolist() == [700, 100, 200]
    assert np.bincount(period(time_ms, boundaries_ms(SplitSettings(validation=0, test=0), time_ms))).tolist() == [1000]


def test_named_times_cut_exactly_with_and_without_a_zone() -> None:
    chosen = SplitSettings(validation_from="1970-01-01T00:00:10", test_from="1970-01-01T01:00:20+01:00")
    time_ms = np.array([9_999, 10_000, 19_999, 20_000])
    assert period(time_ms, boundaries_ms(chosen, time_ms)).tolist() == [0, 1, 1, 2]


def test_a_validation_fraction_comes_before_a_named_test_period() -> None:
    time_ms = np.arange(100, dtype=np.int64) * 1_000
    chosen = SplitSettings(validation=0.1, test_from="1970-01-01T00:00:50")
    assert np.bincount(period(time_ms, boundaries_ms(chosen, time_ms))).tolist() == [45, 5, 50]


@pytest.mark.parametrize("text", ["tomorrow", "2026-13-01"])
def test_a_wrong_date_is_told(text: str) -> None:
    with pytest.raises(DataError, match=r"\$\.split\.test_from"):
        boundaries_ms(SplitSettings(test_from=text), np.arange(3))


def test_test_before_validation_is_told() -> None:
    with pytest.raises(DataError, match="validation before test"):
        boundaries_ms(SplitSettings(validation_from="2026-02-01", test_from="2026-01-01"), np.arange(3))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=40))
def test_leave_last_out_takes_the_newest_two_of_each_user(rows: list[tuple[int, int]]) -> None:
    user, time_ms = (np.array(c, dtype=np.int64) for c in zip(*rows, strict=True))
    split = leave_last_out(user, time_ms)
    for u in set(user.tolist()):
        mine = split[user == u]
        expected = (1, 1) if len(mine) >= 3 else (0, 0)
        assert ((mine == 1).sum(), (mine == 2).sum()) == expected
        if len(mine) >= 3:
            newest = time_ms[user == u]
            assert newest[mine == 2][0] >= newest[mine == 1][0] >= newest[mine == 0].max()


def test_no_training_impression_is_younger_than_the_boundary(small: Make) -> None:
    spec = small()
    raw = load_dataset(spec)
    assert isinstance(raw.main, Shown)
    examples = load_examples(spec, raw)
    validation_from, test_from = boundaries_ms(spec.split, raw.main.shown_ms)
    for name, low, high in (("train", 0, validation_from), ("validation", validation_from, test_from)):
        shown_ms = raw.main.shown_ms[examples.candidates_of(examples.of_split(name))]
        assert shown_ms.min() >= low and shown_ms.max() < high
    assert raw.main.shown_ms[examples.candidates_of(examples.of_split("test"))].min() >= test_from


def test_an_empty_split_is_told(small: Make) -> None:
    spec = small({"split": {"test_from": "2040-01-01"}})
    with pytest.raises(DataError, match="nothing for test"):
        load_examples(spec, load_dataset(spec))


def test_without_validation_and_test_all_is_train(small: Make) -> None:
    spec = small({"split": {"validation": 0.0, "test": 0.0}})
    examples = load_examples(spec, load_dataset(spec))
    assert (examples.split == 0).all() and examples.time_ms[0] > T0
