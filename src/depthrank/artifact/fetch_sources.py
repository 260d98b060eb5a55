"""Where an artifact is fetched from: a folder here, or any place that fsspec reads (s3, gs, https, memory, ...)."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from depthrank.artifact.manifest import MANIFEST_NAME, Manifest, parse_manifest
from depthrank.errors import ArtifactError

MAX_MANIFEST_BYTES = 64 << 20
ATTEMPTS = 4
FIRST_PAUSE_S = 0.2
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, copy on write (xfs, btrfs; not ext4)


class Source(Protocol):
    """An artifact's place. ``name`` is relative to it; every error is an ArtifactError that names the file."""

    @property
    def location(self) -> str: ...
    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file; fewer where it ends before."""
        ...

    def clone(self, name: str, fd: int) -> bool:
        """Make the open file a copy on write of another; False where that cannot be done."""
        ...


def is_remote(location: str | Path) -> bool:
    """Whether this is a URL, and no path."""
    return isinstance(location, str) and "://" in location


def open_source(location: str | Path) -> Source:
    """The source at a path or URL. Raises ArtifactError for a protocol that is unknown or whose package is missing."""
    text = str(location)
    if text.startswith("file://"):
        return FolderSource(Path(text.removeprefix("file://")))
    return RemoteSource(text) if is_remote(text) else FolderSource(Path(location))


def manifest_of(source: Source) -> tuple[bytes, Manifest]:
    """The manifest as it is there, and read; raises ArtifactError."""
    where = f"{source.location}/{MANIFEST_NAME}"
    raw = source.read(MANIFEST_NAME, 0, MAX_MANIFEST_BYTES + 1)
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{where} is larger than {MAX_MANIFEST_BYTES >> 20} MB: it is no manifest")
    return raw, parse_manifest(where, raw)


class FolderSource:
    """A folder of this machine. Links below it are refused: what they lead to is not part of the artifact."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        return str(self.root)

    def read(self, name: str, start: int, stop: int) -> bytes:
        with self._open(name) as fd:
            parts = []
            while start < stop and (part := os.pread(fd, stop - start, start)):
                parts.append(part)
                start += len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def clone(self, name: str, fd: int) -> bool:
        with self._open(name) as source:
            try:
                fcntl.ioctl(fd, _FICLONE, source)
            except OSError:  # another disk, or a file system without it
                return False
            return True

    def _open(self, name: str) -> _OpenFile:
        path = self.root
        try:
            for part in PurePosixPath(name).parts:
                path = path / part
                if stat.S_ISLNK(path.lstat().st_mode):
                    raise ArtifactError(f"{path} is a link: an artifact holds files")
            return _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        except FileNotFoundError:
            raise ArtifactError(_missing(self.location, name)) from None
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from None


class _OpenFile:
    """An open file for a ``with`` block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


class RemoteSource:
    """A place behind fsspec. A read that fails for another reason than absence is tried again, ``ATTEMPTS`` times."""

    def __init__(self, url: str, pause: Callable[[float], None] = time.sleep) -> None:
        import fsspec  # slow, and only for remote artifacts

        self.url, self._pause = url.rstrip("/"), pause
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise ArtifactError(f"{url}: {error}") from None
        except ValueError as error:
            raise ArtifactError(f"{url}: {error}; expected a path, or a URL such as s3://bucket/artifact") from None

    @property
    def location(self) -> str:
        return self.url

    def read(self, name: str, start: int, stop: int) -> bytes:
        path = f"{str(self._root).rstrip('/')}/{name}"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found: Any = self._fs.cat_file(path, start=start, end=stop)
                return bytes(found)
            except FileNotFoundError:
                raise ArtifactError(_missing(self.location, name)) from None
            except Exception as error:  # the file systems of fsspec have no common base for what they raise
                if attempt == ATTEMPTS:
                    what = f"{type(error).__name__}: {error}"
                    raise ArtifactError(
                        f"{self.url}/{name} cannot be read after {ATTEMPTS} attempts: {what}"
                    ) from error
            self._pause(FIRST_PAUSE_S * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returned or raised")

    def clone(self, name: str, fd: int) -> bool:
        return False


def _missing(location: str, name: str) -> str:
    if name == MANIFEST_NAME:
        return f"there is no artifact at {location}: it has no {MANIFEST_NAME}"
    return f"{location}/{name} is missing from the artifact: copy or train it again"
