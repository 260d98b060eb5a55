"""The cache stays within its size, never takes what is in use, and belongs to one user."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from small_artifact import make_contents

from depthrank.artifact import Cache, fetch_artifact, read_manifest, save_artifact, verify_artifact
from depthrank.artifact.cache import checked_hash
from depthrank.errors import ArtifactError

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Three artifacts that differ in their weights and share their other files."""
    for seed in range(3):
        save_artifact(tmp_path / f"a{seed}", make_contents(seed))
    return [tmp_path / f"a{seed}" for seed in range(3)]


def size_of(artifact: Path) -> int:
    return sum({f.blake3: f.bytes for f in read_manifest(artifact).files.values()}.values())


def test_artifacts_share_the_files_they_have_in_common(three, tmp_path):
    cache = Cache(tmp_path / "cache")
    held = [fetch_artifact(artifact, cache) for artifact in three]
    blobs = [path.stat().st_size for path in (cache.root / "blobs").iterdir()]
    assert size_of(three[0]) < sum(blobs) < 3 * size_of(three[0])
    for one in held:
        verify_artifact(one.path)


def test_the_longest_unused_artifact_is_evicted_and_what_is_in_use_never(three, tmp_path):
    cache = Cache(tmp_path / "cache", limit_bytes=10 << 30)
    first, second = fetch_artifact(three[0], cache), fetch_artifact(three[1], cache)
    tight = Cache(tmp_path / "cache", limit_bytes=1)
    assert tight.make_room(0) == 0, "both are in use"
    first.release()
    assert tight.make_room(0) > 0
    assert not first.path.exists() and verify_artifact(second.path)
    third = fetch_artifact(three[2], tight)
    assert verify_artifact(third.path) and verify_artifact(second.path), "above the limit rather than broken"
    for held in (second, third):
        held.release()
    tight.make_room(0)
    assert tight.used_bytes() == 0


def test_use_counts_as_the_order_of_eviction(three, tmp_path):
    cache = Cache(tmp_path / "cache", limit_bytes=10 << 30)
    for artifact in three:
        fetch_artifact(artifact, cache).release()
    fetch_artifact(three[0], cache).release()
    used = cache.used_bytes()
    Cache(tmp_path / "cache", limit_bytes=used - 1).make_room(0)
    kept = [cache.find(read_manifest(artifact).checksum) is not None for artifact in three]
    assert kept == [True, False, True]


def hold(artifact: Path, cache: Path, said: Connection) -> None:
    held = fetch_artifact(artifact, Cache(cache))
    said.send(str(held.path))
    said.recv()


def test_another_process_that_uses_an_artifact_keeps_it(three, tmp_path):
    cache = Cache(tmp_path / "cache", limit_bytes=1)
    here, there = FORK.Pipe()
    other = FORK.Process(target=hold, args=(three[0], cache.root, there))
    other.start()
    assert here.recv()
    assert cache.make_room(0) == 0
    other.kill()
    other.join()
    assert cache.make_room(0) > 0, "a process that died holds nothing"
    assert cache.used_bytes() == 0


def test_unfinished_files_go_first_unless_they_are_being_written(tmp_path):
    cache = Cache(tmp_path / "cache", limit_bytes=1)
    writing, left = "a" * 64, "b" * 64
    (cache.root / "incoming" / left).write_bytes(bytes(100))
    with cache.incoming(writing) as fd:
        (cache.root / "incoming" / writing).write_bytes(bytes(100))
        assert fd is not None and cache.make_room(0) == 100
        assert [p.name for p in (cache.root / "incoming").iterdir()] == [writing]


def test_what_a_crash_left_half_built_is_built_again(three, tmp_path):
    cache = Cache(tmp_path / "cache")
    checksum = read_manifest(three[0]).checksum
    (cache.root / "artifacts" / f".building-{checksum}").mkdir()
    (cache.root / "artifacts" / f".building-{checksum}" / "rubbish").touch()
    held = fetch_artifact(three[0], cache)
    assert verify_artifact(held.path) and not (held.path / "rubbish").exists()


def test_a_folder_that_others_can_write_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ArtifactError, match="is open to others: run chmod 700"):
        Cache(tmp_path / "open")
    (tmp_path / "open").chmod(0o700)
    Cache(tmp_path / "open")


def test_a_cache_that_cannot_be_made_says_which_variable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="set DEPTHRANK_CACHE"):
        Cache(tmp_path / "file" / "cache")


def test_the_limit_of_the_environment_is_a_number(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPTHRANK_CACHE_BYTES", "1000")
    assert Cache(tmp_path / "c").limit_bytes == 1000
    monkeypatch.setenv("DEPTHRANK_CACHE_BYTES", "1 GB")
    with pytest.raises(ArtifactError, match="DEPTHRANK_CACHE_BYTES is '1 GB': expected a number of bytes"):
        Cache(tmp_path / "c")


@pytest.mark.parametrize("text", ["../x", "0" * 63, "0" * 63 + "/", "A" * 64, "0" * 64 + "\n", ""])
def test_only_a_hash_names_a_file(text):
    assert checked_hash("0af" + "1" * 61, "it")
    with pytest.raises(ArtifactError, match="expected a BLAKE3 hash"):
        checked_hash(text, "it")
