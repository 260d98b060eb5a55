"""An encoder as files: ``features.json`` (spec, plan, statistics), ``vocabularies.parquet`` (feature, value, count)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from depthrank.errors import ArtifactError, SpecError
from depthrank.features.feature_plan import Learned, Origin, Planned, Side
from depthrank.features.numeric_scale import NumericScale, ScaleStats
from depthrank.features.vocabulary import Vocabulary
from depthrank.schema import (
    Categorical,
    Counter,
    HistoryAlong,
    HistoryCount,
    HistoryMatch,
    MultiHot,
    Numeric,
    Position,
    Spec,
)

_FORMAT = 1


class _Part(msgspec.Struct):
    name: str
    side: Side
    origin: Origin
    column: str | None
    is_age: bool


class _Manifest(msgspec.Struct):
    format: int
    spec: dict[str, Any]
    parts: list[_Part]
    scales: dict[str, ScaleStats]


def save_encoder(folder: Path, spec: Spec, parts: Sequence[Planned], learned: Mapping[str, Learned]) -> list[Path]:
    """Write both files; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    scales = {name: known.stats for name, known in learned.items() if isinstance(known, NumericScale)}
    described = [_Part(p.name, p.side, p.origin, p.column, p.is_age) for p in parts]
    manifest, vocabularies = folder / "features.json", folder / "vocabularies.parquet"
    manifest.write_bytes(msgspec.json.encode(_Manifest(_FORMAT, spec.to_plain(), described, scales)))
    rows = [
        (name, value, count)
        for name, known in learned.items()
        if isinstance(known, Vocabulary)
        for value, count in zip(known.values, known.counts)
    ]
    columns = [[row[i] for row in rows] for i in range(3)]
    types = (pa.string(), pa.large_string(), pa.int64())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types)]
    pq.write_table(pa.table(arrays, names=["feature", "value", "count"]), vocabularies)
    return [manifest, vocabularies]


def load_encoder(folder: Path) -> tuple[Spec, list[Planned], dict[str, Learned]]:
    """(spec, parts, what was learned); raises ArtifactError."""
    path = folder / "features.json"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"no features can be read from {folder}: {error}") from None
    if manifest.format != _FORMAT:
        raise ArtifactError(f"{path} has format {manifest.format}; this version reads format {_FORMAT}")
    try:
        spec = Spec.from_plain(manifest.spec, name=str(path))
    except SpecError as error:
        raise ArtifactError(f"{path}: {error}") from None
    unknown = [part.name for part in manifest.parts if part.name not in spec.features]
    if unknown or {part.name for part in manifest.parts} != set(spec.features):
        raise ArtifactError(f"{path}: its parts are not those of its spec")
    parts = [Planned(p.name, spec.features[p.name], p.side, p.origin, p.column, p.is_age) for p in manifest.parts]
    return spec, parts, _learned(path, spec, manifest.scales, _read_vocabularies(folder / "vocabularies.parquet"))


def _learned(
    path: Path, spec: Spec, scales: Mapping[str, ScaleStats], rows: Mapping[str, list[tuple[str, int]]]
) -> dict[str, Learned]:
    learned: dict[str, Learned] = {}
    for name, feature in spec.features.items():
        if isinstance(feature, (Categorical, MultiHot)):
            known = rows.get(name, [])
            learned[name] = Vocabulary([value for value, _ in known], [count for _, count in known])
        elif isinstance(feature, Numeric):
            stats = scales.get(name)
            if stats is None or len(stats.knots) != len(stats.levels) or stats.transform != feature.transform:
                raise ArtifactError(f"{path}: the statistics of {name!r} are missing or altered")
            learned[name] = NumericScale(stats)
        else:
            kinds = (Counter, HistoryAlong, HistoryCount, HistoryMatch, Position)
            assert isinstance(feature, kinds) or feature.source, "learns nothing"
    return learned


def _read_vocabularies(path: Path) -> dict[str, list[tuple[str, int]]]:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:  # pq.read_table would import pandas, a tenth of the start
            table = file.read(columns=["feature", "value", "count"])
        features, values, counts = (table.column(name).to_pylist() for name in ("feature", "value", "count"))
    except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None
    rows: dict[str, list[tuple[str, int]]] = {}
    for feature, value, count in zip(features, values, counts):
        if not (isinstance(feature, str) and isinstance(value, str) and isinstance(count, int)):
            raise ArtifactError(f"{path} holds rows that are no vocabulary")
        rows.setdefault(feature, []).append((value, count))
    return rows
