"""Ids find their rows: own ones, shared ones by hashing, or none, and never those of another feature."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import ArtifactError, DataError
from depthrank.tables import ROW_FORMATS, FusedTable, PackedRows, RowMap, ServedTable, TableSlot, pack_rows
from depthrank.tables.row_map import ABSENT, HASHED


@st.composite
def planned_slots(draw: st.DrawFn) -> list[TableSlot]:
    """Slots as plans make them: whole, hashed into a common pool, or left out."""
    pool, start, slots = draw(st.integers(2, 9)), 0, []
    for i in range(draw(st.integers(1, 4))):
        num_rows, columns = draw(st.integers(3, 12)), draw(st.integers(1, 3))
        own = draw(st.one_of(st.none(), st.integers(2, num_rows - 1), st.just(1)))
        hashed = (0, pool) if own is not None and own > 1 and draw(st.booleans()) else (0, 0)
        slots.append(TableSlot(f"f{i}", num_rows, start, start + columns, own, hashed))
        start += columns
    return slots


def ids_for(slots: list[TableSlot], n: int, seed: int, beyond: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    columns = [torch.randint(0, s.num_rows + beyond, (n,), generator=g) for s in slots for _ in range(s.stop - s.start)]
    return torch.stack(columns, dim=1)


@given(planned_slots(), st.integers(0, 9), st.integers(0, 1_000))
def test_every_row_read_is_the_features_own_or_its_part_of_the_pool(slots, n, seed):
    row_map = RowMap(slots)
    ids = ids_for(slots, n, seed, beyond=0 if row_map.is_exact else 5)
    rows, first, pool = row_map(ids), 0, row_map.num_own_rows
    assert rows.shape == (n, ids.shape[1], row_map.num_salts)
    for slot in slots:
        mine, given_ids = rows[:, slot.start : slot.stop], ids[:, slot.start : slot.stop]
        is_own = given_ids < slot.rows_owned
        assert (mine[is_own] == (given_ids[is_own] + first).unsqueeze(-1)).all()
        other = mine[~is_own]
        if slot.pool[1]:
            assert ((other >= pool + slot.pool[0]) & (other < pool + sum(slot.pool))).all()
        else:
            assert (other == first + min(1, slot.rows_owned - 1)).all(), "unknown, or padding where all is left out"
        first += slot.rows_owned


@torch.no_grad()
@given(planned_slots(), st.integers(0, 9), st.integers(0, 1_000), st.sampled_from(ROW_FORMATS))
def test_the_served_table_is_the_trained_one_up_to_the_rounding_of_its_rows(slots, n, seed, form):
    torch.manual_seed(seed)
    table = FusedTable(slots, 6)
    packed = table.packed(form)
    served = ServedTable(slots, 6, PackedRows(packed, form, 6))
    table.weight.copy_(PackedRows(packed, form, 6).rows(torch.arange(packed.shape[0])))
    ids = ids_for(slots, n, seed, beyond=0 if table.row_map.is_exact else 3)
    near = {"atol": 2e-2, "rtol": 2e-2} if form == "bf16" else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(served(ids.to(torch.int32)), table(ids), **near)


def test_an_id_that_the_vocabulary_grew_by_hashes_and_without_a_pool_is_unknown():
    with_pool, without = TableSlot("a", 10, 0, 1, 4, (0, 8)), TableSlot("b", 10, 1, 2)
    rows = RowMap([with_pool, without])(torch.tensor([[25, 25], [10, 10]]))
    assert (rows[:, 0] >= 14).all() and (rows[:, 0] < 22).all()
    first_of_b = 4
    assert (
        RowMap([TableSlot("a", 10, 0, 1, 4), TableSlot("b", 10, 1, 2, 9)])(torch.tensor([[0, 30]]))[0, 1]
        == first_of_b + 1
    ).all()
    assert rows.shape == (2, 2, 2)


def test_one_id_of_two_features_reads_other_rows_of_the_pool_they_share():
    slots = [TableSlot("a", 1_000, 0, 1, 2, (0, 512)), TableSlot("b", 1_000, 1, 2, 2, (0, 512))]
    ids = torch.arange(2, 1_000).unsqueeze(1).expand(-1, 2)
    rows = RowMap(slots)(ids)
    same = (rows[:, 0].sort(1).values == rows[:, 1].sort(1).values).all(1).float().mean()
    assert same < 0.01
    counts = torch.bincount(rows.flatten() - 4, minlength=512)
    assert counts.min() > 0 and counts.max() < 25, "4,000 reads spread over 512 rows"


def test_a_stranger_finds_the_rows_of_a_hashed_id_with_plain_integers():
    """The formula of docs/tables.md."""
    slots = [TableSlot("a", 50, 0, 1, 3, (0, 97)), TableSlot("b", 90, 1, 2, 5, (11, 64))]
    golden, mix, wrap = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 1 << 64

    def signed(x: int) -> int:
        return (x + (wrap >> 1)) % wrap - (wrap >> 1)

    for i, slot in enumerate(slots):
        for given_id in (7, 49, 10**6):
            expected = []
            for s in (0, 1):
                x = signed((given_id + golden * (1 + 2 * i + s)) * mix)
                x = signed((x ^ (x >> 29)) * golden)
                expected.append(8 + slot.pool[0] + ((x >> 16) & 0xFFFFFFFF) % slot.pool[1])
            assert RowMap(slots)(torch.tensor([[given_id, given_id]]))[0, i].tolist() == expected


def test_a_directory_says_who_owns_which_row_and_who_reads_nothing():
    slot = TableSlot("a", 8, 0, 1, 4, (0, 4), has_directory=True)
    table = FusedTable([slot], 4)
    directory = table.row_map.directory(slot)
    directory[:] = torch.tensor([0, 1, 3, HASHED, ABSENT, 2, HASHED, HASHED])
    rows = table.rows_of(torch.arange(8).unsqueeze(1))[:, 0]
    assert rows[[0, 1, 2, 5], 0].tolist() == [0, 1, 3, 2] and (rows[[3, 6, 7]] >= 4).all()
    assert (rows[4] == 0).all(), "padding"
    with torch.no_grad():
        table.weight[0] = 0.0
        assert not table(torch.tensor([[4]])).any() and table(torch.tensor([[2]])).any()
    assert table.row_map.directory_problem() is None
    directory[2] = 4
    assert "names row 4 of 4" in table.row_map.directory_problem()
    directory[2] = -3
    assert "names row -3 of 4" in table.row_map.directory_problem()


def served(rows: int = 9, width: int = 4) -> ServedTable:
    weight = torch.randn(rows, width)
    weight[0] = 0.0
    return ServedTable([TableSlot("a", 9, 0, 1)], 4, PackedRows(pack_rows(weight, "int8"), "int8", width))


@pytest.mark.parametrize("ids", [torch.tensor([[1.0]]), torch.tensor([1]), torch.tensor([[True]])])
def test_ids_of_the_wrong_type_or_shape_are_told(ids):
    assert served()(torch.tensor([[1]])).shape == (1, 1, 4)
    with pytest.raises(DataError, match="expected whole numbers"):
        served()(ids)


def test_a_source_that_does_not_fit_its_slots_is_refused():
    with pytest.raises(ArtifactError, match="8 rows of width 4; its features need 9 of 4"):
        served(rows=8)
    with pytest.raises(ArtifactError, match="9 rows of width 6; its features need 9 of 4"):
        served(width=6)
    with pytest.raises(ArtifactError, match="padding rows are not zeros"):
        ServedTable([TableSlot("a", 9, 0, 1)], 4, PackedRows(torch.ones(9, 4), "fp32", 4))
