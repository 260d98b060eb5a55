"""Backup and restore: one portable form for every backend, with a checksum a file.

A backup is a folder: ``manifest.json`` (what there is, and the BLAKE3 of each file), ``items.msgpack`` and
``actions.msgpack`` (ids by code), ``events-NNNNNN.msgpack`` (columns of up to 65,536 events, in log order) and
``upserts-NNNNNN.msgpack`` (payloads of about 16 MiB, in order). Log positions, codes, event ids, arrival times and
upsert numbers survive; the folder appears under its name only when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from blake3 import blake3

from depthrank.errors import LogError
from depthrank.events.batch import EventBatch

FORMAT = "depthrank-events-backup"
VERSION = 1
EVENTS_A_FILE = 65_536
UPSERT_BYTES_A_FILE = 16 << 20


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``manifest.json`` of a backup."""

    format: str
    version: int
    events: int
    next_position: int
    files: dict[str, str]  # name -> BLAKE3 (hex), in reading order


class _Columns(msgspec.Struct, frozen=True, array_like=True):
    """Some events as one msgpack value; numbers are little-endian bytes."""

    user: list[str]
    item: list[str]
    action: list[str]
    time_ms: bytes
    appended_ms: bytes
    event_id: list[str | None] | None
    request_id: list[str | None] | None
    position: bytes
    extra: list[bytes | None] | None
    log_position: bytes


class Contents(msgspec.Struct, frozen=True):
    """What a backup holds, with its events read one file at a time."""

    manifest: Manifest
    items: list[str]
    actions: list[str]
    folder: Path

    def batches(self) -> Iterator[EventBatch]:
        for name in self.manifest.files:
            if name.startswith("events-"):
                yield _unpacked(_read_checked(self.folder, name, self.manifest.files[name]))

    def upserts(self) -> Iterator[bytes]:
        for name, digest in self.manifest.files.items():
            if name.startswith("upserts-"):
                yield from msgspec.msgpack.decode(_read_checked(self.folder, name, digest), type=list[bytes])


def write_backup(
    target: Path,
    items: list[str],
    actions: list[str],
    next_position: int,
    batches: Iterator[EventBatch],
    upserts: Iterator[tuple[int, bytes]],
) -> int:
    """Write a backup folder; returns the number of events. Raises ``LogError`` where the folder exists."""
    if target.exists():
        raise LogError(f"{target} exists; back up into a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        files: dict[str, str] = {}
        for name, ids in (("items.msgpack", items), ("actions.msgpack", actions)):
            files[name] = _write_synced(unfinished / name, msgspec.msgpack.encode(ids))
        events = 0
        for number, batch in enumerate(batches):
            name = f"events-{number:06d}.msgpack"
            files[name] = _write_synced(unfinished / name, _packed(batch))
            events += len(batch)
        for number, payloads in enumerate(_pieces(upserts)):
            name = f"upserts-{number:06d}.msgpack"
            files[name] = _write_synced(unfinished / name, msgspec.msgpack.encode(payloads))
        manifest = Manifest(FORMAT, VERSION, events, next_position, files)
        _write_synced(unfinished / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
        unfinished.rename(target)
    except OSError as error:
        raise LogError(f"cannot write the backup {target}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return events


def read_backup(source: Path) -> Contents:
    """Open a backup; checks every file against its checksum before anything is used."""
    manifest = _read_manifest(source)
    for name, digest in manifest.files.items():
        _read_checked(source, name, digest)
    items, actions = (
        msgspec.msgpack.decode(_read_checked(source, name, manifest.files[name]), type=list[str])
        for name in ("items.msgpack", "actions.msgpack")
    )
    return Contents(manifest, items, actions, source)


def _read_manifest(source: Path) -> Manifest:
    try:
        raw = (source / "manifest.json").read_bytes()
        head = msgspec.json.decode(raw, type=dict[str, object])
    except (OSError, msgspec.DecodeError) as error:
        raise LogError(f"{source} is not a backup of an event log: {error}") from error
    if head.get("format") != FORMAT:
        raise LogError(f"{source} is not a backup of an event log: manifest.json names format {head.get('format')!r}")
    if head.get("version") != VERSION:
        raise LogError(f"{source} is of backup version {head.get('version')}, this program reads {VERSION}; update it")
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as error:
        raise LogError(f"{source / 'manifest.json'} is damaged: {error}") from error
    if any(Path(name).name != name for name in manifest.files):
        raise LogError(f"{source / 'manifest.json'} is damaged: it names files outside its folder")
    if missing := {"items.msgpack", "actions.msgpack"} - set(manifest.files):
        raise LogError(f"{source / 'manifest.json'} is damaged: it does not list {', '.join(sorted(missing))}")
    return manifest


def _read_checked(folder: Path, name: str, digest: str) -> bytes:
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise LogError(f"the backup {folder} is incomplete: {error}") from error
    if blake3(content).hexdigest() != digest:
        raise LogError(f"{folder / name} is damaged: its checksum is not the one in manifest.json; use another backup")
    return content


def _pieces(upserts: Iterator[tuple[int, bytes]]) -> Iterator[list[bytes]]:
    """Payloads in lists of about ``UPSERT_BYTES_A_FILE``; their numbers are their places."""
    piece: list[bytes] = []
    size = 0
    for _, payload in upserts:
        piece.append(payload)
        size += len(payload)
        if size >= UPSERT_BYTES_A_FILE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _write_synced(path: Path, content: bytes) -> str:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return str(blake3(content).hexdigest())


def _packed(batch: EventBatch) -> bytes:
    assert batch.appended_ms is not None and batch.position is not None and batch.log_position is not None
    return msgspec.msgpack.encode(
        _Columns(
            list(batch.user),
            list(batch.item),
            list(batch.action),
            batch.time_ms.astype("<i8").tobytes(),
            batch.appended_ms.astype("<i8").tobytes(),
            None if batch.event_id is None else list(batch.event_id),
            None if batch.request_id is None else list(batch.request_id),
            batch.position.astype("<i4").tobytes(),
            None if batch.extra is None else list(batch.extra),
            batch.log_position.astype("<i8").tobytes(),
        )
    )


def _unpacked(content: bytes) -> EventBatch:
    columns = msgspec.msgpack.decode(content, type=_Columns)
    return EventBatch(
        columns.user,
        columns.item,
        columns.action,
        np.frombuffer(columns.time_ms, "<i8"),
        np.frombuffer(columns.appended_ms, "<i8"),
        columns.event_id,
        columns.request_id,
        np.frombuffer(columns.position, "<i4"),
        columns.extra,
        np.frombuffer(columns.log_position, "<i8"),
    )
