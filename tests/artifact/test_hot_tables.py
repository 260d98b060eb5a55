"""Hot rows before the mapped tables of an artifact: the same answers, counted, through deltas and their compaction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from depthrank.artifact import Cache, compacted, hot_row_measures, load_artifact, make_delta, with_hot_rows
from depthrank.artifact.delta_apply import load_delta, with_delta, with_tables
from depthrank.artifact.store import Contents, save_artifact
from depthrank.tables import HotRows, OverlaidRows, PackedRows, TableSlot, served_tables
from depthrank.tables.row_map import RowMap

TABLE = "request_features"


def half_of(artifact: Any) -> int:
    """Bytes that hold about half of the request table."""
    source = served_tables(artifact.model)[TABLE].source
    return int(source.num_rows * (source.packed_VB[0].nbytes + 9) * 0.6)


def hot_source(artifact: Any) -> Any:
    return served_tables(artifact.model)[TABLE].source


def test_a_table_with_hot_rows_reads_as_without_and_counts_what_it_found(world: Any) -> None:
    plain = load_artifact(world.artifact)
    hot = with_hot_rows(plain, half_of(plain))
    source, before = hot_source(hot), hot_source(plain)
    assert isinstance(source, HotRows) and source.resident_bytes <= half_of(plain)
    rows = torch.arange(source.num_rows).repeat(2)
    assert torch.equal(source.rows(rows), before.rows(rows))
    measures = hot_row_measures(hot)
    assert measures["hot_row_lookups"] == rows.shape[0] and 0 < measures["hot_row_hits"] < rows.shape[0]
    assert isinstance(hot_source(plain), PackedRows) and hot_row_measures(plain) == {}
    assert with_hot_rows(plain, 0) is plain
    assert with_hot_rows(plain, 1 << 30) is plain, "a table that fits whole is better left to the page cache"


def test_deltas_lie_over_hot_rows_and_compaction_keeps_them(world: Any, tmp_path: Path) -> None:
    plain = load_artifact(world.artifact)
    source = hot_source(plain)
    packed = source.packed_VB.clone()
    changed_rows = torch.ones(source.num_rows, dtype=torch.bool)
    changed_rows[served_tables(plain.model)[TABLE].row_map.padding_rows()] = False
    changed_rows[9:] = False
    packed[changed_rows] += 0.25
    tables = {TABLE: PackedRows(packed, source.form, source.width)}
    a = load_artifact(world.artifact)
    save_artifact(
        tmp_path / "new",
        Contents(a.spec, with_tables(a.model, tables), a.encoder, a.items, a.users, a.manifest.log_position),
    )
    delta = load_delta(make_delta(world.artifact, tmp_path / "new", tmp_path / "deltas"))
    changed = with_delta(with_hot_rows(plain, half_of(plain)), delta)
    assert isinstance(hot_source(changed), OverlaidRows) and isinstance(hot_source(changed).base, HotRows)
    rows = torch.arange(source.num_rows)
    expected = hot_source(load_artifact(tmp_path / "new")).rows(rows)
    assert torch.equal(hot_source(changed).rows(rows), expected)
    written = compacted(changed, Cache(tmp_path / "cache"))
    assert isinstance(hot_source(written), HotRows) and torch.equal(hot_source(written).rows(rows), expected)
    looked_up = hot_row_measures(written)["hot_row_lookups"]
    assert looked_up >= 2 * rows.shape[0], "the counts go on"


@pytest.mark.parametrize("most", [0, 1, 7, 12, 100])
def test_the_hottest_rows_are_the_first_of_every_feature_in_turn(most: int) -> None:
    row_map = RowMap((TableSlot("a", 4, 0, 1), TableSlot("b", 90, 1, 2, own_rows=6, pool=(0, 5))))
    rows = row_map.hottest_rows(most)
    assert rows.shape[0] <= min(most, row_map.num_rows) and rows.unique().shape == rows.shape
    if most >= row_map.num_rows:
        assert rows.shape[0] == row_map.num_rows
    if most == 7:
        assert rows.tolist() == [0, 4, 10, 1, 5, 11, 6]
