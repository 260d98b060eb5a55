"""Training that goes on from an artifact differs from it in values alone, and only where examples were."""

from __future__ import annotations

import shutil

import msgspec
import pytest
import torch

from depthrank.artifact import apply_deltas, load_artifact, make_delta, read_delta, save_artifact
from depthrank.artifact.delta_make import changes_between
from depthrank.artifact.store import Contents
from depthrank.errors import ArtifactError
from depthrank.model import ElasticRanker
from depthrank.schema import Spec
from depthrank.tables import ROW_FORMATS, PackedRows, ServedTable, pack_rows, served_tables, unpack_rows
from depthrank.training import train
from depthrank.training.continue_from import continued_model, keep_packed_rows_


def test_a_run_that_goes_on_makes_a_delta_of_the_rows_it_touched(world, tmp_path):
    shutil.copytree(world.folder / "events", tmp_path / "events")
    spec = Spec.load(world.spec)
    short = msgspec.structs.replace(spec, training=msgspec.structs.replace(spec.training, epochs=1))
    log = f"lmdb:{tmp_path / 'events'}"
    report = train(short, log=log, out=tmp_path / "new", base=world.artifact, progress=False)
    delta = make_delta(world.artifact, tmp_path / "new", tmp_path / "deltas")
    base, new = load_artifact(world.artifact), load_artifact(tmp_path / "new")
    after = apply_deltas(base, tmp_path / "deltas")
    assert changes_between(after, new).is_empty and not changes_between(base, new).is_empty
    tables = read_delta(delta).tables
    assert {name: t.rows for name, t in tables.items()} == {
        name: rows for name, rows in report.summary["tables"]["rows_changed"].items() if rows
    }
    assert all(t.rows < t.of for t in tables.values()), "ids that no example has keep their rows"


def test_another_model_is_refused(world, tmp_path):
    spec = Spec.load(world.spec)
    other = msgspec.structs.replace(spec, model=msgspec.structs.replace(spec.model, width=64))
    with pytest.raises(ArtifactError, match="the spec has other model; train anew without --from"):
        train(other, log=world.log_url, out=tmp_path / "new", base=world.artifact, progress=False)


@pytest.mark.parametrize("form", ROW_FORMATS)
def test_rows_that_were_not_touched_keep_their_bytes_in_every_format(world, form):
    base = load_artifact(world.artifact)
    before = {}
    for name, table in served_tables(base.model).items():
        rows = table.source.rows(torch.arange(table.source.num_rows))
        before[name] = pack_rows(unpack_rows(pack_rows(rows, form), form, table.width) * 1.0001, form)
        table.source = PackedRows(before[name], form, table.width)
    model: ElasticRanker = continued_model(base)
    touched = model.item_features.table
    with torch.no_grad():
        touched.weight[3] += 1.0
    assert keep_packed_rows_(model, base) == {n: int(n == "item_features") for n in before}
    for name, table in served_tables(model).items():
        assert isinstance(table, ServedTable)
        differs = (table.source.packed_VB != before[name]).any(dim=1).nonzero().flatten().tolist()
        assert differs == ([3] if name == "item_features" else [])


def test_what_goes_on_starts_where_the_artifact_stands(world, tmp_path):
    base = load_artifact(world.artifact)
    model = continued_model(base)
    keep_packed_rows_(model, base)
    contents = Contents(base.spec, model.eval(), base.encoder, base.items, base.users, 1, adaptive=base.adaptive)
    save_artifact(tmp_path / "same", contents)
    assert changes_between(base, load_artifact(tmp_path / "same")).is_empty
