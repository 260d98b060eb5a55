"""The manifest of an artifact: what is in the folder, which version wrote it, and a checksum of every file.

``manifest.json`` is the single commit point: it names the files of one generation folder, and is replaced by rename
when everything it names is on disk. Its own ``checksum`` covers its canonical JSON without that field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
from blake3 import blake3

from depthrank.errors import ArtifactError

MANIFEST_NAME = "manifest.json"
FORMAT = 1
TABLES = "tables/"
Verify = Literal["all", "dense", "sizes"]
"""What is compared with checksums: every file, all but the embedding tables, or nothing but the files' sizes."""


class FileEntry(msgspec.Struct, frozen=True):
    """Size and content hash of one file."""

    bytes: int
    blake3: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact says of itself. ``log_position``: the last event that training saw."""

    format: int
    depthrank: str
    name: str
    model_id: str
    created_ms: int
    folder: str
    spec: dict[str, Any]
    model: dict[str, Any]
    log_position: int
    log_url: str | None = None
    training: dict[str, Any] = {}
    files: dict[str, FileEntry] = {}
    checksum: str = ""

    def sealed(self) -> Manifest:
        """The manifest with its checksum."""
        return msgspec.structs.replace(self, checksum=self.expected_checksum())

    def expected_checksum(self) -> str:
        """BLAKE3 of the canonical JSON without ``checksum``."""
        return checksum_without_itself(self)


def checksum_without_itself(manifest: msgspec.Struct) -> str:
    """BLAKE3 of the canonical JSON of a struct whose ``checksum`` is taken as empty."""
    plain = msgspec.to_builtins(msgspec.structs.replace(manifest, checksum=""))
    return blake3(msgspec.json.encode(plain, order="deterministic")).hexdigest()


def read_manifest(root: Path) -> Manifest:
    """The checked manifest of an artifact folder; raises ArtifactError that says what is wrong with it."""
    path = root / MANIFEST_NAME
    if not root.exists():
        raise ArtifactError(f"there is no artifact at {root}: train one with `depthrank train SPEC --out {root}`")
    if not path.is_file():
        raise ArtifactError(f"{root} is not an artifact: it has no {MANIFEST_NAME} (is training unfinished?)")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None
    return parse_manifest(path, raw)


def parse_manifest(where: Path | str, raw: bytes) -> Manifest:
    """The checked manifest in these bytes; raises ArtifactError that begins with ``where`` it lies."""
    check_format(where, raw, FORMAT)
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{where} is damaged: {error}") from None
    if manifest.checksum != manifest.expected_checksum():
        raise ArtifactError(f"{where} was altered: its checksum does not fit its content")
    for name in (manifest.folder, *manifest.files):
        check_relative(where, name)
    return manifest


def check_format(path: Path | str, raw: bytes, newest: int) -> None:
    """A newer format is told apart from damage before anything else is read; raises ArtifactError."""
    try:
        version = msgspec.json.decode(raw).get("format")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, RecursionError):
        raise ArtifactError(f"{path} is damaged: it is not a JSON object") from None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"{path} is damaged: format is {version!r}")
    if version > newest:
        raise ArtifactError(f"{path} has format {version}; this version reads up to {newest}: upgrade depthrank")


def check_relative(path: Path | str, name: str) -> None:
    """Raise ArtifactError unless a name stays inside the folder that it is listed in."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name or not parts.parts:
        raise ArtifactError(f"{path} names a file outside the artifact: {name!r}")


def hash_file(path: Path) -> FileEntry:
    """Size and blake3 of a file."""
    hasher = blake3()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            hasher.update(block)
    return FileEntry(path.stat().st_size, hasher.hexdigest())


def verify_files(root: Path, manifest: Manifest, verify: Verify = "all") -> None:
    """Check sizes, and content where asked; raises ArtifactError that names the first wrong file."""
    is_hashed = {
        "all": lambda name: True,
        "dense": lambda name: not name.startswith(TABLES),
        "sizes": lambda name: False,
    }
    verify_listed(root / manifest.folder, manifest.files, is_hashed[verify])


def verify_listed(folder: Path, files: Mapping[str, FileEntry], is_hashed: Callable[[str], bool]) -> None:
    """Check the sizes of files, and the content of those that ``is_hashed``; raises ArtifactError at the first."""
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing from the artifact: copy or train it again")
        try:
            size = path.stat().st_size
            if size != entry.bytes:
                what = "truncated" if size < entry.bytes else "altered"
                raise ArtifactError(f"{path} is {what}: {size} bytes, expected {entry.bytes}")
            if is_hashed(name) and hash_file(path).blake3 != entry.blake3:
                raise ArtifactError(f"{path} was altered: its content does not fit its checksum")
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from None
