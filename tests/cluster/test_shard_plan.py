"""A plan holds every row once, within every memory, on as few machines as can be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthrank.cluster import Hardware, Machine, ModelSize, TableSize, plan_cluster
from depthrank.cluster.model_size import size_of_artifact, size_of_file
from depthrank.errors import CapacityError, DataError
from depthrank.tables import ROW_FORMATS

GB = 1 << 30
SMALL = Machine(memory_bytes=10_000, usable=0.9)


@st.composite
def models(draw):
    sizes = draw(st.lists(st.tuples(st.integers(1, 900), st.sampled_from(ROW_FORMATS)), min_size=1, max_size=8))
    tables = [TableSize(f"t{i}", rows, 8, form, draw(st.integers(0, 3))) for i, (rows, form) in enumerate(sizes)]
    return ModelSize(tuple(tables))


@settings(max_examples=80)
@given(models(), st.integers(0, 3))
def test_every_row_lies_in_one_place_and_every_memory_holds_its_rows(model, gpus):
    machine = Machine(memory_bytes=10_000, gpus=gpus, gpu_bytes=10_000, usable=0.9)
    plan = plan_cluster(model, Hardware(machine, 100))
    for table in model.tables:
        shards = [s for s in plan.shards if s.table == table.name]
        rows = sorted(r for s in shards for r in range(s.part, table.rows, s.of))
        assert rows == list(range(table.rows)) and sum(s.rows for s in shards) == table.rows
    assert all(held <= machine.room_bytes(0) for held in plan.bytes_by_memory)
    assert sum(plan.bytes_by_memory) == sum(t.bytes for t in model.tables)
    assert plan.machines >= math.ceil(sum(t.bytes for t in model.tables) / (9_000 * machine.memories))


def test_a_table_that_fits_lies_whole_and_one_that_does_not_is_cut():
    model = ModelSize((TableSize("small", 20, 8), TableSize("large", 1_000, 8)))
    plan = plan_cluster(model, Hardware(SMALL))
    assert plan.kinds == {"whole": 1, "by_rows": 1} and plan.machines == 4


def test_a_model_that_fits_one_machine_sends_nothing():
    plan = plan_cluster(ModelSize((TableSize("t", 100, 8, "fp32", 5),)), Hardware(SMALL))
    assert (plan.machines, plan.network_bytes, plan.network_ms) == (1, 0.0, 0.0)
    assert plan.request_lookups == 5 and plan.request_bytes == 160


def test_lookups_of_candidates_count_for_each():
    tables = TableSize("r", 500, 8, "fp32", 2), TableSize("c", 500, 8, "int8", 3, "candidate")
    plan = plan_cluster(ModelSize(tables, candidates=1_000), Hardware(SMALL, 10))
    assert plan.request_lookups == 3_002 and plan.request_bytes == 2 * 32 + 3_000 * 16
    assert plan.network_bytes == pytest.approx(plan.request_bytes * (plan.machines - 1) / plan.machines)


def test_narrower_rows_take_fewer_machines():
    machines = [
        plan_cluster(ModelSize((TableSize("t", 10_000, 64, form),)), Hardware(Machine(100_000))).machines
        for form in ("fp32", "bf16", "int8", "int4")
    ]
    assert machines == sorted(machines, reverse=True) and machines[0] > 3 * machines[2]


def test_a_trillion_parameters_are_planned_at_once():
    tables = tuple(TableSize(f"t{i}", 160_000_000, 64, "int8") for i in range(95))
    plan = plan_cluster(ModelSize(tables), Hardware(Machine(512 * GB), 64))
    assert plan.parameters == 972_800_000_000 and 2 <= plan.machines <= 4


@pytest.mark.parametrize(
    ("model", "hardware", "match"),
    [
        (
            ModelSize((TableSize("t", 10**6, 8),)),
            Hardware(SMALL, 4),
            "the tables need 0 GB, 4 machines hold .*take 3556",
        ),
        (ModelSize((TableSize("t", 1, 8),), dense_bytes=9_000), Hardware(SMALL), "leave no room for rows"),
    ],
)
def test_hardware_that_cannot_hold_the_model_says_what_would(model, hardware, match):
    with pytest.raises(CapacityError, match=match):
        plan_cluster(model, hardware)


def test_a_model_without_tables_or_with_wrong_sizes_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no tables"):
        plan_cluster(ModelSize(()), Hardware(SMALL))
    with pytest.raises(DataError, match="table 't': 0 rows"):
        TableSize("t", 0, 8)
    for text, match in (("tables: [{rows: x}]", "is not a model size"), ("[", "is not a model size")):
        (tmp_path / "m.yaml").write_text(text)
        with pytest.raises(DataError, match=match):
            size_of_file(tmp_path / "m.yaml")


def test_sizes_come_from_a_file_or_an_artifact(tmp_path: Path, world):
    (tmp_path / "m.yaml").write_text("tables: [{rows: 1000, width: 8, count: 3, form: int8}]\ncandidates: 7")
    model = size_of_file(tmp_path / "m.yaml")
    assert [t.name for t in model.tables] == ["table0.0", "table0.1", "table0.2"] and model.candidates == 7
    held = size_of_artifact(world.artifact, 100)
    assert {t.name for t in held.tables} == {"request_features", "item_features", "candidate_features"}
    assert held.dense_bytes > 0 and plan_cluster(held, Hardware(Machine(GB))).machines == 1
