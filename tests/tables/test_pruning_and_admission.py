"""Rows leave without changing what stays; ids move in and out without changing what the model says."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from depthrank.tables import FusedTable, TableSlot
from depthrank.tables.admission import Admission, admitting
from depthrank.tables.pruning import RowImportance, pruned

SLOTS = [TableSlot("a", 12, 0, 1), TableSlot("b", 20, 1, 3, 8, (0, 6)), TableSlot("c", 5, 3, 4)]


def table_of(slots: list[TableSlot] = SLOTS) -> FusedTable:
    torch.manual_seed(0)
    table = FusedTable(slots, 4)
    with torch.no_grad():
        table.weight[table.row_map.padding_rows()] = 0.0
    return table


def all_ids(n: int = 200) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.stack([torch.randint(0, high, (n,), generator=g) for high in (12, 20, 20, 5)], dim=1)


@torch.no_grad()
@given(st.integers(0, 1_000), st.sets(st.sampled_from("abc"), max_size=2))
def test_pruned_rows_read_as_zeros_and_all_others_as_before(seed, without):
    table = table_of()
    kept = torch.rand(table.weight.shape[0], generator=torch.Generator().manual_seed(seed)) < 0.5
    smaller = pruned(table, kept, without)
    again = pruned(smaller, torch.ones(smaller.weight.shape[0], dtype=torch.bool))
    expected = table_of()
    kept[[0, 1, 12, 13, 20, 21]] = True  # padding and unknown rows stay
    kept[25:] = True  # and the pool
    expected.weight[~kept] = 0.0
    ids = all_ids()
    vectors = expected(ids)
    vectors[:, [i for i, name in enumerate("abc") if name in without]] = 0.0
    torch.testing.assert_close(smaller(ids), vectors)
    torch.testing.assert_close(again(ids), vectors)
    assert smaller.weight.shape[0] <= table.weight.shape[0]


def test_importance_tells_the_row_that_the_loss_needs():
    table = table_of()
    importance = RowImportance(table)
    for _ in range(3):
        table.zero_grad()
        (table(all_ids())[:, 2] ** 2).sum().backward()
        importance.add()
    by_feature = importance.of_features()
    assert by_feature["c"] > 0 and by_feature["a"] == by_feature["b"] == 0
    assert importance.total_V[20] == 0 and importance.total_V[21:25].min() > 0, "padding has no say"


def moving() -> tuple[FusedTable, Admission, TableSlot]:
    slots = admitting((TableSlot("a", 30, 0, 1, 6, (0, 8)),))
    table = table_of(list(slots))
    return table, Admission(table, admit=3, quiet_steps=5), slots[0]


def ids(*values: int) -> torch.Tensor:
    return torch.tensor(values).unsqueeze(1)


@torch.no_grad()
def test_an_id_enters_once_it_was_seen_often_enough_and_says_what_it_said():
    table, admission, slot = moving()
    before = table(ids(20, 21, 1))
    admission.count(ids(20, 20, 21))
    assert admission.move().entered == 0, "not yet"
    admission.count(ids(20))
    moves = admission.move()
    assert moves.entered == 1 and len(moves.fresh_rows) == 1
    assert table.row_map.directory(slot)[20] == 2 and table.row_map.directory(slot)[21] == -1
    torch.testing.assert_close(table(ids(20, 21, 1)), before)
    table.weight[2] += 1.0
    assert not torch.equal(table(ids(20)), before[:1]), "now it has a row to itself"
    torch.testing.assert_close(table(ids(21)), before[1:2])


@torch.no_grad()
def test_a_quiet_id_leaves_and_the_one_that_waited_takes_its_row():
    table, admission, slot = moving()
    for step in range(3):
        admission.step = step
        admission.count(ids(10, 11, 12, 13))
    admission.count(ids(14, 14, 14))
    moves = admission.move()
    assert (moves.entered, moves.waiting) == (4, 1), "four rows are free, the most seen go first"
    for step in range(3, 9):
        admission.step = step
        admission.count(ids(10, 11, 12, 14))
    moves = admission.move()
    directory = table.row_map.directory(slot)
    assert (moves.left, moves.entered) == (1, 1) and directory[13] == -1 and directory[14] >= 2
    assert sorted(directory[directory >= 0].tolist()) == list(range(6)), "no row has two owners"


@given(st.lists(st.lists(st.integers(0, 29), max_size=12), max_size=12))
def test_whatever_is_seen_no_row_ever_has_two_owners(batches):
    table, admission, slot = moving()
    for step, batch in enumerate(batches):
        admission.step = step
        admission.count(torch.tensor(batch, dtype=torch.int64).view(-1, 1))
        admission.move()
        directory = table.row_map.directory(slot)
        owned = directory[directory >= 0]
        assert len(owned) == len(owned.unique()) and directory[:2].tolist() == [0, 1]
        assert table.row_map.directory_problem() is None
