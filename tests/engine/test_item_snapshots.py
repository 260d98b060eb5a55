"""Snapshots of the item store: a request sees each item before or after an upsert, however late it reads."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from encoded_users import NUM_ITEMS, Items, random_ranker
from hypothesis import given
from hypothesis import strategies as st

MODEL = random_ranker()
ROWS = np.array([3, 0, 5, 3, NUM_ITEMS, NUM_ITEMS + 7])


@given(st.lists(st.tuples(st.integers(1, NUM_ITEMS), st.integers(21, 999)), max_size=6), st.integers(0, 5))
def test_a_snapshot_reads_the_same_before_and_after_any_upserts(upserts, taken_after):
    items = Items(MODEL)
    for upsert in upserts[:taken_after]:
        items.upsert(*upsert)
    snapshot = items.store.snapshot()
    before = [part.clone() for part in snapshot.side(ROWS).parts()]
    for upsert in upserts[taken_after:]:
        items.upsert(*upsert)
    for one, other in zip(before, snapshot.side(ROWS).parts(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(snapshot.vectors(ROWS), before[1]) and torch.equal(snapshot.for_router(ROWS).bias_UK, before[2])
    assert torch.equal(snapshot.for_levels(ROWS).tokens_UTD, before[0])


def test_a_new_snapshot_reads_the_upserted_item():
    """Positive control."""
    items = Items(MODEL)
    old = items.store.snapshot()
    items.upsert(3, 700)
    assert not torch.equal(old.vectors(ROWS)[0], items.store.snapshot().vectors(ROWS)[0])
    assert torch.equal(old.vectors(ROWS)[2], items.store.snapshot().vectors(ROWS)[2])


def test_what_was_overwritten_is_let_go_when_no_older_snapshot_lives():
    items = Items(MODEL)
    snapshot = items.store.snapshot()
    for becomes in (700, 701, 702):
        items.upsert(3, becomes)
    assert len(items.store._overwritten) == 3
    del snapshot
    gc.collect()
    items.upsert(4, 703)
    assert items.store._overwritten == []


@pytest.mark.parametrize("version", [0, 1, 2])
def test_rows_differ_between_versions_where_they_were_encoded_in_between(version):
    items = Items(MODEL)
    items.upsert(3, 700)
    items.upsert(5, 701)
    snapshot = items.store.snapshot()
    assert snapshot.differs(np.array([3, 4, 5]), version).tolist() == [version < 1, False, version < 2]


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_an_item_encoded_alone_is_the_one_encoded_among_all(rows):
    store = Items(MODEL).store
    whole = store.encode(np.arange(NUM_ITEMS))
    for first in range(NUM_ITEMS - rows):
        alone = store.encode(np.arange(first, first + rows))
        for one, among in zip(alone.parts(), whole.parts(), strict=True):
            assert torch.equal(one, among[first : first + rows])
