"""A catalogue as files: ``catalogue.json`` names one .npy file a number array and one Arrow file a list of texts.

Files are numbered, never named after a column, so that no column name can point outside the folder. Nothing is pickled;
arrays are mapped read-only and checked for type, shape and range before they are handed out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from depthrank.catalogue.columns import Column, Kind, ListColumn, NumberColumn, TextColumn, VectorColumn
from depthrank.errors import ArtifactError

_FORMAT = 1


class _ColumnEntry(msgspec.Struct):
    name: str
    kind: Kind


class _Manifest(msgspec.Struct):
    format: int
    entity: str
    id_column: str
    size: int
    columns: list[_ColumnEntry]


def save_catalogue(
    folder: Path, entity: str, id_column: str, ids: list[str], columns: Mapping[str, Column]
) -> list[Path]:
    """Write all files; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [save_texts(folder / "ids.arrow", ids)]
    for number, column in enumerate(columns.values()):
        files += _save_column(folder / f"column_{number}", column)
    entries = [_ColumnEntry(name, column.kind) for name, column in columns.items()]
    manifest = folder / "catalogue.json"
    manifest.write_bytes(msgspec.json.encode(_Manifest(_FORMAT, entity, id_column, len(ids), entries)))
    return [*files, manifest]


def load_catalogue(folder: Path) -> tuple[str, str, list[str], dict[str, Column]]:
    """(entity, id column, ids, columns); raises ArtifactError."""
    path = folder / "catalogue.json"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"no catalogue can be read from {folder}: {error}") from None
    if manifest.format != _FORMAT:
        raise ArtifactError(f"{path} has format {manifest.format}; this version reads format {_FORMAT}")
    ids = load_texts(folder / "ids.arrow")
    if len(ids) != manifest.size:
        raise ArtifactError(f"{folder / 'ids.arrow'} holds {len(ids)} ids, {path} says {manifest.size}")
    columns = {e.name: _load_column(folder / f"column_{i}", e.kind, len(ids)) for i, e in enumerate(manifest.columns)}
    return manifest.entity, manifest.id_column, ids, columns


def save_texts(path: Path, texts: list[str]) -> Path:
    """One Arrow file with one column of texts."""
    batch = pa.record_batch({"text": pa.array(texts, pa.large_string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return path


def load_texts(path: Path) -> list[str]:
    """Texts of ``save_texts``; raises ArtifactError."""
    try:
        with pa.memory_map(str(path)) as source:
            column = pa.ipc.open_file(source).read_all().column("text")
            column.validate(full=True)
            texts: list[str] = column.to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None
    if not all(isinstance(text, str) for text in texts):
        raise ArtifactError(f"{path} does not hold texts only")
    return texts


def save_array(path: Path, values: NDArray[Any]) -> Path:
    """One .npy file."""
    np.save(path, np.ascontiguousarray(values), allow_pickle=False)
    return path


def load_array(path: Path, kinds: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """A mapped array with a dtype of ``kinds`` (such as "int32 int64") and a fitting shape; raises ArtifactError."""
    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None
    fits = len(values.shape) == len(shape) and all(w in (None, h) for h, w in zip(values.shape, shape))
    if values.dtype.name not in kinds.split() or not fits:
        raise ArtifactError(f"{path} holds {values.dtype} {list(values.shape)}, expected {kinds} {list(shape)}")
    return values


def _save_column(stem: Path, column: Column) -> list[Path]:
    def part(name: str, values: NDArray[Any]) -> Path:
        return save_array(stem.with_suffix(f".{name}.npy"), values)

    if isinstance(column, (NumberColumn, VectorColumn)):
        return [part("values", column.values), part("missing", column.missing)]
    dictionary = save_texts(stem.with_suffix(".dictionary.arrow"), column.dictionary)
    if isinstance(column, TextColumn):
        return [part("codes", column.codes), dictionary]
    offsets, codes = column.flat()
    return [part("offsets", offsets), part("codes", codes), dictionary]


def _load_column(stem: Path, kind: Kind, size: int) -> Column:
    def part(name: str, kinds: str, shape: tuple[int | None, ...]) -> Any:
        return load_array(stem.with_suffix(f".{name}.npy"), kinds, shape)

    if kind == "number":
        return NumberColumn(part("values", "int64 float64", (size,)), part("missing", "bool", (size,)))
    if kind == "vector":
        return VectorColumn(part("values", "float32", (size, None)), part("missing", "bool", (size,)))
    dictionary = load_texts(stem.with_suffix(".dictionary.arrow"))
    codes = part("codes", "int32", (size,) if kind == "text" else (None,))
    if len(codes) and not (codes.min() >= 0 and codes.max() < len(dictionary)):
        raise ArtifactError(f"{stem}.codes.npy points outside its dictionary of {len(dictionary)}")
    if kind == "text":
        return TextColumn(codes, dictionary)
    offsets = part("offsets", "int64", (size + 1,))
    if offsets[0] != 0 or offsets[-1] != len(codes) or (np.diff(offsets) < 0).any():
        raise ArtifactError(f"{stem}.offsets.npy does not cut its {len(codes)} codes into rows")
    return ListColumn(offsets[:-1], offsets[1:], codes, dictionary)
