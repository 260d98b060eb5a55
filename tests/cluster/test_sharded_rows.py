"""Rows on shards read like rows here, bit for bit; a shard that is missing costs its own rows and is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.cluster import Circuit, ShardedRows, ShardMissing, ShardRows
from depthrank.errors import ArtifactError, CapacityError, DataError
from depthrank.tables import ROW_FORMATS, PackedRows, noting_missing_rows, pack_rows, write_row_file

ROWS, WIDTH = 53, 8


class Here:
    """A shard in this process; ``dead`` shards answer nothing."""

    def __init__(self, rows: ShardRows) -> None:
        self.held, self.dead, self.asked = rows, False, 0

    def ask(self, place_n):
        self.asked += 1
        return Answer(None if self.dead else self.held.rows(place_n))


class Answer:
    def __init__(self, rows) -> None:
        self.rows = rows

    def packed(self, deadline_s: float):
        if self.rows is None:
            raise ShardMissing("it is dead")
        return self.rows


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, tuple[Path, PackedRows]]:
    """A row file of each format, and the same rows here."""
    made = {}
    for form in ROW_FORMATS:
        packed = pack_rows(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1)), form)
        path = tmp_path_factory.mktemp("rows") / f"{form}.rows"
        write_row_file(path, [packed], form, WIDTH, ROWS)
        made[form] = path, PackedRows(packed, form, WIDTH)
    return made


def sharded(path: Path, form: str, num_shards: int, **options) -> tuple[ShardedRows, list[Here]]:
    shards = [Here(ShardRows(path, shard, num_shards)) for shard in range(num_shards)]
    return ShardedRows(shards, form, WIDTH, ROWS, name="t", **options), shards


@settings(max_examples=60)
@given(st.data(), st.sampled_from(ROW_FORMATS), st.integers(1, 7), st.lists(st.integers(0, ROWS - 1), max_size=40))
def test_a_sharded_table_equals_a_single_one(tables, data, form, num_shards, asked):
    path, single = tables[form]
    rows = torch.tensor(asked, dtype=data.draw(st.sampled_from([torch.int32, torch.int64])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(asked)), max_size=4)))
    offsets = torch.tensor([0, *cuts])
    source, _ = sharded(path, form, num_shards)
    assert torch.equal(source.rows(rows), single.rows(rows))
    assert torch.equal(source.pooled(rows, offsets), single.pooled(rows, offsets))


@pytest.mark.parametrize("form", ROW_FORMATS)
def test_the_rows_of_a_dead_shard_read_as_zeros_and_are_told(tables, form):
    path, single = tables[form]
    source, shards = sharded(path, form, 3)
    shards[1].dead = True
    rows = torch.arange(12)
    with noting_missing_rows() as missing:
        found = source.rows(rows)
    expected = single.rows(rows)
    expected[1::3] = 0.0
    assert torch.equal(found, expected)
    assert missing == ["shard 1 of t does not answer: its rows read as zeros"]
    with noting_missing_rows() as missing:
        source.rows(torch.tensor([0, 2, 3]))
    assert missing == [], "rows of other shards miss nothing"


def test_what_would_be_kept_is_not_computed_from_missing_rows(tables):
    source, shards = sharded(tables["fp32"][0], "fp32", 3)
    shards[0].dead = True
    with pytest.raises(CapacityError, match="shard 0 of t does not answer"):
        source.rows(torch.arange(6))
    source.rows(torch.tensor([1, 2]))


def test_a_dead_shard_is_left_alone_and_found_again_when_it_lives(tables):
    now_s = [0.0]
    circuit = lambda: Circuit(lambda: now_s[0], failures=2, open_s=10.0)  # noqa: E731
    source, shards = sharded(tables["int8"][0], "int8", 2, circuit=circuit)
    shards[1].dead = True
    rows = torch.arange(4)
    with noting_missing_rows() as missing:
        for _ in range(5):
            source.rows(rows)
        assert shards[1].asked == 2 and source.status()[1]["circuit"] == "open"
        assert source.counts[1].missed == 2 and source.counts[1].skipped == 3
        shards[1].dead = False
        source.rows(rows)
        assert shards[1].asked == 2 and missing
    now_s[0] = 10.0
    with noting_missing_rows() as missing:
        assert torch.equal(source.rows(rows), tables["int8"][1].rows(rows)) and not missing
    assert source.status()[1]["circuit"] == "closed"


def test_each_row_is_asked_for_once(tables):
    source, _ = sharded(tables["fp32"][0], "fp32", 2)
    source.rows(torch.tensor([4] * 50 + [5]))
    assert [counts.rows for counts in source.counts] == [1, 1]


@pytest.mark.parametrize("row", [-1, ROWS])
def test_rows_that_are_not_there_are_refused(tables, row):
    source, _ = sharded(tables["fp32"][0], "fp32", 2)
    with pytest.raises(DataError, match="asked of a table of 53 rows"):
        source.rows(torch.tensor([row]))


def test_a_shard_of_a_damaged_file_does_not_start(tables, tmp_path):
    spoilt = tmp_path / "spoilt.rows"
    raw = bytearray(tables["fp32"][0].read_bytes())
    raw[-1] ^= 1
    spoilt.write_bytes(raw)
    with pytest.raises(ArtifactError, match="was altered"):
        ShardRows(spoilt, 0, 2)


def test_shards_hold_the_table_once(tables):
    path, single = tables["fp32"]
    held = [ShardRows(path, shard, 4) for shard in range(4)]
    assert sum(shard.num_bytes() for shard in held) == single.packed_VB.numel() * 4
    assert np.array_equal(held[1].rows(np.array([0]))[0].view(np.float32), single.packed_VB[1].numpy())
