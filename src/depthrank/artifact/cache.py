"""Read-only, content-addressed copies of artifact files on this machine, shared by all processes of one user.

    <root>/                        fetched/ below $DEPTHRANK_CACHE or ~/.cache/depthrank; ours alone (mode 0700)
        blobs/<blake3>             one file of each content (mode 0400), linked into every artifact that has it
        incoming/<blake3>          what has arrived of a file; its writer holds a lock on it
        artifacts/<checksum>/      an artifact: manifest.json, and links to blobs below the folder that it names
        artifacts/<checksum>.lock  locked, shared, by every process that uses the artifact; alone while it is built

A blob appears with its first link already made, so that one with no link but its own is used by nobody. Locks are of
the kernel (flock): a process that dies lets go of its own.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from depthrank.artifact.manifest import MANIFEST_NAME
from depthrank.errors import ArtifactError

LOCATION_VARIABLE = "DEPTHRANK_CACHE"
LIMIT_VARIABLE = "DEPTHRANK_CACHE_BYTES"
DEFAULT_LIMIT_BYTES = 100 << 30
_HEX = re.compile(r"[0-9a-f]{64}")


def cache_root() -> Path:
    """Where fetched artifacts of this user lie."""
    named = os.environ.get(LOCATION_VARIABLE)
    return (Path(named) if named else Path.home() / ".cache" / "depthrank") / "fetched"


def cache_limit_bytes() -> int:
    """What the cache may hold; raises ArtifactError where the environment names no number."""
    named = os.environ.get(LIMIT_VARIABLE)
    if named is None:
        return DEFAULT_LIMIT_BYTES
    if not named.isascii() or not named.isdigit():
        raise ArtifactError(f"{LIMIT_VARIABLE} is {named!r}: expected a number of bytes")
    return int(named)


def checked_hash(text: str, what: str) -> str:
    """A hash that may name a file; raises ArtifactError for anything else, such as a path."""
    if not _HEX.fullmatch(text):
        raise ArtifactError(f"{what} is {text!r:.100}: expected a BLAKE3 hash, 64 hexadecimal digits")
    return text


@dataclass(frozen=True)
class Held:
    """An artifact of the cache in use; it is not evicted while this lives (or until ``release``)."""

    path: Path
    handle: _Handle

    def release(self) -> None:
        """Let it be evicted."""
        self.handle.close()


class _Handle:
    """An open file whose lock ends with it."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def lock(self, how: int) -> bool:
        """Take the lock; False where ``LOCK_NB`` was asked for and another has it."""
        try:
            fcntl.flock(self.fd, how)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __del__(self) -> None:
        self.close()


class Cache:
    """The folder of one user. Safe for several processes and threads; raises ArtifactError where others can write."""

    def __init__(self, root: Path | None = None, limit_bytes: int | None = None) -> None:
        self.root = (root or cache_root()).absolute()
        self.limit_bytes = cache_limit_bytes() if limit_bytes is None else limit_bytes
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_ours(self.root)
            for name in ("blobs", "incoming", "artifacts"):
                (self.root / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"the cache {self.root} cannot be used: {error}; set {LOCATION_VARIABLE}") from None

    def blob(self, content: str) -> Path:
        """Where the file of this content lies, once it is there."""
        return self.root / "blobs" / checked_hash(content, "the hash of a file")

    def find(self, checksum: str) -> Held | None:
        """The artifact with this manifest checksum, held; None where it is not (all) here."""
        path, handle = self._tree(checksum), self._lock_of(checksum)
        handle.lock(fcntl.LOCK_SH)
        if (path / MANIFEST_NAME).is_file():
            os.utime(handle.fd)  # the longest unused go first
            return Held(path, handle)
        handle.close()
        return None

    @contextmanager
    def building(self, checksum: str) -> Iterator[Path | None]:
        """The empty folder to build an artifact in, published at the end; None where it is there by now.

        One process builds at a time, others wait. What an error leaves is removed; files that arrived whole stay.
        """
        final, handle = self._tree(checksum), self._lock_of(checksum)
        working = final.with_name(f".building-{checksum}")
        try:
            handle.lock(fcntl.LOCK_EX)
            if (final / MANIFEST_NAME).is_file():
                yield None
                return
            for left in (working, final):
                shutil.rmtree(left, ignore_errors=True)
            working.mkdir(mode=0o700)
            yield working
            working.rename(final)
        finally:
            shutil.rmtree(working, ignore_errors=True)
            handle.close()

    @contextmanager
    def incoming(self, content: str) -> Iterator[int | None]:
        """An open file with what has arrived of a content; None where it is whole by now. One writer at a time."""
        path = self.root / "incoming" / checked_hash(content, "the hash of a file")
        while True:
            handle = _Handle(path)
            handle.lock(fcntl.LOCK_EX)
            if _is_same_file(handle.fd, path):
                break
            handle.close()  # it was finished, or evicted, while this process waited
        try:
            if self.blob(content).is_file():
                path.unlink()
                yield None
            else:
                yield handle.fd
        finally:
            handle.close()

    def keep(self, content: str, link: Path) -> None:
        """Publish the incoming file, which the caller has checked and holds, as a blob with the link ``link``."""
        path = self.root / "incoming" / content
        path.chmod(0o400)
        os.link(path, link)
        path.rename(self.blob(content))

    def discard(self, content: str) -> None:
        """Forget what has arrived of a content."""
        (self.root / "incoming" / content).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Bytes of all blobs, of what has arrived, and of files that lie in one artifact only."""
        shared = sum(status.st_size for _, status in self._files("blobs", "incoming"))
        return shared + sum(_own_bytes(tree) for tree in (self.root / "artifacts").iterdir() if tree.is_dir())

    def make_room(self, needed_bytes: int, keep: str | None = None) -> int:
        """Evict until ``needed_bytes`` more fit below the limit: unfinished files first, then artifacts by their last
        use; returns what is evicted. What is in use, and the artifact ``keep``, stays, even if the limit is passed."""
        before = excess = self.used_bytes() + needed_bytes - self.limit_bytes
        if excess <= 0:
            return 0
        for path, status in self._files("incoming"):
            if excess > 0 and _remove_unlocked(path):
                excess -= status.st_size
        for checksum in self._by_last_use():
            own = _own_bytes(self._tree(checksum))
            if excess > 0 and checksum != keep and self._remove_artifact(checksum):
                excess -= own + self._remove_unlinked()
        if excess > 0:
            excess -= self._remove_unlinked()
        return before - excess

    def _remove_artifact(self, checksum: str) -> bool:
        """Unlink an artifact that nobody uses."""
        handle = self._lock_of(checksum)
        try:
            if not handle.lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
                return False
            shutil.rmtree(self._tree(checksum), ignore_errors=True)
            shutil.rmtree(self._tree(checksum).with_name(f".building-{checksum}"), ignore_errors=True)
            return True
        finally:
            handle.close()

    def _remove_unlinked(self) -> int:
        """Remove blobs of no artifact; a blob is linked before it appears, so this takes none from a builder."""
        freed = 0
        for path, status in self._files("blobs"):
            if status.st_nlink == 1:
                path.unlink(missing_ok=True)
                freed += status.st_size
        return freed

    def _by_last_use(self) -> list[str]:
        used = []
        for path in (self.root / "artifacts").glob("*.lock"):
            with suppress(FileNotFoundError):
                used.append((path.stat().st_mtime_ns, path.stem))
        return [checksum for _, checksum in sorted(used) if _HEX.fullmatch(checksum)]

    def _files(self, *folders: str) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in folders:
            for path in (self.root / folder).iterdir():
                with suppress(FileNotFoundError):  # another process evicts too
                    yield path, path.lstat()

    def _tree(self, checksum: str) -> Path:
        return self.root / "artifacts" / checked_hash(checksum, "the checksum of a manifest")

    def _lock_of(self, checksum: str) -> _Handle:
        return _Handle(self.root / "artifacts" / f"{checked_hash(checksum, 'the checksum of a manifest')}.lock")


def _own_bytes(tree: Path) -> int:
    """Bytes of the files below that no blob shares."""
    found = 0
    for path in tree.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.lstat()
            found += status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0
    return found


def _check_ours(root: Path) -> None:
    """Who can write here could replace what is mapped."""
    status = root.stat()
    if status.st_uid != os.getuid():
        raise ArtifactError(f"the cache {root} belongs to another user: set {LOCATION_VARIABLE} to a folder of yours")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ArtifactError(f"the cache {root} is open to others: run chmod 700 {root}")


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _remove_unlocked(path: Path) -> bool:
    """Remove a file unless its writer is at it."""
    handle = _Handle(path)
    try:
        if not handle.lock(fcntl.LOCK_EX | fcntl.LOCK_NB) or not _is_same_file(handle.fd, path):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        handle.close()
