"""Hot rows answer what the mapped file says, whatever is kept, and keep what is read all the time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import DataError
from depthrank.tables import ROW_FORMATS, HotRows, RowFile, pack_rows, write_row_file

V, D = 500, 6


@pytest.fixture(scope="module", params=ROW_FORMATS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RowFile:
    path: Path = tmp_path_factory.mktemp("hot") / "t.rows"
    torch.manual_seed(0)
    write_row_file(path, [pack_rows(torch.randn(V, D), request.param)], request.param, D, V)
    return RowFile.open(path)


@given(st.integers(1, 64), st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=60), min_size=1, max_size=6))
def test_rows_and_sums_are_those_of_the_file_whatever_is_kept(file, capacity, batches):
    hot, plain = HotRows(file, capacity), file.source()
    for batch in batches:
        rows = torch.tensor(batch)
        assert torch.equal(hot.rows(rows), plain.rows(rows))
        assert torch.equal(hot.packed_rows(rows.to(torch.int32)), plain.packed_rows(rows))
        offsets = torch.tensor([0, len(batch) // 2])
        torch.testing.assert_close(hot.pooled(rows, offsets), plain.pooled(rows, offsets))
    assert hot.stats.lookups == 3 * sum(map(len, batches)) and 0 <= hot.stats.hit_rate < 1


def test_what_is_read_all_the_time_stays_through_a_long_tail(file):
    hot, often = HotRows(file, 64), torch.tensor([3, 77, 401])
    for start in range(0, 450, 9):
        hot.rows(often)
        hot.rows(torch.arange(start, start + 9))
    hot.rows(often)
    before = hot.stats.hits
    hot.rows(often)
    assert hot.stats.hits - before >= 2, "at most one of three lost its slot to another of them"
    assert hot.resident_bytes == 64 * (9 + file.header.row_bytes)


def test_rows_known_to_be_hot_are_there_before_they_are_asked_for_the_hottest_first(file):
    hot, order = HotRows(file, 64), torch.randperm(V, generator=torch.Generator().manual_seed(2))
    assert 32 < hot.fill(order) <= 64
    assert torch.equal(hot.rows(order), file.source().rows(order))
    again = HotRows(file, 64)
    again.fill(order)
    again.rows(order[:1])
    assert again.stats.hits == 1, "nobody takes the slot of the hottest"
    assert HotRows(file, 64).stats.hits == 0


def test_rows_that_are_not_there_are_told(file):
    with pytest.raises(DataError, match=f"asked of a table of {V} rows"):
        HotRows(file, 8).rows(torch.tensor([V]))
