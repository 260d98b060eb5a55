"""Decision records on disk: JSON lines in numbered files, bounded in all; a user's lines can be taken out again.

A process appends to files of its own, so a line torn by a crash is the last of its file; readers pass over it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

PATTERN = "decisions-*.jsonl"


class DecisionFiles:
    """Not for several threads at once. Raises OSError where the disk does."""

    def __init__(self, folder: Path, max_bytes: int, file_bytes: int) -> None:
        self.folder = folder
        self._max_bytes, self._file_bytes = max_bytes, min(file_bytes, max_bytes)
        self._current: Path | None = None

    def append(self, record: dict[str, Any]) -> None:
        """Write one record. Where that fails, nothing of it is left."""
        line = msgspec.json.encode(record) + b"\n"
        path = self._file_for(len(line))
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(28, "no room for the whole line", str(path))
            except OSError:
                file.truncate(before)
                raise
        self._drop_oldest()

    def erase(self, user: str) -> int:
        """Remove a user's records from every file, durably; returns how many there were."""
        needle = msgspec.json.encode(user)
        removed = 0
        for path in self.files():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not (needle in line and _user_of(line) in (user, None))]
            if len(kept) < len(lines):
                removed += len(lines) - len(kept)
                _replace(path, b"".join(kept))
        return removed

    def files(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob(PATTERN))

    def _file_for(self, size: int) -> Path:
        current = self._current
        if current is None or not current.exists() or current.stat().st_size + size > self._file_bytes:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            names = [path.stem.removeprefix("decisions-") for path in self.files()]
            number = 1 + max((int(name) for name in names if name.isdigit()), default=0)
            current = self._current = self.folder / f"decisions-{number:08d}.jsonl"
        return current

    def _drop_oldest(self) -> None:
        files = self.files()
        total = sum(path.stat().st_size for path in files)
        for path in files[:-1]:
            if total <= self._max_bytes:
                return
            total -= path.stat().st_size
            path.unlink()


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a file, or of every file of a folder, oldest first; a torn last line is passed over."""
    for file in sorted(path.glob(PATTERN)) if path.is_dir() else [path]:
        for line in file.read_bytes().splitlines():
            try:
                record = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if isinstance(record, dict):
                yield record


def _user_of(line: bytes) -> str | None:
    """Whose record a line is; None for a torn one, which may be anybody's."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return str(found.get("user")) if isinstance(found, dict) else None


def _replace(path: Path, content: bytes) -> None:
    """Put new content under the name; the old file's bytes are unlinked when this returns."""
    fresh = path.with_suffix(".rewriting")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
