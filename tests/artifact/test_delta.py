"""A delta holds what changed and nothing else; in its place it gives the new artifact, elsewhere it is refused."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import small_artifact
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_artifact import make_contents

from depthrank.artifact import (
    Artifact,
    Contents,
    apply_columns,
    apply_deltas,
    load_artifact,
    load_delta,
    make_delta,
    read_delta,
    save_artifact,
    with_delta,
)
from depthrank.artifact.delta_folder import DELTA_NAME, DeltaManifest
from depthrank.artifact.manifest import hash_file
from depthrank.catalogue import Catalogue
from depthrank.errors import ArtifactError
from depthrank.tables import OverlaidRows, packed_parts, served_tables

TABLE = "item_features"


def changed(
    contents: Contents, *, rows: tuple[int, ...] = (), dense: bool = False, items: Catalogue | None = None
) -> Contents:
    """Contents of a later training run: some rows, all dense weights or catalogue rows are others."""
    model = copy.deepcopy(contents.model)
    with torch.no_grad():
        for row in rows:
            model.item_features.table.weight[row] += 1.0
        if dense:
            for name, parameter in model.named_parameters():
                if not name.endswith("table.weight"):
                    parameter.mul_(1.5)
    return replace(contents, model=model, items=items or contents.items, log_position=9)


@pytest.fixture
def contents() -> Contents:
    return make_contents(seed=1)


@pytest.fixture
def base(tmp_path: Path, contents: Contents) -> Path:
    save_artifact(tmp_path / "base", contents)
    return tmp_path / "base"


@pytest.fixture
def make(tmp_path: Path, base: Path):
    """Save later contents and make the next delta to them."""

    def made(contents: Contents) -> Path:
        save_artifact(tmp_path / "new", contents)
        return make_delta(base, tmp_path / "new", tmp_path / "deltas")

    return made


def bytes_of(artifact: Artifact) -> dict[str, bytes]:
    """Everything that scores are made of."""
    tables = {
        name: torch.cat(list(packed_parts(table.source))).numpy().tobytes()
        for name, table in served_tables(artifact.model).items()
    }
    return tables | {name: tensor.numpy().tobytes() for name, tensor in artifact.model.state_dict().items()}


def test_a_base_with_a_delta_is_the_new_artifact_byte_for_byte(base, make, contents, tmp_path):
    items = Catalogue.build(
        "item", ["a", "b", "c", "d"], {"price": [1.5, 2.0, None, 7.0], "tags": [["x"], ["z"], ["x", "y"], []]}
    )
    folder = make(changed(contents, rows=(2, 4), dense=True, items=items))
    after, new = apply_deltas(load_artifact(base), tmp_path / "deltas"), load_artifact(tmp_path / "new")
    assert bytes_of(after) == bytes_of(new) and bytes_of(after) != bytes_of(load_artifact(base))
    assert after.served_id.endswith("+1") and after.identity == read_delta(folder).checksum
    assert after.items.ids_of(range(5)) == new.items.ids_of(range(5))
    encoded = [a.encoder.encode_items(a.items) for a in (after, new)]
    assert np.array_equal(encoded[0].ids, encoded[1].ids) and np.array_equal(encoded[0].floats, encoded[1].floats)


def test_only_what_changed_is_in_it(make, contents):
    folder = make(changed(contents, rows=(2, 4)))
    manifest, delta = read_delta(folder), load_delta(folder)
    assert {name: rows.rows for name, rows in manifest.tables.items()} == {TABLE: 2}
    assert delta.rows[TABLE][0].tolist() == [2, 4] and delta.num_rows == 2
    assert (manifest.dense, manifest.entities, manifest.policy) == ([], {}, "same")
    assert folder.name == "delta-000001" and manifest.log_position == 9


def test_the_old_artifact_is_left_as_it_was_and_shares_what_did_not_change(base, make, contents):
    before = load_artifact(base)
    was = bytes_of(before)
    after = with_delta(before, load_delta(make(changed(contents, rows=(2,)))))
    assert bytes_of(before) == was
    old, new = served_tables(before.model), served_tables(after.model)
    assert isinstance(new[TABLE].source, OverlaidRows) and new[TABLE].source.base is old[TABLE].source
    assert new["request_features"] is old["request_features"] and after.model.encoder is before.model.encoder
    assert after.model is not before.model and after.model.item_features is not before.model.item_features


def test_deltas_follow_one_another_and_each_is_only_the_step(base, make, contents, tmp_path):
    first = changed(contents, rows=(2, 4))
    second = changed(first, rows=(4,), dense=True)
    make(first)
    folder = make(second)
    assert load_delta(folder).rows[TABLE][0].tolist() == [4] and read_delta(folder).sequence == 2
    after = apply_deltas(load_artifact(base), tmp_path / "deltas")
    assert bytes_of(after) == bytes_of(load_artifact(tmp_path / "new"))
    source = served_tables(after.model)[TABLE].source
    assert isinstance(source, OverlaidRows) and source.row_C.tolist() == [2, 4], "one overlay, however many deltas"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sets(st.integers(2, 4), min_size=1), st.booleans()), min_size=1, max_size=3))
def test_any_run_of_deltas_gives_the_newest_artifact(tmp_path_factory, steps):
    here = tmp_path_factory.mktemp("steps")
    contents = make_contents(seed=2)
    save_artifact(here / "base", contents)
    for rows, dense in steps:
        contents = changed(contents, rows=tuple(rows), dense=dense)
        save_artifact(here / "new", contents)
        make_delta(here / "base", here / "new", here / "deltas")
    after = apply_deltas(load_artifact(here / "base"), here / "deltas")
    assert bytes_of(after) == bytes_of(load_artifact(here / "new")) and after.sequence == len(steps)


# ---------------------------------------------------------------------- out of order


@pytest.fixture
def three(make, contents, base) -> list[Path]:
    folders = []
    for row in (2, 3, 4):
        contents = changed(contents, rows=(row,))
        folders.append(make(contents))
    return folders


def test_a_missing_repeated_or_reordered_delta_is_refused_with_what_to_do(base, three, tmp_path):
    artifact, (first, second, third) = load_artifact(base), map(load_delta, three)
    with pytest.raises(ArtifactError, match="is number 2, and 0 are applied: apply number 1 first"):
        with_delta(artifact, second)
    once = with_delta(artifact, first)
    with pytest.raises(ArtifactError, match="is number 1, and 1 are applied already"):
        with_delta(once, first)
    with pytest.raises(ArtifactError, match="is number 3, and 1 are applied: apply number 2 first"):
        with_delta(once, third)
    assert with_delta(with_delta(once, second), third).sequence == 3
    shutil.rmtree(three[1])
    with pytest.raises(ArtifactError, match="delta-000002 is missing and later ones are there: bring it"):
        apply_deltas(artifact, tmp_path / "deltas")


def test_a_delta_of_another_artifact_or_of_another_run_is_refused(base, three, contents, tmp_path):
    save_artifact(tmp_path / "other", make_contents(seed=7))
    with pytest.raises(ArtifactError, match=r"is a delta of small-.*, this is small-.*: make it anew"):
        with_delta(load_artifact(tmp_path / "other"), load_delta(three[0]))
    save_artifact(tmp_path / "new", changed(contents, rows=(4,)))
    rival = make_delta(base, tmp_path / "new", tmp_path / "rival")
    once = with_delta(load_artifact(base), load_delta(rival))
    with pytest.raises(ArtifactError, match="follows another number 1 than the one that is applied"):
        with_delta(once, load_delta(three[1]))


# ---------------------------------------------------------------------- what a delta cannot say


def test_changed_shapes_are_refused_when_a_delta_is_made(base, make, contents, tmp_path):
    with pytest.raises(ArtifactError, match="nothing changed"):
        make(contents)
    fewer = Catalogue.build("item", ["a", "b"], {"price": [1.5, 2.0], "tags": [["x"], []]})
    with pytest.raises(ArtifactError, match="1 items are gone"):
        make(replace(contents, items=fewer))
    assert not list((tmp_path / "deltas").glob("delta-*"))


def test_an_artifact_of_other_sizes_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.setitem(small_artifact.SPEC["model"], "width", 16)
    save_artifact(tmp_path / "wide", make_contents(seed=1))
    with pytest.raises(ArtifactError, match=r"differs from .* in more than values .*the spec"):
        make_delta(base, tmp_path / "wide", tmp_path / "deltas")


# ---------------------------------------------------------------------- damage and hostile makers


def reseal(folder: Path, **changes: object) -> None:
    manifest = msgspec.json.decode((folder / DELTA_NAME).read_bytes(), type=DeltaManifest)
    files = {name: hash_file(folder / name) for name in manifest.files}
    sealed = msgspec.structs.replace(manifest, **{"files": files, **changes}).sealed()
    (folder / DELTA_NAME).write_bytes(msgspec.json.encode(sealed))


def test_every_damaged_file_of_a_delta_is_named(base, make, contents):
    folder = make(changed(contents, rows=(2,), dense=True))
    for name in [DELTA_NAME, *read_delta(folder).files]:
        whole = (folder / name).read_bytes()
        for spoilt in (whole[:-1], whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:], b""):
            (folder / name).write_bytes(spoilt)
            with pytest.raises(
                ArtifactError, match=name if name == DELTA_NAME else f"{name} (is|was) (truncated|altered)"
            ):
                load_delta(folder)
        (folder / name).write_bytes(whole)
    load_delta(folder)


@pytest.mark.parametrize("rows", [[4, 2], [2, 2], [-1, 2], [2, 10**6]])
def test_row_numbers_that_do_not_ascend_within_the_table_are_refused(make, contents, rows):
    folder = make(changed(contents, rows=(2, 4)))
    save_file({TABLE: torch.tensor(rows)}, folder / "rows.safetensors")
    reseal(folder)
    with pytest.raises(ArtifactError, match="row numbers of a delta do not ascend within 0 to"):
        load_delta(folder)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"no.such": torch.zeros(1)}, "weight no.such is not one that a delta can change"),
        ({"item_vector.weight": torch.zeros(1)}, r"weight item_vector.weight is torch.float32 \[1\], the model has"),
        ({"item_vector.weight": torch.full((8, 16), torch.nan)}, "not finite"),
    ],
)
def test_dense_weights_that_do_not_fit_are_refused(base, make, contents, tensors, match):
    folder = make(changed(contents, rows=(2,)))
    if "nan" in str(tensors):
        tensors = {"item_vector.weight": torch.full_like(contents.model.item_vector.weight, torch.nan)}
    save_file(tensors, folder / "dense.safetensors")
    reseal(folder)
    with pytest.raises(ArtifactError, match=match):
        with_delta(load_artifact(base), load_delta(folder))


def test_a_table_that_is_not_there_and_columns_that_do_not_fit_are_refused(base, make, contents):
    folder = make(changed(contents, rows=(2,)))
    artifact, delta = load_artifact(base), load_delta(folder)
    with pytest.raises(ArtifactError, match="there is no table nowhere; there are"):
        with_delta(artifact, replace(delta, rows={"nowhere": delta.rows[TABLE]}))
    for entities in ({"item": {"item": ["a"], "price": ["much"]}}, {"shop": {"shop": ["a"]}}, {"item": {"price": [1]}}):
        with pytest.raises(ArtifactError, match="delta-000001"):
            apply_columns(artifact.items, artifact.users, replace(delta, entities=entities))


def test_a_name_that_leads_outside_is_refused(make, contents):
    folder = make(changed(contents, rows=(2,)))
    reseal(folder, files={"../x": hash_file(folder / "rows.safetensors")})
    with pytest.raises(ArtifactError, match="names a file outside"):
        read_delta(folder)
