"""A delta on disk: rows, dense weights and catalogue rows that changed since an artifact, in an order of their own.

    delta-000001/                    the first of an artifact, ``delta.json`` written last
        delta.json                   what is there, a checksum of each file, and of which state it is the change
        tables/<side>_features.rows  the changed rows, packed as the artifact packs them (a row file)
        rows.safetensors             for each of them the rows they replace, int64, ascending
        dense.safetensors            the dense weights that changed
        items.msgpack, users.msgpack columns of the catalogue rows that changed or came
        policy.json                  the adaptive policy, where it changed

``parent`` is the checksum of the delta before, or of the artifact's manifest: a delta fits exactly one state.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from depthrank.artifact.manifest import (
    FileEntry,
    check_format,
    check_relative,
    checksum_without_itself,
    hash_file,
    verify_listed,
)
from depthrank.artifact.storage import sync, sync_tree
from depthrank.errors import ArtifactError

DELTA_NAME = "delta.json"
FORMAT = 1
_FOLDER = re.compile(r"delta-(\d{6})")
MOST_DELTAS = 999_999


class RowChanges(msgspec.Struct, frozen=True):
    """``rows`` changed rows of a table of ``of`` rows, packed in ``form``, of ``width`` numbers."""

    rows: int
    of: int
    form: str
    width: int


class DeltaManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a delta says of itself. ``base`` and ``parent`` are checksums; ``log_position``: that training saw.

    ``entities``: changed catalogue rows by entity. ``policy``: "same" as before, "new" (here), or "none" any more.
    """

    format: int
    depthrank: str
    base: str
    base_model: str
    parent: str
    sequence: int
    created_ms: int
    log_position: int
    tables: dict[str, RowChanges] = {}
    dense: list[str] = []
    entities: dict[str, int] = {}
    policy: str = "same"
    files: dict[str, FileEntry] = {}
    checksum: str = ""

    def sealed(self) -> DeltaManifest:
        """The manifest with its checksum."""
        return msgspec.structs.replace(self, checksum=self.expected_checksum())

    def expected_checksum(self) -> str:
        """BLAKE3 of the canonical JSON without ``checksum``."""
        return checksum_without_itself(self)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a person."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["bytes"] = sum(entry.bytes for entry in self.files.values())
        return plain


def folder_name(sequence: int) -> str:
    """The folder of the delta with this number."""
    return f"delta-{sequence:06d}"


def delta_folders(folder: Path) -> list[Path]:
    """The finished deltas in a folder, in their order; raises ArtifactError where one between them is missing."""
    found = numbered_deltas(folder)
    for sequence in range(1, max(found, default=0)):
        if sequence not in found:
            raise ArtifactError(
                f"{folder / folder_name(sequence)} is missing and later ones are there: bring it, or remove these"
            )
    return [found[sequence] for sequence in sorted(found)]


def numbered_deltas(folder: Path) -> dict[int, Path]:
    """The finished deltas in a folder by the number in their names."""
    if not folder.is_dir():
        return {}
    return {int(m[1]): p for p in folder.iterdir() if (m := _FOLDER.fullmatch(p.name)) and (p / DELTA_NAME).is_file()}


def read_delta(folder: Path) -> DeltaManifest:
    """The checked manifest of a delta whose files are all as it says; raises ArtifactError."""
    manifest = read_delta_manifest(folder)
    verify_listed(folder, manifest.files, lambda name: True)
    return manifest


def read_delta_manifest(folder: Path) -> DeltaManifest:
    """The checked manifest of a delta; its files are not read. Raises ArtifactError."""
    path = folder / DELTA_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"there is no delta at {folder}: {error.strerror}") from None
    check_format(path, raw, FORMAT)
    try:
        manifest = msgspec.json.decode(raw, type=DeltaManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from None
    if manifest.checksum != manifest.expected_checksum():
        raise ArtifactError(f"{path} was altered: its checksum does not fit its content")
    if not 1 <= manifest.sequence <= MOST_DELTAS:
        raise ArtifactError(f"{path} is damaged: sequence is {manifest.sequence}")
    for name in manifest.files:
        check_relative(path, name)
    return manifest


def write_delta(folder: Path, write: Callable[[Path], DeltaManifest]) -> Path:
    """Publish a delta below ``folder``: ``write`` fills a folder and says what it is; returns the delta's folder.

    Raises ArtifactError where there is one of this number by now; then, and on any error, nothing is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    working = folder / ".writing-delta"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()
    try:
        manifest = write(working)
        files = {p.relative_to(working).as_posix(): hash_file(p) for p in sorted(working.rglob("*")) if p.is_file()}
        sealed = msgspec.structs.replace(manifest, files=files).sealed()
        (working / DELTA_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=1))
        sync_tree(working)
        final = folder / folder_name(sealed.sequence)
        if final.exists():
            raise ArtifactError(f"{final} is there already: another run made it")
        working.rename(final)
        sync(folder)
        return final
    finally:
        shutil.rmtree(working, ignore_errors=True)
