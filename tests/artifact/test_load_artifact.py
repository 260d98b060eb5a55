"""What is loaded is what was saved, or nothing: one clear ArtifactError, no code run, no crash."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import small_artifact
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_artifact import files_of, make_contents

from depthrank.artifact import inspect_artifact, load_artifact, read_manifest, save_artifact, verify_artifact
from depthrank.artifact.manifest import hash_file
from depthrank.artifact.uninitialised import Uninitialised
from depthrank.errors import ArtifactError, DepthrankError
from depthrank.tables import pack_rows, served_tables, write_row_file

ROOM_FOR_FLIPS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_a_loaded_artifact_is_bit_for_bit_what_was_saved(tmp_path):
    contents = make_contents(seed=3)
    contents.model.calibration_scale_LK.uniform_(0.5, 2)
    manifest = save_artifact(tmp_path / "a", contents)
    loaded = load_artifact(tmp_path / "a")
    saved, found = contents.model.state_dict(), loaded.model.state_dict()
    for name, table in served_tables(loaded.model).items():
        assert torch.equal(saved.pop(f"{name}.table.weight"), table.source.rows(torch.arange(table.source.num_rows)))
    assert saved.keys() == found.keys() and all(torch.equal(saved[name], found[name]) for name in saved)
    assert loaded.manifest.checksum == manifest.checksum
    assert loaded.manifest.log_position == 7 and loaded.manifest.training == {"seed": 3}
    assert loaded.items.ids == contents.items.ids and loaded.users.ids == contents.users.ids
    encoded = [e.encode_items(c) for e, c in ((contents.encoder, contents.items), (loaded.encoder, loaded.items))]
    assert np.array_equal(encoded[0].ids, encoded[1].ids) and np.array_equal(encoded[0].floats, encoded[1].floats)
    sides = [
        model.encode_items(torch.from_numpy(e.ids), torch.from_numpy(e.floats))
        for model, e in zip((contents.model, loaded.model), encoded, strict=True)
    ]
    assert torch.equal(sides[0].tokens_UTD, sides[1].tokens_UTD) and torch.equal(sides[0].bias_UK, sides[1].bias_UK)


def test_a_loaded_model_is_in_eval_mode_and_takes_no_gradients(artifact):
    model = load_artifact(artifact).model
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_writing_to_a_mapped_table_never_reaches_the_file(artifact):
    model = load_artifact(artifact).model
    model.item_features.table.source.packed_VB.fill_(9.0)
    verify_artifact(artifact)


def test_inspect_tells_sizes_and_contents(artifact):
    told = inspect_artifact(artifact).to_json()
    assert told["tasks"] == ["click"] and told["levels"] == 2 and told["log_position"] == 7
    assert told["bytes"]["total"] == sum(f["bytes"] for f in told["files"].values()) > told["bytes"]["dense"] > 0


# ---------------------------------------------------------------------- damage


def everything(root: Path) -> list[str]:
    return ["manifest.json", *(f"{read_manifest(root).folder}/{name}" for name in read_manifest(root).files)]


def one_error(root: Path, match: str) -> None:
    with pytest.raises(ArtifactError, match=match) as caught:
        load_artifact(root, verify="all")
    assert str(root) in str(caught.value), "it says which"
    assert "\n" not in str(caught.value).strip() and len(str(caught.value)) < 1000, "one readable line"


def test_the_undamaged_artifact_loads(artifact):
    assert load_artifact(artifact).manifest.name == "small"
    kinds = {Path(name).suffix for name in everything(artifact)}
    assert kinds == {".json", ".npy", ".rows", ".safetensors", ".arrow", ".parquet", ".html"}, "every kind is spoilt"


def test_every_truncated_altered_or_missing_file_is_named(artifact):
    for name in everything(artifact):
        path, manifest = artifact / name, name == "manifest.json"
        whole = path.read_bytes()
        for spoilt, match in (
            (whole[:-1], "damaged" if manifest else "truncated"),
            (b"", "damaged" if manifest else "truncated"),
            (whole + b"x", "damaged" if manifest else "altered"),
            (whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:], "damaged|altered"),
        ):
            path.write_bytes(spoilt)
            one_error(artifact, match)
        path.unlink()
        one_error(artifact, "no manifest.json" if manifest else "missing")
        path.mkdir()
        one_error(artifact, "no manifest.json" if manifest else "missing")
        path.rmdir()
        path.write_bytes(whole)
    load_artifact(artifact)


@ROOM_FOR_FLIPS
@given(st.data())
def test_a_flipped_bit_anywhere_is_found(saved_once, data):
    names = everything(saved_once)
    path = saved_once / data.draw(st.sampled_from([names[0], *names]))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    try:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :])
        if path.name == "manifest.json" and is_same_json(whole, path.read_bytes()):
            return  # white space
        with pytest.raises(ArtifactError):
            load_artifact(saved_once, verify="all")
    finally:
        path.write_bytes(whole)


def is_same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b'{"format": 1, "name": "\xe6"}', "not a JSON object"),
        (b"{}", "format is None"),
        (b'{"format": "1"}', "format is '1'"),
        (b'{"format": true}', "format is True"),
        (b'{"format": 0}', "format is 0"),
        (b'{"format": 2, "anything": "else"}', "has format 2; this version reads up to 1: upgrade"),
        (b'{"format": 1}', "damaged"),
        (b"\xff\xfe", "not a JSON object"),
    ],
)
def test_a_manifest_of_another_form_or_version_is_told(artifact, text, match):
    (artifact / "manifest.json").write_bytes(text)
    one_error(artifact, match)


def test_a_folder_that_is_no_artifact_says_what_to_do(tmp_path):
    one_error(tmp_path / "nothing", "there is no artifact .* train one with")
    (tmp_path / "empty").mkdir()
    one_error(tmp_path / "empty", "has no manifest.json")
    (tmp_path / "file").write_text("x")
    one_error(tmp_path / "file", "has no manifest.json")


# ---------------------------------------------------------------------- hostile makers


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..", ".", "", "a\\..\\b", "x\0y"])
def test_names_that_lead_outside_are_refused(artifact, reseal, name):
    manifest = read_manifest(artifact)
    some = next(iter(manifest.files.values()))
    reseal(artifact, files={**manifest.files, name: some})
    one_error(artifact, "names a file outside the artifact")
    reseal(artifact, files=manifest.files, folder=name)
    one_error(artifact, "names a file outside the artifact")


class Bomb:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def table(root: Path) -> Path:
    return files_of(root) / "tables" / "item_features.rows"


def rows_of(rows: torch.Tensor, form: str = "fp32") -> Callable[[Path], object]:
    return lambda path: write_row_file(path, [pack_rows(rows, form)], form, rows.shape[1], rows.shape[0])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows, bomb: pickle.dumps(bomb),
        lambda rows, bomb: rows_of(rows[:-1]),
        lambda rows, bomb: rows_of(rows[:, :-2].contiguous()),
        lambda rows, bomb: rows_of(rows, "int8"),
        lambda rows, bomb: rows_of(rows + 1),
        lambda rows, bomb: b"PK\x03\x04" + bytes(300),
        lambda rows, bomb: b"DRKROWS\n",
        lambda rows, bomb: b"",
    ],
)
def test_a_hostile_table_is_refused_and_nothing_of_it_is_run(artifact, reseal, tmp_path, spoil):
    rows = load_artifact(artifact).model.item_features.table.source.packed_VB.clone()
    spoilt = spoil(rows, Bomb(tmp_path / "executed"))
    spoilt(table(artifact)) if callable(spoilt) else table(artifact).write_bytes(spoilt)
    reseal(artifact)
    with pytest.raises(ArtifactError, match=r"tables/item_features|padding rows"):
        load_artifact(artifact)
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").exists(), "the bomb works"


def dense(root: Path) -> Path:
    return files_of(root) / "dense.safetensors"


@pytest.mark.parametrize(
    "change", ["shape", "dtype", "missing", "level", "extra", "length", "header", "offsets", "empty"]
)
def test_a_lying_weights_file_is_refused(artifact, reseal, change):
    weights, raw = load_file(dense(artifact)), dense(artifact).read_bytes()
    name = sorted(weights)[0]
    size = struct.unpack("<Q", raw[:8])[0]
    if change == "shape":
        weights[name] = torch.zeros(3, 3, 3)
    elif change == "dtype":
        weights[name] = weights[name].to(torch.int32)
    elif change == "missing":
        del weights[name]
    elif change == "level":
        weights = {name: w for name, w in weights.items() if not name.startswith("experts.0.")}
    elif change == "extra":
        weights["surprise"] = torch.zeros(1)
    if change in ("shape", "dtype", "missing", "level", "extra"):
        save_file(weights, dense(artifact))
    elif change == "length":
        dense(artifact).write_bytes(struct.pack("<Q", 2**60) + raw[8:])
    elif change == "header":
        dense(artifact).write_bytes(raw[:8] + b"{" * size + raw[8 + size :])
    elif change == "offsets":
        told = json.loads(raw[8 : 8 + size])
        told[name]["data_offsets"][1] += 10**12
        text = json.dumps(told).encode()
        dense(artifact).write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    else:
        dense(artifact).write_bytes(b"")
    reseal(artifact)
    with pytest.raises(ArtifactError):
        load_artifact(artifact)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("width",), 10**9),
        (("width",), 10**30),
        (("width",), "8"),
        (("width",), 9),
        (("heads",), 0),
        (("router_layers",), 10**9),
        (("levels", 0, "reads"), [10**9]),
        (("levels", 0, "reads"), []),
        (("levels", 0, "reads"), [-3]),
        (("levels", 0, "interaction_layers"), 10**9),
        (("item", "slots", 0, "num_rows"), 10**9),
        (("item", "slots", 0, "stop"), 10**9),
        (("item", "slots"), []),
        (("item", "num_floats"), 10**9),
        (("tasks",), ["click", "more"]),
        (("prior_logit",), [0.0] * 9),
        (("num_actions",), 31),
        (("history_length",), 10**9),
        (("dropout",), 7.0),
        (("unknown",), 1),
        (("levels",), None),
    ],
)
def test_a_manifest_that_lies_about_the_model_allocates_nothing(artifact, reseal, path, value):
    model = json.loads((artifact / "manifest.json").read_text())["model"]
    inner = model
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    reseal(artifact, model=model)
    with pytest.raises(ArtifactError):
        load_artifact(artifact)


def test_parts_of_another_spec_are_refused(artifact, reseal):
    spec = json.loads((artifact / "manifest.json").read_text())["spec"]
    reseal(artifact, spec={**spec, "name": "other"})
    with pytest.raises(ArtifactError, match="do not belong together: spec of the features"):
        load_artifact(artifact)
    reseal(artifact, spec={})
    with pytest.raises(ArtifactError, match="does not hold an artifact of this version"):
        load_artifact(artifact)


def test_files_that_the_manifest_does_not_list_are_not_read(artifact, reseal):
    manifest = read_manifest(artifact)
    reseal(artifact, files={name: f for name, f in manifest.files.items() if not name.startswith("users/")})
    with pytest.raises(ArtifactError, match="expected a dataset with a users file"):  # it lies there, unlisted
        load_artifact(artifact)


@ROOM_FOR_FLIPS
@given(st.data())
def test_a_resealed_artifact_with_a_flipped_byte_loads_or_is_one_error(saved_once, reseal, data):
    """Checksums out of the way: the parsers themselves neither crash nor raise anything else."""
    name = data.draw(st.sampled_from([n for n in read_manifest(saved_once).files if not n.endswith(".html")]))
    path, manifest = files_of(saved_once) / name, (saved_once / "manifest.json").read_bytes()
    whole = path.read_bytes()
    at = data.draw(st.integers(0, min(len(whole), 600) - 1))
    try:
        path.write_bytes(whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :])
        reseal(saved_once)
        try:
            load_artifact(saved_once)
        except DepthrankError as error:
            assert isinstance(error, ArtifactError)
    finally:
        path.write_bytes(whole)
        (saved_once / "manifest.json").write_bytes(manifest)


def test_the_manifest_is_plain_json_with_a_checksum_of_itself(artifact):
    plain = json.loads((artifact / "manifest.json").read_text())
    assert plain["format"] == 1 and len(plain["checksum"]) == 64
    assert msgspec.json.decode((artifact / "manifest.json").read_bytes())["files"].keys() == plain["files"].keys()


def test_tables_of_the_first_releases_still_load_and_hostile_ones_do_not(artifact, reseal):
    """They were float32 in ``.npy`` files, with anything in their padding rows."""
    rows = torch.randn(load_artifact(artifact).model.item_features.table.source.packed_VB.shape)
    table(artifact).unlink()
    old = table(artifact).with_suffix(".npy")

    def put(values: np.ndarray, allow_pickle: bool = False) -> None:
        with old.open("wb") as file:
            np.save(file, values, allow_pickle=allow_pickle)
        manifest = read_manifest(artifact)
        files = {n: f for n, f in manifest.files.items() if not n.endswith("item_features.rows")}
        reseal(artifact, files={**files, "tables/item_features.npy": hash_file(old)})

    put(rows.numpy())
    source = load_artifact(artifact).model.item_features.table.source
    assert torch.equal(source.rows(torch.tensor([1, 3])), rows[[1, 3]]) and not source.rows(torch.tensor([0])).any()
    for spoilt in (rows.double().numpy(), rows[:-1].numpy(), np.asfortranarray(rows.numpy())):
        put(spoilt)
        with pytest.raises(ArtifactError, match=r"item_features.npy holds"):
            load_artifact(artifact)
    put(np.array([Bomb(artifact / "executed")], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match=r"item_features.npy cannot be mapped"):
        load_artifact(artifact)
    assert not (artifact / "executed").exists()


def test_a_model_is_built_without_drawing_numbers_or_importing_a_compiler(artifact):
    """Two seconds of every start, if it did."""
    script = "import sys; from depthrank.artifact import load_artifact; model = load_artifact(sys.argv[1]).model; "
    script += "sys.exit('a compiler was imported' if {'sympy', 'torch._dynamo'} & set(sys.modules) else 0)"
    done = subprocess.run([sys.executable, "-c", script, str(artifact)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with Uninitialised():
        drawn = torch.randn(3, 4) * 2.0
        assert drawn.shape == (3, 4) and torch.equal(torch.ones(2) * 2.0, torch.full((2,), 2.0))
        kept = torch.ones(3).normal_()
    assert torch.equal(kept, torch.ones(3))


@pytest.mark.parametrize("left_out", ["expert_layers", "interaction_layers", "cross_layers"])
def test_a_model_without_one_of_its_parts_is_saved_and_loaded(left_out, tmp_path, monkeypatch):
    monkeypatch.setitem(small_artifact.SPEC, "model", {"preset": "demo", "width": 8, "heads": 2, left_out: 0})
    save_artifact(tmp_path / "a", small_artifact.make_contents())
    level = load_artifact(tmp_path / "a").model.config.levels[0]
    assert 0 in (len(level.reads), level.interaction_layers, level.cross_layers)


def test_a_catalogue_without_a_column_that_a_feature_reads_is_refused(artifact, reseal):
    path = next(files_of(artifact).glob("items/*.json"))
    path.write_bytes(path.read_bytes().replace(b'"tags"', b'"togs"'))
    reseal(artifact)
    with pytest.raises(ArtifactError, match=r"do not belong together: \$\.features\.tags\.source: found 'tags'.*togs"):
        load_artifact(artifact)
