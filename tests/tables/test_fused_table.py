"""One lookup for all features of a side equals a bag a feature."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import embedding_bag

from depthrank.tables import FusedTable, TableSlot, rows_kept

slots = st.lists(st.tuples(st.integers(2, 9), st.integers(1, 4)), min_size=1, max_size=4)


def table_of(sizes: list[tuple[int, int]]) -> FusedTable:
    stops = [sum(columns for _, columns in sizes[: i + 1]) for i in range(len(sizes))]
    made = [TableSlot(f"f{i}", n, stop - c, stop) for i, ((n, c), stop) in enumerate(zip(sizes, stops, strict=True))]
    torch.manual_seed(0)
    return FusedTable(made, 5)


@torch.no_grad()
@given(slots, st.integers(0, 6), st.integers(0, 10_000))
def test_every_feature_is_the_mean_of_its_own_present_rows_from_its_own_part_of_the_table(sizes, n, seed):
    table = table_of(sizes)
    g = torch.Generator().manual_seed(seed)
    ids = torch.cat([torch.randint(0, rows, (n, columns), generator=g) for rows, columns in sizes], dim=1)
    found, first_row = table(ids), 0
    assert found.shape == (n, len(sizes), 5)
    for f, (slot, (rows, _)) in enumerate(zip(table.slots, sizes, strict=True)):
        own = table.weight[first_row : first_row + rows]
        first_row += rows
        if n:
            expected = embedding_bag(ids[:, slot.start : slot.stop], own, mode="mean", padding_idx=0)
            torch.testing.assert_close(found[:, f], expected)


@pytest.mark.parametrize("sizes", [[(5, 1)], [(5, 3), (4, 1)]])
def test_rows_of_padding_get_no_gradient_and_no_say(sizes):
    table = table_of(sizes)
    ids = torch.zeros(2, table.num_ids, dtype=torch.int64)
    out = table(ids)
    assert not out.any()
    out.sum().backward()
    assert not table.weight.grad.any()


def test_integer_ids_of_any_width_look_up_the_same_rows():
    table = table_of([(5, 2), (4, 1)])
    ids = torch.tensor([[1, 4, 3], [0, 2, 0]])
    torch.testing.assert_close(table(ids.to(torch.int32)), table(ids))


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 7))
def test_a_block_of_rows_starts_as_it_does_in_the_whole_table(rows, width, pieces):
    blocks = [range(first, min(first + 13, rows)) for first in range(0, rows, 13)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("depthrank.tables.fused_table.DRAWN_AT_ONCE", pieces)
        drawn = []
        for keep in (range, *(lambda _, block=block: block for block in blocks)):
            torch.manual_seed(3)
            with rows_kept(keep):
                drawn.append((FusedTable([TableSlot("f", rows, 0, 1)], width).weight.detach(), torch.rand(1)))
    (whole, after), parts = drawn[0], drawn[1:]
    assert torch.equal(torch.cat([part for part, _ in parts]), whole)
    assert all(torch.equal(then, after) for _, then in parts), "what is drawn next is the same everywhere"
