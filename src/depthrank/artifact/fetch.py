"""A verified copy of an artifact in the local cache: read in parallel, hashed as its bytes arrive, resumed where it
was interrupted, and laid out as read-only files that no change of the original can reach.

Parts of all files are read ahead by several threads and taken in order, so that one pass hashes and writes; what is on
disk of an unfinished file is always its beginning, and a later attempt hashes that and goes on behind it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from blake3 import blake3

from depthrank.artifact.cache import Cache, Held, checked_hash
from depthrank.artifact.fetch_sources import Source, manifest_of, open_source
from depthrank.artifact.manifest import MANIFEST_NAME, FileEntry, Manifest
from depthrank.artifact.storage import sync, sync_tree
from depthrank.errors import ArtifactError, StorageFullError

PART_BYTES = 8 << 20
STREAMS = 8
MAX_FILES = 100_000
MAX_FILE_BYTES = 1 << 48

Progress = Callable[[int, int], None]
"""Told (bytes that are here, bytes in all) as they arrive."""


def fetch_artifact(
    location: str | Path, cache: Cache | None = None, *, progress: Progress | None = None, streams: int = STREAMS
) -> Held:
    """The artifact at a path or URL as a verified copy in the cache, held until it is released.

    What is there already is neither read nor verified again. Raises ArtifactError (missing, altered, unreadable,
    hostile) and StorageFullError; what has arrived by then is kept for the next attempt.
    """
    source, cache = open_source(location), cache or Cache()
    while True:
        raw, manifest = manifest_of(source)
        held = cache.find(manifest.checksum)
        if held is not None:
            return held
        check_plausible(manifest, source.location)
        try:
            _copy(source, raw, manifest, cache, progress or (lambda done, total: None), streams)
        except ArtifactError:
            if manifest_of(source)[1].checksum == manifest.checksum:
                raise  # otherwise it was replaced meanwhile, and its files with it


def check_plausible(manifest: Manifest, location: str) -> None:
    """Refuse what no artifact has before anything of it is read: hashes that are paths, sizes beyond any disk."""
    if not manifest.folder.startswith("files-") or len(PurePosixPath(manifest.folder).parts) != 1:
        raise ArtifactError(f"{location}: the manifest's folder is {manifest.folder!r:.100}, expected files-...")
    if len(manifest.files) > MAX_FILES:
        raise ArtifactError(f"{location}: the manifest lists {len(manifest.files):,} files, at most {MAX_FILES:,}")
    for name, entry in manifest.files.items():
        checked_hash(entry.blake3, f"{location}: the hash of {name}")
        if not 0 <= entry.bytes <= MAX_FILE_BYTES:
            raise ArtifactError(f"{location}: {name} has {entry.bytes} bytes, expected 0 to {MAX_FILE_BYTES}")
        for parent in PurePosixPath(name).parents:
            if str(parent) in manifest.files:
                raise ArtifactError(f"{location}: {parent} is both a file and the folder of {name}")


def _copy(source: Source, raw: bytes, manifest: Manifest, cache: Cache, progress: Progress, streams: int) -> None:
    """Bring every file that is not here, then publish the copy."""
    try:
        with cache.building(manifest.checksum) as working:
            if working is None:
                return
            _make_room(manifest, cache)
            arriving = _Arriving(source, manifest, cache, progress, streams)
            with closing(arriving):
                for name, entry in manifest.files.items():
                    link = working / manifest.folder / name
                    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    arriving.bring(name, entry, link)
            (working / MANIFEST_NAME).write_bytes(raw)
            sync_tree(working)
        sync(cache.root / "artifacts")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                f"the disk of the cache {cache.root} is full: free space or set DEPTHRANK_CACHE"
            ) from None
        raise ArtifactError(f"{source.location} cannot be copied into {cache.root}: {error}") from error


def _make_room(manifest: Manifest, cache: Cache) -> None:
    missing = {e.blake3: e.bytes for e in manifest.files.values() if not cache.blob(e.blake3).is_file()}
    needed = sum(missing.values())
    cache.make_room(needed, keep=manifest.checksum)
    free = shutil.disk_usage(cache.root).free
    if needed > free:
        raise StorageFullError(
            f"the artifact {manifest.model_id} needs {needed:,} bytes in {cache.root}, {free:,} are free: "
            "free space or set DEPTHRANK_CACHE"
        )


@dataclass(frozen=True)
class _Part:
    """Bytes [start, stop) of a file."""

    name: str
    start: int
    stop: int


class _Arriving:
    """The files of one artifact on their way into the cache, in the manifest's order."""

    def __init__(self, source: Source, manifest: Manifest, cache: Cache, progress: Progress, streams: int) -> None:
        self._source, self._folder, self._cache = source, manifest.folder, cache
        self._progress, self._total = progress, sum(e.bytes for e in manifest.files.values())
        self._here = 0
        self._ahead = _ReadAhead(self._read, _parts(manifest, cache), streams)

    def bring(self, name: str, entry: FileEntry, link: Path) -> None:
        """Link a file from its blob, which is made first where there is none."""
        while not _linked(self._cache.blob(entry.blake3), link):
            with self._cache.incoming(entry.blake3) as fd:
                if fd is not None:
                    self._complete(name, entry, fd)
                    self._cache.keep(entry.blake3, link)
                    break
        self._here = self._here + entry.bytes
        self._progress(self._here, self._total)

    def close(self) -> None:
        self._ahead.close()

    def _complete(self, name: str, entry: FileEntry, fd: int) -> None:
        """Fill the open file; raises ArtifactError where its content is not what the manifest says."""
        found_bytes = os.fstat(fd).st_size
        if not found_bytes and self._source.clone(f"{self._folder}/{name}", fd):
            found_bytes = os.fstat(fd).st_size
        if self._fill(name, entry, fd) == entry.blake3:
            return
        if found_bytes and self._refill(name, entry, fd):  # what an earlier attempt left was damaged
            return
        self._cache.discard(entry.blake3)
        raise ArtifactError(f"{self._source.location}: {name} was altered: its content does not fit its checksum")

    def _refill(self, name: str, entry: FileEntry, fd: int) -> bool:
        os.ftruncate(fd, 0)
        return self._fill(name, entry, fd) == entry.blake3

    def _fill(self, name: str, entry: FileEntry, fd: int) -> str:
        """Write what is missing behind what is there; the hash of it all."""
        start = min(os.fstat(fd).st_size, entry.bytes)
        os.ftruncate(fd, start)
        hasher = blake3()
        _hash_beginning(fd, start, hasher)
        os.lseek(fd, start, os.SEEK_SET)
        while start < entry.bytes:
            part = _Part(name, start, min(start + PART_BYTES, entry.bytes))
            block = self._ahead.take(part)
            hasher.update(block)
            _write_all(fd, block)
            start = part.stop
            self._progress(self._here + start, self._total)
        os.fsync(fd)
        return hasher.hexdigest()

    def _read(self, part: _Part) -> bytes:
        name = f"{self._folder}/{part.name}"
        block = self._source.read(name, part.start, part.stop)
        if len(block) != part.stop - part.start:
            end = part.start + len(block)
            raise ArtifactError(f"{self._source.location}: {part.name} is truncated: it ends after {end:,} bytes")
        return block


class _ReadAhead:
    """Parts read by several threads before they are asked for, in the order in which they will be."""

    def __init__(self, read: Callable[[_Part], bytes], parts: Iterator[_Part], streams: int) -> None:
        self._read, self._parts, self._streams = read, parts, max(1, streams)
        self._pool = ThreadPoolExecutor(self._streams, "fetch")
        self._pending: deque[tuple[_Part, Future[bytes]]] = deque()

    def take(self, part: _Part) -> bytes:
        """The bytes of a part; parts before it that nobody took (another process brought them) are dropped."""
        self._start_more()
        while any(waiting == part for waiting, _ in self._pending):
            waiting, future = self._pending.popleft()
            if waiting == part:
                self._start_more()
                return future.result()
            future.cancel()
        return self._read(part)  # it was not expected to be missing

    def _start_more(self) -> None:
        for part in islice(self._parts, self._streams + 1 - len(self._pending)):
            self._pending.append((part, self._pool.submit(self._read, part)))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _parts(manifest: Manifest, cache: Cache) -> Iterator[_Part]:
    """What is expected to be missing, in order, at the moment it is asked for."""
    seen = set[str]()
    for name, entry in manifest.files.items():
        if entry.blake3 in seen or cache.blob(entry.blake3).is_file():
            continue
        seen.add(entry.blake3)
        arrived = cache.root / "incoming" / entry.blake3
        start = arrived.stat().st_size if arrived.is_file() else 0
        while start < entry.bytes:
            stop = min(start + PART_BYTES, entry.bytes)
            yield _Part(name, start, stop)
            start = stop


def _linked(blob: Path, link: Path) -> bool:
    """Link a blob; False where it is not there (any more)."""
    try:
        os.link(blob, link)
    except FileNotFoundError:
        return False
    return True


def _hash_beginning(fd: int, stop: int, hasher: blake3) -> None:
    start = 0
    while start < stop:
        block = os.pread(fd, min(PART_BYTES, stop - start), start)
        hasher.update(block)
        start += len(block)


def _write_all(fd: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(fd, view) :]
