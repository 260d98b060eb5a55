"""Logarithms, scales, ranks and hashes: exactness and bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.features.exact_math import log1p, log1p_of_count, log2_bucket
from depthrank.features.numeric_scale import MAX_KNOTS, NumericScale
from depthrank.features.text_hash import word_id, word_ids
from depthrank.features.time_of import iso_to_ms, to_ms
from depthrank.features.within_request import rank_within

floats = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.floats(0, 1e18), min_size=1, max_size=40))
def test_log1p_is_the_logarithm_and_ignores_its_batch(values: list[float]) -> None:
    x = np.array(values)
    found = log1p(x)
    np.testing.assert_allclose(found, np.log1p(x), rtol=1e-11, atol=1e-13)
    for i in range(len(x)):
        assert log1p(x[i : i + 1]).tobytes() == found[i : i + 1].tobytes()
        assert log1p(np.repeat(x, 3)[::3]).tobytes() == found.tobytes()


def test_log2_buckets_are_those_of_whole_seconds() -> None:
    ms = np.array([-5, 0, 999, 1_000, 1_999, 2_000, 4_000, 2**62], np.int64)
    assert log2_bucket(ms).tolist() == [0, 0, 0, 1, 1, 2, 3, 31]


@pytest.mark.parametrize("transform", ["rank", "log", "standard", "none"])
@settings(deadline=None)
@given(training=st.lists(floats, max_size=30), values=st.lists(floats, min_size=1, max_size=20))
def test_scales_are_finite_bounded_and_ignore_the_batch(
    transform: str, training: list[float], values: list[float]
) -> None:
    scale = NumericScale.fit(transform, np.array(training))  # type: ignore[arg-type]
    x = np.array(values)
    missing = np.isnan(x)
    found = scale.apply(np.where(missing, 0.0, x), missing)
    assert np.isfinite(found).all() and np.abs(found).max() <= 1e6
    assert (found[missing] == 0).all()
    for i in range(len(x)):
        assert (
            scale.apply(np.where(missing, 0.0, x)[i : i + 1], missing[i : i + 1]).tobytes()
            == found[i : i + 1].tobytes()
        )


@settings(deadline=None)
@given(training=st.lists(st.floats(-100, 100), min_size=2, max_size=50))
def test_ranks_rise_with_the_value(training: list[float]) -> None:
    scale = NumericScale.fit("rank", np.array(training))
    found = scale.apply(np.sort(training), np.zeros(len(training), np.bool_))
    assert (np.diff(found) >= -1e-12).all()
    assert -1.0 <= found[0] <= found[-1] <= 1.0


def test_ranks_of_large_training_data_are_its_quantiles() -> None:
    training = np.random.default_rng(0).lognormal(0, 2, 50_000)
    scale = NumericScale.fit("rank", training)
    assert len(scale.stats.knots) <= MAX_KNOTS
    asked = np.quantile(training, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(scale.apply(asked, np.zeros(3, np.bool_)), [-0.8, 0.0, 0.8], atol=0.005)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.5, -1.0]), st.booleans()), max_size=25))
def test_ranks_within_requests_equal_those_of_each_request_alone(rows: list[tuple[int, float, bool]]) -> None:
    request = np.array([r for r, _, _ in rows], np.int64)
    values, missing = np.array([v for _, v, _ in rows]), np.array([m for _, _, m in rows], np.bool_)
    rank, difference = rank_within(values, missing, request, 4)
    for r in range(4):
        own = request == r
        alone = rank_within(values[own], missing[own], np.zeros(own.sum(), np.int64), 1)
        assert alone[0].tobytes() == rank[own].tobytes() and alone[1].tobytes() == difference[own].tobytes()
        known = values[own & ~missing]
        if len(known):
            np.testing.assert_allclose(difference[own & ~missing], known - np.median(known))
            expected = [((known < v).sum() * 2 + (known == v).sum() - 1) / max(len(known) - 1, 1) for v in known]
            np.testing.assert_allclose(rank[own & ~missing], np.array(expected) - (len(known) > 1), atol=1e-12)


def test_words_hash_to_the_same_ids_for_ever() -> None:
    assert [word_id(word, 8_192) for word in ("fox", "red", "")] == EXPECTED
    assert word_ids("Red, FOX! red", 8_192, 2) == [EXPECTED[1], EXPECTED[0]]
    assert word_ids("a" * 1_000_000, 8, 3) == word_ids("a" * 8_192, 8, 3)
    assert word_ids("...", 8, 3) == []


EXPECTED = [5907, 1783, 5041]


def test_times_come_in_their_units() -> None:
    assert to_ms(np.array([1.5]), "s").tolist() == [1_500]
    assert to_ms(np.array([1_500_000]), "us").tolist() == [1_500]
    assert to_ms(np.array([np.inf, -np.inf, np.nan]), "s").tolist() == [2**53, -(2**53), 0]
    assert iso_to_ms("1970-01-01T00:00:01.5Z") == 1_500
    assert iso_to_ms("1970-01-01") == 0
    assert iso_to_ms("1970-01-01T01:00+01:00") == 0
    assert iso_to_ms("x" * 1_000_000) is None


def test_logarithms_of_counts_are_the_same_bits_looked_up_or_not() -> None:
    low = np.arange(4_096)
    for count in (low, np.concatenate([low, [4_096, 1 << 40]]), low.astype(np.int32).reshape(64, 64), low[:0]):
        expected = log1p(count.astype(np.float64))
        assert log1p_of_count(count).tobytes() == expected.tobytes()
        assert log1p_of_count(count).shape == count.shape
