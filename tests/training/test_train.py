"""Whole training runs: what is learned, and that runs repeat and resume bit for bit."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch

from depthrank.artifact import load_artifact
from depthrank.engine.upserts import pack_upsert
from depthrank.errors import ArtifactError, StorageFullError
from depthrank.events import open_log
from depthrank.training import train
from depthrank.training.checkpoint import FOLDER
from planted_world import write_tiny_world


def test_the_planted_world_is_learned_and_the_expert_beats_the_router(world):
    levels = load_artifact(world.artifact).manifest.training["validation"]["levels"]
    assert levels[0]["click"]["auc"] > 0.7
    assert levels[1]["buy"]["auc"] > levels[0]["buy"]["auc"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_world(tmp_path_factory.mktemp("tiny")).parent


@pytest.fixture(scope="module")
def uninterrupted(tiny: Path) -> Path:
    train(tiny / "ranking.yaml", log=f"lmdb:{tiny / 'log'}", out=tiny / "whole", progress=False)
    return tiny / "whole"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_artifact(path).model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tiny, uninterrupted):
    options = {"log": f"lmdb:{tiny / 'log'}", "progress": False}
    train(tiny / "ranking.yaml", out=tiny / "again", **options)
    assert same(weights(tiny / "again"), weights(uninterrupted))
    train(tiny / "ranking.yaml", out=tiny / "other", seed=1, **options)
    assert not same(weights(tiny / "other"), weights(uninterrupted))


class Interrupted(BaseException):
    pass


def interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends once this many epochs have left their checkpoint."""
    training = import_module("depthrank.training.train")  # the package's attribute of that name is the function
    save, done = training.save_checkpoint, []

    def saving(*args: object) -> None:
        save(*args)
        done.append(1)
        if len(done) == epochs:
            raise Interrupted

    monkeypatch.setattr(training, "save_checkpoint", saving)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_resumed_at_an_epoch_equals_one_that_was_never_interrupted(tiny, uninterrupted, monkeypatch, epochs):
    options = {"log": f"lmdb:{tiny / 'log'}", "out": tiny / f"resumed{epochs}", "progress": False}
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_after(epochs, patch)
        train(tiny / "ranking.yaml", **options)
    torch.manual_seed(12345)
    report = train(tiny / "ranking.yaml", resume=True, **options)
    assert same(weights(tiny / f"resumed{epochs}"), weights(uninterrupted)) and report.summary["epochs"] == 3
    assert not list((tiny / f"resumed{epochs}").glob(f"{FOLDER}*")), "a finished run leaves no checkpoint"


def test_a_run_interrupted_between_two_renames_of_its_checkpoint_still_resumes(tiny, uninterrupted, monkeypatch):
    out = tiny / "renames"
    options = {"log": f"lmdb:{tiny / 'log'}", "out": out, "progress": False}
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_after(1, patch)
        train(tiny / "ranking.yaml", **options)
    (out / FOLDER).rename(out / f"{FOLDER}.old")
    train(tiny / "ranking.yaml", resume=True, **options)
    assert same(weights(out), weights(uninterrupted))


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tiny, monkeypatch):
    options = {"log": f"lmdb:{tiny / 'log'}", "out": tiny / "refused", "progress": False}
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_after(1, patch)
        train(tiny / "ranking.yaml", **options)
    with pytest.raises(ArtifactError, match="another spec, seed or data: train without --resume"):
        train(tiny / "ranking.yaml", resume=True, seed=5, **options)
    for name in ("state.msgpack", "optimizer.safetensors", "model.safetensors"):
        path = tiny / "refused" / FOLDER / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ArtifactError, match="damaged"):
            train(tiny / "ranking.yaml", resume=True, **options)
        path.write_bytes(whole)


def test_a_full_disk_at_a_checkpoint_is_told_as_such(tiny, monkeypatch):
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("depthrank.training.checkpoint.save_file", full)
    with pytest.raises(StorageFullError, match="the disk is full while saving"):
        train(tiny / "ranking.yaml", log=f"lmdb:{tiny / 'log'}", out=tiny / "full", progress=False)


def test_a_limit_of_no_time_still_leaves_an_artifact_that_loads(tiny):
    report = train(tiny / "ranking.yaml", log=f"lmdb:{tiny / 'log'}", out=tiny / "rushed", minutes=1e-9, progress=False)
    assert report.summary["epochs"] == 1 and report.summary["time"]["steps"] == 0
    assert load_artifact(tiny / "rushed").manifest.name == "world"


def test_training_takes_the_log_s_upserts_into_the_artifact(tiny, tmp_path):
    with open_log(f"lmdb:{tmp_path / 'log'}") as log:
        log.append_upsert(pack_upsert({"item": ["new", "i1"], "genre": ["noir", "western"]}))
        train(tiny / "ranking.yaml", log=log, out=tmp_path / "artifact", minutes=1e-9, progress=False)
    items = load_artifact(tmp_path / "artifact").items
    genre = items.column("genre")
    assert items.row_of(["new"]).tolist() == [81]
    assert [genre.dictionary[c] for c in genre.codes[[2, 81]].tolist()] == ["western", "noir"]
