"""A fetched artifact is the original, byte for byte, or one clear error; what has arrived is kept and used again."""

from __future__ import annotations

import faulthandler
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import msgspec
import pytest

import depthrank.artifact.fetch as fetching
from depthrank.artifact import Cache, Manifest, fetch_artifact, load_artifact, read_manifest, verify_artifact
from depthrank.artifact.fetch_sources import ATTEMPTS, FolderSource, RemoteSource, open_source
from depthrank.artifact.manifest import FileEntry, hash_file
from depthrank.errors import ArtifactError, StorageFullError

FORK = multiprocessing.get_context("fork")
URL = "memory://models/small"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("DEPTHRANK_CACHE", str(tmp_path / "cache"))
    return Cache()


@pytest.fixture
def remote(artifact: Path) -> Iterator[str]:
    """The saved artifact in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    memory.put(str(artifact), "/models/small", recursive=True)
    yield URL
    memory.rm("/models", recursive=True)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PART_BYTES", 100)


def in_memory(name: str) -> str:
    return f"/models/small/{name}"


def first_table(root: Path) -> str:
    manifest = read_manifest(root)
    return f"{manifest.folder}/{next(name for name in manifest.files if name.startswith('tables/'))}"


@pytest.mark.parametrize("kind", ["remote", "file", "path"])
def test_a_fetched_artifact_is_the_original_byte_for_byte(kind, artifact, remote, cache, small_parts):
    location = {"remote": remote, "file": f"file://{artifact}", "path": artifact}[kind]
    held = fetch_artifact(location)
    manifest = verify_artifact(held.path)
    assert manifest == read_manifest(artifact) and held.path.is_relative_to(cache.root)
    names = [f"{manifest.folder}/{name}" for name in manifest.files]
    assert all((held.path / name).read_bytes() == (artifact / name).read_bytes() for name in names)
    assert {(held.path / name).stat().st_mode & 0o777 for name in names} == {0o400}, "read-only"
    assert cache.root.stat().st_mode & 0o777 == 0o700, "owner only"
    assert not list((cache.root / "incoming").iterdir())


def test_a_url_is_loaded_and_served_from_the_cache(remote, cache):
    loaded = load_artifact(remote)
    assert loaded.manifest.name == "small" and loaded.path.is_relative_to(cache.root)


def test_what_is_in_the_cache_is_not_read_again(remote, cache, monkeypatch):
    first, read = fetch_artifact(remote), list[str]()
    real = RemoteSource.read

    def counted(self: RemoteSource, name: str, start: int, stop: int) -> bytes:
        read.append(name)
        return real(self, name, start, stop)

    monkeypatch.setattr(RemoteSource, "read", counted)
    assert fetch_artifact(remote).path == first.path and read == ["manifest.json"]


def test_an_interrupted_copy_goes_on_where_it_stopped(artifact, remote, cache, small_parts, monkeypatch):
    real, reads = RemoteSource.read, list[tuple[str, int]]()

    def failing(self: RemoteSource, name: str, start: int, stop: int) -> bytes:
        if name == table and start >= 300:
            raise ArtifactError("the line went dead")
        return real(self, name, start, stop)

    def counted(self: RemoteSource, name: str, start: int, stop: int) -> bytes:
        reads.append((name, start))
        return real(self, name, start, stop)

    table = max(
        (f"{read_manifest(artifact).folder}/{n}" for n in read_manifest(artifact).files),
        key=lambda n: (artifact / n).stat().st_size,
    )
    monkeypatch.setattr(RemoteSource, "read", failing)
    with pytest.raises(ArtifactError, match="the line went dead"):
        fetch_artifact(remote)
    (part,) = (cache.root / "incoming").iterdir()
    assert part.read_bytes() == (artifact / table).read_bytes()[:300]
    monkeypatch.setattr(RemoteSource, "read", counted)
    verify_artifact(fetch_artifact(remote).path)
    assert min(start for name, start in reads if name == table) == 300


def test_a_beginning_that_was_damaged_is_fetched_anew(artifact, remote, cache, small_parts):
    name = first_table(artifact)
    content = read_manifest(artifact).files[name.partition("/")[2]].blake3
    (cache.root / "incoming" / content).write_bytes(b"\0" * 150)
    verify_artifact(fetch_artifact(remote).path)


def test_an_altered_or_truncated_original_is_refused_and_leaves_no_artifact(artifact, remote, cache):
    memory, name = fsspec.filesystem("memory"), in_memory(first_table(artifact))
    whole = memory.cat_file(name)
    for spoilt, match in ((whole[:-1] + b"x", "tables/.* was altered"), (whole[:-3], "tables/.* is truncated")):
        memory.pipe_file(name, spoilt)
        with pytest.raises(ArtifactError, match=match):
            fetch_artifact(remote)
        assert not [path for path in (cache.root / "artifacts").iterdir() if path.is_dir()]
    memory.rm_file(name)
    with pytest.raises(ArtifactError, match=r"tables/.* is missing"):
        fetch_artifact(remote)
    memory.pipe_file(name, whole)
    verify_artifact(fetch_artifact(remote).path)


def test_a_read_that_fails_is_tried_again_and_then_told(remote, cache, monkeypatch):
    memory, failures, pauses = fsspec.filesystem("memory"), [2], list[float]()
    real = type(memory).cat_file

    def flaky(self: object, path: str, start: int | None = None, end: int | None = None, **more: object) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise ConnectionResetError("reset by peer")
        return real(self, path, start=start, end=end, **more)

    monkeypatch.setattr(type(memory), "cat_file", flaky)
    source = RemoteSource(remote, pause=pauses.append)
    assert source.read("manifest.json", 0, 1) == b"{" and pauses == [0.2, 0.4]
    failures[0] = ATTEMPTS
    with pytest.raises(ArtifactError, match=rf"after {ATTEMPTS} attempts: ConnectionResetError: reset by peer"):
        source.read("manifest.json", 0, 1)


def test_an_artifact_that_is_replaced_while_it_is_fetched_is_fetched_anew(artifact, remote, cache, reseal, monkeypatch):
    memory, real = fsspec.filesystem("memory"), RemoteSource.read

    def replaced_meanwhile(self: RemoteSource, name: str, start: int, stop: int) -> bytes:
        if name.endswith("dense.safetensors") and "files-new" not in name:
            before = read_manifest(artifact).folder
            (artifact / before).rename(artifact / "files-new")
            reseal(artifact, folder="files-new", name="newer")
            memory.rm("/models/small", recursive=True)
            memory.put(str(artifact), "/models/small", recursive=True)
        return real(self, name, start, stop)

    monkeypatch.setattr(RemoteSource, "read", replaced_meanwhile)
    assert verify_artifact(fetch_artifact(remote, streams=1).path).name == "newer"


def fetch_and_verify(artifact: Path) -> None:
    verify_artifact(fetch_artifact(artifact).path)


def test_several_threads_and_processes_fetch_one_copy(artifact, cache):
    processes = [FORK.Process(target=fetch_and_verify, args=(artifact,)) for _ in range(2)]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as threads:
        held = list(threads.map(lambda _: fetch_artifact(artifact), range(4)))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0] and len({h.path for h in held}) == 1
    assert len(list((cache.root / "blobs").iterdir())) == len(
        {f.blake3 for f in read_manifest(artifact).files.values()}
    )


# ---------------------------------------------------------------------- hostile places


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"folder": "artifacts"}, "folder is 'artifacts', expected files-"),
        ({"folder": "files-x/y"}, "folder is"),
        ({"files": {"x": FileEntry(1 << 60, "0" * 64)}}, "x has 1152921504606846976 bytes"),
        ({"files": {"x": FileEntry(-1, "0" * 64)}}, "x has -1 bytes"),
        ({"files": {"x": FileEntry(1, "../../../etc/cron.d/x")}}, "expected a BLAKE3 hash"),
        ({"files": {"x": FileEntry(1, "0" * 64), "x/y": FileEntry(1, "1" * 64)}}, "both a file and the folder"),
        ({"files": {"../x": FileEntry(1, "0" * 64)}}, "outside the artifact"),
        ({"files": {"n" * 300: FileEntry(0, "0" * 64)}}, "name too long"),
    ],
)
def test_hostile_manifests_are_refused_before_anything_is_read(artifact, cache, changes, match):
    manifest = msgspec.json.decode((artifact / "manifest.json").read_bytes(), type=Manifest)
    sealed = msgspec.structs.replace(manifest, **changes).sealed()
    (artifact / "manifest.json").write_bytes(msgspec.json.encode(sealed))
    before = sorted(p.name for p in cache.root.parent.iterdir())
    with pytest.raises(ArtifactError, match=f"(?i){match}"):
        fetch_artifact(artifact)
    assert sorted(p.name for p in cache.root.parent.iterdir()) == before
    assert not list((cache.root / "blobs").iterdir()) and not [
        p for p in (cache.root / "artifacts").iterdir() if p.is_dir()
    ]


def test_an_artifact_larger_than_the_disk_is_refused_before_it_is_read(artifact, cache):
    manifest = read_manifest(artifact)
    huge = {**manifest.files, "tables/huge.npy": FileEntry(1 << 47, "0" * 64)}
    sealed = msgspec.structs.replace(manifest, files=huge).sealed()
    (artifact / "manifest.json").write_bytes(msgspec.json.encode(sealed))
    with pytest.raises(StorageFullError, match=r"needs 140,737,4.* bytes in .*, .* are free"):
        fetch_artifact(artifact)


def test_a_huge_or_broken_manifest_is_one_error(remote, cache, monkeypatch):
    memory = fsspec.filesystem("memory")
    monkeypatch.setattr("depthrank.artifact.fetch_sources.MAX_MANIFEST_BYTES", 1 << 20)
    for raw, match in (
        (b" " * ((1 << 20) + 1), "larger than 1 MB"),
        (b"{", "is damaged"),
        (b'{"format": 9}', "upgrade"),
    ):
        memory.pipe_file(in_memory("manifest.json"), raw)
        with pytest.raises(ArtifactError, match=match):
            fetch_artifact(remote)


def test_links_in_an_artifact_are_refused(artifact, cache, tmp_path):
    secret, name = tmp_path / "secret", first_table(artifact)
    shutil.move(artifact / name, secret)
    (artifact / name).symlink_to(secret)
    with pytest.raises(ArtifactError, match=r"tables/.* is a link"):
        fetch_artifact(artifact)
    (artifact / name).unlink()
    shutil.move((artifact / name).parent, tmp_path / "elsewhere")
    (artifact / name).parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"tables is a link"):
        fetch_artifact(artifact)


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("memory://nowhere", "there is no artifact at memory://nowhere"),
        ("nosuch://bucket/x", "expected a path, or a URL such as s3://"),
        ("gs://bucket/x", "gcsfs"),
        ("/nonexistent/artifact", "there is no artifact at /nonexistent/artifact"),
    ],
)
def test_a_place_without_an_artifact_says_so(location, match, cache):
    with pytest.raises(ArtifactError, match=match):
        fetch_artifact(location)


def test_places_are_told_apart():
    assert isinstance(open_source("file:///x"), FolderSource) and isinstance(open_source("x"), FolderSource)
    assert isinstance(open_source(URL), RemoteSource)


# ---------------------------------------------------------------------- the original is truncated


def map_and_truncate(kind: str, artifact: Path, name: str) -> None:
    """Map the served form of a file, truncate the original, and read on."""
    faulthandler.disable()  # it would tell of the signal at length
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if kind == "copy":
        served = fetch_artifact(artifact).path / name
    elif kind == "link":
        served = artifact.parent / "linked"
        os.link(artifact / name, served)
    else:
        served = artifact / name
    with served.open("rb") as file:
        rows = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    os.truncate(artifact / name, 0)
    assert rows[-1] == 7


@pytest.mark.parametrize(("kind", "ends"), [("original", -signal.SIGBUS), ("link", -signal.SIGBUS), ("copy", 0)])
def test_truncating_the_original_ends_a_process_that_maps_it_but_none_that_maps_a_copy(
    artifact, reseal, cache, kind, ends
):
    manifest = read_manifest(artifact)
    large = artifact / manifest.folder / "tables" / "large.npy"
    large.write_bytes(bytes([7]) * (1 << 20))
    reseal(artifact, files={**manifest.files, "tables/large.npy": hash_file(large)})
    process = FORK.Process(target=map_and_truncate, args=(kind, artifact, str(large.relative_to(artifact))))
    process.start()
    process.join()
    assert process.exitcode == ends


def test_a_copy_of_a_folder_is_served_when_asked_for(artifact, cache):
    assert load_artifact(artifact).path == artifact
    copied = load_artifact(artifact, copy=True)
    assert copied.path.is_relative_to(cache.root) and copied.held is not None
    shutil.rmtree(artifact)
    assert load_artifact(copied.path).manifest.checksum == copied.manifest.checksum
    assert os.listdir(copied.path)
