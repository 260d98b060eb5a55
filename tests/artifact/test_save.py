"""Saving replaces an artifact at once or not at all: through crashes at every step, full disks and readers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_artifact import make_contents

import depthrank.artifact.store as store
from depthrank.artifact import load_artifact, read_manifest, save_artifact, verify_artifact
from depthrank.errors import ArtifactError, StorageFullError


def folders(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir())


def seed_of(root: Path) -> int:
    return int(load_artifact(root).manifest.training["seed"])


def only_its_own(root: Path) -> bool:
    return folders(root) == sorted([read_manifest(root).folder, "manifest.json"])


def test_a_second_save_replaces_the_first_and_leaves_nothing_of_it(tmp_path):
    for seed in (1, 2):
        save_artifact(tmp_path / "a", make_contents(seed))
        assert seed_of(tmp_path / "a") == seed and only_its_own(tmp_path / "a")


def test_a_loaded_artifact_works_on_when_another_is_saved_over_it(tmp_path):
    save_artifact(tmp_path / "a", make_contents(1))
    old = load_artifact(tmp_path / "a")
    ids = torch.ones(3, 3, dtype=torch.int64)
    before = old.model.encode_items(ids, torch.zeros(3, 2)).vector_UD
    save_artifact(tmp_path / "a", make_contents(2))
    assert torch.equal(old.model.encode_items(ids, torch.zeros(3, 2)).vector_UD, before)
    assert old.items.ids_of([1, 2]) == ["a", "b"] and seed_of(tmp_path / "a") == 2


def test_an_artifact_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    save_artifact(tmp_path / "a", make_contents(1))
    verify, saves = store.verify_files, iter([2, 3])

    def replaced_meanwhile(*args: Any, **options: Any) -> None:
        if (seed := next(saves, None)) is not None:
            save_artifact(tmp_path / "a", make_contents(seed))
        verify(*args, **options)

    monkeypatch.setattr(store, "verify_files", replaced_meanwhile)
    assert seed_of(tmp_path / "a") == 3


# ---------------------------------------------------------------------- crashes


class Crash(BaseException):
    """The process ends here: nothing after it runs, clean-up included."""


STEPS = ("rename", "fsync", "write_bytes", "mkdir")


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException | None) -> list[str]:
    """Fail the ``at``-th step of writing and publishing (before it happens); returns the steps as they come."""
    done: list[str] = []

    def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            if len(done) == at and error is not None:
                raise error
            done.append(name)
            return real(*args, **options)

        return step

    monkeypatch.setattr(os, "fsync", failing("fsync", os.fsync))
    for name in ("rename", "write_bytes", "mkdir"):
        monkeypatch.setattr(Path, name, failing(name, getattr(Path, name)))
    if isinstance(error, Crash):
        monkeypatch.setattr(store.shutil, "rmtree", lambda *args, **options: None)
        monkeypatch.setattr(Path, "unlink", lambda *args, **options: None)
    return done


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The steps of one whole save, over an artifact that exists."""
    root = tmp_path_factory.mktemp("steps") / "a"
    save_artifact(root, make_contents(1))
    with pytest.MonkeyPatch.context() as patch:
        done = interrupt(patch, -1, None)
        save_artifact(root, make_contents(2))
    assert done.count("rename") == 2 and done.count("fsync") > 20, "every file and folder is synced"
    yield done


def places(steps: list[str]) -> list[int]:
    """Every rename and write, and the syncs beside them; the many syncs of files are alike."""
    telling = {i for i, name in enumerate(steps) if name != "fsync"}
    return sorted({j for i in telling for j in (i - 1, i, i + 1) if 0 <= j < len(steps)} | {len(steps) - 1})


def test_after_a_crash_at_any_step_the_old_artifact_loads_or_the_new_one_never_half(tmp_path, monkeypatch, steps):
    seeds = []
    for at in places(steps):
        root = tmp_path / f"a{at}"
        save_artifact(root, make_contents(1))
        with monkeypatch.context() as patch:
            interrupt(patch, at, Crash())
            with pytest.raises(Crash):
                save_artifact(root, make_contents(2))
        seeds.append(seed_of(root))
        save_artifact(root, make_contents(3))  # and the next save works and tidies
        assert seed_of(root) == 3 and only_its_own(root)
    assert seeds == sorted(seeds) and set(seeds) == {1, 2}, "old before the commit point, new after it"


def test_after_a_crash_of_a_first_save_there_is_no_artifact_or_a_whole_one(tmp_path, monkeypatch, steps):
    for at in places(steps)[::3]:
        root = tmp_path / f"a{at}"
        with monkeypatch.context() as patch:
            interrupt(patch, at, Crash())
            with pytest.raises(Crash):
                save_artifact(root, make_contents(2))
        if (root / "manifest.json").exists():
            assert seed_of(root) == 2, "it crashed after the commit point"
            continue
        with pytest.raises(ArtifactError, match=r"there is no artifact|no manifest.json"):
            load_artifact(root)


def test_a_failing_disk_at_any_step_is_one_error_and_leaves_nothing_behind(tmp_path, monkeypatch, steps):
    root, published = tmp_path / "a", False
    save_artifact(root, make_contents(1))
    for at in places(steps):
        with monkeypatch.context() as patch:
            interrupt(patch, at, OSError(5, "Input/output error"))
            with pytest.raises(ArtifactError, match=r"cannot save .*Input/output error"):
                save_artifact(root, make_contents(2))
        published |= seed_of(root) == 2
        if not published:
            assert only_its_own(root), f"step {at}"
    assert published, "the last sync comes after the commit point"
    save_artifact(root, make_contents(3))
    assert seed_of(root) == 3 and only_its_own(root)


# ---------------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_leaves_the_old_artifact_whole_and_nothing_of_the_new_one(small_disk):
    root = small_disk / "a"
    save_artifact(root, make_contents(1))
    used = sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
    ballast = small_disk / "ballast"
    for room in range(0, used + 8192, 12_000):
        status = os.statvfs(small_disk)
        ballast.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - room)))
        try:
            save_artifact(root, make_contents(2))
        except StorageFullError as error:
            assert "the disk is full while saving" in str(error) and seed_of(root) == 1
            assert only_its_own(root)
        ballast.unlink()
    save_artifact(root, make_contents(3))
    assert seed_of(root) == 3


LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from small_artifact import make_contents
from depthrank.artifact import save_artifact
from depthrank.errors import StorageFullError
for limit in (100, 1_000, 3_000, 20_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        save_artifact(sys.argv[1], make_contents(2))
    except StorageFullError as error:
        print("full", flush=True)
"""


def test_a_file_size_limit_is_a_full_disk_too(tmp_path):
    save_artifact(tmp_path / "a", make_contents(1))
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path / "a"), here], capture_output=True, text=True)
    assert done.stdout.split() == ["full"] * 4, done.stderr[-2000:]
    assert seed_of(tmp_path / "a") == 1 and only_its_own(tmp_path / "a")


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match=r"cannot save .*file"):
        save_artifact(tmp_path / "file" / "a", make_contents(1))


def test_verify_reads_every_byte(artifact):
    assert verify_artifact(artifact).name == "small"
    report = artifact / read_manifest(artifact).folder / "report.html"
    report.write_text("<p>tampered")
    with pytest.raises(ArtifactError, match=r"report\.html"):
        verify_artifact(artifact)
