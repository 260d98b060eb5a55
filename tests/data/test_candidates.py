"""Sampled negatives and the candidates of the whole catalogue."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.data.candidates import (
    CatalogueCandidates,
    OwnCandidates,
    SampledCandidates,
    SeenItems,
    WithUnlabelled,
    training_candidates,
)
from depthrank.data.examples import Examples, concatenate, train_item_counts
from depthrank.data.negatives import NegativeSampler
from depthrank.errors import SpecError
from depthrank.schema.dataset import Negatives
from depthrank.schema.settings import TrainingSettings

NUM_ITEMS = 12


def positives(seed: int = 0, num: int = 60, num_users: int = 5) -> Examples:
    """Positive events; the last ten are test."""
    rng = np.random.default_rng(seed)
    item_row = np.minimum(rng.zipf(1.5, num), NUM_ITEMS - 3).astype(np.int64)
    return Examples(
        user=[f"u{u}" for u in rng.integers(0, num_users, num)],
        user_row=np.zeros(num, dtype=np.int64),
        time_ms=np.arange(num, dtype=np.int64),
        context={},
        offsets=np.arange(num + 1, dtype=np.int64),
        item_row=item_row,
        candidate={},
        label=np.ones((num, 1), dtype=np.float32),
        position=np.full(num, -1, dtype=np.int32),
        split=np.where(np.arange(num) < num - 10, 0, 2).astype(np.int8),
        sampled=True,
    )


def train_seen(examples: Examples, user: str) -> set[int]:
    return {int(examples.item_row[r]) for r in examples.of_split("train") if examples.user[r] == user}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.sampled_from(["uniform", "popularity"]), st.booleans())
def test_negatives_are_never_unknown_positive_or_seen(seed: int, sampler: str, exclude_seen: bool) -> None:
    examples = positives(seed)
    chosen = Negatives(per_positive=20, sampler=sampler, exclude_seen=exclude_seen)  # type: ignore[arg-type]
    source = SampledCandidates(examples, NegativeSampler(chosen, examples, NUM_ITEMS), 20)
    requests = np.arange(len(examples))
    drawn = source.of(requests, np.random.default_rng(seed))
    negative = drawn.is_sampled
    assert (drawn.item_row[negative] > 0).all()
    assert (drawn.item_row != examples.item_row[drawn.request_of_candidate])[negative].all()
    if exclude_seen:
        for r, item in zip(drawn.request_of_candidate[negative], drawn.item_row[negative]):
            assert int(item) not in train_seen(examples, examples.user[r])
    assert (drawn.label[negative] == 0).all() and (drawn.label[~negative] == 1).all()
    assert (drawn.log_q[~negative] == 0).all() and np.isfinite(drawn.log_q).all()
    assert (np.diff(drawn.request_of_candidate) >= 0).all()
    assert (~negative[np.searchsorted(drawn.request_of_candidate, np.unique(drawn.request_of_candidate))]).all()


def test_items_are_drawn_as_often_as_log_q_says() -> None:
    examples = positives()
    sampler = NegativeSampler(Negatives(power=0.5), examples, NUM_ITEMS)
    user = sampler.codes_of(["u0"] * 2_000)
    drawn = sampler.draw(user, np.zeros(2_000, dtype=np.int64), np.random.default_rng(0)).item_row
    for item in np.unique(drawn):
        expected = np.exp(sampler.log_q(user[:1], np.array([item]))[0])
        assert (drawn == item).mean() == pytest.approx(expected, abs=0.01)


def test_test_positives_do_not_shape_the_draws() -> None:
    examples = positives()
    changed = positives()
    test = examples.of_split("test")
    changed.item_row[test] = 1 + (examples.item_row[test] + 3) % (NUM_ITEMS - 1)
    np.testing.assert_array_equal(train_item_counts(examples, NUM_ITEMS), train_item_counts(changed, NUM_ITEMS))
    requests = examples.of_split("train")
    draws = [
        SampledCandidates(e, NegativeSampler(Negatives(), e, NUM_ITEMS), 5).of(requests, np.random.default_rng(1))
        for e in (examples, changed)
    ]
    np.testing.assert_array_equal(draws[0].item_row, draws[1].item_row)
    np.testing.assert_array_equal(draws[0].log_q, draws[1].log_q)


def test_a_user_who_saw_everything_gets_no_negatives() -> None:
    examples = positives(num_users=1)
    source = SampledCandidates(examples, NegativeSampler(Negatives(), examples, NUM_ITEMS), 7)
    drawn = source.of(np.array([0, 1]), np.random.default_rng(0))
    assert not drawn.is_sampled.any() and len(drawn.item_row) == 2


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_whole_catalogue_keeps_the_positive_and_leaves_out_what_was_seen_before(exclude_seen: bool) -> None:
    examples = positives()
    source = CatalogueCandidates(examples, NUM_ITEMS, SeenItems(examples) if exclude_seen else None)
    requests = examples.of_split("test")
    got = source.of(requests, np.random.default_rng(0))
    for i, r in enumerate(requests.tolist()):
        before = {int(examples.item_row[p]) for p in range(r) if examples.user[p] == examples.user[r]}
        own = int(examples.item_row[r])
        expected = set(range(1, NUM_ITEMS)) - ((before - {own}) if exclude_seen else set())
        mine = got.request_of_candidate == i
        assert set(got.item_row[mine].tolist()) == expected
        assert got.item_row[mine][got.label[mine, 0] == 1].tolist() == [own]
    assert len(got.item_row) <= source.counts(requests).sum()


def test_own_candidates_are_those_of_the_examples_in_any_order() -> None:
    examples = positives()
    got = OwnCandidates(examples).of(np.array([3, 1]), np.random.default_rng(0))
    assert got.item_row.tolist() == examples.item_row[[3, 1]].tolist()
    assert got.request_of_candidate.tolist() == [0, 1]


def test_joined_examples_keep_every_row_in_time_order() -> None:
    first, second = positives(0), positives(1)
    joined = concatenate([first, second])
    assert len(joined) == 120 and (np.diff(joined.time_ms) >= 0).all()
    assert sorted(joined.item_row.tolist()) == sorted([*first.item_row.tolist(), *second.item_row.tolist()])


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0), st.integers(1, 20))
def test_unlabelled_items_come_after_what_was_shown_and_change_nothing_of_it(seed, share, number):
    examples, requests = replace(positives(), sampled=False), np.array([3, 7, 1, 9])
    own = OwnCandidates(examples).of(requests, np.random.default_rng(0))
    source = WithUnlabelled(OwnCandidates(examples), NUM_ITEMS, number, share)
    got, again = (source.of(requests, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(got.item_row, again.item_row)
    unlabelled = np.isnan(got.label).all(axis=1)
    for name in ("request_of_candidate", "item_row", "label", "position"):
        assert np.array_equal(getattr(got, name)[~unlabelled], getattr(own, name))
    assert (np.diff(got.request_of_candidate) >= 0).all() and not got.is_sampled.any()
    per_request = np.bincount(got.request_of_candidate[unlabelled], minlength=4)
    assert set(per_request) <= {0, min(number, NUM_ITEMS - 1)} and (share < 1 or per_request.all())
    for request in range(4):
        drawn = got.item_row[unlabelled & (got.request_of_candidate == request)]
        assert len(set(drawn)) == len(drawn) and (drawn > 0).all() and (drawn < NUM_ITEMS).all()


def test_where_candidates_are_more_than_items_or_negatives_are_drawn_unlabelled_ones_are_refused():
    spec: Any = SimpleNamespace(training=TrainingSettings(unlabelled=5), dataset=SimpleNamespace(events=None))
    with pytest.raises(SpecError, match=r"training\.unlabelled: an events file has negatives drawn"):
        training_candidates(spec, positives(), NUM_ITEMS)
    priced = replace(positives(), sampled=False, candidate={"price": np.zeros(60)})
    with pytest.raises(SpecError, match=r"columns of their own \(price\)"):
        training_candidates(spec, priced, NUM_ITEMS)
    shown = replace(positives(), sampled=False)
    assert isinstance(training_candidates(spec, shown, NUM_ITEMS, learns=True), WithUnlabelled)
    assert isinstance(training_candidates(spec, shown, NUM_ITEMS), OwnCandidates), "validation is of what was shown"
