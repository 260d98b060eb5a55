"""An overlay reads like the table with the rows written in, bit for bit, in every format."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from depthrank.errors import DataError
from depthrank.tables import ROW_FORMATS, PackedRows, overlaid, pack_rows, packed_parts

ROWS, WIDTH = 37, 6


@st.composite
def overlays(draw):
    """A table, changes to it one after another, and the table with them written in."""
    form = draw(st.sampled_from(ROW_FORMATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    packed = pack_rows(torch.randn(ROWS, WIDTH, generator=generator), form)
    source = base = PackedRows(packed, form, WIDTH)
    written = packed.clone()
    for changes in draw(st.lists(st.sets(st.integers(0, ROWS - 1)), min_size=1, max_size=3)):
        rows = torch.tensor(sorted(changes), dtype=torch.int64)
        new = pack_rows(torch.randn(len(changes), WIDTH, generator=generator), form)
        source = overlaid(source, rows, PackedRows(new, form, WIDTH))
        written[rows] = new
    return base, source, PackedRows(written, form, WIDTH)


ASKED = st.lists(st.integers(0, ROWS - 1), max_size=60)


@given(overlays(), ASKED, st.sampled_from([torch.int32, torch.int64]))
def test_single_rows_are_those_of_the_table_with_the_changes_written_in(tables, asked, kind):
    _, over, written = tables
    rows = torch.tensor(asked, dtype=kind)
    assert torch.equal(over.rows(rows), written.rows(rows))
    assert torch.equal(over.packed_rows(rows), written.packed_rows(rows))


@given(overlays(), ASKED, st.data())
def test_bags_are_those_of_the_table_with_the_changes_written_in(tables, asked, data):
    _, over, written = tables
    rows = torch.tensor(asked, dtype=torch.int64)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(asked)), max_size=5)))
    offsets = torch.tensor([0, *cuts], dtype=torch.int64)
    assert torch.equal(over.pooled(rows, offsets), written.pooled(rows, offsets))


@given(overlays())
def test_the_base_is_left_alone_and_is_the_same_one(tables):
    base, over, written = tables
    assert over.base is base
    assert torch.equal(torch.cat(list(packed_parts(over, 10))), written.packed_VB)


def test_an_overlay_is_seen_at_all():
    base = PackedRows(torch.zeros(4, 2), "fp32", 2)
    over = overlaid(base, torch.tensor([2]), PackedRows(torch.ones(1, 2), "fp32", 2))
    assert over.rows(torch.tensor([1, 2])).tolist() == [[0, 0], [1, 1]]
    assert base.rows(torch.tensor([2])).tolist() == [[0, 0]]


@pytest.mark.parametrize("row", [-1, ROWS, 10**9])
def test_rows_that_are_not_there_are_refused_as_without_an_overlay(row):
    base = PackedRows(torch.zeros(ROWS, WIDTH), "fp32", WIDTH)
    over = overlaid(base, torch.tensor([2]), PackedRows(torch.ones(1, WIDTH), "fp32", WIDTH))
    with pytest.raises(DataError, match="asked of a table of 37 rows"):
        over.rows(torch.tensor([row]))
