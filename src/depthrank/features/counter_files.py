"""Counters as files: ``counters.json``, one Arrow file of texts a key part, three mapped .npy files a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from depthrank.catalogue import load_array, load_texts, save_array, save_texts
from depthrank.errors import ArtifactError
from depthrank.features.count_table import Counts
from depthrank.features.counter_plan import TableKey

_FORMAT = 1
_COLUMNS = ("bucket", "key", "count")


class _Table(msgspec.Struct):
    parts: list[str]
    actions: list[str]
    bucket_ms: int


class _Manifest(msgspec.Struct):
    format: int
    log_position: int
    parts: list[str]
    tables: list[_Table]


@dataclass(frozen=True)
class SavedCounters:
    """``texts``: the key texts of each part by code; ``log_position``: the last event counted."""

    log_position: int
    texts: dict[str, list[str]]
    tables: dict[TableKey, Counts]


def save_counters(folder: Path, saved: SavedCounters) -> list[Path]:
    """Write all files; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [save_texts(folder / f"keys_{i}.arrow", texts) for i, texts in enumerate(saved.texts.values())]
    for i, counts in enumerate(saved.tables.values()):
        files += [save_array(folder / f"table_{i}.{name}.npy", getattr(counts, name)) for name in _COLUMNS]
    tables = [_described(key) for key in saved.tables]
    manifest = folder / "counters.json"
    manifest.write_bytes(msgspec.json.encode(_Manifest(_FORMAT, saved.log_position, list(saved.texts), tables)))
    return [*files, manifest]


def load_counters(folder: Path, tables: Sequence[TableKey], parts: Sequence[str]) -> SavedCounters:
    """Read what ``save_counters`` wrote for these tables and key parts; raises ArtifactError."""
    path = folder / "counters.json"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"no counters can be read from {folder}: {error}") from None
    if manifest.format != _FORMAT:
        raise ArtifactError(f"{path} has format {manifest.format}; this version reads format {_FORMAT}")
    if manifest.tables != [_described(key) for key in tables] or manifest.parts != list(parts):
        raise ArtifactError(f"{path} holds the counters of another spec: rebuild them from the log")
    texts = {part: load_texts(folder / f"keys_{i}.arrow") for i, part in enumerate(parts)}
    return SavedCounters(manifest.log_position, texts, {key: _counts(folder, i) for i, key in enumerate(tables)})


def _described(key: TableKey) -> _Table:
    return _Table([str(part) for part in key.parts], list(key.actions), key.bucket_ms)


def _counts(folder: Path, number: int) -> Counts:
    arrays = [load_array(folder / f"table_{number}.{name}.npy", "int64", (None,)) for name in _COLUMNS]
    if len({len(array) for array in arrays}) > 1 or (arrays[0][1:] < arrays[0][:-1]).any():
        raise ArtifactError(f"{folder}/table_{number}: its three files do not belong together")
    return Counts(*arrays)
